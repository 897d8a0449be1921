"""One run of one neighbour: store N due at one instant, start what runs them, wait until each has run."""

from __future__ import annotations

import math
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import DURABLE, POSTGRES_SETTINGS
from benchmarks.neighbours.outcomes import Outcome, numbers_marked
from benchmarks.neighbours.roster import Neighbour
from tests.processes import Process
from tests.servers import PostgreSQL, Valkey

PROGRAMS = Path(__file__).with_name("programs")
WARM_UP = 10  # entries that are due before the others, so that all is loaded and connected
WARM_UP_SECONDS = 4  # by so much
READY_SECONDS = 0.3  # before the instant, at the latest, all of these must have run
TRIES = 3  # each with twice the time that the one before took
STORE_SECONDS = 240
POLL_SECONDS = 0.02


class NotReady(Exception):
    """Nothing can be said of the run: not all was loaded when it was due."""


@dataclass(frozen=True)
class Servers:
    """What all neighbours run against, one after the other: empty at the beginning of each run."""

    postgres: PostgreSQL
    valkey: Valkey
    directory: Path

    def durability(self) -> dict[str, str]:
        """What they promise to survive."""
        shown = {name: str(self.postgres.execute(f"SHOW {name}")[0][0]) for name in POSTGRES_SETTINGS}
        return {**shown, "valkey": "nothing is written to disk"}


@contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    """A PostgreSQL with durability on, and a Valkey that only keeps in memory."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # clear up then, too
    with (
        PostgreSQL(directory / "postgres", options=DURABLE) as postgres,
        Valkey(directory / "valkey") as valkey,
    ):
        yield Servers(postgres, valkey, directory)


def measure(neighbour: Neighbour, environment: Path, place: Servers, count: int, cut: float) -> Outcome:
    """One run that says something: a run that was not ready in time is tried again with more lead.

    Raises `NotReady` when that does not help, AssertionError when a process fails.
    """
    lead = neighbour.ready_seconds + neighbour.loading_seconds * count / 1_000
    for left in reversed(range(TRIES)):
        began = time.time()
        try:
            return Run(neighbour, environment, place, count, lead).outcome(cut)
        except NotReady:
            if not left:
                raise
            lead = 2 * (time.time() - began)
    raise AssertionError("unreachable")


class Run:
    """A database, a broker and a file of marks of its own."""

    def __init__(
        self, neighbour: Neighbour, environment: Path, place: Servers, count: int, lead: float
    ) -> None:
        self.neighbour, self.environment, self.place, self.count = neighbour, environment, place, count
        self.name = f"run_{secrets.token_hex(4)}"
        self.directory = place.directory / self.name
        self.directory.mkdir()
        self.marks = self.directory / "marks"
        self.marks.touch()
        self.due = math.ceil(time.time() + lead)  # RedBeat knows whole seconds only

    def outcome(self, cut: float) -> Outcome:
        """Store, start, wait, stop; how far it was after at most `cut` seconds."""
        place = self.place
        place.valkey.flush()
        place.postgres.create_database(name=self.name)
        try:
            with self.start("store") as store:
                assert store.wait(STORE_SECONDS) == 0, store.output()
            place.postgres.execute("VACUUM ANALYZE", self.name)
            place.postgres.execute("CHECKPOINT")
            with self.start("run") as running:
                self.wait_until_ready(running)
                return self.wait_until_done(running, cut)
        finally:
            place.postgres.drop_database(self.name)
            shutil.rmtree(self.directory, ignore_errors=True)

    def wait_until_ready(self, running: Process) -> None:
        """Until the warm-up has run, which shows that all is loaded and connected."""
        while len(numbers_marked(self.marks.read_bytes())) < WARM_UP:
            assert running.alive(), running.output()
            if time.time() > self.due - READY_SECONDS:
                raise NotReady("not all was loaded when it was due")
            time.sleep(POLL_SECONDS)
        time.sleep(max(0.0, self.due - time.time()))

    def wait_until_done(self, running: Process, cut: float) -> Outcome:
        """Until each has run, or the time is up."""
        every = self.count + WARM_UP
        while time.time() < self.due + cut:
            assert running.alive(), running.output()
            marked = self.marks.stat()
            if marked.st_size >= 4 * every and len(numbers_marked(self.marks.read_bytes())) >= every:
                took = max(0.001, marked.st_mtime - self.due)  # a file's time is a kernel tick behind
                return Outcome(self.count, self.count, took)
            time.sleep(POLL_SECONDS)
        done = len(numbers_marked(self.marks.read_bytes())) - WARM_UP
        return Outcome(self.count, done, cut)

    def start(self, step: str) -> Process:
        """Its program, in its own environment: `store` or `run`."""
        told = {
            "COUNT": str(self.count),
            "WARM_UP": str(WARM_UP),
            "DUE": str(self.due),
            "WARM_UP_DUE": str(self.due - WARM_UP_SECONDS),
            "MARKS": str(self.marks),
            "BROKER_URL": self.place.valkey.url,
            "DATABASE_URL": self.place.postgres.url(self.name),
            "PYTHONPATH": str(PROGRAMS),
            **self.neighbour.settings,
        }
        return Process([*self.command(), step], self.directory, name=step, env=told, cwd=self.directory)

    def command(self) -> list[str | Path]:
        """What runs the program. Node.js looks for packages beside the program, so that is copied there."""
        if not self.neighbour.for_node:
            return [self.environment / "bin" / "python", PROGRAMS / self.neighbour.program]
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, self.environment)
        return ["node", self.environment / self.neighbour.program]
