"""When events are due here, and in which order they are taken."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

from models.database import Database

CHUNK = 500  # events in one statement
LARGEST_CHUNK = 2_000  # of events that need one statement and no look: then commits are what takes long
LATE_CHUNK = 50  # of these, for events that came late, when there are others
RESYNC_SECONDS = 30.0  # how often the distance to the database's clock is measured

Batch = list[tuple[str, datetime]]  # ids with their instants


class SharedClock:
    """The database's clock, read through this machine's monotonic one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._offset = 0.0
        self._measured = float("-inf")
        self._lock = threading.Lock()

    def measure(self, at_once: bool = False) -> None:
        """Measure the distance again when the last measure is old, or `at_once`; blocks for one statement."""
        with self._lock:
            if not at_once and time.monotonic() - self._measured < RESYNC_SECONDS:
                return
            with self._database.read() as connection:
                before = time.monotonic()
                now = self._database.now(connection).timestamp()
                after = time.monotonic()
            self._offset = now - (before + after) / 2
            self._measured = after

    def seconds_until(self, instant: datetime) -> float:
        """How long until `instant`; negative when it has passed."""
        return instant.timestamp() - self._offset - time.monotonic()


class Lane:
    """Due events of one kind of target, and who waits for some.

    What is on time goes before what was late when it came, for which there is but a part of each chunk then:
    whoever has a hundred thousand occurrences to make up for makes nobody else late.
    """

    def __init__(self, taken: Callable[[], None], chunk: int = CHUNK) -> None:
        self.due: deque[tuple[str, datetime]] = deque()
        self.late: deque[tuple[str, datetime]] = deque()
        self.wake = asyncio.Event()
        self.taken = taken
        self.chunk = chunk

    def __len__(self) -> int:
        return len(self.due) + len(self.late)

    def put(self, batch: Iterable[tuple[str, datetime]], late: bool = False) -> None:
        """These are due, and for longer than they should be with `late`."""
        (self.late if late else self.due).extend(batch)
        self.wake.set()

    async def take(self) -> Batch:
        """Up to a chunk of what is due, as soon as there is any."""
        while not len(self):
            await self._more()
        late = min(len(self.late), max(self.chunk - len(self.due), LATE_CHUNK))
        return self._first(self.due, self.chunk - late) + self._first(self.late, late)

    async def take_on_time(self) -> Batch:
        """The same, of what was on time alone."""
        while not self.due:
            await self._more()
        return self._first(self.due, self.chunk)

    async def take_late(self, most: int = LATE_CHUNK) -> Batch:
        """Up to so many of what was late when it came."""
        while not self.late:
            await self._more()
        return self._first(self.late, most)

    async def _more(self) -> None:
        self.wake.clear()
        await self.wake.wait()

    def _first(self, line: deque[tuple[str, datetime]], most: int) -> Batch:
        batch = [line.popleft() for _ in range(min(most, len(line)))]
        self.taken()
        return batch

    def learn(self, plain: bool) -> None:
        """The last chunk was, or was not, of events that need no look: so may the next be."""
        self.chunk = min(2 * self.chunk, LARGEST_CHUNK) if plain else CHUNK
