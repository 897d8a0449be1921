"""The statements of the tick: claim, insert, advance, take back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, TextClause, bindparam, text
from sqlalchemy.types import String

from models.base import Id, Instant, Json, new_ids
from models.states import Status
from triggers.planning import INSTANT, Plan, Plannable, Planned
from triggers.store import bulk

GRACE = timedelta(seconds=10)  # after its instant an event that nobody started is looked at again

CLAIM = """
WITH claimed AS {materialized} (
  SELECT {id} AS id, name, target_type, {schedule} AS schedule, {policy} AS policy, next_at, planned_count,
         CASE WHEN {type} = 'interval' THEN anchor END AS anchor,
         CASE WHEN {max_runs} IS NOT NULL THEN planned_count END AS limited
  FROM triggers WHERE next_at <= :until {resting} ORDER BY {order} LIMIT :most {lock}
)
SELECT {joined}(id, ','), {joined}(name, ','), target_type, schedule, policy, anchor, next_at,
       min(planned_count)
FROM claimed GROUP BY target_type, schedule, policy, anchor, next_at, limited
"""

OWN = ("id", "trigger_id")
SHARED = (
    "scheduled_for", "fire_at", "due_at", "misfire_at", "source", "status", "reason",
    "coalesced", "coalesced_from", "recheck_at", "finished_at", "created_at",
)  # fmt: skip
INSERT = f"""
INSERT INTO events ({", ".join(OWN + SHARED)}, state, attempt, dispatches)
SELECT {", ".join(f"r.{column}" for column in OWN + SHARED)}, 'active', 0, 0 FROM {{rows}} WHERE true
ON CONFLICT (scheduled_for, trigger_id) WHERE source IN ('schedule', 'catchup') DO NOTHING
"""

ADVANCED = ("planned_until", "next_at", "counted", "exhausted")
ADVANCE = """
UPDATE triggers SET planned_until = r.planned_until, next_at = r.next_at,
       planned_count = planned_count + r.counted, exhausted = r.exhausted
FROM {rows} WHERE triggers.id = r.id AND triggers.planned_until <= r.planned_until
"""
# For SQLite, which copies a whole FROM before it begins. OR FAIL: an error rolls the transaction back, so
# that nothing need be kept to undo the statement alone.
ADVANCE_ALIKE = """
UPDATE OR FAIL triggers SET planned_until = :planned_until, next_at = :next_at,
       planned_count = planned_count + :counted, exhausted = :exhausted
WHERE id IN (SELECT value FROM json_each(:members)) AND planned_until <= :planned_until
"""


class Alike(NamedTuple):
    """Triggers whose plan is the same: `first` stands for all of them."""

    first: Plannable
    ids: Sequence[str]
    names: Sequence[str]


class NewEvents(NamedTuple):
    """Events that are equal but for their triggers, and their targets' kind: the ids and names of those."""

    planned: Planned
    kind: str
    ids: Sequence[str]
    trigger_ids: Sequence[str]
    names: Sequence[str]


def claim(connection: Connection, until: datetime, most: int, resting: set[str], wait: bool) -> list[Alike]:
    """Take triggers with an occurrence up to `until` so that no one else plans it; those that plan alike
    together, the oldest first.

    What a plan depends on is next_at and the definition: the anchor only of an interval, and how many
    occurrences there were only of what has a limit to them. So a hundred thousand triggers of midnight are
    one plan, whenever they were created.

    Rows that another tick holds are passed over, or waited for with `wait`. SQLite has one writer.
    """
    postgres = bulk.is_postgres(connection)
    bulk.plan_anew(connection)
    lock = ("FOR NO KEY UPDATE" if wait else "FOR NO KEY UPDATE SKIP LOCKED") if postgres else ""
    # Who waits for locks takes them in everybody's order (`lifecycle.lock`), or two wait for each other.
    # As text, because no index has that order: by the primary key all triggers would be read.
    order = 'CAST(id AS text) COLLATE "C"' if wait and postgres else "next_at"
    statement = CLAIM.format(
        materialized="MATERIALIZED" if postgres else "",
        order=order,
        id="CAST(id AS text)" if postgres else "id",
        schedule="CAST(schedule AS text)" if postgres else "schedule",
        policy="CAST(policy AS text)" if postgres else "policy",
        type="schedule->>'type'" if postgres else "json_extract(schedule, '$.type')",
        max_runs="schedule->>'max_runs'" if postgres else "json_extract(schedule, '$.max_runs')",
        joined="string_agg" if postgres else "group_concat",
        resting=f"AND NOT id {bulk.among(connection)}" if resting else "",
        lock=lock,
    )
    found = connection.execute(
        bulk.clause(statement),
        bulk.instants(connection, {"until": until, "most": most})
        | ({"ids": bulk.ids(connection, resting)} if resting else {}),
    )
    claimed = [alike(connection, *row) for row in found.all()]
    return sorted(claimed, key=lambda group: group.first.next_at)


