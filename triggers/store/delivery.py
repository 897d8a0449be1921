"""The statements of a delivery. Each transition compares, sets, and says who won."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, TextClause, bindparam
from sqlalchemy.types import Boolean, String

from models.base import Id, Instant, Json
from models.database import one_row
from models.states import Reason, Status
from triggers.store import bulk, lifecycle


@dataclass(slots=True)
class Job:
    """An event with the definition of its trigger, as they stood when it was looked at."""

    id: str
    trigger_id: str
    scheduled_for: datetime
    fire_at: datetime
    due_at: datetime
    misfire_at: datetime | None
    source: str
    attempt: int
    payload: Any
    started_at: datetime | None
    name: str
    target_type: str
    target: dict[str, Any]
    secret: str | None
    retry: dict[str, int]
    policy: dict[str, Any]
    consecutive_failures: int
    exhausted: bool
    next_at: datetime | None = None
    attempt_started_at: datetime | None = None


JOB = """e.id, e.trigger_id, e.scheduled_for, e.fire_at, e.due_at, e.misfire_at, e.source, e.attempt,
       e.payload, e.started_at, t.name, t.target_type, t.target, t.secret, t.retry, t.policy,
       t.consecutive_failures, t.exhausted, t.next_at"""
JOB_TYPES: dict[str, Any] = {
    "id": Id,
    "trigger_id": Id,
    "scheduled_for": Instant,
    "fire_at": Instant,
    "due_at": Instant,
    "misfire_at": Instant,
    "source": String,
    "attempt": None,
    "payload": Json,
    "started_at": Instant,
    "name": String,
    "target_type": String,
    "target": Json,
    "secret": String,
    "retry": Json,
    "policy": Json,
    "consecutive_failures": None,
    "exhausted": Boolean,
    "next_at": Instant,
}
LOOK = """
SELECT {job}
FROM events e JOIN triggers t ON t.id = e.trigger_id
WHERE e.id {ids} AND e.status = 'pending' AND t.target_type = :kind AND t.deleted_at IS NULL
"""


def look(connection: Connection, ids: Iterable[str], kind: str) -> list[Job]:
    """The pending events among `ids`, oldest first, whose target is of this kind now."""
    statement = bulk.typed(connection, LOOK.replace("{job}", JOB), **JOB_TYPES)
    found = connection.execute(statement, {"ids": bulk.ids(connection, ids), "kind": kind})
    return sorted((Job(*row) for row in found), key=lambda job: job.scheduled_for)


class Call(NamedTuple):
    """An event of an HTTP target that waits for its turn: what has to be known of it until then."""

    id: str
    due_at: datetime
    name: str
    url: str


CALLS = """
SELECT e.id, e.due_at, t.name, {url} AS url
FROM events e JOIN triggers t ON t.id = e.trigger_id
WHERE e.id {ids} AND e.status = 'pending' AND t.target_type = 'http' AND t.deleted_at IS NULL
ORDER BY e.scheduled_for
"""


def calls(connection: Connection, ids: Iterable[str]) -> list[Call]:
    """As `look`, of HTTP targets, and no more than it takes to put them in line: there may be many."""
    url = "t.target->>'url'" if bulk.is_postgres(connection) else "json_extract(t.target, '$.url')"
    statement = bulk.typed(
        connection, CALLS.replace("{url}", url), id=Id, due_at=Instant, name=String, url=String
    )
    return [Call(*row) for row in connection.execute(statement, {"ids": bulk.ids(connection, ids)})]


START = """
UPDATE events SET status = 'running', attempt = attempt + 1, started_at = COALESCE(started_at, :now),
       attempt_started_at = :now, lease_until = :lease
WHERE id {ids} AND status = 'pending' AND due_at <= :now
RETURNING id, attempt
"""


def start(connection: Connection, ids: Sequence[str], now: datetime, lease: datetime) -> dict[str, int]:
    """Begin an attempt at each; the attempt's number of those that were won."""
    if not ids:
        return {}
    statement = bulk.typed(connection, START, id=Id, attempt=None)
    parameters = bulk.instants(connection, {"now": now, "lease": lease})
    found = connection.execute(statement, parameters | {"ids": bulk.ids(connection, ids)})
    return {row.id: row.attempt for row in found}


