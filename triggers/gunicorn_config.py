"""How gunicorn serves the endpoint. The names below are gunicorn's settings.

gunicorn -c python:triggers.gunicorn_config 'triggers.api:create_app()'
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from typing import Any

from gunicorn import glogging, util

from triggers import logs
from triggers.errors import ConfigurationError
from triggers.settings import Settings
from triggers.shim import die_with_parent

try:
    settings = Settings.from_environment()
except ConfigurationError as error:
    print(f"triggerbeat: {error}", file=sys.stderr)
    raise SystemExit(2) from None
GARBAGE_AFTER = 50_000  # new objects that may hold others; a thousand triggers make 30,000, all needed
host = f"[{settings.host}]" if ":" in settings.host else settings.host


class Logger(glogging.Logger):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's, which would gather all parts of a request's line also where LOG_LEVEL hides it."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """The line of a request."""
        if self.access_log.isEnabledFor(logging.INFO):
            super().access(resp, req, environ, request_time)


bind = f"{host}:{settings.port}"
workers = min(2, os.cpu_count() or 1)  # while one judges an array of a thousand triggers, the other answers
threads = 32  # a slow client holds one for as long as it likes
limit_request_line = 8190  # the most that gunicorn takes: cursors and tags are in it
graceful_timeout = 2  # seconds for requests under way; `up` must be gone within 5
control_socket_disable = True
logconfig_dict = logs.dictionary(settings)
logger_class = Logger


def post_fork(server: Any, worker: Any) -> None:
    """A worker ends with its master, also when that was killed."""
    die_with_parent(os.getppid())
    util.write_error = write_problem


def post_worker_init(worker: Any) -> None:
    """What is there once the application is loaded stays: looking at it for garbage again and again costs
    more than a create does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)


def write_problem(sock: Any, status: int, reason: str, _: str) -> None:
    """Answer as the application does what gunicorn refuses by itself, which it would do in HTML.

    Its own message is left out: it quotes the request.
    """
    detail = "the request is not HTTP as it is understood here, or too large" if status < 500 else reason
    problem = {"type": "about:blank", "title": reason, "status": status, "detail": detail, "errors": []}
    body = json.dumps(problem)
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, (head + body).encode())