def alike(
    connection: Connection,
    ids: str,
    names: str,
    kind: str,
    schedule: str,
    policy: str,
    anchor: Any,
    next_at: Any,
    count: int,
) -> Alike:
    """A row of the claim. Neither ids nor names have a comma in them."""
    instant = bulk.instant(connection, next_at)
    before = instant - INSTANT  # the cursors of all of them lie before it, with nothing in between
    known, named = ids.split(","), names.split(",")
    anchored = None if anchor is None else bulk.instant(connection, anchor)
    first = Plannable(known[0], named[0], kind, schedule, policy, anchored, before, instant, count)
    return Alike(first, known, named)


def insert_events(
    connection: Connection, events: Iterable[NewEvents], now: datetime, grace: timedelta
) -> None:
    """Record occurrences. The unique key decides who records one; the loser is a quiet outcome.

    Ids travel in pairs beside the values that those of one instant share: row by row PostgreSQL would parse
    twelve more values for each.
    """
    groups: dict[Sequence[Any], list[tuple[str, str]]] = {}
    for new in events:
        rows = groups.setdefault(event_values(new.planned, now, grace), [])
        rows += zip(new.ids, new.trigger_ids, strict=True)
    bulk.run_groups(connection, INSERT, OWN, SHARED, groups)


def event_values(planned: Planned, now: datetime, grace: timedelta) -> tuple[Any, ...]:
    """The columns of a new event behind its ids: pending until its instant, or skipped from the start."""
    skipped = planned.skipped
    return (
        planned.scheduled_for,
        planned.fire_at,
        planned.fire_at,
        planned.misfire_at,
        str(planned.source),
        str(Status.SKIPPED if skipped else Status.PENDING),
        str(skipped) if skipped else None,
        planned.coalesced,
        planned.coalesced_from,
        None if skipped else max(now, planned.fire_at) + grace,
        now if skipped else None,
        now,
    )


def advance(connection: Connection, plans: Iterable[tuple[Plan, Alike]]) -> None:
    """Move the triggers' cursors behind what now has its event, only forward."""
    groups: dict[Sequence[Any], list[tuple[str]]] = {}
    for plan, triggers in plans:
        groups.setdefault(advanced(plan, triggers.first), []).extend(zip(triggers.ids))
    by_group = not bulk.is_postgres(connection) and bulk.are_large(groups)
    statement = ADVANCE_ALIKE if by_group else ADVANCE
    bulk.run_groups(connection, statement, ("id",), ADVANCED, groups)


def advanced(plan: Plan, first: Plannable) -> tuple[Any, ...]:
    """The cursor behind a plan."""
    counted = plan.planned_count - first.planned_count
    return plan.planned_until, plan.next_at, counted, plan.next_at is None


class Outlook(NamedTuple):
    """Whether there is anything to do for a tick: to plan, to take back, to complete; and whether something
    was sent again and again, and may wait for long until it is looked at.
    """

    due: bool
    unattended: bool
    exhausted: bool
    sent_again: bool


OUTLOOK = """
SELECT EXISTS (SELECT 1 FROM triggers WHERE next_at <= :until),
       EXISTS (SELECT 1 FROM events WHERE recheck_at <= :now),
       EXISTS (SELECT 1 FROM triggers WHERE exhausted),
       EXISTS (SELECT 1 FROM events WHERE dispatches > 1 AND recheck_at > :now)
"""


def outlook(connection: Connection, now: datetime, until: datetime) -> Outlook:
    """Four probes of four small indexes, which is all that an idle tick costs."""
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
    retry: Any  # None, like `policy`, while the event is pending: reading those of many takes seconds
    policy: Any
    deleted: bool


UNFINISHED = """
SELECT e.id, e.trigger_id, e.status, e.scheduled_for, e.due_at, e.lease_until, e.attempt,
       e.attempt_started_at, e.dispatches, t.name, t.target_type,
       CASE WHEN e.status = 'running' THEN t.retry END AS retry,
       CASE WHEN e.status = 'running' THEN t.policy END AS policy, t.deleted_at IS NOT NULL AS deleted
FROM events e JOIN triggers t ON t.id = e.trigger_id
WHERE """
UNATTENDED = UNFINISHED + "e.recheck_at <= :now ORDER BY e.recheck_at LIMIT :most {lock}"
NEWEST = (
    UNFINISHED + "e.recheck_at <= :now AND e.recheck_at > :since AND e.dispatches = 0"
    " ORDER BY e.recheck_at DESC LIMIT :most {lock}"
)
NEW_SECONDS = 5  # since an event came due, or was fired
RUNNING = UNFINISHED + "e.id = :id AND e.status = 'running' AND e.attempt = :attempt"


