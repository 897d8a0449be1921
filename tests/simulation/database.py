"""SQLite as the product uses it, with borders: where a transaction begins and ends, others go on, and a
process can die, before its commit or behind it; a commit can succeed and report an error.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from models.database import Database, migrate
from tests.simulation.scheduler import Crash, Scheduler

# What the product deletes is kept beside it, and what it does to ended events is noted: for the judge.
WATCH = """
CREATE TABLE buried AS SELECT * FROM events WHERE 0;
CREATE TABLE buried_attempts AS SELECT * FROM attempts WHERE 0;
CREATE TABLE revived (event TEXT, was TEXT, became TEXT);
CREATE TRIGGER bury BEFORE DELETE ON events
BEGIN INSERT INTO buried SELECT * FROM events WHERE id = OLD.id; END;
CREATE TRIGGER bury_attempt BEFORE DELETE ON attempts
BEGIN INSERT INTO buried_attempts
  SELECT * FROM attempts WHERE event_id = OLD.event_id AND attempt = OLD.attempt; END;
CREATE TRIGGER revive AFTER UPDATE ON events WHEN OLD.finished_at IS NOT NULL
 AND (OLD.status, OLD.attempt, OLD.finished_at) IS NOT (NEW.status, NEW.attempt, NEW.finished_at)
BEGIN INSERT INTO revived VALUES (OLD.id, OLD.status, NEW.status); END;
"""


class Fate(StrEnum):
    """What becomes of a commit."""

    GOOD = "good"
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    ERROR_BEFORE = "error before"
    ERROR_AFTER = "error after"


BAD = (Fate.CRASH_BEFORE, Fate.CRASH_AFTER, Fate.ERROR_BEFORE, Fate.ERROR_AFTER)


def away(statement: str) -> OperationalError:
    """What SQLAlchemy raises when the database is away."""
    return OperationalError(statement, None, Exception("the simulated database is away"))


def make_template(directory: Path) -> Path:
    """A migrated file, to be copied for each seed."""
    template = directory / "template.db"
    template.write_bytes(migrated())
    with sqlite3.connect(template) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.executescript(WATCH)
    connection.close()
    return template


@cache
def migrated() -> bytes:
    """A migrated file, made once a process."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "migrated.db"
        migrate(f"sqlite:///{path}")
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return path.read_bytes()


class SimulatedDatabase(Database):
    """A database on the scheduler's clock, shared by all processes of a world.

    `trouble` is the probability that a commit goes wrong; `inside` is how many transactions are open.
    One object serves seed after seed, because the statements that it has compiled are dear.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "simulation.db"
        super().__init__(f"sqlite:///{self.path}", clock=lambda _: self.scheduler.now)
        self.scheduler: Scheduler
        self.sites: Counter[tuple[str, Fate]] = Counter()

    def begin_seed(self, template: Path, scheduler: Scheduler) -> None:
        """An empty database, on another clock."""
        if self._engine is not None:
            self._engine.dispose()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(template, self.path)
        self.scheduler = scheduler
        self.trouble = 0.0
        self.slowness = 0.01
        self.is_away = False
        self.inside = 0
        self.commits = 0
        self.faults: Counter[str] = Counter()
        self.lines: list[tuple[str, str]] = []  # (event, attempt): what `log` targets wrote in a transaction
        self.ended: Callable[[list[tuple[str, str]], bool], None] = lambda lines, committed: None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write, and its borders."""
        site = caller()
        self._border("BEGIN IMMEDIATE")
        fate = self._fate(site)
        committed = False
        self.inside += 1
        try:
            with super().write() as connection:
                yield connection
                self.scheduler.micros += self.scheduler.random.randrange(1, 3_000)
                if fate is Fate.CRASH_BEFORE:
                    raise Crash
                if fate is Fate.ERROR_BEFORE:
                    raise away("COMMIT")
            committed = True
        finally:
            self.inside -= 1
            lines, self.lines = self.lines, []
            self.ended(lines, committed)
        self.commits += 1
        if fate is Fate.CRASH_AFTER:
            raise Crash
        if fate is Fate.ERROR_AFTER:
            raise away("COMMIT")
        self._border("")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, and its borders."""
        self._border("BEGIN")
        with super().read() as connection:
            yield connection
        self._border("")

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """For the judge: no borders, no faults."""
        with super().read() as connection:
            yield connection

    def _border(self, statement: str) -> None:
        """Others go on. A frozen process stands here; when it begins something the database may be away."""
        if self.scheduler.current is not self.scheduler.nobody:
            self.scheduler.linger(self.scheduler.random.expovariate(1 / self.slowness))
        if statement and self.is_away:
            self.faults["database away"] += 1
            raise away(statement)

    def _fate(self, site: str) -> Fate:
        if not self.trouble or self.scheduler.random.random() >= self.trouble:
            return Fate.GOOD
        fate = self.scheduler.random.choice(BAD)
        self.sites[site, fate] += 1
        self.faults[fate] += 1
        self.scheduler.tell(self.scheduler.current.name, f"{fate} the commit of {site}")
        return fate


def caller() -> str:
    """The function of the product that begins a transaction."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.endswith(
        ("contextlib.py", "simulation/database.py", "models/database.py")
    ):
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_code.co_name
