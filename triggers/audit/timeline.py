"""Which occurrences a trigger's log of changes calls for, and why one is not among them. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from models.account import micros
from models.states import Change as Made
from models.states import TriggerState
from triggers.audit.records import Change, Code
from triggers.errors import InvalidSchedule
from triggers.planning import occurrence_after
from triggers.rfc3339 import BEGINNING, EPOCH, before, format_utc
from triggers.rules import CronRule, OnceRule, Run
from triggers.schedule import Schedule, parse_cached

INSTANT = timedelta(microseconds=1)
END = datetime.max.replace(tzinfo=UTC)
UNLIMITED = 1_000_000_000_000  # occurrences; more than any schedule has until the year 9999
CLOCK_CHANGE_SECONDS = 3 * 3_600  # the largest change of clocks after which jobs are moved
FIXED_ZONES = ("UTC", "Etc/UTC")


@dataclass(slots=True)
class Piece:
    """A stretch (after, until] in which a trigger plans by one schedule; None: it cannot be read any more."""

    after: datetime
    until: datetime
    schedule: Schedule | None
    change: Change

    def next(self, instant: datetime) -> datetime | None:
        """The first occurrence after `instant`, and in the stretch."""
        if self.schedule is None or instant >= self.until:
            return None
        instant = max(instant, self.after)
        # Intervals are cheaper to compute than to remember.
        cached = self.schedule.kind == "cron"
        found = occurrence_after(self.schedule, instant) if cached else self.schedule.after(instant)
        return None if found is None or found > self.until else found

    def run(self, after: datetime, until: datetime) -> Run | None:
        """The occurrences in (after, until], and in the stretch."""
        after, until = max(after, self.after), min(until, self.until)
        return None if self.schedule is None or after >= until else self.schedule.run(after, until, UNLIMITED)

    def total(self, after: datetime, until: datetime) -> int:
        """The sum of the occurrences in (after, until], and in the stretch, in microseconds since 1970."""
        if (run := self.run(after, until)) is None:
            return 0
        if self.schedule is not None and self.schedule.kind == "interval":
            return run.count * (micros(run.first) + micros(run.last)) // 2
        total, instant = micros(run.first), self.next(run.first)
        while instant is not None and instant <= run.last:
            total, instant = total + micros(instant), self.next(instant)
        return total


@dataclass(slots=True)
class Single:
    """The occurrence of a new `once` that lies back, as `now` always does: beside what was planned then.

    `extra`: no other occurrence has its instant. `served`: an event was found for it.
    """

    jitter_seconds: int
    extra: bool = True
    served: bool = False


class Timeline:
    """The occurrences that a log of changes calls for, up to `end`.

    A change ends what the log said before at its own instant, inclusive; completion ends nothing, since
    nothing was left. `max_runs` counts what a schedule planned, over pauses and changes of the rest.
    """

    def __init__(self, changes: Sequence[Change], end: datetime) -> None:
        self.changes = changes
        self.pieces: list[Piece] = []
        self.singles: dict[datetime, Single] = {}
        self._end = end
        self._current = 0
        self._count = 0
        for index, change in enumerate(changes):
            new = index == 0 or not same_schedule(change, changes[index - 1])
            if new:
                self._count = 0
            elif change.change == Made.REPLANNED:  # what counts was planned by rules that are gone
                self._count = change.planned_count
            if plans(change):
                self._add(change, ends_at(changes, index), new)
        for at, single in self.singles.items():
            single.extra = self.run(before(at), at) is None

    def _add(self, change: Change, until: datetime, new: bool) -> None:
        schedule = understood(change)
        after = change.effective_at
        if schedule is not None and schedule.kind == "once" and new:
            at = schedule.after(BEGINNING)
            if at is not None and at <= after:
                self.singles[at] = Single(schedule.jitter_seconds)
                self._count += 1
                return
        if until <= after:
            return
        piece = Piece(after, until, schedule, change)
        if schedule is not None and schedule.max_runs is not None:
            self._limit(piece, schedule, schedule.max_runs - self._count)
        self.pieces.append(piece)

    def _limit(self, piece: Piece, schedule: Schedule, left: int) -> None:
        """End the stretch with the last occurrence that `max_runs` allows."""
        until = min(piece.until, self._end)
        run = schedule.run(piece.after, until, left) if piece.after < until else None
        self._count += run.count if run else 0
        if left <= 0:
            piece.until = piece.after
        elif run is not None and run.count == left:
            piece.until = run.last

    def after(self, instant: datetime) -> datetime | None:
        """The first occurrence after `instant`, which never goes back from call to call."""
        while self._current < len(self.pieces):
            found = self.pieces[self._current].next(instant)
            if found is not None:
                return found
            self._current += 1
        return None

    def run(self, after: datetime, until: datetime) -> Run | None:
        """The occurrences in (after, until]: first, last, how many."""
        runs = [run for piece in self.pieces if (run := piece.run(after, until)) is not None]
        return Run(runs[0].first, runs[-1].last, sum(run.count for run in runs)) if runs else None

    def total(self, after: datetime, until: datetime) -> int:
        """The sum of the occurrences in (after, until], in microseconds since 1970."""
        return sum(piece.total(after, until) for piece in self.pieces)

    def at(self, instant: datetime) -> Piece | None:
        """The stretch of an instant."""
        for piece in (*self.pieces[self._current : self._current + 1], *self.pieces):
            if piece.after < instant <= piece.until:
                return piece
        return None

    def jitters(self, instant: datetime) -> list[int]:
        """The jitters, in seconds, that an event of this instant may have."""
        piece, single = self.at(instant), self.singles.get(instant)
        found = [single.jitter_seconds] if single is not None else []
        return found + ([piece.schedule.jitter_seconds] if piece is not None and piece.schedule else [])

    def why_not(self, instant: datetime) -> tuple[Code, str]:
        """Why an instant is not an occurrence."""
        change = self.in_force(instant)
        if change is None:
            return Code.BEFORE_CREATION, "the trigger did not exist yet"
        if not plans(change):
            return idle_code(
                change
            ), f"the trigger was {in_words(change)} since {format_utc(change.effective_at)}"
        schedule = understood(change)
        if schedule is None:
            return Code.UNREADABLE, "its schedule of that time cannot be read any more"
        if schedule.kind == "manual":
            return Code.MANUAL, "the schedule of that time was manual"
        if schedule.start is not None and instant < schedule.start:
            return Code.BEFORE_START_TIME, f"start_time is {format_utc(schedule.start)}"
        if schedule.end is not None and instant > schedule.end:
            return Code.AFTER_END_TIME, f"end_time is {format_utc(schedule.end)}"
        if has(schedule, instant):
            return Code.BEYOND_MAX_RUNS, f"max_runs is {schedule.max_runs}"
        return self._not_in(schedule, instant)

    def _not_in(self, schedule: Schedule, instant: datetime) -> tuple[Code, str]:
        for other in self.changes:
            if (read := understood(other)) is not None and has(read, instant):
                return Code.OTHER_SCHEDULE, "it belongs to a schedule that was not in force then"
        if clocks_change(schedule, instant):
            return Code.CLOCK_CHANGE, "clocks change within three hours, and the schedule has no such instant"
        return Code.NOT_IN_SCHEDULE, "the schedule has no such instant"

    def in_force(self, instant: datetime) -> Change | None:
        """The change by which the trigger planned an instant."""
        for change in reversed(self.changes):
            if change.effective_at < instant and change.change != Made.COMPLETED:
                return change
        return None


def behind(instant: datetime) -> datetime:
    """The instant after, so that what ends there, exclusive, has this one; the last of all has none."""
    return instant + INSTANT if instant < END else instant


def plans(change: Change) -> bool:
    """Whether the trigger plans from this change on."""
    return change.state == TriggerState.ACTIVE and change.change != Made.DELETED


def same_schedule(one: Change, other: Change) -> bool:
    """Whether two changes plan by the same schedule, from the same anchor."""
    return one.anchor == other.anchor and same_json(one.schedule, other.schedule)


def same_json(one: str, other: str) -> bool:
    """Whether two texts are the same JSON value."""
    return one == other or json.loads(one) == json.loads(other)


def ends_at(changes: Sequence[Change], index: int) -> datetime:
    """Up to when, inclusive, a change is in force."""
    later = (change.effective_at for change in changes[index + 1 :] if change.change != Made.COMPLETED)
    return min(later, default=END)


def understood(change: Change) -> Schedule | None:
    """The schedule of a change; None for one that cannot be read any more."""
    with suppress(InvalidSchedule, ValueError, KeyError, TypeError):
        return parse_cached(change.schedule, change.anchor)
    return None


def has(schedule: Schedule, instant: datetime) -> bool:
    """Whether the schedule has an occurrence at this instant."""
    return schedule.after(before(instant)) == instant


def idle_code(change: Change) -> Code:
    """Why a trigger plans nothing after a change."""
    if change.change == Made.DELETED:
        return Code.DELETED
    return Code.SET_ASIDE if change.change == Made.SET_ASIDE else Code.PAUSED


def in_words(change: Change) -> str:
    """What a trigger that plans nothing is."""
    return {Code.DELETED: "deleted", Code.SET_ASIDE: "set aside"}.get(idle_code(change), change.state)


def zone_of(schedule: Schedule | None) -> str | None:
    """The zone on whose rules the occurrences depend; None when they depend on none."""
    rule = schedule.rule if schedule is not None else None
    depends = isinstance(rule, CronRule) or (isinstance(rule, OnceRule) and rule.wall is not None)
    if not depends:
        return None
    assert isinstance(rule, CronRule | OnceRule)
    return None if rule.zone.name in FIXED_ZONES else rule.zone.name


def clocks_change(schedule: Schedule, instant: datetime) -> bool:
    """Whether the clocks of the schedule's zone change near an instant."""
    if zone_of(schedule) is None or not isinstance(schedule.rule, CronRule | OnceRule):
        return False
    second = (instant - EPOCH) // timedelta(seconds=1)
    near = schedule.rule.zone.changes(second - CLOCK_CHANGE_SECONDS, second + CLOCK_CHANGE_SECONDS)
    return next(iter(near), None) is not None
