"""The statements of the tick: claim, insert, advance, take back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.types import String

from models.base import Id, Instant, Json, instant_text, new_ids
from models.states import Status
from triggers.planning import Plan, Plannable, Planned
from triggers.store import bulk

GRACE = timedelta(seconds=10)  # after its instant an event that nobody started is looked at again

CLAIM = """
SELECT id, name, target_type, {schedule} AS schedule, {policy} AS policy,
       anchor, planned_until, next_at, planned_count
FROM triggers WHERE next_at <= :until {resting} ORDER BY next_at LIMIT :most {lock}
"""

EVENT_COLUMNS = (
    "id", "trigger_id", "scheduled_for", "fire_at", "due_at", "misfire_at", "source", "status", "reason",
    "coalesced", "coalesced_from", "recheck_at", "finished_at",
)  # fmt: skip

INSERT_POSTGRES = """
INSERT INTO events (id, trigger_id, scheduled_for, fire_at, due_at, misfire_at, source, status, reason,
                    coalesced, coalesced_from, recheck_at, finished_at,
                    state, attempt, dispatches, created_at)
SELECT r.*, 'active', 0, 0, :now FROM {rows}
ON CONFLICT (scheduled_for, trigger_id) WHERE source IN ('schedule', 'catchup') DO NOTHING
"""

INSERT_SQLITE = """
INSERT INTO events (id, trigger_id, scheduled_for, fire_at, due_at, misfire_at, source, status, reason,
                    coalesced, coalesced_from, recheck_at, finished_at,
                    state, attempt, dispatches, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'active', 0, 0, ?)
ON CONFLICT (scheduled_for, trigger_id) WHERE source IN ('schedule', 'catchup') DO NOTHING
"""

ADVANCE_COLUMNS = ("id", "planned_until", "next_at", "planned_count", "exhausted")

ADVANCE_POSTGRES = """
UPDATE triggers SET planned_until = r.planned_until, next_at = r.next_at,
       planned_count = r.planned_count, exhausted = r.exhausted
FROM {rows} WHERE triggers.id = r.id AND triggers.planned_until <= r.planned_until
"""

ADVANCE_SQLITE = """
UPDATE triggers SET planned_until = ?2, next_at = ?3, planned_count = ?4, exhausted = ?5
WHERE id = ?1 AND planned_until <= ?2
"""


class NewEvent(NamedTuple):
    """A planned event with its id and its trigger."""

    id: str
    trigger: Plannable
    planned: Planned


def claim(
    connection: Connection, until: datetime, most: int, resting: set[str], wait: bool
) -> list[Plannable]:
    """Take triggers with an occurrence up to `until` so that no one else plans it.

    Rows that another tick holds are passed over, or waited for with `wait`. SQLite has one writer.
    """
    postgres = bulk.is_postgres(connection)
    bulk.plan_anew(connection)
    lock = ("FOR NO KEY UPDATE" if wait else "FOR NO KEY UPDATE SKIP LOCKED") if postgres else ""
    statement = CLAIM.format(
        schedule="CAST(schedule AS text)" if postgres else "schedule",
        policy="CAST(policy AS text)" if postgres else "policy",
        resting=f"AND NOT id {bulk.among(connection)}" if resting else "",
        lock=lock,
    )
    found = connection.execute(
        text(statement)
        .bindparams(bindparam("until", type_=Instant))
        .columns(id=Id, anchor=Instant, planned_until=Instant, next_at=Instant),
        {"until": until, "most": most} | ({"ids": bulk.ids(connection, resting)} if resting else {}),
    )
    return [Plannable(*row) for row in found]


def insert_events(connection: Connection, events: Sequence[NewEvent], now: datetime, grace: Any) -> None:
    """Record occurrences. The unique key decides who records one; the loser is a quiet outcome."""
    if not events:
        return
    rows = [event_row(event, now, grace) for event in events]
    if bulk.is_postgres(connection):
        bulk.run(connection, INSERT_POSTGRES, EVENT_COLUMNS, rows, now=now)
        return
    created, texts = instant_text(now), Texts()
    connection.exec_driver_sql(INSERT_SQLITE, [(*map(texts.value, row), created) for row in rows])


def event_row(event: NewEvent, now: datetime, grace: Any) -> tuple[Any, ...]:
    """The columns of a new event: pending until its instant, or skipped from the start."""
    planned = event.planned
    skipped = planned.skipped
    return (
        event.id,
        event.trigger.id,
        planned.scheduled_for,
        planned.fire_at,
        planned.fire_at,
        planned.misfire_at,
        planned.source,
        Status.SKIPPED if skipped else Status.PENDING,
        skipped,
        planned.coalesced,
        planned.coalesced_from,
        None if skipped else max(now, planned.fire_at) + grace,
        now if skipped else None,
    )


class Texts(dict[datetime, str]):
    """Instants as SQLite's text; those of one batch are few, and repeat."""

    def __missing__(self, value: datetime) -> str:
        text = self[value] = instant_text(value)
        return text

    def value(self, value: Any) -> Any:
        """An instant's text; everything else as it is."""
        return self[value] if type(value) is datetime else value


