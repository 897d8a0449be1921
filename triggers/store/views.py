"""From rows to the JSON that users read. Instants are RFC 3339 in UTC, to the microsecond."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Row

from models.states import Status
from triggers.errors import InvalidSchedule
from triggers.rfc3339 import MICROSECOND
from triggers.schedule import Schedule, fire_at, parse

NEXT_OCCURRENCES = 5
NEXT_KEPT = 1_024  # lists of them; half a kilobyte each
MILLISECOND = timedelta(milliseconds=1)

View = dict[str, Any]


def trigger_view(row: Row[Any]) -> View:
    """A trigger: its definition with all defaults but the secret, and how it stands."""
    target = dict(row.target)
    if row.target_type == "http":
        target["has_secret"] = row.secret is not None
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "tags": row.tags,
        "schedule": row.schedule,
        "target": target,
        "policy": row.policy,
        "retry": row.retry,
        "state": row.state,
        "next_fire_at": instant(next_fire_at(row)),
        "last_fired_at": instant(max(known(row.last_fired_at, row.last_started_at), default=None)),
        "created_at": instant(row.created_at),
        "updated_at": instant(row.updated_at),
        "consecutive_failures": row.consecutive_failures,
    }


def new_trigger_view(columns: Mapping[str, Any], now: datetime, warnings: Callable[..., list[str]]) -> View:
    """A trigger that was stored just now, by its columns, as `reads.describe_trigger` would read it."""
    nothing_yet = dict.fromkeys(("pending_at", "last_fired_at", "last_started_at"))
    row: Any = SimpleNamespace(**columns, **nothing_yet, consecutive_failures=0)
    return description(row, [], now, warnings)


def description(
    row: Row[Any], waiting: list[datetime], now: datetime, warnings: Callable[..., list[str]]
) -> View:
    """A trigger with its next occurrences, of which those in `waiting` have their event, and warnings."""
    after = min([now, *(at - MICROSECOND for at in known(*waiting[:1], row.next_at))])
    return trigger_view(row) | {
        "next_occurrences": occurrences(row, waiting, NEXT_OCCURRENCES),
        "warnings": warnings(row.schedule, row.target, row.retry, after, row.secret),
    }


def next_fire_at(row: Row[Any]) -> datetime | None:
    """The earliest instant not yet started: of an event that waits, or of the first unplanned occurrence."""
    unplanned = row.next_at
    if unplanned is not None:
        unplanned = fire_at(row.id, unplanned, row.schedule.get("jitter_seconds", 0))
    return min(known(row.pending_at, unplanned), default=None)


def occurrences(row: Row[Any], planned: list[datetime], count: int) -> list[str]:
    """The next instants of a trigger: those with an event that waits, then those to be planned."""
    found = [text(at) for at in planned[:count]]
    left = count - len(found)
    if row.next_at is not None and left:
        try:
            schedule = parse(row.schedule, row.anchor)
        except InvalidSchedule:  # valid once, and not to the tz database of today; `warnings` says so
            return found
        if schedule.max_runs is not None:
            left = min(left, schedule.max_runs - row.planned_count)
        if left > 0:
            found += texts_from(schedule, row.next_at, left)
    return found


@lru_cache(maxsize=NEXT_KEPT)
def texts_from(schedule: Schedule, first: datetime, count: int) -> tuple[str, ...]:
    """An occurrence and those after it. Triggers that are created together often share them."""
    return tuple(map(text, [first, *schedule.following(first, count - 1)]))


def event_view(row: Row[Any]) -> View:
    """An event: one occurrence and what became of it."""
    late = None if row.started_at is None else round((row.started_at - row.fire_at) / MILLISECOND, 3)
    return {
        "id": row.id,
        "trigger_id": row.trigger_id,
        "trigger_name": row.trigger_name,
        "scheduled_for": instant(row.scheduled_for),
        "fire_at": instant(row.fire_at),
        "source": row.source,
        "status": row.status,
        "state": row.state,
        "reason": row.reason,
        "attempt": row.attempt,
        "coalesced": row.coalesced,
        "coalesced_from": instant(row.coalesced_from),
        "created_at": instant(row.created_at),
        "started_at": instant(row.started_at),
        "finished_at": instant(row.finished_at),
        "lateness_ms": late,
        "result": row.result,
        "error": row.error,
        "progress": row.progress,
    }


def attempt_views(event: Row[Any], failed: Iterable[Row[Any]]) -> list[View]:
    """All attempts at an event, oldest first: those that left a row, and the latest, which is the event's."""
    views = [
        attempt_view(row.attempt, row.started_at, row.finished_at, row.outcome, row.result, row.error)
        for row in failed
    ]
    if event.attempt and event.attempt not in {view["attempt"] for view in views}:
        result, error = (event.result, event.error) if event.status != Status.RUNNING else (None, None)
        views.append(
            attempt_view(
                event.attempt, event.attempt_started_at, event.finished_at, event.status, result, error
            )
        )
    return views


def attempt_view(
    number: int, started: datetime | None, finished: datetime | None, outcome: str, result: Any, error: Any
) -> View:
    """One attempt: when, how long, what came of it."""
    took = None if started is None or finished is None else round((finished - started) / MILLISECOND, 3)
    return {
        "attempt": number,
        "started_at": instant(started),
        "finished_at": instant(finished),
        "duration_ms": took,
        "outcome": outcome,
        "result": result,
        "error": error,
    }


def instant(value: datetime | None) -> str | None:
    """RFC 3339, UTC, `Z`, six digits."""
    return None if value is None else text(value)


def text(value: datetime) -> str:
    """The same of an instant that there is."""
    utc = value if value.tzinfo is UTC else value.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:26] + "Z"  # without its +00:00


def known(*values: datetime | None) -> list[datetime]:
    """The instants among these."""
    return [value for value in values if value is not None]
