"""The schema: migrations up and down, migrations equal models, and impossible rows are refused."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Table, delete, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from models import Attempt, Base, Event, PurgedEvents, Trigger, TriggerChange
from models.base import new_id, new_ids
from models.database import CHECKPOINT_BYTES, PAGE_BYTES, Database, alembic_config, migrate, schema_is_current
from models.states import Change, EventState, Reason, Source, TriggerState

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TABLES = sorted(table.name for table in Base.metadata.sorted_tables)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url)
    yield database
    database.close()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all tests of rows, which leave nothing in it."""
    if request.param == "sqlite":
        copied = tmp_path_factory.mktemp("rows") / "triggerbeat.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), copied)
        url = f"sqlite:///{copied}"
    else:
        server = request.getfixturevalue("postgres")
        url = server.url(server.create_database(template=request.getfixturevalue("postgres_template")))
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def rows(shared: Database) -> Iterator[Connection]:
    """A transaction that is rolled back in the end."""
    with shared.write() as connection:
        yield connection
        connection.rollback()


# --------------------------------------------------------------------------------------- migrations


def test_migrations_go_up_and_down_and_up_again(empty: Database, empty_database_url: str) -> None:
    migrate(empty_database_url)
    assert tables(empty) == TABLES
    command.downgrade(alembic_config(empty_database_url), "base")
    assert tables(empty) == []
    migrate(empty_database_url)
    assert tables(empty) == TABLES


def test_a_migrated_schema_is_current_and_an_empty_one_is_not(
    empty: Database, empty_database_url: str
) -> None:
    with empty.read() as connection:
        assert not schema_is_current(connection)
    migrate(empty_database_url)
    with empty.read() as connection:
        assert schema_is_current(connection)


def test_migrating_twice_changes_nothing(database: Database, database_url: str) -> None:
    with database.write() as connection:
        store(connection, Trigger, trigger())
    before = definitions(database)
    migrate(database_url)
    assert definitions(database) == before
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(Trigger)).scalar_one() == 1


def test_migrations_equal_models(database: Database) -> None:
    with database.write() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_make_the_very_definitions_that_the_models_do(
    empty: Database, empty_database_url: str
) -> None:
    """Unlike the comparison above this sees CHECK constraints, predicates of indexes and storage options."""
    with empty.write() as connection:
        Base.metadata.create_all(connection)
    made = definitions(empty)
    with empty.write() as connection:
        Base.metadata.drop_all(connection)
    migrate(empty_database_url)
    migrated = definitions(empty)
    assert migrated.keys() == made.keys()
    assert {name: migrated[name] for name in made} == made


def tables(database: Database) -> list[str]:
    with database.read() as connection:
        names = inspect(connection).get_table_names()
    return sorted(name for name in names if name != "alembic_version")


