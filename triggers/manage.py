"""What users do to triggers: create, edit, pause, resume, delete, fire. Each in its caller's transaction.

The steps of every change of a stored trigger:
1. Lock the trigger's row: no tick plans it meanwhile, no other change slips in.
2. Read the clock, now that the lock is had: the change is in force from this instant on.
3. Give each occurrence up to that instant its event, by the definition that ends: a tick may be late.
4. Remove what is planned for later; what was due and never started is cancelled or stays.
5. Plan anew from that instant, and put the change on record.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from models.base import ids_from, new_id
from models.states import Change, Reason, Source, Status, TriggerState
from triggers import planning, tzdata
from triggers import schedule as schedules
from triggers.errors import Conflict, InvalidSchedule, NameInUse, NotFound
from triggers.logs import step
from triggers.rfc3339 import BEGINNING, MICROSECOND
from triggers.store import creation, definitions, plan

if TYPE_CHECKING:
    from triggers.definition import TriggerDocument

log = logging.getLogger("triggerbeat.trigger")

UNLIMITED = 1_000_000_000_000  # occurrences; more than any schedule has until the year 9999
MOST_CATCH_UP_PASSES = 20  # of planning.MOST_CATCH_UP events each, within one edit

Now = datetime | Callable[[Connection], datetime]
"""The instant of an operation, or the clock (`Database.now`) that is read once the row is locked."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The key of a create, and the digest of its body."""

    key: str
    body_digest: str


@dataclass(frozen=True, slots=True)
class Created:
    """A new trigger. `next_at` is its first occurrence that is not planned yet."""

    id: str
    name: str
    next_at: datetime | None
    row: Mapping[str, Any] = field(repr=False)  # its columns, as they were stored


@dataclass(frozen=True, slots=True)
class Changed:
    """What a trigger is after an operation. `changed` is False when it was so before.

    `next_at` is when a tick has something to do for it: to plan, or, after some edits, to send at once.
    """

    id: str
    name: str
    state: str
    next_at: datetime | None
    changed: bool = True


@dataclass(frozen=True, slots=True)
class Fired:
    """A manual event, due at once."""

    event_id: str
    trigger_id: str
    name: str
    target_type: str
    due_at: datetime


class Cursor(NamedTuple):
    """Where a trigger's plan stands: columns of its row."""

    planned_until: datetime
    next_at: datetime | None
    exhausted: bool
    planned_count: int


def create(
    connection: Connection, document: TriggerDocument, now: Now, idempotency: Idempotency | None = None
) -> Created:
    """Store a new trigger, which plans its occurrences from now on, this instant included.

    With `idempotency`, call `recall` first in the same transaction. Raises NameInUse.
    """
    return create_all(connection, [document], now, idempotency)[0]


def create_all(
    connection: Connection,
    documents: Sequence[TriggerDocument],
    now: Now,
    idempotency: Idempotency | None = None,
) -> list[Created]:
    """Store new triggers as `create` does, with two statements for all of them.

    Raises NameInUse with all names that are in use or come twice; the transaction must not be committed then.
    """
    at = instant(now, connection)
    found = create_free(connection, documents, at)
    created = [one for one in found if one is not None]
    if len(created) < len(documents):
        taken = [document.name for document, one in zip(documents, found, strict=True) if one is None]
        raise NameInUse(taken)
    if idempotency is not None:
        definitions.remember_key(connection, idempotency.key, idempotency.body_digest, created[0].id, at)
    return created


def create_free(
    connection: Connection, documents: Sequence[TriggerDocument], at: datetime
) -> list[Created | None]:
    """Store new triggers, but None in place of those whose names are in use. Their ids are in a row."""
    ids, anchor = ids_from(new_id(at), len(documents)), whole_second(at)
    rows = [new_row(document, id_, at, anchor) for document, id_ in zip(documents, ids, strict=True)]
    stored = creation.insert_triggers(connection, rows, tzdata.release())
    return [
        Created(row["id"], row["name"], row["next_at"], row) if row["id"] in stored else None for row in rows
    ]