# In psycopg's own form, not SQLAlchemy's.
CLOCK = "c AS (SELECT COALESCE(CAST(%(now)s AS timestamptz), clock_timestamp()) AS now)"
# The source as an expression, or PostgreSQL would take the index that begins with `scheduled_for`, and read
# what all other triggers have after it.
NEWER_IS_DUE = """EXISTS (SELECT 1 FROM events n WHERE n.trigger_id = e.trigger_id
  AND n.scheduled_for > e.scheduled_for AND n.due_at <= {now}
  AND n.source || '' IN ('schedule', 'catchup'))"""
IN_WINDOW = """{now} <= {event}.scheduled_for
    + make_interval(secs => CAST(t.policy->>'catchup_window_seconds' AS float))"""
# Of what is late or catches up, what `deliver.too_old` and `deliver.judge_misfires` would let begin: a long
# backlog is late, and has enough to do.
WANTED = f"""t.policy->>'misfire' <> 'skip' AND {IN_WINDOW.format(now="c.now", event="e")}
    AND (e.misfire_at IS NULL OR e.misfire_at >= c.now
      OR (t.next_at IS NULL OR t.next_at > c.now) AND NOT {NEWER_IS_DUE.format(now="c.now")})"""
BEGIN = f"""
UPDATE events e SET status = 'running', attempt = e.attempt + 1, started_at = COALESCE(e.started_at, c.now),
       attempt_started_at = c.now,
       lease_until = c.now + make_interval(secs => %(margin)s + CAST(t.policy->>'timeout_seconds' AS float))
FROM triggers t, c
WHERE e.id = CAST(%(id)s AS uuid) AND e.status = 'pending' AND e.due_at <= c.now
  AND t.id = e.trigger_id AND t.target_type = 'celery' AND t.target->>'task' = %(task)s
  AND t.deleted_at IS NULL AND t.policy->>'overlap' = 'allow'
  AND (e.misfire_at >= c.now AND e.source <> 'catchup' OR e.attempt > 0 OR {WANTED})
RETURNING {JOB}, e.attempt_started_at
"""
BEGIN_ALONE = f"WITH {CLOCK} {BEGIN}"
FAILURES = "(SELECT t.consecutive_failures FROM triggers t WHERE t.id = events.trigger_id) AS failures"
END_AND_BEGIN = f"""
WITH {CLOCK}, ended AS (
  UPDATE events SET status = 'succeeded', reason = NULL, result = CAST(%(result)s AS json), error = NULL,
         recheck_at = NULL, finished_at = c.now, dispatches = 0
  FROM c WHERE id = CAST(%(ended)s AS uuid) AND status = 'running' AND attempt = %(attempt)s
  RETURNING {FAILURES}
), begun AS ({BEGIN})
SELECT c.now, (SELECT failures FROM ended), begun.* FROM c LEFT JOIN begun ON true
"""
BEGUN_TYPES = (*JOB_TYPES.values(), Instant)


def begin(
    connection: Connection, event_id: str, task: str, now: datetime | None, margin: timedelta
) -> Job | None:
    """Begin an attempt at an event of a user's task, if there is nothing to judge; None: look closer.

    For PostgreSQL: one statement in place of five round trips.
    """
    parameters = {"id": event_id, "task": task, "now": now, "margin": margin.total_seconds()}
    found = one_row(connection, BEGIN_ALONE, parameters)
    return None if found is None else begun_job(connection, found)


