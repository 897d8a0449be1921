"""Which events a trigger gets: its occurrences up to a horizon, under its misfire policy. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from models.states import Reason, Source
from triggers.schedule import Schedule, fire_at, parse_cached

MOST_PER_BATCH = 5_000  # occurrences of one trigger in one transaction
MOST_CATCH_UP = 1_000  # of one trigger in one tick, under fire_all
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Policy:
    """The part of a trigger's policy that planning needs."""

    misfire: str
    grace: timedelta
    window: timedelta


class Plannable(NamedTuple):
    """What the claim reads of a trigger."""

    id: str
    name: str
    target_type: str
    schedule: str  # JSON
    policy: str  # JSON
    anchor: datetime | None  # of an interval
    planned_until: datetime
    next_at: datetime
    planned_count: int


class Planned(NamedTuple):
    """An event to be: one occurrence, or the run of them that it covers."""

    scheduled_for: datetime
    fire_at: datetime
    misfire_at: datetime | None
    source: Source
    skipped: Reason | None = None
    coalesced: int = 1
    coalesced_from: datetime | None = None


class Plan(NamedTuple):
    """What a batch does for one trigger. `rests`: it has had its share of this tick."""

    events: list[Planned]
    planned_until: datetime
    next_at: datetime | None
    planned_count: int
    rests: bool = False


@lru_cache(maxsize=10_000)
def policy_of(text: str) -> Policy:
    """The policy, parsed once for all triggers that share its text."""
    values = json.loads(text)
    return Policy(
        values["misfire"],
        timedelta(seconds=values["misfire_grace_seconds"]),
        timedelta(seconds=values["catchup_window_seconds"]),
    )


@lru_cache(maxsize=100_000)
def occurrence_after(schedule: Schedule, instant: datetime) -> datetime | None:
    """The next occurrence, computed once for all triggers that share schedule and instant."""
    return schedule.after(instant)


def plan(trigger: Plannable, now: datetime, until: datetime) -> Plan:
    """All occurrences of `trigger` that are not planned yet, up to `until`, as events.

    Whatever `schedule.after` raises is passed on: the caller sets the trigger aside.
    """
    return Planner(trigger, now, until).plan()


JITTERED = re.compile(r'"jitter_seconds": *[1-9]').search


def is_jittered(trigger: Plannable) -> bool:
    """Whether the plan depends on the trigger's id, too."""
    return JITTERED(trigger.schedule) is not None


class Planner:
    """One trigger's plan in the making: a cursor that moves forward over its occurrences."""

    def __init__(self, trigger: Plannable, now: datetime, until: datetime) -> None:
        self.trigger = trigger
        self.schedule = parse_cached(trigger.schedule, trigger.anchor)
        self.policy = policy_of(trigger.policy)
        self.now = now
        self.until = until
        self.jitter = timedelta(seconds=self.schedule.jitter_seconds)
        self.events: list[Planned] = []
        self.cursor = trigger.planned_until
        self.next_at: datetime | None = trigger.next_at
        self.count = trigger.planned_count
        self.rests = False

    def plan(self) -> Plan:
        """The misfires by the policy, then the others one by one."""
        # A jittered occurrence that may still be inside its grace is not a misfire.
        late = self.now - self.policy.grace - self.jitter - INSTANT
        if self.next_at is not None and self.next_at <= late:
            self.catch_up(late)
        self.one_by_one(self.until, Source.SCHEDULE, MOST_PER_BATCH)
        if not self.rests and (self.next_at is None or self.next_at > self.until):
            self.cursor = max(self.cursor, self.until)
        return Plan(self.events, self.cursor, self.next_at, self.count, self.rests)

    def catch_up(self, late: datetime) -> None:
        """Occurrences later than their grace."""
        if self.policy.misfire == "skip":
            self.cover(late, Reason.MISFIRE)
            return
        oldest = self.now - self.policy.window
        self.cover(min(late, oldest - INSTANT), Reason.CATCHUP_WINDOW)
        if self.policy.misfire == "fire_once":
            # Something within the window is late: the newest of all that are due fires for all of them.
            if self.next_at is not None and self.next_at <= late:
                self.cover(self.now - self.jitter, None)
            return
        self.one_by_one(late, Source.CATCHUP, MOST_CATCH_UP)
        self.rests = self.next_at is not None and self.next_at <= late

    def cover(self, until: datetime, reason: Reason | None) -> None:
        """One event for all occurrences up to `until`: skipped for a reason, or fired by the newest."""
        while self.next_at is not None and self.next_at <= until:
            run = self.schedule.run(self.cursor, until, self.remaining(1_000_000_000))
            if run is None:
                return
            self.events.append(
                Planned(
                    run.last,
                    run.last if reason else self.fires(run.last),
                    None if reason else self.now + self.policy.grace,
                    Source.SCHEDULE if reason else Source.CATCHUP,
                    reason,
                    run.count,
                    run.first if run.count > 1 else None,
                )
            )
            self.moved(run.last, run.count)

    def one_by_one(self, until: datetime, source: Source, most: int) -> None:
        """An event for each occurrence up to `until`, oldest first."""
        if self.rests:
            return
        for _ in range(most):
            instant = self.next_at
            if instant is None or instant > until:
                return
            fires = self.fires(instant)
            self.events.append(Planned(instant, fires, self.misfires(fires), source))
            self.moved(instant, 1)

    def fires(self, instant: datetime) -> datetime:
        """The instant with its jitter."""
        if not self.jitter:
            return instant
        return fire_at(self.trigger.id, instant, self.schedule.jitter_seconds)

    def misfires(self, fires: datetime) -> datetime | None:
        """From when on a first start is a misfire; never under fire_all."""
        return None if self.policy.misfire == "fire_all" else fires + self.policy.grace

    def moved(self, instant: datetime, count: int) -> None:
        """Put the cursor behind the occurrences that now have their event."""
        self.cursor = instant
        self.count += count
        more = self.remaining(1) > 0
        self.next_at = occurrence_after(self.schedule, instant) if more else None

    def remaining(self, otherwise: int) -> int:
        """How many more `max_runs` allows."""
        if self.schedule.max_runs is None:
            return otherwise
        return self.schedule.max_runs - self.count