def new_row(document: TriggerDocument, id_: str, at: datetime, anchor: datetime) -> dict[str, Any]:
    """The columns of a trigger that begins at `at`."""
    values = document.stored()
    cursor = begin(values["schedule"], anchor, at - MICROSECOND, at)
    return {
        **values,
        **cursor._asdict(),
        "id": id_,
        "anchor": anchor,
        "state": str(TriggerState.ACTIVE),
        "created_at": at,
        "updated_at": at,
    }


def recall(connection: Connection, idempotency: Idempotency, now: Now) -> str | None:
    """The id of the (first) trigger that was created with this key within a day, or None.

    Creates with the same key wait here for each other. Raises Conflict for a key that came with another
    body.
    """
    definitions.lock_key(connection, idempotency.key)
    known = definitions.recall_key(connection, idempotency.key, instant(now, connection))
    if known is None:
        return None
    if known.body_digest != idempotency.body_digest:
        raise Conflict("this Idempotency-Key came with another body within the last day")
    return str(known.trigger_id)


def edit(connection: Connection, ref: str, document: TriggerDocument, now: Now) -> Changed:
    """Replace the definition of a trigger.

    Another schedule starts anew: its anchor is now, its count towards `max_runs` zero. Another policy plans
    anew from now on. Anything else changes no firing. What was due and never started goes on, by the new
    definition. A completed trigger is active again when its new schedule has something to plan. Raises
    NotFound, and Conflict when the new name is in use or the trigger has too much to catch up with.
    """
    row, at = lock(connection, ref, now)
    values = document.stored()
    if values == {column: row[column] for column in values}:
        return told(row, changed=False)
    if values["schedule"] == row["schedule"] and values["policy"] == row["policy"]:
        ahead = definitions.count_planned(connection, row["id"], at)
        record = {"planned_count": row["planned_count"] - ahead}
        unsent = 0
    else:
        unsent = row["next_at"] is not None and row["next_at"] <= at  # and so no tick has seen it
        planned, at = replan(connection, row, values, at)
        values |= planned
        record = {}
    if values["target_type"] != row["target_type"]:  # what waits was sent for the other kind
        unsent = definitions.look_now(connection, row["id"], at) or unsent
    values |= {"updated_at": at, "version": row["version"] + 1}
    try:
        definitions.update_trigger(connection, row["id"], values)
    except IntegrityError:
        raise NameInUse([document.name]) from None
    row |= values
    definitions.append_change(connection, row | record, Change.EDITED, at, tzdata.release())
    return replace(told(row), next_at=at) if unsent else told(row)


def pause(connection: Connection, ref: str, now: Now, change: Change = Change.PAUSED) -> Changed:
    """Plan nothing until `resume`. What runs, its retries and manual events go on.

    A planned event that is due and never started is cancelled: it belongs to an instant at which the
    trigger was active, so it must not vanish. Raises NotFound, and Conflict for a completed trigger.
    """
    row, at = lock(connection, ref, now)
    if row["state"] == TriggerState.PAUSED:
        return told(row, changed=False)
    if row["state"] == TriggerState.COMPLETED:
        raise Conflict("the trigger is completed: there is nothing left to pause")
    values, at = unplan(connection, row, at, Reason.PAUSED)
    cancelled = definitions.cancel_unstarted(connection, row["id"], at, Reason.PAUSED)
    report_cancelled(row, cancelled, Reason.PAUSED)
    return settle(connection, row, values | {"state": str(TriggerState.PAUSED)}, change, at)


def resume(connection: Connection, ref: str, now: Now) -> Changed:
    """Plan again, from now on: what lies in the pause is not made up for. Ends the row of failures.

    Raises NotFound, and Conflict when the schedule has nothing left or cannot be understood any more.
    """
    row, at = lock(connection, ref, now)
    if row["state"] == TriggerState.ACTIVE:
        return told(row, changed=False)
    dropped, at = drop_later(connection, row, at)
    count = row["planned_count"] - dropped
    try:
        cursor = plan_from(row["schedule"], row["anchor"], at, count)
    except InvalidSchedule as error:
        raise Conflict(f"the schedule cannot be understood any more, so edit it: {error}") from None
    if cursor.exhausted:
        raise Conflict("the schedule has nothing left to plan: edit it, or use fire")
    values = cursor._asdict() | {"consecutive_failures": 0, "schedule_error": None}
    return settle(connection, row, values | {"state": str(TriggerState.ACTIVE)}, Change.RESUMED, at)