def end_and_begin(
    connection: Connection,
    row: Sequence[Any],
    event_id: str,
    task: str,
    now: datetime | None,
    margin: timedelta,
) -> tuple[datetime, dict[str, int], Job | None]:
    """As `succeed` of one attempt, and then as `begin`, in one statement and one commit: the instant; if it
    was won, how many events of its trigger failed in a row before; and the job, or None.

    Of one, not of an array: PostgreSQL thinks arrays long, and would make the plan anew each time.
    """
    ended, attempt, result = row
    parameters = {"id": event_id, "task": task, "now": now, "margin": margin.total_seconds()}
    parameters |= {"ended": ended, "attempt": attempt, "result": result}
    found = one_row(connection, END_AND_BEGIN, parameters)
    assert found is not None
    at, failures, *begun = found
    job = None if begun[0] is None else begun_job(connection, begun)
    return bulk.instant(connection, at), {} if failures is None else {ended: failures}, job


def begun_job(connection: Connection, row: Sequence[Any]) -> Job:
    """The job of an attempt that began."""
    return Job(*[as_read(connection, *pair) for pair in zip(row, BEGUN_TYPES, strict=True)])


def as_read(connection: Connection, value: Any, type_: Any) -> Any:
    """A value as SQLAlchemy would have made it of psycopg's."""
    if value is None or type_ not in (Id, Instant):
        return value
    return str(value) if type_ is Id else bulk.instant(connection, value)


COMPLETED = """status = 'succeeded', attempt = attempt + 1, started_at = COALESCE(started_at, :now),
       attempt_started_at = :now, finished_at = :now, recheck_at = NULL, error = NULL"""
COMPLETE = """
UPDATE events SET {completed}
WHERE id {ids} AND status = 'pending' AND due_at <= :now
RETURNING id, attempt
"""


def complete(connection: Connection, ids: Sequence[str], now: datetime) -> dict[str, int]:
    """Start and finish in one: for targets whose work is done before the commit. Who was won."""
    if not ids:
        return {}
    statement = bulk.typed(connection, COMPLETE.replace("{completed}", COMPLETED), id=Id, attempt=None)
    parameters = bulk.instants(connection, {"now": now})
    found = connection.execute(statement, parameters | {"ids": bulk.ids(connection, ids)})
    return {row.id: row.attempt for row in found}


COMPLETE_PLAIN = """
UPDATE events SET {completed}
WHERE events.id {ids} AND events.status = 'pending' AND events.due_at <= :now
  AND events.misfire_at >= :now
  AND EXISTS (SELECT 1 FROM triggers t WHERE t.id = events.trigger_id AND t.target_type = 'log'
    AND t.deleted_at IS NULL AND {exhausted} AND t.consecutive_failures = 0 AND {overlap} = 'allow'
    AND (events.source <> 'catchup' OR {window}))
"""
# Of an instant in SQLite's form there is no exact difference; what is at the edge is looked at.
IN_WINDOW_SQLITE = """(julianday(:now) - julianday(events.scheduled_for)) * 86400
      < json_extract(t.policy, '$.catchup_window_seconds') - 0.01"""


def complete_plain(connection: Connection, ids: Sequence[str], now: datetime) -> int:
    """As `complete`, at once for all log events of which nobody wants to read: no line in the log, nothing to
    judge, and nothing that their success means for their triggers. How many were won.
    """
    return connection.execute(*plain(connection, ids, now, "NOT t.exhausted", "")).rowcount


def complete_last(connection: Connection, ids: Sequence[str], now: datetime) -> list[str]:
    """As `complete_plain`, of triggers of which that may have been the last event: these triggers."""
    found = connection.execute(*plain(connection, ids, now, "t.exhausted", "RETURNING trigger_id"))
    return [str(row[0]) for row in found.all()]


def plain(
    connection: Connection, ids: Sequence[str], now: datetime, exhausted: str, returning: str
) -> tuple[TextClause, dict[str, Any]]:
    """The statement for plain events, and its parameters."""
    if bulk.is_postgres(connection):
        overlap, window = "t.policy->>'overlap'", IN_WINDOW.format(now=":now", event="events")
    else:
        overlap, window = "json_extract(t.policy, '$.overlap')", IN_WINDOW_SQLITE
    text_ = COMPLETE_PLAIN.replace("{completed}", COMPLETED).replace("{overlap}", overlap)
    text_ = text_.replace("{window}", window)
    statement = bulk.sql(connection, text_.replace("{exhausted}", exhausted) + returning)
    return statement, bulk.instants(connection, {"now": now}) | {"ids": bulk.ids(connection, ids)}


