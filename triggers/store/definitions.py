"""The statements of what users do to triggers: find, lock, insert, change, unplan, remember keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    String,
    cast,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from models import Event, IdempotencyKey, Trigger, TriggerChange
from models.base import new_id
from models.states import PLANNED, Change, EventState, Reason, Source, Status

KEY_LIVES = timedelta(days=1)

_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_PLANNED = [str(source) for source in PLANNED]

TriggerRow = Row[Any]


def is_id(text: str) -> bool:
    """Whether a text has the form of an id (no name has)."""
    return _ID.match(text) is not None


def named(ref: str) -> ColumnElement[bool] | None:
    """The condition "is the trigger with this id or name"; None for what can be neither."""
    if not _REF.match(ref):
        return None
    wanted = Trigger.id == ref.lower() if is_id(ref) else Trigger.name == ref
    return wanted & Trigger.deleted_at.is_(None)


def lock_trigger(connection: Connection, ref: str) -> TriggerRow | None:
    """The trigger, with its row held against ticks and other changes until the transaction ends.

    NO KEY: events that refer to it can be inserted meanwhile. SQLite has one writer, and no row locks.
    """
    wanted = named(ref)
    if wanted is None:
        return None
    statement = select(Trigger.__table__).where(wanted).with_for_update(key_share=True)
    return connection.execute(statement).one_or_none()


def triggers_named(connection: Connection, names: Iterable[str]) -> list[TriggerRow]:
    """Those of these triggers that there are, not locked."""
    possible = [name for name in names if _REF.match(name)]
    wanted = func.json_each(json.dumps(possible)).table_valued("value")
    among: Any = select(wanted.c.value)
    if connection.dialect.name == "postgresql":
        among = func.any(cast(possible, postgresql.ARRAY(String)))
        statement = select(Trigger.__table__).where(Trigger.name == among, Trigger.deleted_at.is_(None))
    else:
        statement = select(Trigger.__table__).where(Trigger.name.in_(among), Trigger.deleted_at.is_(None))
    return list(connection.execute(statement))


def all_names(connection: Connection) -> list[tuple[str, str]]:
    """Id and name of every trigger that is not deleted, oldest first."""
    statement = select(Trigger.id, Trigger.name).where(Trigger.deleted_at.is_(None)).order_by(Trigger.id)
    return [(row.id, row.name) for row in connection.execute(statement)]


def update_trigger(connection: Connection, trigger_id: str, values: Mapping[str, Any]) -> None:
    """Change columns of a trigger whose row is locked. Raises IntegrityError when a new name is in use."""
    connection.execute(update(Trigger).where(Trigger.id == trigger_id).values(**values))


def append_change(
    connection: Connection,
    trigger: Mapping[str, Any],
    change: Change,
    effective_at: datetime,
    tzdata: str,
) -> None:
    """Put on record what a trigger plans by, from `effective_at` on, exclusive."""
    kept = ("state", "schedule", "anchor", "policy", "planned_count")
    connection.execute(
        insert(TriggerChange).values(
            trigger_id=trigger["id"],
            change=str(change),
            effective_at=effective_at,
            tzdata=tzdata,
            **{column: trigger[column] for column in kept},
        )
    )


def drop_planned(connection: Connection, trigger_id: str, after: datetime) -> int:
    """Remove what is planned for later than `after`, none of which has started. How many occurrences."""
    gone = connection.execute(
        delete(Event).where(*unstarted(trigger_id), Event.scheduled_for > after).returning(Event.coalesced)
    )
    return sum(gone.scalars())


def latest_begun(connection: Connection, trigger_id: str, after: datetime) -> datetime:
    """The latest planned instant after `after` at which something began or ended already; else `after`."""
    begun = select(func.max(Event.scheduled_for)).where(
        Event.trigger_id == trigger_id,
        Event.scheduled_for > after,
        Event.source.in_(_PLANNED),
        (Event.status != str(Status.PENDING)) | (Event.attempt > 0),
    )
    return connection.execute(begun).scalar() or after


def count_planned(connection: Connection, trigger_id: str, after: datetime) -> int:
    """How many occurrences later than `after` have their event already."""
    found = connection.execute(
        select(func.coalesce(func.sum(Event.coalesced), 0)).where(
            *unstarted(trigger_id), Event.scheduled_for > after
        )
    )
    return int(found.scalar_one())


def unstarted(trigger_id: str) -> list[ColumnElement[bool]]:
    """The condition "was planned for this trigger and never started"."""
    return [*waiting(trigger_id), Event.attempt == 0, Event.source.in_(_PLANNED)]


def waiting(trigger_id: str) -> list[ColumnElement[bool]]:
    """The condition "waits for its instant, for a worker or for its retry"."""
    return [
        Event.trigger_id == trigger_id,
        Event.recheck_at.is_not(None),  # names the small partial index
        Event.status == str(Status.PENDING),
    ]


def look_now(connection: Connection, trigger_id: str, now: datetime) -> int:
    """The next tick is to send all that waits again. How many."""
    statement = update(Event).where(*waiting(trigger_id)).values(recheck_at=now, dispatches=0)
    return connection.execute(statement).rowcount


def cancel_unstarted(connection: Connection, trigger_id: str, now: datetime, reason: Reason) -> int:
    """End planned events that never started. How many."""
    statement = update(Event).where(*unstarted(trigger_id)).values(**cancelled(now, reason))
    return connection.execute(statement).rowcount


def cancel_pending(connection: Connection, trigger_id: str, now: datetime, reason: Reason) -> int:
    """End all events that wait, also for a retry, also manual ones. How many."""
    statement = update(Event).where(*waiting(trigger_id)).values(**cancelled(now, reason))
    return connection.execute(statement).rowcount


def cancelled(now: datetime, reason: Reason) -> dict[str, Any]:
    """The columns of a cancelled event."""
    return {
        "status": str(Status.CANCELLED),
        "reason": str(reason),
        "finished_at": now,
        "recheck_at": None,
    }


def insert_event(
    connection: Connection,
    trigger_id: str,
    source: Source,
    scheduled_for: datetime,
    now: datetime,
    **more: Any,
) -> str:
    """Record one event, pending and due at once unless `more` says otherwise. Its id.

    An occurrence that has its event already keeps it.
    """
    values: dict[str, Any] = {
        "id": new_id(now),
        "trigger_id": trigger_id,
        "scheduled_for": scheduled_for,
        "fire_at": scheduled_for,
        "due_at": scheduled_for,
        "misfire_at": None,
        "source": str(source),
        "status": str(Status.PENDING),
        "state": str(EventState.ACTIVE),
        "created_at": now,
        "recheck_at": now,
    }
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(Event).values(values | more).on_conflict_do_nothing())
    return str(values["id"])


def lock_key(connection: Connection, key: str) -> None:
    """Let creates with the same idempotency key wait for each other. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1957))"), {"key": key})


def recall_key(connection: Connection, key: str, now: datetime) -> Row[str, str] | None:
    """Body digest and trigger id of a create within the last day; an older one is forgotten."""
    old = (IdempotencyKey.key == key) & (IdempotencyKey.created_at <= now - KEY_LIVES)
    connection.execute(delete(IdempotencyKey).where(old))
    return connection.execute(
        select(IdempotencyKey.body_digest, IdempotencyKey.trigger_id).where(IdempotencyKey.key == key)
    ).one_or_none()


def remember_key(connection: Connection, key: str, body_digest: str, trigger_id: str, now: datetime) -> None:
    """Keep the key of a create."""
    connection.execute(
        insert(IdempotencyKey).values(key=key, body_digest=body_digest, trigger_id=trigger_id, created_at=now)
    )
