"""One seed: a world is made from it, lives for a while with its faults, is healed, and judged."""

from __future__ import annotations

import logging
import random as randoms
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError, TimeoutError

from models import base
from tests.simulation.beats import Beat
from tests.simulation.broker import Broker, BrokerAway, Rates
from tests.simulation.database import Fate, SimulatedDatabase
from tests.simulation.ledger import Ledger
from tests.simulation.nemesis import Nemesis
from tests.simulation.scheduler import SECOND, Scheduler
from tests.simulation.users import Users, end_all
from tests.simulation.workers import Worker
from triggers import planning
from triggers.retention import Ages
from triggers.store.delivery import Job
from triggers.targets import Outcome, log

# An ordinary day, and nights of zones whose clocks change within the time that is simulated.
STARTS: dict[datetime, str | None] = {
    datetime(2026, 11, 20, 12, 0, 7, tzinfo=UTC): None,
    datetime(2026, 10, 25, 0, 50, tzinfo=UTC): "Europe/Berlin",
    datetime(2026, 3, 29, 0, 50, tzinfo=UTC): "Europe/Berlin",
    datetime(2026, 4, 4, 14, 50, tzinfo=UTC): "Australia/Lord_Howe",
}
CALM_EVERY = 5  # each fifth seed has no faults
HEALED_SECONDS = 4 * 3_600  # by then everything must have come to its end
LATE_COPIES_SECONDS = 150  # and then what is still under way arrives, in vain
REPLAYED_EVERY = 20  # in one of so many seeds all messages come back, an hour later: they take a while
QUIET = logging.CRITICAL + 1


@dataclass
class Result:
    """What a seed led to."""

    seed: int
    calm: bool
    violations: list[str]
    occurrences: int
    events: int
    deliveries: int
    commits: int
    steps: int
    virtual_seconds: float
    faults: Counter[str]
    sites: Counter[tuple[str, Fate]]
    story: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """The same for the same story."""
        return sha256("\n".join(self.story).encode()).hexdigest()


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, database: SimulatedDatabase, template: Path, telling: bool = False) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.faulty = seed % CALM_EVERY != 0
        self.scheduler = Scheduler(random, random.choice(tuple(STARTS)), telling)
        self.night = STARTS[self.scheduler.start]  # the zone whose clocks change
        self.database = database
        database.begin_seed(template, self.scheduler)
        self.ledger = Ledger()
        database.ended = self.lines_ended
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self.broker = Broker(self.scheduler, forbidden=self.in_transaction, broken=self.broken)
        self.tick_every = timedelta(seconds=random.choice((10, 30, 60)))
        self.horizon = self.tick_every + timedelta(seconds=random.choice((0, 30)))
        self.batch = random.choice((1, 3, 2_000))
        self.span = timedelta(seconds=random.choice((600, 1_200, 1_800)))
        self.end = self.scheduler.start + self.span
        self.ages = self.some_ages()
        self.kills = 0.05
        self.calls, self.slots = (4, 2) if self.faulty else (1_000, 1_000)
        self.calm_seconds = random.choice((60.0, 150.0, 400.0))
        self.success = random.choice((1.0, 0.9, 0.6)) if self.faulty else random.choice((1.0, 0.8))
        self.closing = False
        self.names: list[str] = []
        self.documents: dict[str, dict[str, Any]] = {}
        self.edited: set[str] = set()
        self.workers: list[Worker] = [Worker(self, f"worker {n}") for n in range(random.choice((1, 2, 2, 3)))]
        self.beats = [Beat(self, f"beat {n}") for n in range(random.choice((1, 2)))]
        self.users = [Users(self, f"user {n}", random.choice((30, 90))) for n in range(random.choice((1, 2)))]
        self.processes = [worker.process for worker in self.workers]
        self.processes += [beat.process for beat in self.beats]
        self.nemesis = Nemesis(self)
        self.plain_log = random.random() < 0.5

    def some_ages(self) -> Ages:
        """How long events are kept: for ever, or for minutes."""
        if self.random.random() < 0.4:
            return Ages(*(timedelta(days=30) for _ in range(3)))
        first = self.random.choice((60, 300))
        return Ages(timedelta(seconds=first), timedelta(seconds=4 * first), timedelta(seconds=6 * first))

    # A life

    def live(self) -> None:
        """Create, suffer, heal, end."""
        for process in (*self.processes, *(user.process for user in self.users)):
            process.begin()
        for _ in range(self.random.randint(3, 6)):
            self.users[0].create()
        if self.random.random() < 0.6:
            self.users[0].crowd(self.random.choice((10, 30, 60)))
        if self.faulty:
            self.trouble()
        self.scheduler.run_until(int(self.span.total_seconds() * SECOND))
        self.heal()
        limit = self.scheduler.micros + HEALED_SECONDS * SECOND
        while not self.settled():
            if self.scheduler.micros > limit:
                self.broken(f"after {HEALED_SECONDS} s without faults something is still to be done")
                return
            self.scheduler.run_until(self.scheduler.micros + 30 * SECOND)
        self.scheduler.run_until(self.scheduler.micros + LATE_COPIES_SECONDS * SECOND)
        if self.seed % REPLAYED_EVERY == 1:
            self.replay()

    def replay(self) -> None:
        """An hour later all messages come once more, when many events are purged; in vain."""
        self.scheduler.run_until(self.scheduler.micros + 3_600 * SECOND)
        self.scheduler.tell("world", "replays all messages")
        self.faults["hour-old message"] += self.broker.replay()
        while any(self.broker.queues.values()):
            self.scheduler.run_until(self.scheduler.micros + 30 * SECOND)
        self.scheduler.run_until(self.scheduler.micros + LATE_COPIES_SECONDS * SECOND)
        if not self.settled():
            self.broken("messages of an hour ago left something to be done")

    def trouble(self) -> None:
        """From now on things go wrong."""
        random = self.random
        scale = random.choice((0.2, 1.0, 3.0))
        self.database.trouble = 0.01 * scale
        self.database.slowness = random.choice((0.005, 0.05, 0.3))
        self.broker.crash = 0.005 * scale
        rates = [random.choice((0.0, most * scale / 3)) for most in (0.3, 0.5, 0.3, 0.1, 0.5)]
        self.broker.rates = Rates(*rates)
        self.nemesis.process.begin()

    def heal(self) -> None:
        """No more faults, no more deeds: everything is there, and works."""
        self.scheduler.tell("world", "is healed")
        self.closing = True
        self.nemesis.process.restarts_after = None
        self.nemesis.process.die()
        self.faults += self.database.faults + self.broker.faults
        self.database.trouble = self.broker.crash = self.kills = 0.0
        self.database.slowness = 0.01
        self.database.is_away = self.broker.is_away = False
        self.broker.rates = Rates()
        for process in self.processes:
            process.frozen_until = 0
        end_all(self)
        self.broker.wake()

    def settled(self) -> bool:
        """Whether nothing is left to plan, to run or to complete."""
        with self.database.look() as connection:
            return not connection.execute(text(UNSETTLED)).scalar_one()

    # What the actors ask, and tell

    def answer(self, job: Job) -> tuple[float, Outcome]:
        """What a target does with a call: after so many seconds it ends so."""
        random, timeout = self.random, float(job.policy["timeout_seconds"])
        seconds = random.choice((0.01, 0.01, 0.2, 1.0, 0.9 * timeout, 1.2 * timeout))
        number = str(job.attempt)
        if seconds >= timeout:
            return timeout, Outcome(False, error={"type": "Timeout", "message": number})
        if random.random() < self.success:
            return seconds, Outcome(True, result={"attempt": job.attempt})
        return seconds, Outcome(
            False,
            error={"type": "HTTPError", "message": number},
            retry_after=random.choice((None, None, 15.0)),
            gone=random.random() < 0.1,
        )

    def in_transaction(self) -> bool:
        """Whether somebody is inside a transaction."""
        return self.database.inside > 0

    def expect(self, error: Exception) -> None:
        """An exception that reached the outside of the product: only some may, and only with faults."""
        self.scheduler.tell(self.scheduler.current.name, f"{type(error).__name__}: {error}")
        if not isinstance(error, OperationalError | TimeoutError | BrokerAway) or not self.faulty:
            where = "".join(traceback.format_exception(error)[-3:])
            self.broken(f"{type(error).__name__} came out of the product: {error}\n{where}")

    def broken(self, what: str) -> None:
        """Something that must not happen has happened."""
        self.scheduler.tell("JUDGE", what)
        self.violations.append(what)

    def allows(self, trigger_id: str, attempts: int) -> None:
        """The trigger may make so many attempts, by a definition that it may have."""
        most = self.ledger.most_attempts
        most[trigger_id] = max(most[trigger_id], attempts)

    def lines_ended(self, lines: list[tuple[str, str]], committed: bool) -> None:
        """A transaction that wrote these lines has ended."""
        for event_id, attempt in lines:
            if committed:
                self.ledger.logged[event_id, int(attempt)] += 1
            else:
                self.ledger.repeated[event_id] += 1

    def write_line(self, trigger: str, event: str, scheduled_for: datetime, message: str) -> None:
        """Stands in for `triggers.targets.log.write`."""
        event_id, attempt = message.split()
        self.database.lines.append((event_id, attempt))


UNSETTLED = """
SELECT EXISTS (SELECT 1 FROM events WHERE recheck_at IS NOT NULL)
    OR EXISTS (SELECT 1 FROM triggers WHERE next_at IS NOT NULL OR exhausted)
"""


class Story(logging.Handler):
    """The product's own lines, in the story."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.scheduler = scheduler

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", None) or {}
        told = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        self.scheduler.tell(self.scheduler.current.name, f"{record.getMessage()} {told}".strip())


@contextmanager
def surroundings(world: World) -> Iterator[None]:
    """What the product takes from the outside, from the seed: chance, ids, what the log target writes to."""
    logger, courier = logging.getLogger("triggerbeat"), logging.getLogger("triggerbeat.courier")
    ids: Any = base
    before = (ids.os, ids._latest, log.write, planning.MOST_CATCH_UP, planning.MOST_PER_BATCH)
    levels = (logger.level, logger.propagate, courier.level)
    story = Story(world.scheduler)
    randoms.seed(world.seed)
    ids.os = SimpleNamespace(urandom=world.random.randbytes)
    ids._latest = 0
    log.write = world.write_line
    planning.MOST_CATCH_UP, planning.MOST_PER_BATCH = world.random.choice(((3, 10), (1_000, 5_000)))
    logger.propagate = False
    logger.setLevel(logging.INFO if world.scheduler.telling else QUIET)
    logger.addHandler(story)
    courier.setLevel(QUIET if world.plain_log else logging.INFO)
    try:
        yield
    finally:
        ids.os, ids._latest, log.write, planning.MOST_CATCH_UP, planning.MOST_PER_BATCH = before
        logger.removeHandler(story)
        logger.setLevel(levels[0])
        logger.propagate = levels[1]
        courier.setLevel(levels[2])