FINISH_COLUMNS = (
    "id", "attempt", "status", "reason", "result", "error", "due_at", "recheck_at", "finished_at",
)  # fmt: skip
FINISH = """
UPDATE events SET status = r.status, reason = r.reason, result = r.result, error = r.error,
       due_at = COALESCE(r.due_at, events.due_at), recheck_at = r.recheck_at,
       finished_at = r.finished_at, dispatches = 0
FROM {rows} WHERE events.id = r.id AND events.status = 'running' AND events.attempt = r.attempt
RETURNING events.id, {failures}
"""


def finish(connection: Connection, rows: Sequence[Sequence[Any]]) -> dict[str, int]:
    """End attempts, fenced by their number: a late worker's result is refused. Of those that were won, how
    many events of their triggers failed in a row before.

    Rows are as `FINISH_COLUMNS`; result and error are JSON text.
    """
    if not rows:
        return {}
    found = bulk.run(connection, FINISH.replace("{failures}", FAILURES), FINISH_COLUMNS, rows)
    return {str(row.id): row.failures for row in found}


SUCCEED_COLUMNS = ("id", "attempt", "result")
SUCCEED = f"""
UPDATE events SET status = 'succeeded', reason = NULL, result = r.result, error = NULL, recheck_at = NULL,
       finished_at = c.now, dispatches = 0
FROM {{rows}}, (SELECT COALESCE(CAST(:now AS timestamptz), clock_timestamp()) AS now) c
WHERE events.id = r.id AND events.status = 'running' AND events.attempt = r.attempt
RETURNING events.id, {FAILURES}, c.now
"""


def succeed(
    connection: Connection, rows: Sequence[Sequence[Any]], now: datetime | None
) -> tuple[dict[str, int], datetime | None]:
    """As `finish`, for attempts that all succeeded, and whose end means nothing else: one statement with
    PostgreSQL's own clock. Also the instant of the end, if any was won.
    """
    found = bulk.run(connection, SUCCEED, SUCCEED_COLUMNS, rows, now=now).all()
    return {str(row.id): row.failures for row in found}, bulk.instant(
        connection, found[0].now
    ) if found else None


ATTEMPT_COLUMNS = ("id", "attempt", "started_at", "finished_at", "outcome", "result", "error")
ATTEMPT = """
INSERT INTO attempts (event_id, attempt, started_at, finished_at, outcome, result, error)
SELECT r.id, r.attempt, r.started_at, r.finished_at, r.outcome, r.result, r.error FROM {rows}
"""