def definitions(database: Database) -> dict[str, Any]:
    """What the database itself says of each table: columns, constraints, indexes, options."""
    if database.is_postgres:
        return postgres_definitions(database)
    with database.read() as connection:
        rows = connection.execute(
            text("SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
        )
        return {name: clauses(sql) for name, sql in rows if "alembic_version" not in name}


def postgres_definitions(database: Database) -> dict[str, Any]:
    queries = {
        "column": """SELECT table_name || '.' || column_name, data_type || ' ' || is_nullable || ' ' ||
                     coalesce(character_maximum_length::text, '') || ' ' || coalesce(column_default, '')
                     FROM information_schema.columns WHERE table_schema = 'public'""",
        "constraint": """SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
                         FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
        "index": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "trigger": """SELECT tgname, pg_get_triggerdef(oid) || ' ' || pg_get_functiondef(tgfoid)
                      FROM pg_trigger WHERE NOT tgisinternal""",
        "options": """SELECT relname, reloptions::text FROM pg_class
                      WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'""",
    }
    found: dict[str, Any] = {}
    with database.read() as connection:
        for kind, query in queries.items():
            for name, definition in connection.execute(text(query)):
                if "alembic_version" not in name:
                    found[f"{kind} {name}"] = definition
    return found


def clauses(sql: str) -> list[str]:
    """The parts of a CREATE statement in an order of their own: constraints may come in any."""
    flat = re.sub(r"\s+", " ", sql.replace('"', "")).replace("( ", "(").replace(" )", ")")
    head, _, body = flat.partition("(")
    parts, depth, part = [], 0, ""
    for character in body.rstrip().removesuffix(")"):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    return [head.strip(), *sorted([*parts, part.strip()])]


# -------------------------------------------------------------------------------- rows that can be


def trigger(**changed: Any) -> dict[str, Any]:
    """A row of an active trigger."""
    return {
        "id": new_id(NOON),
        "name": "t",
        "description": "",
        "tags": [],
        "schedule": {"type": "interval", "every_seconds": 10},
        "anchor": NOON,
        "target_type": "log",
        "target": {"type": "log", "message": "m"},
        "policy": {},
        "retry": {},
        "state": "active",
        "version": 1,
        "planned_until": NOON,
        "next_at": NOON + seconds(10),
        "planned_count": 0,
        "consecutive_failures": 0,
        "created_at": NOON,
        "updated_at": NOON,
        "exhausted": False,
    } | changed


def event(trigger_id: str, **changed: Any) -> dict[str, Any]:
    """A row of an event that waits for its instant."""
    return {
        "id": new_id(NOON),
        "trigger_id": trigger_id,
        "scheduled_for": NOON,
        "fire_at": NOON,
        "due_at": NOON,
        "source": "schedule",
        "status": "pending",
        "state": "active",
        "attempt": 0,
        "dispatches": 0,
        "coalesced": 1,
        "recheck_at": NOON + seconds(10),
        "created_at": NOON,
    } | changed


ATTEMPTED = {"attempt": 1, "started_at": NOON, "attempt_started_at": NOON}
RUNNING = {"status": "running", "lease_until": NOON + seconds(45)} | ATTEMPTED
FINISHED = {"finished_at": NOON + seconds(1), "recheck_at": None}
SUCCEEDED = {"status": "succeeded"} | ATTEMPTED | FINISHED
FAILED = (
    {"status": "failed", "reason": "attempts", "error": {"type": "E", "message": "m"}} | ATTEMPTED | FINISHED
)
SKIPPED = {"status": "skipped", "reason": "misfire"} | FINISHED
CANCELLED = {"status": "cancelled", "reason": "deleted"} | FINISHED
COALESCED = {"coalesced": 3, "coalesced_from": NOON - seconds(20)}


def store(connection: Connection, model: type[Base], row: dict[str, Any]) -> None:
    connection.execute(insert(model).values(**row))


def stored_trigger(connection: Connection) -> str:
    row = trigger()
    store(connection, Trigger, row)
    return str(row["id"])


POSSIBLE_EVENTS: dict[str, dict[str, Any]] = {
    "pending": {},
    "waiting for a retry": ATTEMPTED | {"due_at": NOON + seconds(60), "recheck_at": NOON + seconds(70)},
    "running": RUNNING,
    "succeeded": SUCCEEDED,
    "succeeded and archived": SUCCEEDED | {"state": "archived"},
    "failed": FAILED,
    "skipped": SKIPPED,
    "skipped, covering others": SKIPPED | COALESCED,
    "cancelled before it started": CANCELLED,
    "cancelled between attempts": CANCELLED | ATTEMPTED,
    "firing for others": COALESCED | {"source": "catchup"},
    "with jitter": {"fire_at": NOON + seconds(5), "due_at": NOON + seconds(5)},
}


@pytest.mark.parametrize("changed", POSSIBLE_EVENTS.values(), ids=POSSIBLE_EVENTS)
def test_an_event_in_each_state_is_stored(rows: Connection, changed: dict[str, Any]) -> None:
    row = event(stored_trigger(rows), **changed)
    store(rows, Event, row)
    found = rows.execute(select(Event.__table__)).one()._mapping
    assert {name: found[name] for name in row} == row


# ----------------------------------------------------------------------------- rows that cannot be

IMPOSSIBLE_EVENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown status": ("life", {"status": "done"} | FINISHED),
    "an unknown state": ("life", SUCCEEDED | {"state": "deleted"}),
    "an unknown source": ("source", {"source": "somewhere"}),
    "an unknown reason": ("life", SKIPPED | {"reason": "whim"}),
    "pending, but finished": ("life", FINISHED),
    "succeeded, but never finished": ("life", SUCCEEDED | {"finished_at": None, "recheck_at": NOON}),
    "unfinished, and nobody will look": ("life", {"recheck_at": None}),
    "finished, and somebody will look": ("life", SUCCEEDED | {"recheck_at": NOON}),
    "running without an attempt": (
        "life",
        {"status": "running", "lease_until": NOON},
    ),
    "running without a lease": ("life", RUNNING | {"lease_until": None}),
    "running without a start": ("life|attempts", RUNNING | {"started_at": None}),
    "succeeded without an attempt": ("life", {"status": "succeeded"} | FINISHED),
    "succeeded with an error": ("life", SUCCEEDED | {"error": {"type": "E", "message": "m"}}),
    "failed without a reason": ("life", FAILED | {"reason": None}),
    "skipped without a reason": ("life", SKIPPED | {"reason": None}),
    "cancelled without a reason": ("life", CANCELLED | {"reason": None}),
    "succeeded for a reason": ("life", SUCCEEDED | {"reason": "lost"}),
    "pending for a reason": ("life", {"reason": "misfire"}),
    "archived while pending": ("life", {"state": "archived"}),
    "archived while running": ("life", RUNNING | {"state": "archived"}),
    "fires before its instant": ("never_early", {"fire_at": NOON - seconds(1)}),
    "due before it fires": ("never_early", {"fire_at": NOON + seconds(5)}),
    "started before it fired": ("started_on_time", RUNNING | {"started_at": NOON - seconds(0.000001)}),
    "an attempt without a start": ("attempts", {"attempt": 1}),
    "a start without an attempt": ("attempts", {"started_at": NOON}),
    "covers none": ("coalesced", {"coalesced": 0}),
    "covers several since never": ("coalesced", {"coalesced": 2}),
    "covers one since earlier": ("coalesced", {"coalesced_from": NOON - seconds(10)}),
    "covers several since its own instant": ("coalesced", COALESCED | {"coalesced_from": NOON}),
}


