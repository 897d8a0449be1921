"""Schedules understood: the JSON object of a trigger, checked member by member, made a rule in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from triggers.cron import Cron, parse_cron
from triggers.errors import InvalidSchedule
from triggers.rfc3339 import BEGINNING, EPOCH, before, parse_instant, parse_moment
from triggers.rules import CronRule, IntervalRule, ManualRule, OnceRule, Rule, Run
from triggers.zones import DAY, FIRST_INSTANT, LAST_INSTANT, Zone, zone

DEFAULT_TIMEZONE = "UTC"
LONGEST_INTERVAL_SECONDS = 315_360_000
LARGEST_MAX_RUNS = 1_000_000_000
LARGEST_JITTER_SECONDS = 3_600
NOW = "now"
NO_OCCURRENCES = "a manual trigger has no occurrences: only the default may stand here"

_BOUNDS = ("start_time", "end_time", "max_runs", "jitter_seconds")
_FIELDS: dict[str, tuple[str, ...]] = {
    "cron": ("type", "cron", "timezone", *_BOUNDS),
    "interval": ("type", "every_seconds", *_BOUNDS),
    "once": ("type", "at", "timezone", *_BOUNDS),
    "manual": ("type", *_BOUNDS),
}
_EXPRESSIONS_KEPT = 8_192


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that was understood. `start` and `end` are inclusive bounds, in UTC."""

    kind: str
    rule: Rule
    start: datetime | None = None
    end: datetime | None = None
    max_runs: int | None = None
    jitter_seconds: int = 0

    def after(self, instant: datetime) -> datetime | None:
        """The first occurrence strictly after `instant`, in UTC; None when there is none.

        Raises ValueError when `instant` is naive. `max_runs` is not counted here.
        """
        found = self.rule.after(self._not_before_start(instant))
        return None if found is None or (self.end is not None and found > self.end) else found

    def following(self, instant: datetime, count: int) -> list[datetime]:
        """The first `count` occurrences strictly after `instant`, in UTC; fewer when there are no more.

        Raises ValueError when `instant` is naive. `max_runs` is not counted here.
        """
        found: list[datetime] = []
        latest = self._not_before_start(instant)
        while len(found) < count:
            further = self.rule.after(latest)
            if further is None or (self.end is not None and further > self.end):
                break
            found.append(further)
            latest = further
        return found

    def run(self, after: datetime, until: datetime, at_most: int) -> Run | None:
        """The first `at_most` occurrences in (after, until]: first, last (UTC), how many.

        None when there is none. An interval takes the same time for one and for 30 million.
        Raises ValueError when an argument is naive.
        """
        until = aware(until, "until")
        if self.end is not None and self.end < until:
            until = self.end
        return self.rule.run(self._not_before_start(after), until, at_most)

    def _not_before_start(self, instant: datetime) -> datetime:
        instant = aware(instant, "instant")
        if self.start is None or instant >= self.start:
            return instant
        return before(self.start)  # so that an occurrence at the bound itself counts


@dataclass(frozen=True, slots=True)
class _Unanchored:
    """The rule of an interval whose anchor was not given."""

    every: timedelta

    def after(self, instant: datetime) -> datetime | None:
        raise ValueError("an interval without start_time needs an anchor")

    def run(self, after: datetime, until: datetime, at_most: int) -> Run | None:
        raise ValueError("an interval without start_time needs an anchor")


def anchored(schedule: Schedule, anchor: datetime | None) -> Schedule:
    if anchor is None or not isinstance(schedule.rule, _Unanchored):
        return schedule
    return replace(schedule, rule=IntervalRule(aware(anchor, "anchor").astimezone(UTC), schedule.rule.every))


def understand(schedule: Mapping[str, object]) -> Schedule:
    kind = _kind(schedule)
    _refuse_unknown(schedule, kind)
    if kind == "manual":
        _refuse_bounds(schedule)
        return Schedule(kind, ManualRule())
    start, end = _instant(schedule, "start_time"), _instant(schedule, "end_time")
    if start is not None and end is not None and start > end:
        raise InvalidSchedule("end_time lies before start_time: the schedule can never fire", "end_time")
    understood = Schedule(
        kind,
        _rule(kind, schedule, start),
        start,
        end,
        _whole(schedule, "max_runs", 1, LARGEST_MAX_RUNS) if schedule.get("max_runs") is not None else None,
        _whole(schedule, "jitter_seconds", 0, LARGEST_JITTER_SECONDS) if "jitter_seconds" in schedule else 0,
    )
    _refuse_never(understood)
    return understood


