"""The statements of retention: archive, account for, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, text

from models.account import MODULUS, sum_of
from models.base import Id, Instant
from models.states import Reason, Source, one_of
from triggers.store import bulk

ARCHIVE = """
UPDATE events SET state = 'archived' WHERE id IN (
  SELECT id FROM events WHERE state = 'active' AND {ended} AND finished_at < :before LIMIT :most {skip})
"""
Ended = tuple[Reason, ...] | None  # the reasons of some finished events; None: succeeded


def archive(connection: Connection, before: datetime, most: int, ended: Ended) -> int:
    """Archive up to `most` events that ended so before an instant; how many."""
    bulk.plan_anew(connection)
    skip = "FOR NO KEY UPDATE SKIP LOCKED" if bulk.is_postgres(connection) else ""
    parameters = bulk.instants(connection, {"before": before, "most": most})
    statement = text(ARCHIVE.format(ended=condition(ended), skip=skip))
    return connection.execute(statement, parameters).rowcount


def condition(ended: Ended) -> str:
    """In SQL, so that the index of finished events serves."""
    return "reason IS NULL" if ended is None else one_of("reason", ended)


OLD = """
SELECT id, trigger_id, scheduled_for, status, source, coalesced, coalesced_from, started_at FROM events
WHERE state = 'archived' AND {ended} AND finished_at < :before LIMIT :most {skip}
"""
DELETE = "DELETE FROM events WHERE id {ids}"
ACCOUNTED = (
    "trigger_id", "month", "status", "events", "occurrences", "planned", "instants",
    "first_scheduled_for", "last_scheduled_for",
)  # fmt: skip
ACCOUNT = f"""
INSERT INTO purged_events ({", ".join(ACCOUNTED)})
SELECT {", ".join(f"r.{column}" for column in ACCOUNTED)} FROM {{rows}} WHERE true
ON CONFLICT (trigger_id, month, status) DO UPDATE SET
  events = purged_events.events + excluded.events,
  occurrences = purged_events.occurrences + excluded.occurrences,
  planned = purged_events.planned + excluded.planned,
  instants = (purged_events.instants + excluded.instants) % {MODULUS},
  first_scheduled_for =
    CASE WHEN excluded.first_scheduled_for < purged_events.first_scheduled_for
         THEN excluded.first_scheduled_for ELSE purged_events.first_scheduled_for END,
  last_scheduled_for =
    CASE WHEN excluded.last_scheduled_for > purged_events.last_scheduled_for
         THEN excluded.last_scheduled_for ELSE purged_events.last_scheduled_for END
"""
LAST_FIRED = """
UPDATE triggers SET last_fired_at = r.last_fired_at FROM {rows}
WHERE triggers.id = r.id AND (triggers.last_fired_at IS NULL OR triggers.last_fired_at < r.last_fired_at)
"""


def delete(connection: Connection, before: datetime, most: int, ended: Ended) -> int:
    """Delete up to `most` archived events that ended so before an instant; how many.

    What they stood for is added to the account of their triggers in the same transaction.
    """
    bulk.plan_anew(connection)
    skip = "FOR UPDATE SKIP LOCKED" if bulk.is_postgres(connection) else ""
    statement = text(OLD.format(ended=condition(ended), skip=skip)).columns(
        id=Id, trigger_id=Id, scheduled_for=Instant, coalesced_from=Instant, started_at=Instant
    )
    parameters = bulk.instants(connection, {"before": before, "most": most})
    rows = connection.execute(statement, parameters).all()
    if not rows:
        return 0
    account(connection, rows)
    connection.execute(bulk.sql(connection, DELETE), {"ids": bulk.ids(connection, [row.id for row in rows])})
    return len(rows)


def account(connection: Connection, rows: Sequence[Any]) -> None:
    """Add events that are about to be deleted to what outlives them."""
    groups: dict[tuple[str, date, str], list[Any]] = {}
    fired: dict[str, datetime] = {}
    for row in rows:
        month = row.scheduled_for.astimezone(UTC).date().replace(day=1)
        groups.setdefault((row.trigger_id, month, row.status), []).append(row)
        if row.started_at is not None:
            fired[row.trigger_id] = max(row.started_at, fired.get(row.trigger_id, row.started_at))
    summed = [(*key, *account_row(group)) for key, group in sorted(groups.items())]
    bulk.run(connection, ACCOUNT, ACCOUNTED, summed)
    if fired:
        bulk.run(connection, LAST_FIRED, ("id", "last_fired_at"), sorted(fired.items()))


def account_row(group: Sequence[Any]) -> tuple[Any, ...]:
    """A line of the account, behind its key. Manual events stand for no occurrence of the schedule."""
    planned = [row for row in group if row.source in (Source.SCHEDULE, Source.CATCHUP)]
    return (
        len(group),
        sum(row.coalesced for row in planned),
        len(planned),
        sum_of(row.scheduled_for for row in planned),
        min(row.coalesced_from or row.scheduled_for for row in group),
        max(row.scheduled_for for row in group),
    )


FORGET = """
DELETE FROM idempotency_keys WHERE key IN
  (SELECT key FROM idempotency_keys WHERE created_at < :before LIMIT :most)
"""


def forget_keys(connection: Connection, before: datetime, most: int) -> int:
    """Forget idempotency keys that were used before an instant; how many."""
    parameters = bulk.instants(connection, {"before": before, "most": most})
    return connection.execute(text(FORGET), parameters).rowcount