@pytest.mark.parametrize(("constraint", "changed"), IMPOSSIBLE_EVENTS.values(), ids=IMPOSSIBLE_EVENTS)
def test_an_impossible_event_is_refused(rows: Connection, constraint: str, changed: dict[str, Any]) -> None:
    trigger_id = stored_trigger(rows)
    refused(rows, Event, event(trigger_id, **changed), rf"ck_events_({constraint})\b")


IMPOSSIBLE_TRIGGERS: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown state": ("state", {"state": "asleep", "next_at": None}),
    "an unknown target": ("target_type", {"target_type": "ftp"}),
    "plans while paused": ("plans", {"state": "paused"}),
    "plans while completed": ("plans", {"state": "completed"}),
    "plans although deleted": ("plans", {"deleted_at": NOON}),
    "the next one is planned already": ("ahead", {"next_at": NOON}),
    "a negative count": ("counts", {"planned_count": -1}),
    "fewer than no failures": ("counts", {"consecutive_failures": -1}),
}


@pytest.mark.parametrize(("constraint", "changed"), IMPOSSIBLE_TRIGGERS.values(), ids=IMPOSSIBLE_TRIGGERS)
def test_an_impossible_trigger_is_refused(rows: Connection, constraint: str, changed: dict[str, Any]) -> None:
    refused(rows, Trigger, trigger(**changed), rf"ck_triggers_{constraint}\b")


