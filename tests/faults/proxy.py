"""A TCP proxy between our processes and a server, with all that a network does to connections."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import Self

from tests.processes import free_port

PIECE = 65_536


class Link:
    """A client's connection, and ours to the server for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.silent = False  # what arrives is thrown away, for good: a stream with a gap is none
        self.loses_reply = False

    def reset(self) -> None:
        """Both ends learn of it at once."""
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Listens on `port` of the loopback address. Its methods may be called from any thread."""

    def __init__(self, target_port: int, seed: int = 0) -> None:
        self.port = free_port()
        self.target_port = target_port
        self.lost_replies = 0
        self._chance = random.Random(seed)
        self._links: set[Link] = set()
        self._silent = False
        self._pattern: tuple[bytes, ...] = ()
        self._probability = 0.0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    # Faults

    def silence(self) -> None:
        """Connections stay open and carry nothing, those that are opened meanwhile too."""
        self._loop.call_soon_threadsafe(self._fall_silent)

    def speak(self) -> None:
        """New connections work again. What was silent stays so until its client gives up."""
        self._silent = False

    def cut(self, probability: float = 1.0) -> None:
        """Reset each connection with this probability."""
        self._loop.call_soon_threadsafe(self._cut, probability)

    def lose_replies(self, probability: float, *patterns: bytes) -> None:
        """Reset a connection when the server answers what contained one of `patterns`: done, but unheard."""
        self._pattern, self._probability = patterns, probability

    def keep_replies(self) -> None:
        self._pattern = ()

    # The loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._link, "127.0.0.1", self.port, backlog=512)
        self._started.set()
        await self._stopped.wait()
        server.close()
        self._cut(1.0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _fall_silent(self) -> None:
        self._silent = True
        for link in self._links:
            link.silent = True

    def _cut(self, probability: float) -> None:
        for link in list(self._links):
            if self._chance.random() < probability:
                link.reset()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, back)
        link.silent = self._silent
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(link, reader, back))
                group.create_task(self._return(link, there, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(link)
            writer.close()
            back.close()

    async def _forward(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the client says."""
        while piece := await reader.read(PIECE):
            if link.silent:
                continue
            if any(text in piece for text in self._pattern) and self._chance.random() < self._probability:
                link.loses_reply = True
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError  # one end has gone, so the other one goes

    async def _return(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the server says."""
        while piece := await reader.read(PIECE):
            if link.silent:
                continue
            if link.loses_reply:
                self.lost_replies += 1
                link.reset()
                break
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError
