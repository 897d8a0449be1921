"""Queues of messages that get lost, doubled, delayed and reordered; that can be away, and be emptied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from celery_config.dispatch import chunks
from tests.simulation.scheduler import SECOND, Crash, Scheduler, Steps
from triggers.store.delivery import Job
from triggers.tick import Hint, Queues

OURS = "celery"
TASKS = "tasks"
AWAKE = 0.9  # of the messages go to a worker that is awake, if there is one


class BrokerAway(Exception):
    """The broker cannot be reached, or its answer was lost."""


class Message(NamedTuple):
    """What is in a queue: `body` begins with "tick", "retain", "deliver" or "task"."""

    available_at: int
    body: tuple[Any, ...]


@dataclass(slots=True)
class Rates:
    """How likely a message is to be dropped, doubled, delayed; a publish to raise although it was queued."""

    drop: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    lost_reply: float = 0.0
    reorder: float = 0.0
    longest_delay: float = 120.0


@dataclass
class Consumer:
    """A worker, as the broker sees it: whether it has room for a message, and whom to hand it to."""

    has_room: Callable[[str], bool]
    is_frozen: Callable[[], bool]
    receive: Callable[[str, tuple[Any, ...]], None]


@dataclass
class Broker:
    """The broker of a world."""

    scheduler: Scheduler
    rates: Rates = field(default_factory=Rates)
    is_away: bool = False
    crash: float = 0.0  # how likely a publisher dies before its message, or right behind it
    forbidden: Callable[[], bool] = lambda: False  # whether a message may not be sent now
    broken: Callable[[str], None] = print  # told of what must not happen
    faults: Counter[str] = field(default_factory=Counter)
    queues: dict[str, list[Message]] = field(default_factory=lambda: {OURS: [], TASKS: []})
    consumers: list[Consumer] = field(default_factory=list)
    sent: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)  # all that was ever published

    # What publishers do

    def publish(self, queue: str, body: tuple[Any, ...]) -> None:
        """Queue a message, with what may become of it. Raises BrokerAway; Crash."""
        random, rates = self.scheduler.random, self.rates
        if self.forbidden():
            self.broken(f"{body[0]!r} was published inside a transaction")
        self._may_crash()
        if self.is_away:
            self.faults["broker away"] += 1
            raise BrokerAway("the simulated broker is away")
        self.sent.append((queue, body))
        copies = 1
        if random.random() < rates.drop:
            self.faults["message dropped"] += 1
            copies = 0
        elif random.random() < rates.double:
            self.faults["message doubled"] += 1
            copies = random.choice((2, 2, 3))
        for _ in range(copies):
            self._queue(queue, body)
        if random.random() < rates.lost_reply:
            self.faults["reply to a publish lost"] += 1
            raise BrokerAway("the answer to a publish was lost")
        self._may_crash()

    def dispatch(self, hints: Sequence[Hint]) -> bool:
        """As `celery_config.dispatch.dispatch`: one message for each chunk; whether all were sent."""
        try:
            for kind, of_kind in groupby(sorted(hints, key=lambda h: (h.kind, h.due_at)), lambda h: h.kind):
                for chunk in chunks(list(of_kind)):
                    self.publish(OURS, ("deliver", kind, [(hint.event_id, hint.due_at) for hint in chunk]))
        except BrokerAway as error:
            self.scheduler.tell(self.scheduler.current.name, f"cannot dispatch: {error}")
            return False
        return True

    def publish_tasks(self, jobs: Sequence[Job], late: bool = False) -> None:
        """As `celery_config.dispatch.publish_tasks`."""
        for job in jobs:
            self.publish(TASKS, ("task", job.target["task"], job.id))

    def look(self) -> Queues:
        """As `celery_config.dispatch.look`."""
        if self.is_away:
            return Queues()
        return Queues(bool(self.queues[OURS]), bool(self.queues[TASKS]))

    # What becomes of messages

    def _may_crash(self) -> None:
        if self.crash and self.scheduler.random.random() < self.crash:
            self.faults["crash at a publish"] += 1
            self.scheduler.tell(self.scheduler.current.name, "dies at a publish")
            raise Crash

    def _queue(self, queue: str, body: tuple[Any, ...]) -> None:
        random = self.scheduler.random
        after = random.uniform(0.0005, 0.005)
        if random.random() < self.rates.delay:
            self.faults["message delayed"] += 1
            after = random.uniform(0.1, self.rates.longest_delay)
        self.queues[queue].append(Message(self.scheduler.micros + int(after * SECOND), body))
        self.scheduler.push(after + 0.000_002, self.scheduler.nobody, 0, self._pump(queue))

    def flush(self) -> None:
        """Lose all that is queued."""
        for queue in self.queues.values():
            self.faults["message flushed"] += len(queue)
            queue.clear()

    def replay(self) -> int:
        """Queue a copy of all that was ever published, in another order. How many."""
        copies = list(self.sent)
        self.scheduler.random.shuffle(copies)
        for queue, body in copies:
            self._queue(queue, body)
        return len(copies)

    def wake(self) -> None:
        """A consumer has room, or has come back."""
        for queue, messages in self.queues.items():
            if messages:
                self.scheduler.push(0.001, self.scheduler.nobody, 0, self._pump(queue))

    def _pump(self, queue: str) -> Steps:
        """Hand messages to workers with room, mostly the oldest first."""
        random = self.scheduler.random
        while not self.is_away:
            ready = [m for m in self.queues[queue] if m.available_at <= self.scheduler.micros]
            consumers = [c for c in self.consumers if c.has_room(queue)]
            if random.random() < AWAKE:  # a frozen one takes no more than what its socket holds
                consumers = [c for c in consumers if not c.is_frozen()] or consumers
            if not ready or not consumers:
                return
            message = random.choice(ready) if random.random() < self.rates.reorder else ready[0]
            self.queues[queue].remove(message)
            random.choice(consumers).receive(queue, message.body)
        return
        yield
