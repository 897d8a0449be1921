"""Gathers what the picture of a lane shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, select

from models.event import Event
from models.states import Status
from models.trigger import Trigger
from tests import svg
from tests.faults.judge import ON_TIME, Judge, Violation
from tests.faults.lane import Lane
from tests.faults.picture import Bar, Fate, Mark, draw
from tests.faults.workload import BAD_PREFIX, OVERLAP_PREFIX

if TYPE_CHECKING:
    from tests.faults.nemesis import Outcome

BY_POLICY = (Status.SKIPPED, Status.CANCELLED)


def expose(lane: Lane, judge: Judge, outcomes: Sequence[Outcome], seed: int, now: datetime) -> str:
    """The picture of a lane up to now, as SVG."""
    with lane.installation.database.read() as connection:
        columns = (Event.id, Event.status, Event.attempt, Event.fire_at, Event.started_at, Trigger.name)
        statement = select(*columns).join(Trigger, Trigger.id == Event.trigger_id)
        rows = connection.execute(statement.where(Event.fire_at <= now)).all()
    seconds = (now - lane.began).total_seconds()
    marks = list(look(rows, judge.violations, lane.began))
    bars = [bar(outcome) for outcome in outcomes if outcome.fault != "calm"]
    title = f"{lane.name}, seed {seed}: {len(rows):,} occurrences, {len(bars)} faults, {svg.clock(seconds)}"
    return draw(title, seconds, marks, bars)


def look(rows: Sequence[Any], violations: Sequence[Violation], began: datetime) -> Iterator[Mark]:
    """A mark for each event, and for each violation that is not about one of them."""
    wrong = {violation.event for violation in violations}
    for row in rows:
        at = (row.started_at or row.fire_at) - began
        yield Mark(row.name, at.total_seconds(), Fate.WRONG if row.id in wrong else fate(row))
    known = {row.id for row in rows}
    for violation in violations:
        if violation.event not in known:
            yield Mark(violation.trigger, (violation.at - began).total_seconds(), Fate.WRONG)


def fate(row: Row[Any]) -> Fate:
    """Of an event that breaks no promise. Late is not who waits or tries again because that was ordered."""
    if row.status in BY_POLICY:
        return Fate.POLICY
    waits = row.name.startswith(OVERLAP_PREFIX)
    late = not waits and (row.started_at is None or row.started_at - row.fire_at > ON_TIME)
    again = row.attempt > 1 and not row.name.startswith(BAD_PREFIX)
    return Fate.LATE if late or again else Fate.KEPT


def bar(outcome: Outcome) -> Bar:
    """A fault and its recovery."""
    ended = outcome.at + outcome.took
    recovered = None if outcome.recovery is None else ended + outcome.recovery
    in_time = outcome.recovery is not None and outcome.recovery <= outcome.bound
    return Bar(outcome.fault, outcome.at, ended, recovered, in_time)
