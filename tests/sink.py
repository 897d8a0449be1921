"""A target for deliveries that misbehaves as it is told to, and remembers every request.

In a test:

    async with Sink() as sink:
        ... deliver to sink.url("/status/503") ...
        assert sink.requests[0].headers["webhook-id"] == "..."

As a process, which prints `{"port": ...}` and then appends each delivery to FILE as a line of JSON:

    python -m tests.sink --port 0 --ledger FILE

A request is recorded when it has been read in full, before anything is answered. The paths:

    /status/<n>       answers n, with a small JSON body (so does any path not listed here, with 200)
    /retry-after/<t>  answers 503 with `Retry-After: <t>`; with <t>|<d> also with `Date: <d>`
    /gone             answers 410
    /redirect         answers 302 to /status/200
    /slow/<s>         answers 200 after s seconds (0.3 without the number)
    /hang             reads, and never answers
    /deaf             does not even read, and is not recorded
    /drip             answers 200 and then a byte every 20 ms, for ever
    /drip-headers     sends its headers that slowly
    /flood            answers 200 and a body without end, as fast as it is taken
    /reset-before     resets the connection instead of answering
    /reset-after      answers 200, sends a part of what it announced, and resets
    /close            closes the connection instead of answering
    /garbage          answers what is not HTTP
    /endless-headers  sends headers without end, /long-header one without end
    /endless-continue sends `100 Continue` without end
    /switch           answers 101, unasked
    /body/<hex>       answers 200 with these bytes as its body; `61*5000+62` is 5,000 times a, and b
    /chunked/<hex>    answers 200 with these bytes in chunks of one
    /stray/<n>        answers n with an empty body, and sends more bytes at once
    /gzip/<hex>       answers 200 with these bytes, compressed, and says so
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import signal
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import SO_LINGER, SO_RCVBUF, SOL_SOCKET
from typing import Self, TextIO
from urllib.parse import unquote

DRIP_SECONDS = 0.02
SLOW_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Received:
    """One request; header names are in lower case, `time` is in seconds of Unix time."""

    time: float
    method: str
    target: str
    headers: dict[str, str]
    body: str


Behaviour = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


class Sink:
    """The server. `requests` grows as they come in; `wait_for` waits for a number of them.

    `receive_bytes` makes the kernel's buffer of each connection small, so that what is not read piles up
    on the other side. One that does not `remember` has its ledger only.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        ledger: Path | None = None,
        receive_bytes: int | None = None,
        remembers: bool = True,
    ) -> None:
        self._remembers = remembers
        self.requests: list[Received] = []
        self.connections = 0
        self.port = port
        self._host = host
        self._tls = tls
        self._ledger_path = ledger
        self._receive_bytes = receive_bytes
        self._ledger: TextIO | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._arrived = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        if self._ledger_path is not None:
            self._ledger = self._ledger_path.open("a", encoding="utf-8")
        self._server = await asyncio.start_server(
            self._serve, self._host, self.port, ssl=self._tls, backlog=1024
        )
        listening = self._server.sockets[0]
        if self._receive_bytes is not None:
            listening.setsockopt(SOL_SOCKET, SO_RCVBUF, self._receive_bytes)
        self.port = listening.getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        running = list(self._open.items())
        for task, writer in running:
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*(task for task, _ in running), return_exceptions=True)
        if self._ledger is not None:
            self._ledger.close()

    def url(self, path: str, host: str | None = None) -> str:
        """The URL of a path of this sink, by another name for its host if one is given."""
        return f"{'https' if self._tls else 'http'}://{host or self._host}:{self.port}{path}"

    async def wait_for(self, count: int, timeout_seconds: float = 5.0) -> None:
        """Wait until so many requests have come in. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_seconds):
            while len(self.requests) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer_one(reader, writer):
                    pass
        finally:
            del self._open[task]
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and behave as its path says; return whether another may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers: dict[str, str] = {}
        for line in filter(None, head[1:]):
            name, _, value = line.partition(":")
            name = name.lower()
            # Joined, so that a header sent twice shows.
            headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
        name, _, argument = target.partition("?")[0].lstrip("/").partition("/")
        if name == "deaf":
            await asyncio.Event().wait()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self._record(Received(time.time(), method, target, headers, body.decode("utf-8", "replace")))
        await _BEHAVIOURS.get(name, _status)(writer, unquote(argument))
        await writer.drain()
        return headers.get("connection", "") != "close" and not writer.is_closing()

    def _record(self, received: Received) -> None:
        if self._remembers:
            self.requests.append(received)
            self._arrived.set()
        if self._ledger is not None:
            # Flushed line by line: what was received must be on record even if this process is killed.
            self._ledger.write(json.dumps(asdict(received)) + "\n")
            self._ledger.flush()


def _respond(writer: asyncio.StreamWriter, status: int, body: bytes, *headers: str) -> None:
    lines = [f"HTTP/1.1 {status} -", *headers]
    if status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    content = b"" if status in (204, 304) else body
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + content)


async def _status(writer: asyncio.StreamWriter, argument: str) -> None:
    status = int(argument) if argument.isdigit() else 200
    _respond(writer, status, b'{"ok":true}', "Content-Type: application/json", "Set-Cookie: seen=yes")


async def _retry_after(writer: asyncio.StreamWriter, argument: str) -> None:
    wait, _, date = argument.partition("|")
    _respond(writer, 503, b"later", f"Retry-After: {wait}", *([f"Date: {date}"] if date else []))


async def _gone(writer: asyncio.StreamWriter, _: str) -> None:
    _respond(writer, 410, b"gone")


async def _redirect(writer: asyncio.StreamWriter, _: str) -> None:
    _respond(writer, 302, b"", "Location: /status/200")


async def _slow(writer: asyncio.StreamWriter, argument: str) -> None:
    await asyncio.sleep(float(argument or SLOW_SECONDS))
    await _status(writer, "200")


async def _hang(_: asyncio.StreamWriter, __: str) -> None:
    await asyncio.Event().wait()


async def _repeat(writer: asyncio.StreamWriter, piece: bytes, pause_seconds: float) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause_seconds)


async def _drip(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 -\r\nContent-Length: 1000000\r\n\r\n")
    await _repeat(writer, b".", DRIP_SECONDS)


async def _drip_headers(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 -\r\nX-Slow: ")
    await _repeat(writer, b".", DRIP_SECONDS)


async def _flood(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 -\r\n\r\n")
    await _repeat(writer, b"x" * 65536, 0)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _reset_before(writer: asyncio.StreamWriter, _: str) -> None:
    _reset(writer)


async def _reset_after(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 -\r\nContent-Length: 1000\r\n\r\npart of it")
    await writer.drain()
    await asyncio.sleep(DRIP_SECONDS)  # a reset discards what the other side has not read yet
    _reset(writer)


async def _close(writer: asyncio.StreamWriter, _: str) -> None:
    writer.close()


async def _garbage(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"\x16\x03\x01 what is this?\r\n\r\n")
    writer.close()


async def _endless_headers(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 -\r\n")
    await _repeat(writer, b"X-More: and more\r\n" * 1000, 0)


async def _long_header(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 -\r\nX-Long: ")
    await _repeat(writer, b"x" * 65536, 0)


async def _endless_continue(writer: asyncio.StreamWriter, _: str) -> None:
    await _repeat(writer, b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0)


async def _switch(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 101 -\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    await asyncio.Event().wait()


async def _body(writer: asyncio.StreamWriter, argument: str) -> None:
    parts = [part.partition("*") for part in argument.split("+")]
    _respond(writer, 200, b"".join(bytes.fromhex(text) * int(times or 1) for text, _, times in parts))


async def _chunked(writer: asyncio.StreamWriter, argument: str) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in bytes.fromhex(argument))
    writer.write(b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")


async def _stray(writer: asyncio.StreamWriter, argument: str) -> None:
    length = "" if argument in ("204", "304") else "Content-Length: 0\r\n"
    writer.write(f"HTTP/1.1 {argument} -\r\n{length}Retry-After: 7\r\n\r\nOK\r\n\r\nmore".encode())


async def _gzip(writer: asyncio.StreamWriter, argument: str) -> None:
    _respond(writer, 200, gzip.compress(bytes.fromhex(argument), mtime=0), "Content-Encoding: gzip")


_BEHAVIOURS: dict[str, Behaviour] = {
    "status": _status,
    "retry-after": _retry_after,
    "gone": _gone,
    "redirect": _redirect,
    "slow": _slow,
    "hang": _hang,
    "drip": _drip,
    "drip-headers": _drip_headers,
    "flood": _flood,
    "reset-before": _reset_before,
    "reset-after": _reset_after,
    "close": _close,
    "garbage": _garbage,
    "endless-headers": _endless_headers,
    "long-header": _long_header,
    "endless-continue": _endless_continue,
    "switch": _switch,
    "body": _body,
    "chunked": _chunked,
    "stray": _stray,
    "gzip": _gzip,
}


async def _run(port: int, ledger: Path | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with Sink(port=port, ledger=ledger, remembers=False) as sink:  # nobody could ask a process
        print(json.dumps({"port": sink.port}), flush=True)
        await stopped.wait()


def main() -> None:
    """Run a sink until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A target for deliveries, on loopback")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which is printed")
    parser.add_argument("--ledger", type=Path, help="append each delivery to this file as a line of JSON")
    arguments = parser.parse_args()
    asyncio.run(_run(arguments.port, arguments.ledger))


if __name__ == "__main__":
    main()
