"""The statements behind what users read: one trigger, one event, pages of them.

Pages go by keyset, so that page 1,000 costs what page 1 does and nothing is read twice while rows are added.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    func,
    literal,
    select,
    text,
    tuple_,
    union_all,
)

from models import Attempt, Event, Node, Trigger
from models.base import Id, Instant
from models.states import PLANNED, UNFINISHED, Source, Status, one_of
from triggers.errors import InvalidDocument, InvalidSchedule, NotFound, Problem
from triggers.rfc3339 import parse_instant
from triggers.store.definitions import is_id, named, unstarted
from triggers.store.views import (
    NEXT_OCCURRENCES,
    View,
    attempt_views,
    description,
    event_view,
    instant,
    trigger_view,
)

# Literal, as in the indexes' own conditions: the planner cannot match a bound value with a partial index.
_PLANNED = text(one_of("source", PLANNED))
_UNPLANNED = text(one_of("source", (Source.MANUAL, Source.BACKFILL)))


def get_trigger(connection: Connection, ref: str) -> View:
    """The trigger with this id or name. Raises NotFound."""
    return trigger_view(trigger_row(connection, ref))


def describe_trigger(
    connection: Connection, ref: str, now: datetime, warnings: Callable[..., list[str]]
) -> View:
    """The trigger with its next occurrences, and what `warnings` says of it. Raises NotFound.

    Warnings are about what follows an instant: now, or before the first occurrence that was not started,
    which may lie in the past.
    """
    return described(connection, trigger_row(connection, ref), now, warnings)


def describe_triggers(
    connection: Connection, ids: Sequence[str], now: datetime, warnings: Callable[..., list[str]]
) -> list[View]:
    """The triggers with these ids, which are in a row. Raises NotFound when one of them was deleted."""
    wanted = Trigger.id.between(literal(ids[0], Id), literal(ids[-1], Id)) & Trigger.deleted_at.is_(None)
    rows = connection.execute(triggers().where(wanted).order_by(Trigger.id)).all()
    if len(rows) < len(ids):
        raise no_trigger((set(ids) - {row.id for row in rows}).pop())
    return [described(connection, row, now, warnings) for row in rows]


def described(
    connection: Connection, row: Row[Any], now: datetime, warnings: Callable[..., list[str]]
) -> View:
    """A trigger with its next occurrences and warnings."""
    planned = select(Event.scheduled_for).where(*unstarted(row.id)).order_by(Event.scheduled_for)
    waiting = connection.execute(planned.limit(NEXT_OCCURRENCES)).scalars().all()
    return description(row, list(waiting), now, warnings)


def trigger_row(connection: Connection, ref: str) -> Row[Any]:
    """The trigger's row with what `trigger_view` needs beside it. Raises NotFound."""
    wanted = named(ref)
    found = None if wanted is None else connection.execute(triggers().where(wanted)).one_or_none()
    if found is None:
        raise no_trigger(ref)
    return found


def owner_of_events(connection: Connection, ref: str) -> str:
    """The id of the trigger with this name, or this id, deleted or not. Raises NotFound."""
    wanted = Trigger.id == ref.lower() if is_id(ref) else named(ref)
    found = None if wanted is None else connection.execute(select(Trigger.id).where(wanted)).scalar()
    if found is None:
        raise no_trigger(ref)
    return str(found)


def no_trigger(ref: str) -> NotFound:
    """There is no trigger with this id or name."""
    return NotFound(f"there is no trigger {ref[:100]!a}")


def trigger_page(
    connection: Connection,
    *,
    limit: int,
    cursor: str | None = None,
    tag: str | None = None,
    state: str | None = None,
) -> View:
    """A page of the triggers that are not deleted, oldest first.

    Raises InvalidDocument for a cursor that is none of ours.
    """
    statement = triggers().where(Trigger.deleted_at.is_(None))
    if state is not None:
        statement = statement.where(Trigger.state == state)
    if tag is not None:
        statement = statement.where(tagged(connection, tag))
    if cursor is not None:
        _, trigger_id = decode(cursor, ids=1)
        statement = statement.where(Trigger.id > literal(trigger_id, Id))
    # Ids grow with time, so the primary key has them in order: one index less for each tick to keep.
    statement = statement.order_by(Trigger.id).limit(limit + 1)
    rows = connection.execute(statement).all()
    return page(rows, limit, trigger_view, lambda row: encode(row.created_at, row.id))


def triggers() -> Select[Any]:
    """Triggers with the first instant that waits and the last start."""
    waiting = (
        select(func.min(Event.fire_at))
        .where(Event.trigger_id == Trigger.id)
        .where(Event.recheck_at.is_not(None), Event.status == str(Status.PENDING), Event.attempt == 0)
    )
    started = (
        select(Event.started_at)
        .where(Event.trigger_id == Trigger.id, Event.started_at.is_not(None))
        .order_by(Event.scheduled_for.desc())
        .limit(1)
    )
    return select(
        Trigger.__table__,
        waiting.scalar_subquery().label("pending_at"),
        started.scalar_subquery().label("last_started_at"),
    )


