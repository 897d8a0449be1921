"""What `triggerbeat status` and `queue` ask: how much waits, how late things were, who ticks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select, union_all

from models.event import Event
from models.history import Node
from models.states import PLANNED, EventState, Reason, Status, TriggerState
from models.trigger import Trigger
from triggers.store.reads import with_names
from triggers.store.views import View, event_view

LATENESS_SAMPLE = 10_000  # of the newest events: an hour at full speed would be tens of millions


def unfinished(connection: Connection, now: datetime) -> dict[str, Any]:
    """How many events wait, due or ahead, and run; the oldest that is due, and the next that is not."""
    pending = Event.status == Status.PENDING
    due, ahead = pending & (Event.due_at <= now), pending & (Event.due_at > now)
    row = connection.execute(
        select(
            func.count().filter(due).label("due_now"),
            func.count().filter(ahead).label("ahead"),
            func.count().filter(Event.status == Status.RUNNING).label("running"),
            func.min(Event.due_at).filter(due).label("oldest_due"),
            func.min(Event.due_at).filter(ahead).label("next_due"),
        ).where(Event.recheck_at.is_not(None))  # the small index over unfinished events
    ).one()
    return dict(row._mapping)


def next_occurrence(connection: Connection) -> datetime | None:
    """The earliest instant that is not planned yet."""
    return connection.execute(select(func.min(Trigger.next_at)).where(Trigger.next_at.is_not(None))).scalar()


def triggers_by_state(connection: Connection) -> dict[str, int]:
    """How many triggers there are in each state; deleted ones do not count."""
    alive = Trigger.deleted_at.is_(None)
    rows = connection.execute(select(Trigger.state, func.count()).where(alive).group_by(Trigger.state))
    found = {row[0]: row[1] for row in rows}
    return {str(state): found.get(state, 0) for state in TriggerState}


def nodes(connection: Connection) -> list[dict[str, Any]]:
    """The machines that ran ticks, the latest first."""
    columns = (
        Node.name,
        Node.last_tick_at,
        Node.took_seconds,
        Node.planned,
        Node.clock_skew_seconds,
        Node.tzdata,
    )
    rows = connection.execute(select(*columns).order_by(Node.last_tick_at.desc()))
    return [dict(row._mapping) for row in rows]


def lateness_seconds(connection: Connection, now: datetime, span: timedelta) -> list[float]:
    """By how much the newest planned events of the last `span` started late, in seconds, in order."""
    statement = (
        select(Event.fire_at, Event.started_at)
        .where(
            Event.source.in_(PLANNED),
            Event.scheduled_for > now - span,
            Event.scheduled_for <= now,
            Event.started_at.is_not(None),
        )
        .order_by(Event.scheduled_for.desc())
        .limit(LATENESS_SAMPLE)
    )
    rows = connection.execute(statement)
    return sorted((started - fire).total_seconds() for fire, started in rows if started is not None)


def moving_events(
    connection: Connection, since: datetime, trigger_id: str | None, status: str | None, limit: int
) -> list[View]:
    """Events that have started and not ended, and those that ended after `since`; the earliest change first.

    Those that only wait for their instant are left out, unless `status` asks for what is pending.
    """
    wanted = select(Event.__table__).limit(limit)
    if trigger_id is not None:
        wanted = wanted.where(Event.trigger_id == trigger_id)
    if status is not None:
        wanted = wanted.where(Event.status == status)
    # Several statements in one, since each has a range of an index of its own.
    ended = [
        wanted.where(
            Event.state == EventState.ACTIVE,
            reason,
            Event.finished_at.is_not(None),
            Event.finished_at > since,
        ).order_by(Event.finished_at.desc())
        for reason in (Event.reason.is_(None), Event.reason.in_(list(Reason)))
    ]
    under_way = wanted.where(Event.recheck_at.is_not(None))
    if status != Status.PENDING:
        under_way = under_way.where(Event.attempt > 0)
    moving = union_all(*[select(one.subquery()) for one in (*ended, under_way)])
    return sorted(map(event_view, connection.execute(with_names(moving.subquery()))), key=last_change)


def last_change(event: View) -> str:
    """When an event became what it is, as far as its view tells; such texts sort as instants do."""
    return str(event["finished_at"] or event["started_at"] or event["created_at"])