def delete(connection: Connection, ref: str, now: Now) -> Changed:
    """Take a trigger out of use and free its name. Its events stay; those that wait are cancelled.

    What runs finishes, without a retry. Raises NotFound.
    """
    row, at = lock(connection, ref, now)
    values, at = unplan(connection, row, at, Reason.DELETED)
    cancelled = definitions.cancel_pending(connection, row["id"], at, Reason.DELETED)
    report_cancelled(row, cancelled, Reason.DELETED)
    return settle(connection, row, values | {"deleted_at": at, "secret": None}, Change.DELETED, at)


def fire(connection: Connection, ref: str, now: Now, payload: Any = None) -> Fired:
    """Make a manual event that is due at once, whatever the trigger's state.

    `payload`, unless None, replaces the body or the kwargs of this event. Raises NotFound, and
    InvalidDocument for a payload that the target cannot take.
    """
    row, at = lock(connection, ref, now)  # or a delete could commit in between, and the event be stranded
    if payload is not None:
        from triggers.definition import check_payload  # only here: 8 MB, which beat and workers save

        check_payload(row["target_type"], payload)
    event_id = definitions.insert_event(connection, row["id"], Source.MANUAL, at, at, payload=payload)
    return Fired(event_id, row["id"], row["name"], row["target_type"], at)


# ------------------------------------------------------------------------------------------ the steps


def lock(connection: Connection, ref: str, now: Now) -> tuple[dict[str, Any], datetime]:
    """The trigger's row, locked, and then the instant. Raises NotFound."""
    found = definitions.lock_trigger(connection, ref)
    if found is None:
        raise NotFound(f"there is no trigger {ref[:100]!a}")
    return dict(found._mapping), instant(now, connection)


def instant(now: Now, connection: Connection) -> datetime:
    """The instant of the operation."""
    return now if isinstance(now, datetime) else now(connection)


def whole_second(at: datetime) -> datetime:
    """The instant rounded up to a whole second."""
    return at if at.microsecond == 0 else at.replace(microsecond=0) + timedelta(seconds=1)


def plan_from(schedule: Mapping[str, Any], anchor: datetime, after: datetime, count: int) -> Cursor:
    """A plan that goes on strictly after `after`, when `count` occurrences count towards `max_runs`.

    Raises InvalidSchedule for a schedule that was valid once and is not any more.
    """
    return cursor_of(schedules.parse(schedule, anchor), after, count)


def cursor_of(schedule: schedules.Schedule, after: datetime, count: int) -> Cursor:
    """The same of a schedule that was understood."""
    more = schedule.max_runs is None or count < schedule.max_runs
    next_at = schedule.after(after) if more else None
    return Cursor(after, next_at, next_at is None and schedule.kind != "manual", count)


def begin(schedule: Mapping[str, Any], anchor: datetime, after: datetime, now: datetime) -> Cursor:
    """The plan of a new schedule. An `at` that is past already, as `now` always is, still counts."""
    understood = schedules.parse(schedule, anchor)
    if understood.kind == "once":
        at = understood.after(BEGINNING)
        if at is not None and at <= now:
            after = min(after, at - MICROSECOND)
    return cursor_of(understood, after, 0)


def replan(
    connection: Connection, row: Mapping[str, Any], values: Mapping[str, Any], at: datetime
) -> tuple[dict[str, Any], datetime]:
    """The columns of a trigger that plans by another schedule or policy from `at` on, and that instant."""
    count = catch_up(connection, row, at)
    dropped, at = drop_later(connection, row, at)
    count -= dropped
    if values["schedule"] == row["schedule"]:
        anchor, cursor = row["anchor"], plan_from(row["schedule"], row["anchor"], at, count)
    else:
        anchor = whole_second(at)
        cursor = begin(values["schedule"], anchor, at, at)
    state = row["state"]
    if state == TriggerState.COMPLETED and not cursor.exhausted:
        state = str(TriggerState.ACTIVE)
    if state != TriggerState.ACTIVE:
        cursor = cursor._replace(next_at=None, exhausted=False)
    return cursor._asdict() | {"anchor": anchor, "state": state, "schedule_error": None}, at


