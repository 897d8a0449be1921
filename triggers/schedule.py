"""Schedules: from the JSON object of a trigger to instants. The public face of the time engine.

Pure functions; time is always an argument. The rules in words: docs/time.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b

from triggers.errors import InvalidSchedule
from triggers.explanations import Explained, explained
from triggers.rfc3339 import format_utc, parse_moment
from triggers.rules import Run
from triggers.schedule_reader import DEFAULT_TIMEZONE, NOW, Schedule, anchored, aware, text_field, understand
from triggers.schedule_warnings import warned

__all__ = [
    "Explained",
    "Run",
    "Schedule",
    "explain",
    "fire_at",
    "forget_schedules",
    "next_occurrences",
    "parse",
    "parse_cached",
    "resolve",
    "warnings",
]

_OBJECTS_KEPT = 8_192
_SCHEDULES_KEPT = 131_072  # one tick's worth; some 100 MB at the very most
_ONCE_KEPT = 1_024  # those that nobody asks for again


def next_occurrences(schedule: Mapping[str, object], after: datetime, count: int) -> list[datetime]:
    """The next `count` instants strictly after `after`, in UTC; fewer when the schedule ends before.

    `after` is aware and is the anchor of an interval without `start_time`. `max_runs` and
    `jitter_seconds` are checked but do not count; `manual` gives none. Raises InvalidSchedule for a
    schedule that is malformed or can never fire and for `at: "now"`; ValueError for a naive `after`
    or a negative count.
    """
    aware(after, "after")
    if count < 0:
        raise ValueError("count must not be negative")
    return parse(schedule, after).following(after, count)


def parse(schedule: Mapping[str, object], anchor: datetime | None) -> Schedule:
    """The schedule in a JSON object. `anchor` is that of an interval without `start_time`.

    Raises InvalidSchedule, whose `field` names the member that is wrong: unknown or missing fields,
    wrong types, values out of bounds, and schedules that can never fire. Raises ValueError for a
    naive anchor. An interval that got neither anchor nor `start_time` raises when it is asked.
    """
    try:
        understood = _remembered(*schedule, *schedule.values())
    except (TypeError, AttributeError):  # not even an object, or with members that no schedule has
        understood = understand(schedule)
    return anchored(understood, anchor)


def parse_cached(text: str, anchor: datetime | None) -> Schedule:
    """Like `parse`, for the canonical JSON text of a schedule; remembers what it understood."""
    return anchored((_understood_once if '"once"' in text else _understood)(text), anchor)


def forget_schedules() -> None:
    """Let `parse` and `parse_cached` understand all anew: the rules of zones have changed.

    What else is remembered goes by the zone object, and a zone that is read anew is another.
    """
    _understood.cache_clear()
    _understood_once.cache_clear()
    _remembered.cache_clear()


def resolve(schedule: Mapping[str, object], now: datetime) -> dict[str, object]:
    """The form in which a schedule is stored: every default filled in, times in UTC with `Z`.

    `at: "now"` becomes `now`. A local `at` stays as written: what it means follows from `timezone`,
    and may change with the tz database. `start_time`, `end_time`, `max_runs` and `jitter_seconds`
    mean the same for every type that fires by itself: on `once` they can shut its only occurrence
    out (which is refused), limit it to one (which it is), and spread it. `manual` has none of them.
    `start_time` of an interval stays null when it was not given: the anchor is kept elsewhere.
    Raises InvalidSchedule as `parse` does, and ValueError when `now` is naive.
    """
    aware(now, "now")
    given = dict(schedule)
    if given.get("type") == "once" and given.get("at") == NOW:
        given["at"] = format_utc(now)
    understood = parse(given, now)
    stored: dict[str, object] = {"type": understood.kind}
    if understood.kind == "manual":
        return stored
    if understood.kind == "cron":
        stored["cron"] = given["cron"]
    elif understood.kind == "interval":
        stored["every_seconds"] = given["every_seconds"]
    else:
        stored["at"] = _stored_at(text_field(given, "at"))
    if understood.kind != "interval":
        stored["timezone"] = given.get("timezone", DEFAULT_TIMEZONE)
    return stored | {
        "start_time": None if understood.start is None else format_utc(understood.start),
        "end_time": None if understood.end is None else format_utc(understood.end),
        "max_runs": understood.max_runs,
        "jitter_seconds": understood.jitter_seconds,
    }


def fire_at(trigger_id: str, scheduled_for: datetime, jitter_seconds: int) -> datetime:
    """When an occurrence fires: `scheduled_for` plus its own part of the jitter, in UTC.

    Always the same for one occurrence of one trigger, never early, spread evenly over
    [scheduled_for, scheduled_for + jitter_seconds]. Raises ValueError for a naive `scheduled_for`.
    """
    due = aware(scheduled_for, "scheduled_for").astimezone(UTC)
    if jitter_seconds <= 0:
        return due
    digest = blake2b(f"{trigger_id} {due.isoformat()}".encode(), digest_size=8).digest()
    parts = jitter_seconds * 1_000_000 + 1  # microseconds, both ends included
    try:
        return due + timedelta(microseconds=int.from_bytes(digest, "big") * parts >> 64)
    except OverflowError:  # at the end of time
        return due


def explain(schedule: Mapping[str, object], after: datetime, count: int) -> list[Explained]:
    """Like `next_occurrences`, each with its local time and a note on what clock changes do to it.

    A note says when a change of clock moves, drops or doubles the occurrence, or lies between it and
    the one before (for the first: between it and `after`). Raises as `next_occurrences` does.
    """
    found = next_occurrences(schedule, after, count)
    return explained(parse(schedule, after).rule, after, found)


def warnings(schedule: Mapping[str, object], after: datetime) -> list[str]:
    """Sentences about what users of such a schedule often did not mean; empty for most.

    Looks for clock changes in the year after `after`, or after `start_time`, if that is later. Raises as
    `next_occurrences` does.
    """
    aware(after, "after")
    return warned(schedule, parse(schedule, after), after)


@lru_cache(maxsize=_OBJECTS_KEPT, typed=True)  # or True would be taken for 1
def _remembered(*members: object) -> Schedule:
    """What a schedule with these names and then these values means."""
    half = len(members) // 2
    return understand(dict(zip(members[:half], members[half:], strict=True)))  # type: ignore[arg-type]


def _understand(text: str) -> Schedule:
    try:
        schedule = json.loads(text)
    except ValueError as error:
        raise InvalidSchedule(f"not JSON: {error}") from None
    return understand(schedule)


_understood = lru_cache(maxsize=_SCHEDULES_KEPT)(_understand)
_understood_once = lru_cache(maxsize=_ONCE_KEPT)(_understand)


def _stored_at(text: str) -> str:
    moment = parse_moment(text, "at")
    return text if moment.tzinfo is None else format_utc(moment)