def attempt(**changed: Any) -> dict[str, Any]:
    return {
        "attempt": 1,
        "started_at": NOON,
        "finished_at": NOON,
        "outcome": "failed",
    } | changed


IMPOSSIBLE_ATTEMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "attempt number none": ("attempt", {"attempt": 0}),
    "an attempt that succeeded": ("outcome", {"outcome": "succeeded"}),
    "ended before it began": ("order", {"finished_at": NOON - seconds(1)}),
}


@pytest.mark.parametrize(("constraint", "changed"), IMPOSSIBLE_ATTEMPTS.values(), ids=IMPOSSIBLE_ATTEMPTS)
def test_an_impossible_attempt_is_refused(rows: Connection, constraint: str, changed: dict[str, Any]) -> None:
    row = event(stored_trigger(rows), **RUNNING)
    store(rows, Event, row)
    store(rows, Attempt, attempt(event_id=row["id"], attempt=7))
    refused(rows, Attempt, attempt(event_id=row["id"], **changed), rf"ck_attempts_{constraint}\b")
    refused(rows, Attempt, attempt(event_id=row["id"], attempt=7), "(?i)unique")


def purged(trigger_id: str, **changed: Any) -> dict[str, Any]:
    return {
        "trigger_id": trigger_id,
        "month": NOON.date().replace(day=1),
        "status": "succeeded",
        "events": 1,
        "occurrences": 1,
        "planned": 1,
        "instants": 0,
        "first_scheduled_for": NOON,
        "last_scheduled_for": NOON,
    } | changed


IMPOSSIBLE_ACCOUNTS: dict[str, tuple[str, dict[str, Any]]] = {
    "of what is not final": ("status", {"status": "running"}),
    "of no events": ("counts", {"events": 0}),
    "of fewer than no occurrences": ("counts", {"occurrences": -1, "planned": -1}),
    "of more that were planned than there were": ("counts", {"planned": 2, "occurrences": 2}),
    "of fewer occurrences than were planned": ("counts", {"occurrences": 0}),
    "backwards": ("order", {"first_scheduled_for": NOON + seconds(1)}),
}


@pytest.mark.parametrize(("constraint", "changed"), IMPOSSIBLE_ACCOUNTS.values(), ids=IMPOSSIBLE_ACCOUNTS)
def test_an_impossible_account_is_refused(rows: Connection, constraint: str, changed: dict[str, Any]) -> None:
    trigger_id = stored_trigger(rows)
    refused(rows, PurgedEvents, purged(trigger_id, **changed), rf"ck_purged_events_{constraint}\b")


def test_an_unknown_change_is_refused(rows: Connection) -> None:
    trigger_id = stored_trigger(rows)
    refused(rows, TriggerChange, changed_to("forgotten", trigger_id), "ck_trigger_changes_change")


def changed_to(change: str, trigger_id: str) -> dict[str, Any]:
    return {
        "trigger_id": trigger_id,
        "change": change,
        "effective_at": NOON,
        "state": "active",
        "schedule": {},
        "anchor": NOON,
        "policy": {},
        "planned_count": 0,
        "tzdata": "2026a",
    }


def test_every_constraint_has_a_row_that_it_refuses() -> None:
    """A new CHECK constraint needs its line in the tables above."""
    tried = {
        f"ck_{table}_{name}"
        for table, cases in {
            "events": IMPOSSIBLE_EVENTS,
            "triggers": IMPOSSIBLE_TRIGGERS,
            "attempts": IMPOSSIBLE_ATTEMPTS,
            "purged_events": IMPOSSIBLE_ACCOUNTS,
        }.items()
        for names, _ in cases.values()
        for name in names.split("|")
    } | {"ck_trigger_changes_change"}
    there = {str(check) for table in Base.metadata.sorted_tables for check in check_names(table)}
    assert tried == there


def check_names(table: Table) -> list[Any]:
    return [c.name for c in table.constraints if type(c).__name__ == "CheckConstraint"]


