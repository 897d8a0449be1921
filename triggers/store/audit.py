"""The statements of the audit: streams in the order of triggers, all in one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, text

from models.base import Id
from models.states import PLANNED, one_of
from triggers.store import bulk

CHUNK = 2_000  # rows that are held at a time

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Whole tables are read, in the order of an index: that takes longer than a statement of ours may.
LONG = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"


def snapshot(connection: Connection) -> None:
    """Let all that this transaction reads be of one instant. The first thing in it."""
    if bulk.is_postgres(connection):
        for statement in (SNAPSHOT, *LONG.split("; ")):
            connection.execute(text(statement))
    connection.execute(text("SELECT 1 FROM triggers LIMIT 1")).all()  # it is taken with the first read


TZDATA = "SELECT DISTINCT tzdata FROM nodes"


def versions(connection: Connection) -> frozenset[str]:
    """The versions of the tz database that nodes have ticked with last."""
    return frozenset(connection.execute(text(TZDATA)).scalars())


SUBJECTS = """
SELECT {id}, name, state, {schedule}, {anchor}, {policy}, {planned_until}, deleted_at IS NOT NULL
FROM triggers {only} ORDER BY id
"""


def subjects(connection: Connection, trigger_id: str | None) -> Iterator[Sequence[Any]]:
    """Triggers, deleted ones too: id, name, state, schedule, anchor, policy, planned_until, deleted."""
    rows = stream(connection, SUBJECTS, trigger_id, "id", (4, 6))
    return ((*row[:7], bool(row[7])) for row in rows)


CHANGES = """
SELECT {trigger_id}, change, {effective_at}, state, {schedule}, {anchor}, {policy}, tzdata,
       planned_count
FROM trigger_changes {only} ORDER BY trigger_changes.trigger_id, trigger_changes.id
"""


def changes(connection: Connection, trigger_id: str | None) -> Iterator[Sequence[Any]]:
    """The logs of changes: trigger's id, change, effective_at, state, schedule, anchor, policy, tzdata,
    planned_count.
    """
    return stream(connection, CHANGES, trigger_id, "trigger_id", (2, 5))


PURGED = """
SELECT {trigger_id}, {month}, status, occurrences, planned, instants, {first_scheduled_for},
       {last_scheduled_for}
FROM purged_events {only} ORDER BY purged_events.trigger_id, month
"""


def purged(connection: Connection, trigger_id: str | None) -> Iterator[Sequence[Any]]:
    """The accounts of deleted events: trigger's id, month, status, occurrences, planned, instants, first,
    last.
    """
    rows = stream(connection, PURGED, trigger_id, "trigger_id", (6, 7))
    return ((row[0], as_date(row[1]), *row[2:]) for row in rows)


EVENT = """
SELECT {id}, {trigger_id}, {scheduled_for}, {fire_at}, {due_at}, source, status, state, reason, attempt,
       coalesced, {coalesced_from}, {recheck_at}, {lease_until}, {started_at}, {attempt_started_at},
       {finished_at}
FROM events
"""
EVENT_INSTANTS = (2, 3, 4, 11, 12, 13, 14, 15, 16)
EVENTS = (
    EVENT
    + """
{only} scheduled_for >= :since AND scheduled_for < :until ORDER BY events.trigger_id, scheduled_for
"""
)


def events(
    connection: Connection, trigger_id: str | None, since: datetime, until: datetime
) -> Iterator[Sequence[Any]]:
    """Events of a trigger or of all, with `scheduled_for` from `since` inclusive to `until` exclusive: the
    columns of `EVENT`, by trigger and `scheduled_for`.
    """
    bounds = bulk.instants(connection, {"since": since, "until": until})
    return stream(connection, EVENTS, trigger_id, "trigger_id", EVENT_INSTANTS, **bounds)


BEYOND = (
    EVENT
    + f"""
{{only}} scheduled_for >= :since AND {one_of("source", PLANNED)} ORDER BY scheduled_for LIMIT 1
"""
)


def beyond(connection: Connection, trigger_id: str, since: datetime) -> Sequence[Any] | None:
    """The first planned event of a trigger from an instant on: the columns of `EVENT`."""
    bounds = bulk.instants(connection, {"since": since})
    return next(stream(connection, BEYOND, trigger_id, "trigger_id", EVENT_INSTANTS, **bounds), None)


ATTEMPTS = """
SELECT {event_id}, attempt, {started_at}, {finished_at} FROM attempts
WHERE event_id {ids} ORDER BY attempts.event_id, attempt
"""


def attempts(connection: Connection, ids: Iterable[str]) -> Iterator[Sequence[Any]]:
    """Failed attempts at these events: event's id, number, start, end."""
    statement = ATTEMPTS.format(ids="{ids}", **columns(connection))
    found = connection.execute(bulk.sql(connection, statement), {"ids": bulk.ids(connection, ids)})
    return iter([decoded(connection, row, (2, 3)) for row in found])


def stream(
    connection: Connection,
    statement: str,
    trigger_id: str | None,
    column: str,
    instants: Sequence[int],
    **parameters: Any,
) -> Iterator[Sequence[Any]]:
    """The rows of a statement, held a chunk at a time; of one trigger or of all."""
    more = ":since" in statement
    only = f"WHERE {column} = :trigger_id" if trigger_id is not None else ""
    joint = ("AND" if only else "WHERE") if more else ""
    clause = text(statement.format(only=f"{only} {joint}", **columns(connection)))
    if trigger_id is not None:
        clause = clause.bindparams(bindparam("trigger_id", trigger_id, type_=Id))
    found = connection.execute(
        clause, parameters, execution_options={"stream_results": True, "max_row_buffer": CHUNK}
    )
    for rows in found.partitions(CHUNK):
        for row in rows:
            yield decoded(connection, row, instants)


TEXTS = ("id", "trigger_id", "event_id", "schedule", "policy")
INSTANTS = (
    "anchor", "planned_until", "effective_at", "month", "first_scheduled_for", "last_scheduled_for",
    "scheduled_for", "fire_at", "due_at", "coalesced_from", "recheck_at", "lease_until", "started_at",
    "attempt_started_at", "finished_at",
)  # fmt: skip
# PostgreSQL knows instants that we do not, `infinity` first. One of them must not end the whole audit.
KNOWN = "CASE WHEN {0} >= '0001-01-01' AND {0} < '10000-01-01' THEN {0} END"


def columns(connection: Connection) -> dict[str, str]:
    """Columns in this database's words: some as text, and instants, NULL when they are none of ours."""
    if bulk.is_postgres(connection):
        wanted = {column: f"CAST({column} AS text)" for column in TEXTS}
        return wanted | {column: KNOWN.format(column) for column in INSTANTS}
    return {column: column for column in (*TEXTS, *INSTANTS)}


def decoded(connection: Connection, row: Any, instants: Sequence[int]) -> Sequence[Any]:
    """A row with its instants as datetimes, which SQLite has as text; None for text that is no instant."""
    if bulk.is_postgres(connection):
        return tuple(row)
    values = list(row)
    for index in instants:
        if values[index] is not None:
            values[index] = instant_or_none(values[index])
    return values


def instant_or_none(value: Any) -> datetime | None:
    """An instant as SQLite has it; None for what somebody wrote there that is none."""
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(value + "+00:00")
    return None


def as_date(value: Any) -> date | None:
    """A date, which SQLite has as text; None for what is none."""
    if value is None or isinstance(value, date):
        return value
    with suppress(ValueError, TypeError):
        return date.fromisoformat(value)
    return None
