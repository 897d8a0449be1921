"""What a trigger becomes by itself: completed, paused after failures, set aside. Each change is on record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, text

from models.base import Id, Instant
from models.states import Change
from triggers.store import bulk

RECORD = """
INSERT INTO trigger_changes (trigger_id, change, effective_at, state, schedule, anchor, policy,
                             planned_count, tzdata, detail)
SELECT id, :change, {at}, state, schedule, anchor, policy, planned_count, :tzdata, {detail}
FROM triggers WHERE id {{ids}}
"""


def record(
    connection: Connection,
    ids: Iterable[str],
    change: Change,
    now: datetime,
    tzdata: str,
    *,
    at: str = ":now",
    detail: str = "NULL",
) -> None:
    """Append what these triggers are now to the log of changes. `at` and `detail` are SQL."""
    parameters = {"change": str(change), "now": now, "tzdata": tzdata}
    if at != ":now":
        del parameters["now"]
    connection.execute(
        bulk.sql(connection, RECORD.format(at=at, detail=detail)),
        bulk.instants(connection, parameters) | {"ids": bulk.ids(connection, ids)},
    )


COMPLETE = """
UPDATE triggers SET state = 'completed', exhausted = false, updated_at = :now
WHERE {which} AND exhausted AND state = 'active'
  AND NOT EXISTS (SELECT 1 FROM events e WHERE e.trigger_id = triggers.id AND e.recheck_at IS NOT NULL)
RETURNING id
"""


def complete(
    connection: Connection, now: datetime, tzdata: str, ids: Iterable[str] | None = None
) -> list[str]:
    """Complete triggers with nothing left to plan whose last event is final; of `ids`, or of all."""
    chosen = set(ids) if ids is not None else None
    if chosen is not None and not chosen:
        return []
    which = "id {ids}" if chosen is not None else "exhausted"
    parameters = bulk.instants(connection, {"now": now})
    if chosen is not None:
        parameters["ids"] = bulk.ids(connection, sorted(chosen))
    statement = bulk.typed(connection, COMPLETE.replace("{which}", which), id=Id)
    done = [row.id for row in connection.execute(statement, parameters)]
    if done:
        record(connection, done, Change.COMPLETED, now, tzdata)
    return done


SET_ASIDE = """
UPDATE triggers SET state = 'paused', next_at = NULL, exhausted = false, schedule_error = :error,
       updated_at = :now
WHERE id = :id
"""
SET_ASIDE_RECORD = {"at": "planned_until", "detail": "schedule_error"}


def set_aside(connection: Connection, trigger_id: str, error: str, now: datetime, tzdata: str) -> None:
    """Pause a trigger whose schedule raised, with the error on record: it must not stop the tick.

    What is planned already goes on, so the pause begins behind that.
    """
    connection.execute(
        text(SET_ASIDE).bindparams(bindparam("id", type_=Id), bindparam("now", type_=Instant)),
        {"id": trigger_id, "error": error, "now": now},
    )
    record(connection, [trigger_id], Change.SET_ASIDE, now, tzdata, **SET_ASIDE_RECORD)


FAILED = """
UPDATE triggers SET consecutive_failures = consecutive_failures + 1 WHERE id = :id
RETURNING consecutive_failures
"""


def failed_again(connection: Connection, trigger_id: str) -> int:
    """Count one more failed event; how many in a row that makes."""
    found = connection.execute(text(FAILED).bindparams(bindparam("id", type_=Id)), {"id": trigger_id})
    return int(found.scalar_one())


RECOVERED = "UPDATE triggers SET consecutive_failures = 0 WHERE id {ids} AND consecutive_failures > 0"


def recovered(connection: Connection, ids: Sequence[str]) -> None:
    """An event of these triggers succeeded: the row of failures ends."""
    if ids:
        connection.execute(bulk.sql(connection, RECOVERED), {"ids": bulk.ids(connection, ids)})


LOCK = "SELECT id FROM triggers WHERE id {ids} ORDER BY id {lock}"


def lock(connection: Connection, ids: Iterable[str]) -> None:
    """Lock these triggers before their events: whoever changes a trigger goes in that order too."""
    chosen = sorted(set(ids))
    if chosen:
        connection.execute(bulk.sql(connection, LOCK), {"ids": bulk.ids(connection, chosen)})