def record_attempts(connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
    """Leave a row for each attempt that did not succeed, as `ATTEMPT_COLUMNS`."""
    if rows:
        bulk.run(connection, ATTEMPT, ATTEMPT_COLUMNS, rows)


END = """
UPDATE events SET status = :status, reason = :reason, finished_at = :now, recheck_at = NULL
WHERE id {ids} AND status = 'pending'
RETURNING id
"""


def end(
    connection: Connection, ids: Iterable[str], status: Status, reason: Reason, now: datetime
) -> set[str]:
    """End pending events that will not run. Who was won."""
    parameters = bulk.instants(connection, {"now": now})
    parameters |= {"status": str(status), "reason": str(reason), "ids": bulk.ids(connection, ids)}
    return {str(row.id) for row in connection.execute(bulk.sql(connection, END), parameters)}


WAIT = """
UPDATE events SET recheck_at = :recheck, misfire_at = NULL, dispatches = 0
WHERE id {ids} AND status = 'pending'
"""


def wait(connection: Connection, ids: Iterable[str], recheck: datetime) -> None:
    """These wait for another event of their trigger; that wait is no misfire."""
    parameters = bulk.instants(connection, {"recheck": recheck})
    connection.execute(bulk.sql(connection, WAIT), parameters | {"ids": bulk.ids(connection, ids)})


PROGRESS = """
UPDATE events SET progress = {progress} WHERE id = :id AND status = 'running' AND attempt = :attempt
"""


def progress(connection: Connection, event_id: str, attempt: int, value: str) -> bool:
    """Record how far a running attempt is (JSON text); whether it is still ours."""
    postgres = bulk.is_postgres(connection)
    statement = bulk.sql(connection, PROGRESS.replace("{progress}", "CAST(:v AS json)" if postgres else ":v"))
    values = {"id": event_id, "attempt": attempt, "v": value}
    return connection.execute(statement.bindparams(bindparam("id", type_=Id)), values).rowcount == 1


UNDER_WAY = """
SELECT DISTINCT trigger_id FROM events
WHERE trigger_id {ids} AND recheck_at IS NOT NULL AND (status = 'running' OR attempt > 0)
"""


def under_way(connection: Connection, trigger_ids: Iterable[str]) -> set[str]:
    """Lock these triggers, and tell which have an event that is running or waits for its retry."""
    chosen = sorted(set(trigger_ids))
    lifecycle.lock(connection, chosen)
    parameters = {"ids": bulk.ids(connection, chosen)}
    statement = bulk.typed(connection, UNDER_WAY, trigger_id=Id)
    return {row.trigger_id for row in connection.execute(statement, parameters)}


DUE = """
SELECT id, trigger_id, misfire_at, due_at FROM events
WHERE trigger_id {ids} AND recheck_at IS NOT NULL AND status = 'pending' AND attempt = 0
  AND due_at <= :now AND source IN ('schedule', 'catchup')
ORDER BY scheduled_for
"""


def due(
    connection: Connection, trigger_ids: Iterable[str], now: datetime
) -> list[tuple[str, str, datetime | None, datetime]]:
    """Planned events of these triggers that are due and never started, oldest first: id, trigger's id,
    misfire_at, due_at.
    """
    parameters = bulk.instants(connection, {"now": now})
    parameters["ids"] = bulk.ids(connection, sorted(set(trigger_ids)))
    statement = bulk.typed(connection, DUE, id=Id, trigger_id=Id, misfire_at=Instant, due_at=Instant)
    return [(r.id, r.trigger_id, r.misfire_at, r.due_at) for r in connection.execute(statement, parameters)]


SUPERSEDED = f"SELECT e.id FROM events e WHERE e.id {{ids}} AND {NEWER_IS_DUE.format(now=':now')}"


def superseded(connection: Connection, jobs: Sequence[Job], now: datetime) -> set[str]:
    """The ids of those jobs whose trigger has a newer occurrence that is due, whatever became of it, or is
    not planned yet.
    """
    found = {job.id for job in jobs if job.next_at is not None and job.next_at <= now}
    asked = [job.id for job in jobs if job.id not in found]
    if not asked:
        return found
    statement = bulk.typed(connection, SUPERSEDED, id=Id)
    parameters = bulk.instants(connection, {"now": now}) | {"ids": bulk.ids(connection, asked)}
    return found | {row.id for row in connection.execute(statement, parameters)}


DELETED = "SELECT id FROM triggers WHERE id {ids} AND deleted_at IS NOT NULL"


def deleted(connection: Connection, trigger_ids: Iterable[str]) -> set[str]:
    """Those of these triggers that were deleted."""
    chosen = sorted(set(trigger_ids))
    if not chosen:
        return set()
    statement = bulk.typed(connection, DELETED, id=Id)
    return {row.id for row in connection.execute(statement, {"ids": bulk.ids(connection, chosen)})}


NAMES = "SELECT e.id, t.name FROM events e JOIN triggers t ON t.id = e.trigger_id WHERE e.id {ids}"


def names(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    """The names of these events' triggers."""
    statement = bulk.typed(connection, NAMES, id=Id, name=String)
    return {row.id: row.name for row in connection.execute(statement, {"ids": bulk.ids(connection, ids)})}