def catch_up(connection: Connection, row: Mapping[str, Any], at: datetime) -> int:
    """Plan all occurrences up to `at` as a tick would, by the definition as it stands. The new count.

    Without this an occurrence that no tick has seen yet would be lost with the old definition.
    """
    trigger = plannable(row)
    next_at = row["next_at"]
    for _ in range(MOST_CATCH_UP_PASSES):
        if next_at is None or next_at > at:
            return trigger.planned_count
        made = planning.plan(trigger._replace(next_at=next_at), at, at)
        plan.insert_events(
            connection,
            plan.new_events([(made, plan.Alike(trigger, [trigger.id], [trigger.name]))], at),
            at,
            timedelta(),
        )
        next_at = made.next_at
        trigger = trigger._replace(planned_until=made.planned_until, planned_count=made.planned_count)
    raise Conflict("the trigger is still catching up with missed occurrences: pause it first, or wait")


def plannable(row: Mapping[str, Any]) -> planning.Plannable:
    """The row as a tick's claim would read it."""
    columns = {name: row[name] for name in planning.Plannable._fields}
    columns["schedule"], columns["policy"] = json.dumps(row["schedule"]), json.dumps(row["policy"])
    return planning.Plannable(**columns)


def drop_later(connection: Connection, row: Mapping[str, Any], at: datetime) -> tuple[int, datetime]:
    """Remove what is planned for later, and say so in the log. How many occurrences, and from when on the
    change is in force.

    That is `at`, or the instant of what began since: while its clock was read a change may have waited for
    the trigger's lock, and a start does not wait for a change.
    """
    at = max(at, definitions.latest_begun(connection, row["id"], at))
    count = definitions.drop_planned(connection, row["id"], at)
    if count:
        step(log, "unplanned", trigger=row["name"], after=at, occurrences=count)
    return count, max(at, definitions.latest_begun(connection, row["id"], at))


def unplan(
    connection: Connection, row: Mapping[str, Any], at: datetime, reason: Reason
) -> tuple[dict[str, Any], datetime]:
    """Remove what is planned for later. The columns of a trigger that plans nothing from `at` on, and `at`.

    Occurrences up to `at` that no tick has seen yet get one event, cancelled, that covers them.
    """
    dropped, at = drop_later(connection, row, at)
    count = row["planned_count"] - dropped
    if row["next_at"] is not None and row["next_at"] <= at:
        count += cover(connection, row, at, reason)
    return {"planned_until": at, "next_at": None, "exhausted": False, "planned_count": count}, at


def report_cancelled(row: Mapping[str, Any], count: int, reason: Reason) -> None:
    """One line for all events that a change of their trigger has ended."""
    if count:
        step(log, "cancelled", trigger=row["name"], status=Status.CANCELLED, reason=reason, events=count)


def cover(connection: Connection, row: Mapping[str, Any], at: datetime, reason: Reason) -> int:
    """Record the occurrences up to `at` that were never planned as one cancelled event. How many."""
    understood = schedules.parse(row["schedule"], row["anchor"])
    allowed = understood.max_runs or UNLIMITED
    run = understood.run(row["planned_until"], at, allowed - row["planned_count"])
    if run is None:
        return 0
    more = definitions.cancelled(at, reason) | {
        "coalesced": run.count,
        "coalesced_from": run.first if run.count > 1 else None,
    }
    event_id = definitions.insert_event(connection, row["id"], Source.SCHEDULE, run.last, at, **more)
    step(
        log,
        "cancelled",
        trigger=row["name"],
        event=event_id,
        scheduled_for=run.last,
        status=Status.CANCELLED,
        reason=reason,
        coalesced=run.count,
    )
    return run.count


def settle(
    connection: Connection, row: dict[str, Any], values: dict[str, Any], change: Change, at: datetime
) -> Changed:
    """Store what a trigger becomes at `at`, and put it on record."""
    row |= values | {"updated_at": at}
    definitions.update_trigger(connection, row["id"], values | {"updated_at": at})
    definitions.append_change(connection, row, change, at, tzdata.release())
    return told(row)


def told(row: Mapping[str, Any], changed: bool = True) -> Changed:
    """What the caller needs to know of a row."""
    return Changed(row["id"], row["name"], row["state"], row["next_at"], changed)
