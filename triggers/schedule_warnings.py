"""Where users err: sentences about schedules that are valid, but perhaps not what was meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from triggers.cron_fields import whole
from triggers.explanations import clock_text, listed, wall_text, walls_between
from triggers.rfc3339 import EPOCH
from triggers.rules import CronRule, IntervalRule, OnceRule
from triggers.schedule_reader import Schedule
from triggers.zones import DAY, LARGEST_CORRECTION, Change, Zone

SHOWN = 5  # occurrences in an answer about a schedule
_LOOK_AHEAD = 366 * DAY
_KEPT = 8_192  # answers to what is asked at every create and every read
_FAR_OFF = timedelta(days=366)
_SECOND = timedelta(seconds=1)
_MONTHS = ("", "January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")  # fmt: skip
_LENGTHS = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_EVERY_HOUR = (1 << 24) - 1
_EVERY_DAY = (1 << 32) - 2
# Fields whose values go round in a circle: label, position, how many values, the full range.
_CIRCLES = (
    ("minute", 0, 60, "0-59"),
    ("hour", 1, 24, "0-23"),
    ("month", 3, 12, "1-12"),
    ("day of week", 4, 7, "0-6"),
)


def warned(given: Mapping[str, object], schedule: Schedule, after: datetime) -> list[str]:
    """The warnings for a schedule as given and as understood, in the order of its fields."""
    found: list[str] = []
    rule = schedule.rule
    shown = schedule.following(after, SHOWN)
    if isinstance(rule, CronRule):
        found += _of_expression(rule)
        found += _gaps(rule, schedule, after, shown)
    elif isinstance(rule, OnceRule):
        found += _once(rule, given)
    elif isinstance(rule, IntervalRule):
        found += _whole_days(rule)
    found += _future(schedule, after, shown)
    return found


@lru_cache(maxsize=_KEPT)
def _of_expression(rule: CronRule) -> tuple[str, ...]:
    """What does not depend on when it is asked."""
    return (*_days(rule), *_steps(rule), *_every_minute(rule), *_zone_name(rule.zone.name))


def _days(rule: CronRule) -> Iterator[str]:
    cron = rule.cron
    day, weekday = cron.fields[2], cron.fields[4]
    if cron.either_day:
        yield (f"both day fields are set: it fires when the day of month matches {day}, and also when the "
               f"day of week matches {weekday}; either is enough")  # fmt: skip
    elif day != "*" and weekday != "*":
        yield (f"one day field begins with *: it fires only when the day of month matches {day} and the "
               f"day of week matches {weekday}; both must")  # fmt: skip
    if day.startswith("*/") and cron.days != _EVERY_DAY:
        yield f"{day} in the day of month starts over on the 1st, so the last step of a month is uneven"
    yield from _missing_days(rule)


def _missing_days(rule: CronRule) -> Iterator[str]:
    """Days 29 to 31 asked for on their own; in a range such as 25-31 the end of it is understood."""
    cron = rule.cron
    if cron.fields[2].startswith("*"):
        return
    for day in (29, 30, 31):
        if not cron.days >> day & 1 or cron.days >> (day - 1) & 1:
            continue
        lacking = [_MONTHS[m] for m in range(1, 13) if cron.months >> m & 1 and _LENGTHS[m] < day]
        if lacking:
            yield f"not every month has a day {day}: {', '.join(lacking)} will be left out"
        elif day == 29 and cron.months >> 2 & 1:
            yield "February has a day 29 in leap years only"


def _steps(rule: CronRule) -> Iterator[str]:
    for label, position, size, everything in _CIRCLES:
        for item in rule.cron.fields[position].split(","):
            span, slash, step = item.partition("/")
            if slash and span in ("*", everything):
                yield from _uneven(label, item, whole(step), size)


def _uneven(label: str, item: str, step: int, size: int) -> Iterator[str]:
    if step >= size:
        yield f"{item} in the {label} field allows one value only: a step cannot reach beyond the field"
    elif size % step:
        yield (f"{item} in the {label} field is uneven: {size} does not divide by {step}, so the last step "
               f"is {size % step}; an interval keeps its distance")  # fmt: skip


def _every_minute(rule: CronRule) -> Iterator[str]:
    if rule.cron.fields[0] == "*" and rule.cron.fields[1].isdigit():
        yield (f"it fires every minute of the hour {int(rule.cron.fields[1])}, 60 times; once would be "
               f"0 {' '.join(rule.cron.fields[1:])}")  # fmt: skip


def _zone_name(name: str) -> Iterator[str]:
    if name.startswith("Etc/GMT") and name[7:8] in ("+", "-") and name[8:] != "0":
        side = "behind" if name[7] == "+" else "ahead of"
        yield f"{name} is {name[8:]} h {side} UTC: the signs of the Etc zones are the wrong way round"


def _gaps(rule: CronRule, schedule: Schedule, after: datetime, shown: Sequence[datetime]) -> Iterator[str]:
    """Wall times of the expression that clock changes skip or repeat: in its first year from now on, and
    later where they meet one of the occurrences that an answer shows.
    """
    if rule.cron.wildcard and rule.cron.hours == _EVERY_HOUR:
        return  # it follows real time: nothing that its user would miss
    since = (after - EPOCH) // _SECOND
    if schedule.start is not None:
        since = max(since, (schedule.start - EPOCH) // _SECOND - 1)  # what fires at the start counts
    until = since + _LOOK_AHEAD
    if schedule.end is not None:
        until = min(until, (schedule.end - EPOCH) // _SECOND)
    for change in _changes(rule.zone, since // DAY):
        if since < change.at <= until:
            yield from _at_change(rule, change)
    for instant in shown:
        seconds = (instant - EPOCH) // _SECOND
        if seconds > until:
            for change in rule.zone.changes(seconds - LARGEST_CORRECTION, seconds + LARGEST_CORRECTION):
                yield from _at_change(rule, change)


@lru_cache(maxsize=_KEPT)
def _changes(clock: Zone, day: int) -> tuple[Change, ...]:
    """The changes within reach of any instant of a day, counted from 1970."""
    return tuple(clock.changes(day * DAY, (day + 1) * DAY + _LOOK_AHEAD))


@lru_cache(maxsize=_KEPT)
def _at_change(rule: CronRule, change: Change) -> tuple[str, ...]:
    return tuple(_one_change(rule, change))


def _one_change(rule: CronRule, change: Change) -> Iterator[str]:
    low, high = sorted((change.at + change.before, change.at + change.after))
    walls = walls_between(rule, low, high)
    if not walls:
        return
    skips = f"on {wall_text(low)[:10]} the clocks in {rule.zone.name} jump over {listed(walls)}"
    repeats = f"on {wall_text(low)[:10]} the clocks in {rule.zone.name} show {listed(walls)} twice"
    gap, large = change.after > change.before, high - low > LARGEST_CORRECTION
    if gap and (rule.cron.wildcard or large):
        yield f"{skips}: it will not fire for that"
    elif gap:
        yield f"{skips}: it will fire right after, at {clock_text(high)}, once"
    elif rule.cron.wildcard or large:
        yield f"{repeats}: it will fire both times"
    else:
        yield f"{repeats}: it will fire the first time only"


def _once(rule: OnceRule, given: Mapping[str, object]) -> Iterator[str]:
    if rule.wall is None:
        return
    if "timezone" not in given:
        yield "at has no offset and there is no timezone: it is read as UTC"
    passes = rule.zone.instants(rule.wall)
    if not passes:
        fires = (rule.at - EPOCH) // timedelta(seconds=1)
        yield (f"{wall_text(rule.wall)} does not exist in {rule.zone.name}: it will fire at "
               f"{wall_text(fires + rule.zone.offset(fires))[-5:]}")  # fmt: skip
    elif len(passes) > 1:
        yield f"{wall_text(rule.wall)} comes twice in {rule.zone.name}: it will fire the first time"


def _whole_days(rule: IntervalRule) -> Iterator[str]:
    if rule.every % timedelta(days=1) == timedelta(0):
        yield ("an interval counts real time: after a change of clocks its wall time is another; "
               "a cron schedule with a timezone keeps to the wall time")  # fmt: skip


def _future(schedule: Schedule, after: datetime, shown: Sequence[datetime]) -> Iterator[str]:
    if schedule.kind == "manual":
        return
    if not shown:
        yield "nothing is left to fire"
        return
    first = shown[0]
    if first - after.astimezone(UTC) > _FAR_OFF:
        yield f"the next occurrence is more than a year away: {first.date().isoformat()}"
    if len(shown) > 1 and shown[1] - first < timedelta(seconds=schedule.jitter_seconds):
        yield (f"jitter_seconds, {schedule.jitter_seconds}, is longer than the time between two occurrences: "
               "they may fire out of order")  # fmt: skip
