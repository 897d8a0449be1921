"""Time zones as stretches of constant offset, and the Debian rule at the seams between them.

`zoneinfo` answers "what is the offset at this instant" but does not say when it changes. This
module finds the changes by asking, and cuts time into segments, so that the engine above it works
in plain integers: an instant is a count of seconds since 1970 in UTC, a wall time is that instant
plus the offset of its segment.

Source of the rule for fixed jobs: Debian cron 3.0pl1, `cron.c`, the classification of clock
changes in the main loop (wakeup kinds 0 to 3).
"""

from __future__ import annotations

import re
import struct
import zoneinfo
from collections.abc import Iterator
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

from triggers.errors import InvalidSchedule

DAY = 86_400
_SECOND = timedelta(seconds=1)
FIRST_INSTANT = -62_135_596_800  # 0001-01-01T00:00:00Z
LAST_INSTANT = 253_402_300_799  # 9999-12-31T23:59:59Z
_FIRST_ASKED, _LAST_ASKED = FIRST_INSTANT + 2 * DAY, LAST_INSTANT - 2 * DAY  # local times are in range there
LARGEST_CORRECTION = 3 * 3_600  # a larger change is a jump: nothing is made up for, nothing held back
LONG_AGO = FIRST_INSTANT - 10 * DAY  # a wall time before all others

_SPAN_BITS = 21  # spans of 2**21 s, 24 days: few probes to build one, few spans to cross a year
_SPANS_KEPT = 2_048  # per zone, some 135 years; bounds what hostile dates can make us remember
_PROBED = 2 * DAY  # apart; a change that is undone within that time would be missed
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}")
_LONGEST_NAME = 64
_NOT_IANA = frozenset({"posix", "right", "localtime", "posixrules"})  # found in zoneinfo directories


class Change(NamedTuple):
    """The offset changes: at this instant, from so many seconds to so many."""

    at: int
    before: int
    after: int