def refused(rows: Connection, model: type[Base], row: dict[str, Any], named: str) -> None:
    with pytest.raises(IntegrityError, match=named), rows.begin_nested():
        store(rows, model, row)


# ------------------------------------------------------------------------ what the states may hold


@pytest.mark.parametrize(
    ("model", "column", "values"),
    [
        (Event, "reason", list(Reason)),
        (Event, "source", list(Source)),
        (Trigger, "state", list(TriggerState)),
    ],
)
def test_every_member_of_an_enumeration_can_be_stored(
    rows: Connection, model: type[Base], column: str, values: list[str]
) -> None:
    trigger_id = stored_trigger(rows)
    for number, value in enumerate(values):
        if model is Event:
            base = SKIPPED if column == "reason" else {}
            at = {name: NOON + seconds(number) for name in ("scheduled_for", "fire_at", "due_at")}
            store(rows, Event, event(trigger_id, **base | at | {column: str(value)}))
        else:
            store(rows, Trigger, trigger(name=f"t{number}", next_at=None, **{column: str(value)}))


def test_every_change_can_be_put_on_record(rows: Connection) -> None:
    trigger_id = stored_trigger(rows)
    for change in Change:
        store(rows, TriggerChange, changed_to(str(change), trigger_id))
    kept = rows.execute(select(TriggerChange.change).order_by(TriggerChange.id)).scalars().all()
    assert kept == [str(change) for change in Change]


def test_the_axes_of_an_event_are_independent_once_it_is_final(rows: Connection) -> None:
    finals: list[dict[str, Any]] = [SUCCEEDED, FAILED, SKIPPED, CANCELLED]
    trigger_id = stored_trigger(rows)
    for number, changed in enumerate(finals):
        for state in EventState:
            store(rows, Event, event(trigger_id, **changed, state=str(state), source="manual"))
        assert rows.execute(select(func.count()).select_from(Event)).scalar_one() == 2 * number + 2


# ------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize("second", ["schedule", "catchup"])
def test_an_occurrence_has_one_planned_event(rows: Connection, second: str) -> None:
    trigger_id = stored_trigger(rows)
    store(rows, Event, event(trigger_id))
    refused(rows, Event, event(trigger_id, source=second), "(?i)unique.*(uq_events_occurrence|scheduled_for)")


@pytest.mark.parametrize("fate", [SUCCEEDED, FAILED, SKIPPED, CANCELLED])
def test_a_final_event_keeps_its_occurrence(rows: Connection, fate: dict[str, Any]) -> None:
    trigger_id = stored_trigger(rows)
    store(rows, Event, event(trigger_id, **fate, state="archived"))
    refused(rows, Event, event(trigger_id), "(?i)unique")


def test_events_that_no_schedule_planned_may_share_an_instant(rows: Connection) -> None:
    trigger_id = stored_trigger(rows)
    for source in ("schedule", "manual", "manual", "backfill", "backfill"):
        store(rows, Event, event(trigger_id, source=source))
    assert rows.execute(select(func.count()).select_from(Event)).scalar_one() == 5


def test_triggers_may_share_an_instant(rows: Connection) -> None:
    for name in ("a", "b"):
        row = trigger(name=name)
        store(rows, Trigger, row)
        store(rows, Event, event(row["id"]))


def test_a_name_is_free_again_when_its_trigger_is_deleted(rows: Connection) -> None:
    deleted = {"deleted_at": NOON, "next_at": None}
    store(rows, Trigger, trigger(**deleted))
    store(rows, Trigger, trigger(**deleted))
    store(rows, Trigger, trigger())
    refused(rows, Trigger, trigger(), "(?i)unique")


def test_a_trigger_with_a_history_cannot_be_removed(rows: Connection) -> None:
    """So an event needs no foreign key of its own: its trigger stays."""
    store(rows, TriggerChange, changed_to("created", stored_trigger(rows)))
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"), rows.begin_nested():
        rows.execute(delete(Trigger))