def advance(connection: Connection, plans: Sequence[tuple[Plannable, Plan]]) -> None:
    """Move the triggers' cursors behind what now has its event, only forward."""
    rows = [(t.id, p.planned_until, p.next_at, p.planned_count, p.next_at is None) for t, p in plans]
    if not rows:
        return
    if bulk.is_postgres(connection):
        bulk.run(connection, ADVANCE_POSTGRES, ADVANCE_COLUMNS, rows)
        return
    texts = Texts()
    connection.exec_driver_sql(ADVANCE_SQLITE, [tuple(map(texts.value, row)) for row in rows])


class Outlook(NamedTuple):
    """Whether there is anything to do for a tick: to plan, to take back, to complete."""

    due: bool
    unattended: bool
    exhausted: bool


OUTLOOK = """
SELECT EXISTS (SELECT 1 FROM triggers WHERE next_at <= :until),
       EXISTS (SELECT 1 FROM events WHERE recheck_at <= :now),
       EXISTS (SELECT 1 FROM triggers WHERE exhausted)
"""


def outlook(connection: Connection, now: datetime, until: datetime) -> Outlook:
    """Three probes of three small indexes, which is all that an idle tick costs."""
    bulk.plan_anew(connection)
    parameters = bulk.instants(connection, {"now": now, "until": until})
    return Outlook(*map(bool, connection.execute(text(OUTLOOK), parameters).one()))


class Unattended(NamedTuple):
    """An unfinished event whose `recheck_at` has passed."""

    id: str
    trigger_id: str
    status: str
    scheduled_for: datetime
    due_at: datetime
    lease_until: datetime | None
    attempt: int
    attempt_started_at: datetime | None
    dispatches: int
    name: str
    target_type: str
    retry: Any
    policy: Any
    deleted: bool


UNATTENDED = """
SELECT e.id, e.trigger_id, e.status, e.scheduled_for, e.due_at, e.lease_until, e.attempt,
       e.attempt_started_at, e.dispatches, t.name, t.target_type, t.retry, t.policy,
       t.deleted_at IS NOT NULL AS deleted
FROM events e JOIN triggers t ON t.id = e.trigger_id
WHERE e.recheck_at <= :now ORDER BY e.recheck_at LIMIT :most {lock}
"""


def unattended(connection: Connection, now: datetime, most: int) -> list[Unattended]:
    """Events that nobody finished, and that somebody must look at now."""
    bulk.plan_anew(connection)
    lock = "FOR NO KEY UPDATE OF e SKIP LOCKED" if bulk.is_postgres(connection) else ""
    found = connection.execute(
        text(UNATTENDED.format(lock=lock))
        .bindparams(bindparam("now", type_=Instant))
        .columns(
            id=Id,
            trigger_id=Id,
            status=String,
            scheduled_for=Instant,
            due_at=Instant,
            lease_until=Instant,
            attempt_started_at=Instant,
            retry=Json,
            policy=Json,
        ),
        {"now": now, "most": most},
    )
    return [Unattended(*row) for row in found]


LOOK_AGAIN = """
UPDATE events SET recheck_at = r.recheck_at, dispatches = r.dispatches
FROM {rows} WHERE events.id = r.id AND events.recheck_at IS NOT NULL
"""


def look_again(connection: Connection, rows: Sequence[tuple[str, datetime, int]]) -> None:
    """Set when somebody must look at these unfinished events again: (id, recheck_at, dispatches)."""
    if rows:
        bulk.run(connection, LOOK_AGAIN, ("id", "recheck_at", "dispatches"), rows)


UNPUBLISHED = "UPDATE events SET recheck_at = :now, dispatches = 0 WHERE id {ids} AND status = 'pending'"


def look_now(connection: Connection, ids: Iterable[str], now: datetime) -> None:
    """The hint for these was not published: the next tick is to find them."""
    connection.execute(
        bulk.sql(connection, UNPUBLISHED),
        bulk.instants(connection, {"now": now}) | {"ids": bulk.ids(connection, ids)},
    )


NODE_TICKED = """
INSERT INTO nodes (name, last_tick_at, took_seconds, planned, clock_skew_seconds, tzdata)
VALUES (:name, :now, :took, :planned, :skew, :tzdata)
ON CONFLICT (name) DO UPDATE SET last_tick_at = excluded.last_tick_at,
  took_seconds = excluded.took_seconds, planned = excluded.planned,
  clock_skew_seconds = excluded.clock_skew_seconds, tzdata = excluded.tzdata
"""


def ticked(
    connection: Connection, name: str, now: datetime, took: float, planned: int, skew: float, tzdata: str
) -> None:
    """Leave word that a tick committed on this node."""
    connection.execute(
        text(NODE_TICKED),
        bulk.instants(
            connection,
            {"name": name, "now": now, "took": took, "planned": planned, "skew": skew, "tzdata": tzdata},
        ),
    )


def new_events(plans: Sequence[tuple[Plannable, Plan]], now: datetime) -> list[NewEvent]:
    """The plans' events, each with an id of its own."""
    planned = [(trigger, event) for trigger, made in plans for event in made.events]
    return [
        NewEvent(id_, trigger, event)
        for id_, (trigger, event) in zip(new_ids(now, len(planned)), planned, strict=True)
    ]