def tagged(connection: Connection, tag: str) -> ColumnElement[bool]:
    """The condition "has this tag"."""
    if connection.dialect.name == "postgresql":
        members: Any = func.json_array_elements_text(Trigger.tags).table_valued("value")
    else:
        members = func.json_each(Trigger.tags).table_valued("value")
    return select(literal(1)).select_from(members).where(members.c.value == tag).exists()


def get_event(connection: Connection, event_id: str) -> View:
    """The event with this id, and all attempts at it. Raises NotFound."""
    found = None
    if is_id(event_id):
        wanted = select(Event.__table__).where(Event.id == event_id.lower()).subquery()
        found = connection.execute(with_names(wanted)).one_or_none()
    if found is None:
        raise NotFound(f"there is no event {event_id[:100]!a}")
    failed = connection.execute(
        select(Attempt.__table__).where(Attempt.event_id == found.id).order_by(Attempt.attempt)
    )
    return event_view(found) | {"attempts": attempt_views(found, failed)}


def event_page(
    connection: Connection,
    *,
    limit: int,
    cursor: str | None = None,
    trigger_id: str | None = None,
    status: str | None = None,
    state: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> View:
    """A page of events, of one trigger or of all, newest first by `scheduled_for`.

    `since` is inclusive, `until` is not. Raises InvalidDocument for a cursor that is none of ours.
    """
    conditions = event_conditions(status, state, since, until)
    if cursor is not None:
        conditions += before(cursor)
    rows = connection.execute(events(trigger_id, conditions, limit + 1)).all()
    return page(rows, limit, event_view, lambda row: encode(row.scheduled_for, row.trigger_id, row.id))


def events(trigger_id: str | None, conditions: Sequence[ColumnElement[bool]], limit: int) -> Select[Any]:
    """The newest events that meet the conditions.

    Those of all triggers come from two indexes, each read backwards from where the page begins: the unique
    key of planned events, and the small index of the others.
    """
    order = (Event.scheduled_for.desc(), Event.trigger_id.desc(), Event.id.desc())
    base = select(Event.__table__).where(*conditions).limit(limit)
    if trigger_id is not None:
        return with_names(base.where(Event.trigger_id == trigger_id).order_by(*order).subquery())
    planned = base.where(_PLANNED).order_by(*order[:2]).subquery()  # unique without the id
    others = base.where(_UNPLANNED).order_by(*order).subquery()
    both = union_all(select(planned), select(others)).subquery()
    return with_names(both).limit(limit)


def with_names(found: Subquery) -> Select[Any]:
    """These few events with the names of their triggers, newest first."""
    return (
        select(found, Trigger.name.label("trigger_name"))
        .join(Trigger, Trigger.id == found.c.trigger_id)
        .order_by(found.c.scheduled_for.desc(), found.c.trigger_id.desc(), found.c.id.desc())
    )


def event_conditions(
    status: str | None, state: str | None, since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """The filters of a page of events."""
    found: list[ColumnElement[bool]] = []
    if status is not None:
        unfinished = status in UNFINISHED  # said in words too, so that the partial indexes may serve
        found += [
            Event.status == status,
            Event.recheck_at.is_not(None) if unfinished else Event.finished_at.is_not(None),
        ]
    if state is not None:
        found.append(Event.state == state)
    if since is not None:
        found.append(Event.scheduled_for >= since)
    if until is not None:
        found.append(Event.scheduled_for < until)
    return found


def before(cursor: str) -> list[ColumnElement[bool]]:
    """The condition "comes after this cursor", newest first."""
    scheduled_for, trigger_id, event_id = decode(cursor, ids=2)
    mark = tuple_(literal(scheduled_for, Instant), literal(trigger_id, Id), literal(event_id, Id))
    return [
        Event.scheduled_for <= scheduled_for,  # what an index can use of the comparison below
        tuple_(Event.scheduled_for, Event.trigger_id, Event.id) < mark,
    ]


def page(
    rows: Sequence[Row[Any]], limit: int, view: Callable[[Row[Any]], View], mark: Callable[[Row[Any]], str]
) -> View:
    """The page that `limit` + 1 rows make: the last row only tells that there is more."""
    shown = rows[:limit]
    return {
        "items": [view(row) for row in shown],
        "next_cursor": mark(shown[-1]) if len(rows) > limit else None,
    }


def encode(at: datetime, *ids: str) -> str:
    """An opaque cursor: where the next page begins."""
    text = json.dumps([instant(at), *ids], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, ids: int) -> list[Any]:
    """The instant and the ids in a cursor. Raises InvalidDocument."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        at, *rest = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if len(rest) == ids and all(isinstance(part, str) and is_id(part) for part in rest):
            return [parse_instant(str(at), "cursor"), *rest]
    except (ValueError, TypeError, RecursionError, binascii.Error, InvalidSchedule):
        pass
    raise InvalidDocument([Problem("/cursor", "not a cursor that a page gave")])


def last_tick_at(connection: Connection) -> datetime | None:
    """When the last tick committed, on whichever machine."""
    return connection.execute(select(func.max(Node.last_tick_at))).scalar_one()
