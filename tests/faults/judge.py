"""Joins the schedule, the events and the ledger, and measures how long recovery took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from models.event import Event
from models.states import Status
from models.trigger import Trigger
from tests.faults.lane import Lane
from tests.faults.ledger import Delivery
from tests.faults.workload import BAD_PREFIX, EDITED_PREFIX, FRESH, FRESH_PREFIX, OVERLAP_PREFIX
from triggers.rfc3339 import format_utc

POLL_SECONDS = 0.25
CLOCK_SECONDS = 0.000_01  # of a float's precision
STRAGGLERS = timedelta(seconds=60)  # the instant of an end is read before it is committed
MAY_SKIP = ("skip-", "fire_once-", OVERLAP_PREFIX)
ON_TIME = timedelta(seconds=1)  # on a machine of two cores that a test run shares with servers and workers
WAITED = timedelta(seconds=3)  # what is due for so long and waits still is behind others
LOOK_BACK = timedelta(seconds=2.5)
SETTLED = timedelta(seconds=0.5)  # what is due since less may just be starting
CHUNK = 500


class Recovery(NamedTuple):
    """Seconds from the end of the fault. None: not within the deadline."""

    seconds: float | None
    left: str = ""


class Violation(NamedTuple):
    """Where a picture shows what is wrong; `event` is its id, if there is one."""

    trigger: str
    at: datetime
    event: str | None


@dataclass(slots=True)
class Judgement:
    """`wrong` is what must never be, `late` what must not be so long; the rest are counts."""

    wrong: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    occurrences: int = 0
    events: int = 0
    deliveries: int = 0
    again: int = 0  # events that needed more than one attempt
    doubled: int = 0  # deliveries beyond the first, each with an attempt of its own


# ------------------------------------------------------------------------------------------ recovery


def recover(lane: Lane, ended: datetime, deadline_seconds: float) -> Recovery:
    """Wait until every event due by `ended` is final and new ones start on time."""
    deadline = time.monotonic() + deadline_seconds
    left = "the database does not answer"
    while time.monotonic() < deadline:
        now = datetime.now(UTC)
        try:
            left = what_is_left(lane, ended, now)
        except (SQLAlchemyError, OSError) as error:
            left = f"{type(error).__name__}: {error}"
        if not left:
            return Recovery(round(max(0.0, (now - ended).total_seconds()), 1))
        time.sleep(POLL_SECONDS)
    return Recovery(None, left)


def what_is_left(lane: Lane, ended: datetime, now: datetime) -> str:
    """Why recovery is not over yet."""
    behaves = Trigger.name.not_like(f"{BAD_PREFIX}%")
    due = select(func.count(), func.min(Event.fire_at)).join(Trigger, Trigger.id == Event.trigger_id)
    due = due.where(Event.recheck_at.is_not(None), Event.fire_at <= ended, behaves)
    unplanned = select(func.count()).where(Trigger.next_at.is_not(None), Trigger.next_at <= now)
    waiting = select(func.count(), func.min(Event.due_at)).join(Trigger, Trigger.id == Event.trigger_id)
    waiting = waiting.where(
        Event.recheck_at.is_not(None), Event.status == Status.PENDING, Event.due_at <= now - WAITED,
        behaves, Trigger.name.not_like(f"{OVERLAP_PREFIX}%"),
    )  # fmt: skip
    fresh = select(Event.fire_at, Event.started_at).join(Trigger, Trigger.id == Event.trigger_id)
    fresh = fresh.where(
        Trigger.name.like(f"{FRESH_PREFIX}%"), Event.fire_at > now - LOOK_BACK, Event.fire_at <= now - SETTLED
    )
    with lane.installation.database.read() as connection:
        count, oldest = connection.execute(due).one()
        others, first = connection.execute(waiting).one()
        behind = connection.execute(unplanned).scalar_one()
        rows = connection.execute(fresh).all()
    late = [fire_at for fire_at, started in rows if started is None or started - fire_at > ON_TIME]
    parts = [f"{count} unfinished, the oldest of {oldest}"] if count else []
    parts += [f"{others} wait, the oldest since {first}"] if others else []
    parts += [f"{behind} triggers not planned"] if behind else []
    parts += [f"{len(late)} of {len(rows)} late"] if late or len(rows) < FRESH else []
    return ", ".join(parts)


# ------------------------------------------------------------------------------------------ judgement


class Judge:
    """Holds against each other what was due, what is on record, and what arrived; all of it once."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.judged: set[str] = set()
        self.violations: list[Violation] = []
        self.read_at = lane.began

    def judge(self, since: datetime, until: datetime, *, once: bool) -> Judgement:
        """What came since the last time. `once`: nothing may have arrived twice, since nobody died.

        The order of the reads matters: what arrived was on record as an attempt before, and what ended had
        arrived before.
        """
        told = Judgement()
        ended = self.ended()
        new = self.lane.ledger.grow()
        ids = {delivery.event for delivery in new}
        events = {row.id: row for row in self.by_id(ids)}
        for delivery in new:
            self.tell(told, delivery, wrong_delivery(delivery, events.get(delivery.event)))
        for id_ in ids & events.keys():
            self.tell(told, events[id_], self.wrong_arrivals(events[id_], told, once))
        for row in ended:
            self.tell(told, row, wrong_end(row, self.lane.ledger.arrivals.get(row.id, [])))
        told.deliveries, told.events = len(new), len(ended)
        told.again = sum(row.attempt > 1 for row in ended)
        audit = self.lane.audit(since, until)
        told.occurrences = audit["expected"]
        for one in audit["findings"]:
            kept = told.late if one["kind"] == "overdue" else told.wrong
            kept.append(f"audit: {one['code']}: {one['trigger']}: {one['text']}")
            if kept is told.wrong:
                at = datetime.fromisoformat(one["scheduled_for"]) if one["scheduled_for"] else until
                self.violations.append(Violation(one["trigger"], at, one["event"]))
        told.wrong += [*self.missing_triggers(), *self.lane.client.strange]
        self.lane.client.strange = []
        return told

    def tell(self, told: Judgement, about: Delivery | Row[Any], wrong: Iterable[str]) -> None:
        """Note what is wrong with an event, or with an arrival that may be of none."""
        lines = list(wrong)
        if not lines:
            return
        told.wrong += lines
        if isinstance(about, Delivery):
            at = datetime.fromtimestamp(about.time, UTC)
            self.violations.append(Violation("nobody's", at, about.event))
        else:
            self.violations.append(Violation(about.name, about.fire_at, about.id))

    def ended(self) -> list[Row[Any]]:
        """Events that have become final since the last look."""
        since, self.read_at = self.read_at - STRAGGLERS, datetime.now(UTC)
        with self.lane.installation.database.read() as connection:
            rows = connection.execute(seen().where(Event.finished_at >= since)).all()
        new = [row for row in rows if row.id not in self.judged]
        self.judged |= {row.id for row in new}
        return new

    def by_id(self, ids: Iterable[str]) -> Iterator[Row[Any]]:
        """Events by their ids."""
        ordered = sorted(ids)
        with self.lane.installation.database.read() as connection:
            for at in range(0, len(ordered), CHUNK):
                yield from connection.execute(seen().where(Event.id.in_(ordered[at : at + CHUNK])))

    def wrong_arrivals(self, row: Row[Any], told: Judgement, once: bool) -> Iterator[str]:
        """An attempt that arrived twice; with `once`, one more although none before it had failed."""
        arrived = self.lane.ledger.arrivals[row.id]
        if len(set(arrived)) < len(arrived):
            yield f"doubled: {describe(row)}: the attempts that arrived are {arrived}"
        if len(arrived) > 1 and not row.name.startswith(BAD_PREFIX):
            told.doubled += len(arrived) - 1
            attempts = self.lane.installation.attempts(row.id)
            failed = {number for number, outcome, _ in attempts if outcome == "failed"}
            if once and not set(sorted(arrived)[:-1]) <= failed:
                yield f"doubled: {describe(row)}: attempts {arrived} arrived, and {attempts}"

    def missing_triggers(self) -> Iterator[str]:
        """Those that the endpoint said it had created, and that are not there."""
        promised, self.lane.client.created = self.lane.client.created, []
        with self.lane.installation.database.read() as connection:
            for at in range(0, len(promised), CHUNK):
                part = promised[at : at + CHUNK]
                there = set(connection.scalars(select(Trigger.id).where(Trigger.id.in_(part))))
                yield from (
                    f"lost: the trigger {id_} was created and is not there" for id_ in set(part) - there
                )


