"""SQLite over a fork: a process forks only while none of its threads is at work in a database.

SQLite keeps the locks of a process in its memory. A child that is forked while a thread of the parent holds
one finds it held, by nobody who could ever let go of it: its own first write waits, and all that follow.
A worker forks whenever it replaces a pool process, and its courier writes at all times.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

from sqlalchemy import Engine

PATIENCE_SECONDS = 5.0  # for what is under way to end, and for a fork; after it both go on all the same


class Gate:
    """Open for transactions, unless the process is about to fork."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._inside = 0
        self._engines: WeakSet[Engine] = WeakSet()

    @contextmanager
    def transaction(self, engine: Engine) -> Iterator[None]:
        """A time in which this process does not fork."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed, PATIENCE_SECONDS)
            self._engines.add(engine)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for transactions to end, and close the connections: the child is to find nothing open."""
        with self._changed:
            self._closed = True
            if self._changed.wait_for(lambda: not self._inside, PATIENCE_SECONDS):
                for engine in self._engines:
                    engine.dispose()

    def open(self) -> None:
        """The parent goes on."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()


GATE = Gate()
os.register_at_fork(before=GATE.close, after_in_parent=GATE.open, after_in_child=GATE._reset)