class Segment(NamedTuple):
    """A stretch of constant offset, all in seconds.

    `start` <= instant < `end` in UTC. `fresh` is the wall time from which on a fixed job may fire:
    later than the segment's beginning when the clock was set back, because what lies before it was
    served in the first pass. `skipped` is the wall time at which a gap in front of this segment
    begins, or None without a gap that is made up for.
    """

    start: int
    end: int
    offset: int
    fresh: int
    skipped: int | None

    @property
    def after_gap(self) -> int:
        """The first instant of the segment that is a whole minute of wall time."""
        return -(-(self.start + self.offset) // 60) * 60 - self.offset


class Zone:
    """One zone of the tz database. Equal names give the same object, see `zone`."""

    __slots__ = ("_spans", "_tz", "name")

    def __init__(self, name: str, tz: ZoneInfo) -> None:
        self.name = name
        self._tz = tz
        self._spans: dict[int, tuple[Segment, ...]] = {}

    @property
    def tzinfo(self) -> ZoneInfo:
        """The zone as the standard library knows it."""
        return self._tz

    def segments(self, instant: int) -> tuple[Segment, ...]:
        """The segments of the span of time around `instant`; the last one ends with the span."""
        span = instant >> _SPAN_BITS
        known = self._spans.get(span)
        if known is None:
            if len(self._spans) >= _SPANS_KEPT:
                self._spans.clear()
            known = self._spans[span] = self._build(span << _SPAN_BITS, (span + 1) << _SPAN_BITS)
        return known

    def offset(self, instant: int) -> int:
        """Seconds east of UTC at `instant`."""
        delta = self._asked(instant)
        return delta.days * DAY + delta.seconds

    def _asked(self, instant: int) -> timedelta:
        if not _FIRST_ASKED <= instant <= _LAST_ASKED:
            instant = _FIRST_ASKED if instant < _FIRST_ASKED else _LAST_ASKED
        return datetime.fromtimestamp(instant, self._tz).utcoffset()  # type: ignore[return-value]  # it knows

    def changes(self, after: int, until: int) -> Iterator[Change]:
        """The changes in (after, until], in order."""
        instant, before = after, None
        while instant <= until:
            for segment in self.segments(instant):
                if segment.end <= instant:
                    continue
                if segment.start > until:
                    return
                if before is not None and segment.offset != before:
                    yield Change(segment.start, before, segment.offset)
                instant, before = segment.end, segment.offset

    def instants(self, wall: int) -> list[int]:
        """The instants at which the clocks of the zone show `wall`: none in a gap, two in a fold."""
        found = []
        for start, end, offset, _fresh, _skipped in self._around(wall):
            instant = wall - offset
            # Segments of two spans overlap a little, so the same instant may come up again.
            if start <= instant < end and instant not in found:
                found.append(instant)
        return found

    def fixed_instant(self, wall: int) -> int | None:
        """When a fixed job set for `wall` fires: the first pass of a fold, right after a gap.

        None when the wall time was dropped by a jump of more than three hours.
        """
        shown = self.instants(wall)
        if shown:
            return shown[0]
        for segment in self._around(wall):
            if segment.skipped is not None and segment.skipped <= wall < segment.start + segment.offset:
                return segment.after_gap
        return None

    def _around(self, wall: int) -> Iterator[Segment]:
        instant, last = wall - 2 * DAY, wall + 2 * DAY
        while instant <= last:
            for segment in self.segments(instant):
                if segment.end > instant:
                    yield segment
                    instant = segment.end

    def _build(self, low: int, high: int) -> tuple[Segment, ...]:
        # Two days of run-up: the second pass of a fold just before the span reaches into it.
        start = low - 2 * DAY
        offset, fresh, skipped = self.offset(start), LONG_AGO, None
        found = []
        for change in self._probed(start, high - 1):
            found.append(Segment(start, change.at, offset, fresh, skipped))
            fresh, skipped = _seam(change, fresh)
            start, offset = change.at, change.after
        found.append(Segment(start, high, offset, fresh, skipped))
        return tuple(segment for segment in found if segment.end > low)

    def _probed(self, after: int, until: int) -> Iterator[Change]:
        """The changes in (after, until], found by asking.

        The closest two changes of one zone in the tz database, 1800 to 2100, are four days apart
        (Africa/Freetown in 1939); a test looks at those that are to come.
        """
        low, delta = after, self._asked(after)
        while low < until:
            high = min(low + _PROBED, until)
            if self._asked(high) == delta:
                low = high
                continue
            low = self._first_other(low, high, delta)
            before, delta = delta, self._asked(low)
            yield Change(low, before // _SECOND, delta // _SECOND)

    def _first_other(self, low: int, high: int, delta: timedelta) -> int:
        """The first instant of (low, high] with another offset than `low` has; `high` has another."""
        while high - low > 1:
            middle = (low + high) // 2
            if self._asked(middle) == delta:
                low = middle
            else:
                high = middle
        return high


def _seam(change: Change, fresh: int) -> tuple[int, int | None]:
    """What the Debian rule remembers across a change: `fresh` and `skipped` of the next segment."""
    if abs(change.after - change.before) > LARGEST_CORRECTION:
        return LONG_AGO, None
    served = max(fresh, change.at + change.before)
    return served, served if change.at + change.after > served else None


@lru_cache(maxsize=1_024)
def zone(name: str) -> Zone:
    """The zone of that IANA name.

    Raises InvalidSchedule (field `timezone`) for everything else, whatever it looks like: a path,
    a directory of the tz database, a file there that is no zone, a name in the wrong case.
    """
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name) or name.split("/")[0] in _NOT_IANA:
        raise InvalidSchedule(_unknown(name), "timezone")
    known = _iana_names()
    if name not in known and name.casefold() in {other.casefold() for other in known}:
        # A file system that ignores case would find it, on this machine and not on the next.
        raise InvalidSchedule(_unknown(name), "timezone")
    try:
        return Zone(name, _read(name))
    except (KeyError, ValueError, OSError, EOFError, struct.error):
        # Whatever a file that is no zone makes of the reader: it is not a zone.
        raise InvalidSchedule(_unknown(name), "timezone") from None


def _read(name: str) -> ZoneInfo:
    """The zone from where the standard library would take it, which looks for so long as it reads."""
    for directory in zoneinfo.TZPATH:
        try:
            with open(f"{directory}/{name}", "rb") as file:
                return ZoneInfo.from_file(file, name)
        except OSError:
            continue
    return ZoneInfo.no_cache(name)


@lru_cache(maxsize=1)
def _iana_names() -> frozenset[str]:
    """The names that the tzdata package ships. The system may know newer ones."""
    try:
        return frozenset(resources.files("tzdata").joinpath("zones").read_text("ascii").split())
    except (ModuleNotFoundError, OSError):
        return frozenset()


def _unknown(name: str) -> str:
    shown = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "..."
    meant = _meant(name) if len(name) <= _LONGEST_NAME else None
    hint = f"did you mean {meant}?" if meant else "an IANA name such as Europe/Berlin is needed"
    return f"{shown!a} is not a time zone: {hint}"


def _meant(name: str) -> str | None:
    wanted = name.strip().replace(" ", "_").casefold()
    folded = {other.casefold(): other for other in sorted(_iana_names())}
    if wanted in folded:
        return folded[wanted]
    cities = {other.rpartition("/")[2]: other for other in folded if "/" in other}  # no EST for a CEST
    near = get_close_matches(wanted.rpartition("/")[2], cities, n=1, cutoff=0.8)
    return folded[cities[near[0]]] if near else None
