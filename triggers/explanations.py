"""What clock changes do to the occurrences of a schedule, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from triggers.rfc3339 import EPOCH
from triggers.rules import CronRule, OnceRule, Rule
from triggers.zones import DAY, LARGEST_CORRECTION, Change, Zone

_MINUTE = 60
_LONGEST_WAIT = 41 * 366 * DAY  # 29 February on a Sunday comes after 40 years, across 2100
_MOST_NAMED = 3  # wall times named one by one in a note; of more, the first and the last


class Explained(NamedTuple):
    """An occurrence: its instant in UTC, the same as wall time with its offset, and a note.

    The note is empty where no clock change has a part in it.
    """

    utc: datetime
    local: datetime
    note: str


def explained(rule: Rule, after: datetime, occurrences: Iterable[datetime]) -> list[Explained]:
    """Each of the consecutive `occurrences` of `rule` after `after`, with its note."""
    clock = rule.zone if isinstance(rule, CronRule | OnceRule) else None
    found = []
    before = _seconds(after)
    for occurrence in occurrences:
        if clock is None:
            found.append(Explained(occurrence, occurrence, ""))
            continue
        instant = _seconds(occurrence)
        notes = "; ".join(_notes(rule, clock, before, instant))
        found.append(Explained(occurrence, _local(clock, occurrence), notes))
        before = instant
    return found


def wall_text(wall: int) -> str:
    """A wall time, in seconds since 1970, as `2026-03-29 02:30`."""
    return (EPOCH + timedelta(seconds=wall)).strftime("%Y-%m-%d %H:%M")


def clock_text(wall: int) -> str:
    """The time of day of a wall time as `02:30`."""
    return wall_text(wall)[-5:]


def offset_text(offset: int) -> str:
    """An offset in seconds as `+01:00`."""
    return datetime.min.replace(tzinfo=timezone(timedelta(seconds=offset))).isoformat()[19:]


def walls_between(rule: CronRule, low: int, high: int) -> list[int]:
    """The wall times of an expression in [low, high), as if no clock ever changed."""
    found = []
    minute = rule.cron.next_minute(-(-low // _MINUTE))
    while minute is not None and minute * _MINUTE < high:
        found.append(minute * _MINUTE)
        minute = rule.cron.next_minute(minute + 1)
    return found


def listed(walls: list[int]) -> str:
    """Wall times of one gap or fold for a sentence: each, or how many and from when to when."""
    if len(walls) <= _MOST_NAMED:
        return " and ".join(clock_text(wall) for wall in walls)
    return f"{len(walls)} times from {clock_text(walls[0])} to {clock_text(walls[-1])}"


def _notes(rule: Rule, clock: Zone, before: int, instant: int) -> Iterator[str]:
    if isinstance(rule, OnceRule):
        if rule.wall is not None:
            yield from _moved_once(clock, rule.wall, instant)
            yield from _doubled(clock, instant, fixed=True)
        return
    if not isinstance(rule, CronRule):
        return
    between = list(clock.changes(max(before, instant - _LONGEST_WAIT), instant))
    for change in between:
        yield from _at_gap(rule, change, instant)
    yield from _doubled(clock, instant, fixed=not rule.cron.wildcard)
    yield from _between(between)


def _at_gap(rule: CronRule, change: Change, instant: int) -> Iterator[str]:
    """What the gap of `change`, passed on the way to `instant`, moved or dropped."""
    low, high = change.at + change.before, change.at + change.after
    skipped = walls_between(rule, low, high) if high > low else []
    if not skipped:
        return
    day = wall_text(low)[:10]
    if rule.cron.wildcard or high - low > LARGEST_CORRECTION:
        yield f"dropped: the clocks jumped over {listed(skipped)} on {day}"
    elif instant - change.at < _MINUTE:
        yield f"moved: the clocks jump over {listed(skipped)} on {day}, so it fires right after"


def _moved_once(clock: Zone, wall: int, instant: int) -> Iterator[str]:
    if instant + clock.offset(instant) != wall:
        yield f"moved: the clocks in {clock.name} jump over {wall_text(wall)}, so it fires right after"


def _doubled(clock: Zone, instant: int, *, fixed: bool) -> Iterator[str]:
    wall = instant + clock.offset(instant)
    passes = clock.instants(wall)
    if len(passes) < 2:
        return
    if fixed and passes[1] - passes[0] <= LARGEST_CORRECTION:
        yield f"{clock_text(wall)} comes twice on {wall_text(wall)[:10]}: fires the first time only"
    else:
        which = "first" if instant == passes[0] else "second"
        yield f"doubled: {clock_text(wall)} comes twice on {wall_text(wall)[:10]}, this is the {which}"


def _between(changes: list[Change]) -> Iterator[str]:
    if not changes:
        return
    last = changes[-1]
    when = wall_text(last.at + last.before)
    how = f"from {offset_text(last.before)} to {offset_text(last.after)}"
    if len(changes) == 1:
        yield f"the clocks changed {how} on {when}"
    else:
        yield f"the clocks changed {len(changes)} times before, last {how} on {when}"


def _local(clock: Zone, occurrence: datetime) -> datetime:
    try:
        return occurrence.astimezone(timezone(timedelta(seconds=clock.offset(_seconds(occurrence)))))
    except OverflowError:  # the local time lies beyond the year 9999
        return occurrence


def _seconds(instant: datetime) -> int:
    since = instant.astimezone(UTC) - EPOCH
    return since.days * DAY + since.seconds