def _rule(kind: str, schedule: Mapping[str, object], start: datetime | None) -> Rule:
    if kind == "interval":
        every = timedelta(seconds=_whole(schedule, "every_seconds", 1, LONGEST_INTERVAL_SECONDS))
        return _Unanchored(every) if start is None else IntervalRule(start, every)
    clock = zone(text_field(schedule, "timezone") if "timezone" in schedule else DEFAULT_TIMEZONE)
    if kind == "cron":
        return _cron_rule(text_field(schedule, "cron"), clock)
    return _once(text_field(schedule, "at"), clock)


def _refuse_never(schedule: Schedule) -> None:
    """Refuse bounds that leave nothing. The calendar itself is judged with the expression."""
    if isinstance(schedule.rule, _Unanchored) or (schedule.start is None and schedule.end is None):
        return
    first = schedule.after(BEGINNING if schedule.start is None else before(schedule.start))
    if first is None:
        raise InvalidSchedule("no occurrence within start_time and end_time: it can never fire",
                              "end_time" if schedule.end is not None else "start_time")  # fmt: skip


def _kind(schedule: Mapping[str, object]) -> str:
    if not isinstance(schedule, Mapping):
        raise InvalidSchedule("a schedule is a JSON object")
    if "type" not in schedule:
        raise InvalidSchedule(f"type is missing; it is one of {', '.join(_FIELDS)}", "type")
    kind = schedule["type"]
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise InvalidSchedule(
            f"{_shown(kind)} is no type of schedule; there are {', '.join(_FIELDS)}", "type"
        )
    return kind


def _refuse_unknown(schedule: Mapping[str, object], kind: str) -> None:
    allowed = _FIELDS[kind]
    for name in schedule:
        if name not in allowed:
            message = f"a schedule of type {kind} has no field {_shown(name)}, only {', '.join(allowed)}"
            raise InvalidSchedule(message, name if isinstance(name, str) else "")


def _refuse_bounds(schedule: Mapping[str, object]) -> None:
    """Refuse bounds on what has no occurrences. Their defaults say nothing, and may be spelled out."""
    for name in _BOUNDS:
        default = 0 if name == "jitter_seconds" else None
        value = schedule.get(name, default)
        if value != default or isinstance(value, bool):
            raise InvalidSchedule(NO_OCCURRENCES, name)


def _once(text: str, clock: Zone) -> OnceRule:
    """The rule of `once`: the instant given, or that of a local time by the rule of fixed jobs."""
    if text == NOW:
        raise InvalidSchedule('"now" has a meaning only at the moment of creation', "at")
    moment = parse_moment(text, "at")
    if moment.tzinfo is not None:
        return OnceRule(moment, clock)
    since = moment - EPOCH.replace(tzinfo=None)
    wall = since.days * DAY + since.seconds
    found = clock.fixed_instant(wall)
    if found is None:
        raise InvalidSchedule(f"{text} never was in {clock.name}: the calendar jumped over it", "at")
    kept = since.microseconds if clock.offset(found) + found == wall else 0
    if not FIRST_INSTANT <= found <= LAST_INSTANT:
        raise InvalidSchedule(f"{text} in {clock.name} lies outside the years 1 to 9999 in UTC", "at")
    return OnceRule(EPOCH + timedelta(seconds=found, microseconds=kept), clock, wall)


def _instant(schedule: Mapping[str, object], name: str) -> datetime | None:
    if schedule.get(name) is None:
        return None
    return parse_instant(text_field(schedule, name), name)


def text_field(schedule: Mapping[str, object], name: str) -> str:
    if name not in schedule:
        raise InvalidSchedule(f"{name} is missing", name)
    value = schedule[name]
    if not isinstance(value, str):
        raise InvalidSchedule(f"{name} must be a text, not {_shown(value)}", name)
    return value


def _whole(schedule: Mapping[str, object], name: str, low: int, high: int) -> int:
    if name not in schedule:
        raise InvalidSchedule(f"{name} is missing", name)
    value = schedule[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSchedule(f"{name} must be a whole number, not {_shown(value)}", name)
    if not low <= value <= high:
        raise InvalidSchedule(f"{name} must be from {low:,} to {high:,}", name)
    return value


def _shown(value: object) -> str:
    """A value from outside for a message: short and printable, whatever it is."""
    if isinstance(value, str):
        return ascii(value[:40])
    if isinstance(value, (bool, int, float)) or value is None:
        return f"{value!r:.40}" if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return f"a {type(value).__name__}"


def aware(instant: datetime, name: str) -> datetime:
    if instant.utcoffset() is None:
        raise ValueError(f"{name} must be an aware datetime")
    return instant


@lru_cache(maxsize=_EXPRESSIONS_KEPT)
def _cron_rule(text: str, clock: Zone) -> CronRule:
    return CronRule(_cron(text), clock)


@lru_cache(maxsize=_EXPRESSIONS_KEPT)
def _cron(text: str) -> Cron:
    return parse_cron(text)
