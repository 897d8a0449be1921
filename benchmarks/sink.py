"""A target that answers at once, on every address of the loopback network; `/hang` never answers.

python -m benchmarks.sink PORT
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    """200, once the request is read."""
    await request.read()
    return web.Response(text="ok")


async def hang(request: web.Request) -> web.Response:
    """Nothing, until the other side has gone."""
    await asyncio.Event().wait()
    raise AssertionError


def main() -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app.router.add_route("*", "/hang", hang)
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(app, host="0.0.0.0", port=int(sys.argv[1]), access_log=None, print=None, backlog=2048)


if __name__ == "__main__":
    main()