def seen() -> Select[Any]:
    """Events as they are judged."""
    columns = (
        Event.id, Event.status, Event.reason, Event.attempt, Event.scheduled_for, Event.fire_at, Event.error,
    )  # fmt: skip
    return select(*columns, Trigger.name, Trigger.target_type).join(Trigger, Trigger.id == Event.trigger_id)


def wrong_delivery(delivery: Delivery, row: Row[Any] | None) -> Iterator[str]:
    """What arrived without an event or an attempt on record, before its instant, or for another one."""
    if row is None:
        yield f"invented: {delivery} has no event"
        return
    if delivery.attempt > row.attempt:
        yield f"invented: {describe(row)}: attempt {delivery.attempt} arrived, {row.attempt} are on record"
    if delivery.time < row.fire_at.timestamp() - CLOCK_SECONDS:
        yield f"early: {describe(row)}: arrived at {delivery.time:.6f}"
    if datetime.fromisoformat(delivery.scheduled_for) != row.scheduled_for:
        yield f"invented: {describe(row)}: arrived as {delivery.scheduled_for}"


def wrong_end(row: Row[Any], arrived: Sequence[int]) -> Iterator[str]:
    """An end that its trigger's policy and its target do not explain."""
    if row.name.startswith(BAD_PREFIX):
        return
    skipped = row.status == Status.SKIPPED and row.name.startswith(MAY_SKIP)
    cancelled = row.status == Status.CANCELLED and row.name.startswith(EDITED_PREFIX)
    if skipped or cancelled:
        return
    if row.status != Status.SUCCEEDED:
        yield f"lost: {describe(row)}: {row.status} ({row.reason}) after {row.attempt} attempts: {row.error}"
    elif row.target_type != "log" and row.attempt not in arrived:
        yield f"lost: {describe(row)}: attempt {row.attempt} succeeded, attempts {arrived} arrived"


def describe(row: Row[Any]) -> str:
    """An event in a line."""
    return f"{row.name} at {format_utc(row.scheduled_for)} ({row.id})"
