"""The four kinds of schedule as rules in time: which instants, and how many up to when.

Each rule answers two questions. `after(instant)`: the first occurrence strictly after it.
`run(after, until, at_most)`: the consecutive occurrences in (after, until]. All instants are aware;
answers are in UTC. Bounds (`start_time`, `end_time`) are the business of `Schedule`.

Source of what clock changes do: Debian cron 3.0pl1, `cron.c`. Wildcard jobs follow real time: they
fire at every real minute whose wall time matches. Fixed jobs follow a clock that never goes back:
what a gap skips fires at its end, once; what a fold repeats fires in the first pass.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from triggers.cron import Cron
from triggers.rfc3339 import EPOCH
from triggers.zones import DAY, FIRST_INSTANT, LAST_INSTANT, Segment, Zone

_MINUTE = 60
_MOST_KNOWN = 8  # occurrences that a rule keeps in mind
_FAR = 2 * DAY  # more than any two offsets, or any clock change, can differ


class Run(NamedTuple):
    """Consecutive occurrences: the first, the last (both UTC), and how many there are."""

    first: datetime
    last: datetime
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody misses here


class Rule(Protocol):
    """What `Schedule` needs from each kind."""

    def after(self, instant: datetime) -> datetime | None:
        """The first occurrence strictly after `instant`; None when there is none."""

    def run(self, after: datetime, until: datetime, at_most: int) -> Run | None:
        """The first `at_most` occurrences in (after, until]; None when there is none."""


@dataclass(frozen=True, slots=True)
class CronRule:
    """A cron expression in a zone."""

    cron: Cron
    zone: Zone
    # An instant that was asked about, and the occurrences that follow it without a gap: a schedule is asked
    # for the same few again and again. One tuple takes the place of another, so threads need no lock.
    _known: list[tuple[datetime, ...]] = field(default_factory=lambda: [()], compare=False, repr=False)

    def after(self, instant: datetime) -> datetime | None:
        """The first occurrence strictly after `instant`; None after the year 9999."""
        known = self._known[0]
        if known and known[0] <= instant < known[-1]:
            return known[bisect_right(known, instant)]
        since = instant - EPOCH
        seconds = self.first_from(since.days * DAY + since.seconds + 1)
        if seconds is None:
            return None
        found = datetime.fromtimestamp(seconds, UTC)
        follows = bool(known) and known[-1] == instant
        self._known[0] = (*known[-_MOST_KNOWN:], found) if follows else (instant, found)
        return found

    def run(self, after: datetime, until: datetime, at_most: int) -> Run | None:
        """The first `at_most` occurrences in (after, until]; days are counted, not walked."""
        first = self.after(after)
        if first is None or first > until or at_most < 1:
            return None
        stop = (until - EPOCH) // timedelta(seconds=1) + 1
        last, count = self._count((first - EPOCH) // timedelta(seconds=1), stop, at_most)
        return Run(first, datetime.fromtimestamp(last, UTC), count)

    def first_from(self, instant: int) -> int | None:
        """The first occurrence at or after `instant`, both in seconds since 1970."""
        instant = max(instant, FIRST_INSTANT)
        fixed = not self.cron.wildcard
        while instant <= LAST_INSTANT:
            for segment in self.zone.segments(instant):
                _start, end, offset, fresh, skipped = segment
                if instant >= end:
                    continue
                wall = instant + offset
                if fixed:
                    if skipped is not None and instant <= segment.after_gap and self.made_up(segment):
                        return segment.after_gap
                    wall = max(wall, fresh)
                minute = self.cron.next_minute(-(-wall // _MINUTE))
                if minute is None:
                    return None
                found = minute * _MINUTE - offset
                if found < end:
                    return found if found <= LAST_INSTANT else None
                # Far from the segment's end no clock change can bring back what we have passed,
                # and nothing matches before `minute`: go there at once. 29 February needs it.
                instant = max(end, found - _FAR) if end - instant > _FAR else end
        return None

    def made_up(self, segment: Segment) -> bool:
        """Whether a fixed job has wall times in the gap in front of `segment`, to be made up for."""
        if segment.skipped is None:
            return False
        minute = self.cron.next_minute(-(-segment.skipped // _MINUTE))
        return minute is not None and minute * _MINUTE < segment.start + segment.offset

    def _count(self, instant: int, stop: int, at_most: int) -> tuple[int, int]:
        """The last and the number of the occurrences in [instant, stop); there is at least one."""
        last, count = instant, 0
        while instant < stop and count < at_most:
            for segment in self.zone.segments(instant):
                if instant >= min(segment.end, stop) or count >= at_most:
                    continue
                gap_end = segment.after_gap
                if not self.cron.wildcard and instant <= gap_end < stop and self.made_up(segment):
                    last, count = gap_end, count + 1
                    instant = last + _MINUTE  # a match at the very same minute is the same occurrence
                taken = self._take(segment, instant, stop, at_most - count)
                if taken is not None:
                    last, count = taken[0], count + taken[1]
                instant = max(instant, segment.end)
        return last, count

    def _take(self, segment: Segment, instant: int, stop: int, at_most: int) -> tuple[int, int] | None:
        """The last and the number of the ordinary occurrences of a segment in [instant, stop)."""
        _start, end, offset, fresh, _skipped = segment
        low = instant + offset if self.cron.wildcard else max(instant + offset, fresh)
        high = min(end, stop) + offset
        taken = self.cron.take(-(-low // _MINUTE), -(-high // _MINUTE), at_most)
        return None if taken is None else (taken[0] * _MINUTE - offset, taken[1])


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """`anchor + n * every` for n >= 0: real elapsed time, whatever the clocks do."""

    anchor: datetime
    every: timedelta

    def after(self, instant: datetime) -> datetime | None:
        """The first occurrence strictly after `instant`; None after the year 9999."""
        if instant < self.anchor:
            return self.anchor
        try:
            return self.anchor + ((instant - self.anchor) // self.every + 1) * self.every
        except OverflowError:
            return None

    def run(self, after: datetime, until: datetime, at_most: int) -> Run | None:
        """The first `at_most` occurrences in (after, until], by arithmetic alone."""
        if until < self.anchor or at_most < 1:
            return None
        first = max(0, (after - self.anchor) // self.every + 1)
        last = min((until - self.anchor) // self.every, first + at_most - 1)
        if last < first:
            return None
        return Run(self.anchor + first * self.every, self.anchor + last * self.every, last - first + 1)


@dataclass(frozen=True, slots=True)
class OnceRule:
    """One instant; `wall` is the local time it was given as, in seconds since 1970, if it was."""

    at: datetime
    zone: Zone
    wall: int | None = None

    def after(self, instant: datetime) -> datetime | None:
        """The instant, when it lies strictly after `instant`."""
        return self.at if self.at > instant else None

    def run(self, after: datetime, until: datetime, at_most: int) -> Run | None:
        """The instant, when it lies in (after, until]."""
        return Run(self.at, self.at, 1) if after < self.at <= until and at_most >= 1 else None


@dataclass(frozen=True, slots=True)
class ManualRule:
    """No occurrences: it fires only when told to."""

    def after(self, instant: datetime) -> datetime | None:
        """None."""
        return None

    def run(self, after: datetime, until: datetime, at_most: int) -> Run | None:
        """None."""
        return None