@pytest.mark.parametrize(
    "statement", ["UPDATE trigger_changes SET detail = 'x'", "DELETE FROM trigger_changes"]
)
def test_a_change_on_record_is_neither_changed_nor_deleted(rows: Connection, statement: str) -> None:
    store(rows, TriggerChange, changed_to("created", stored_trigger(rows)))
    with pytest.raises(DBAPIError, match="trigger_changes is append-only"), rows.begin_nested():
        rows.execute(text(statement))
    assert rows.execute(select(TriggerChange.detail)).scalar_one() is None


def test_the_last_migration_goes_back_and_forth(database: Database, database_url: str) -> None:
    before = definitions(database)
    command.downgrade(alembic_config(database_url), "0001")
    assert before.keys() - definitions(database).keys()
    migrate(database_url)
    assert definitions(database) == before


@pytest.mark.parametrize("page_bytes", [None, 4096])
def test_a_file_of_sqlites_is_of_larger_pages_unless_it_was_there_before(
    tmp_path: Path, page_bytes: int | None
) -> None:
    """And its log grows to as many bytes, whatever they are."""
    path = tmp_path / "triggerbeat.db"
    if page_bytes:
        with closing(sqlite3.connect(path)) as driver:
            driver.execute(f"PRAGMA page_size={page_bytes}")
            driver.execute("CREATE TABLE old (id)")
    database = Database(f"sqlite:///{path}")
    with database.read() as connection:
        found = connection.execute(text("PRAGMA page_size")).scalar_one()
        log_pages = connection.execute(text("PRAGMA wal_autocheckpoint")).scalar_one()
    database.close()
    assert found == (page_bytes or PAGE_BYTES)
    assert found * log_pages == CHECKPOINT_BYTES


def test_attempts_go_with_their_event(rows: Connection) -> None:
    row = event(stored_trigger(rows), **FAILED)
    store(rows, Event, row)
    store(rows, Attempt, attempt(event_id=row["id"]))
    rows.execute(delete(Event))
    assert rows.execute(select(func.count()).select_from(Attempt)).scalar_one() == 0


# ---------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    "instant",
    [
        NOON,
        NOON + timedelta(microseconds=1),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime.fromisoformat("2026-11-20T13:00:00.5+01:00"),
    ],
)
def test_an_instant_is_kept_to_the_microsecond_and_read_in_utc(rows: Connection, instant: datetime) -> None:
    store(rows, Trigger, trigger(anchor=instant))
    found = rows.execute(select(Trigger.anchor)).scalar_one()
    assert (found, found.tzinfo) == (instant, UTC)


@pytest.mark.parametrize(
    "value", [0, 2.0, 2**70, "", "\N{SNOWMAN}", "a\u0000b", [], {}, {"b": 1, "a": [None, True]}, False]
)
def test_a_json_value_is_read_as_it_was_written(rows: Connection, value: Any) -> None:
    store(rows, Event, event(stored_trigger(rows), payload=value))
    found = rows.execute(select(Event.payload)).scalar_one()
    assert (found, type(found)) == (value, type(value))
    assert not isinstance(value, dict) or list(found) == list(value)


def test_no_json_value_is_null(rows: Connection) -> None:
    store(rows, Event, event(stored_trigger(rows), payload=None))
    assert rows.execute(text("SELECT payload IS NULL FROM events")).scalar_one()


def test_ids_grow_with_time_and_are_uuids_of_version_7() -> None:
    ids = [new_id(NOON + timedelta(milliseconds=n)) for n in range(100)]
    assert ids == sorted(ids)
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids
    )
    assert len({new_id(NOON) for _ in range(1000)}) == 1000


def test_ids_of_one_instant_ascend() -> None:
    """Each goes into an index right behind the one before."""
    ids = new_ids(NOON, 1000)
    assert ids == sorted(set(ids))
    assert ids[-1] < new_id(NOON + timedelta(milliseconds=1))