def unattended(connection: Connection, now: datetime, most: int, newest: bool = False) -> list[Unattended]:
    """Events that nobody finished, and that somebody must look at now: the oldest, or the `newest` of those
    that were not dispatched again yet.
    """
    bulk.plan_anew(connection)
    lock = "FOR NO KEY UPDATE OF e SKIP LOCKED" if bulk.is_postgres(connection) else ""
    values = {"now": now, "most": most}
    if newest:
        values["since"] = now - timedelta(seconds=NEW_SECONDS)
    statement = text((NEWEST if newest else UNATTENDED).format(lock=lock))
    instants = [bindparam(name, type_=Instant) for name in values if name != "most"]
    return unfinished(connection, statement.bindparams(*instants), values)


def running(connection: Connection, event_id: str, attempt: int) -> list[Unattended]:
    """The event, if this attempt at it is under way; else nothing."""
    statement = text(RUNNING).bindparams(bindparam("id", type_=Id))
    return unfinished(connection, statement, {"id": event_id, "attempt": attempt})


def unfinished(connection: Connection, statement: TextClause, values: dict[str, Any]) -> list[Unattended]:
    """The rows of one of the two statements."""
    columns = statement.columns(
        id=Id,
        trigger_id=Id,
        status=String,
        scheduled_for=Instant,
        due_at=Instant,
        lease_until=Instant,
        attempt_started_at=Instant,
        retry=Json,
        policy=Json,
    )
    return [Unattended(*row) for row in connection.execute(columns, values)]


# By `recheck_at`, which has an index, and which is `due_at` + GRACE for what was sent once.
HELD = """
SELECT e.id, e.due_at, t.target_type FROM events e JOIN triggers t ON t.id = e.trigger_id
WHERE e.recheck_at > :now AND e.recheck_at <= :until AND e.status = 'pending' AND e.dispatches = 0
  AND e.due_at <= :latest AND (e.due_at > :now OR t.target_type <> 'celery')
ORDER BY e.recheck_at LIMIT :most
"""


def held(
    connection: Connection, now: datetime, latest: datetime, most: int
) -> list[tuple[str, datetime, str]]:
    """Events up to `latest` that were sent once and are not started, the first ones first: id, instant, kind.

    Somebody holds them, or did before being killed. A user's task whose instant has passed was published.
    """
    names = ("now", "until", "latest")
    statement = text(HELD).columns(id=Id, due_at=Instant, target_type=String)
    statement = statement.bindparams(*(bindparam(name, type_=Instant) for name in names))
    values = {"until": latest + GRACE, "latest": latest, "now": now, "most": most}
    return [(row.id, row.due_at, row.target_type) for row in connection.execute(statement, values)]


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


LOST = """
UPDATE events SET recheck_at = :now, dispatches = 0
WHERE status = 'pending' AND dispatches > 1 AND id IN (
  SELECT e.id FROM events e JOIN triggers t ON t.id = e.trigger_id
  WHERE e.dispatches > 1 AND e.recheck_at > :now AND e.status = 'pending' AND e.due_at <= :overdue
    AND e.recheck_at <= CASE e.dispatches {cases} ELSE :last END
    AND (t.target_type <> 'celery' OR :tasks)
  LIMIT :most {lock})
"""


def messages_lost(
    connection: Connection,
    now: datetime,
    most: int,
    graces: Sequence[timedelta],
    tasks: bool,
) -> int:
    """The messages of these events are lost, since none waits: a tick is to send them, as if for the first
    time. How many.

    They are overdue, and were sent at least `GRACE` ago, which follows from the grace that they were given:
    `graces` are those after the second dispatch, the third and so on. With `tasks` also users' tasks.
    """
    limits = {f"after_{number}": now + grace - GRACE for number, grace in enumerate(graces, start=2)}
    *cases, last = limits
    statement = LOST.format(
        cases=" ".join(f"WHEN {name[6:]} THEN :{name}" for name in cases),
        lock="FOR NO KEY UPDATE OF e SKIP LOCKED" if bulk.is_postgres(connection) else "",
    ).replace(":last", f":{last}")
    parameters = bulk.instants(connection, limits | {"now": now, "overdue": now - GRACE})
    return connection.execute(text(statement), parameters | {"most": most, "tasks": tasks}).rowcount


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


def new_events(plans: Iterable[tuple[Plan, Alike]], now: datetime) -> list[NewEvents]:
    """The plans' events, each with an id of its own. In the order of their triggers, which the indexes have:
    so most of what is written goes behind what was written before.
    """
    owners: dict[tuple[Planned, str], list[tuple[str, str]]] = {}
    for plan, triggers in plans:
        for planned in plan.events:
            equal = owners.setdefault((planned, triggers.first.target_type), [])
            equal += zip(triggers.ids, triggers.names, strict=True)
    ids = iter(new_ids(now, sum(map(len, owners.values()))))
    return [
        NewEvents(planned, kind, list(islice(ids, len(equal))), *zip(*sorted(equal), strict=True))
        for (planned, kind), equal in owners.items()
    ]
