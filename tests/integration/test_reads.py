"""What users read: views, pages, cursors; and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text

from models import Attempt, Event
from models.base import new_id
from models.database import Database
from triggers import manage, tick
from triggers.definition import parse_trigger, warnings_for
from triggers.errors import InvalidDocument, NotFound
from triggers.settings import Settings
from triggers.store import delivery, reads

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EVERY_10_S = {"type": "interval", "every_seconds": 10}


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url, clock=lambda _: NOON)
    yield made
    made.close()


def create(database: Database, name: str = "t", at: datetime = NOON, **parts: Any) -> str:
    document = {"name": name, "schedule": {"type": "manual"}, "target": {"type": "log"}} | parts
    with database.write() as connection:
        return manage.create(connection, parse_trigger(document, Settings(), at), at).id


def add(database: Database, trigger_id: str, at: datetime, source: str = "schedule", **more: Any) -> str:
    """An event that succeeded at its instant."""
    values = {
        "id": new_id(at),
        "trigger_id": trigger_id,
        "scheduled_for": at,
        "fire_at": at,
        "due_at": at,
        "source": source,
        "status": "succeeded",
        "attempt": 1,
        "created_at": at,
        "started_at": at,
        "attempt_started_at": at,
        "finished_at": at,
    }
    with database.write() as connection:
        connection.execute(insert(Event).values(values | more))
    return str((values | more)["id"])


def all_pages(connection: Connection, **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = reads.event_page(connection, cursor=cursor, **filters)
        assert len(page["items"]) <= filters["limit"]
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


# -------------------------------------------------------------------------------------------- pages


def test_pages_of_events_give_each_once_newest_first(database: Database) -> None:
    ids = [create(database, name) for name in "ab"]
    for number in range(7):
        at = NOON - seconds(number // 2)
        for trigger_id in ids:
            add(database, trigger_id, at, "manual")
            if number % 2:
                add(database, trigger_id, at)
    with database.read() as connection:
        for limit in (1, 3, 100):
            items = all_pages(connection, limit=limit)
            keys = [(item["scheduled_for"], item["trigger_id"], item["id"]) for item in items]
            assert len(keys) == 20
            assert keys == sorted(set(keys), reverse=True)
            own = all_pages(connection, limit=limit, trigger_id=ids[0])
            assert [item["id"] for item in own] == [i["id"] for i in items if i["trigger_name"] == "a"]


def test_pages_are_filtered(database: Database) -> None:
    trigger_id = create(database)
    for number in range(6):
        add(database, trigger_id, NOON + seconds(number), state="archived" if number < 3 else "active")
    failed = {"status": "failed", "reason": "attempts"}
    add(database, trigger_id, NOON + seconds(6), **failed)
    with database.read() as connection:

        def offsets(**filters: Any) -> list[float]:
            found = all_pages(connection, limit=2, **filters)
            assert found == all_pages(connection, limit=2, trigger_id=trigger_id, **filters)
            instants = [datetime.fromisoformat(item["scheduled_for"]) for item in found]
            return [(instant - NOON).total_seconds() for instant in instants]

        assert offsets(status="failed") == [6]
        assert offsets(status="pending") == []
        assert offsets(state="archived") == [2, 1, 0]
        assert offsets(since=NOON + seconds(2), until=NOON + seconds(5)) == [4, 3, 2]
        assert offsets(status="succeeded", state="active") == [5, 4, 3]


def test_a_page_stays_whole_while_events_are_added(database: Database) -> None:
    trigger_id = create(database)
    for number in range(4):
        add(database, trigger_id, NOON + seconds(number))
    with database.read() as connection:
        first = reads.event_page(connection, limit=2)
    add(database, trigger_id, NOON + seconds(10))
    with database.read() as connection:
        second = reads.event_page(connection, limit=2, cursor=first["next_cursor"])
    instants = [item["scheduled_for"][17:19] for item in first["items"] + second["items"]]
    assert instants == ["03", "02", "01", "00"]
    assert second["next_cursor"] is None


def test_pages_of_triggers_leave_out_the_deleted(database: Database) -> None:
    for number, name in enumerate("abcd"):
        create(database, name, NOON + seconds(number), tags=["x", 'y"z'] if name in "ab" else [])
    with database.write() as connection:
        manage.delete(connection, "b", NOON)
        manage.pause(connection, "c", NOON)
    with database.read() as connection:

        def names(**filters: Any) -> str:
            return "".join(
                item["name"] for item in reads.trigger_page(connection, limit=9, **filters)["items"]
            )

        assert names() == "acd"
        assert names(tag="x") == names(tag='y"z') == "a"
        assert names(tag="X") == names(tag="y") == ""
        assert names(state="paused") == "c"
        page = reads.trigger_page(connection, limit=2)
        rest = reads.trigger_page(connection, limit=2, cursor=page["next_cursor"])
        assert [item["name"] for item in page["items"] + rest["items"]] == ["a", "c", "d"]


@pytest.mark.parametrize(
    "cursor", ["", "x", "W10", "bnVsbA", "WzEsMl0", "é", "e30", "W1tdXQ", "=", "A" * 5000]
)
def test_a_malformed_cursor_is_refused(database: Database, cursor: str) -> None:
    with database.read() as connection:
        with pytest.raises(InvalidDocument):
            reads.event_page(connection, limit=1, cursor=cursor)
        with pytest.raises(InvalidDocument):
            reads.trigger_page(connection, limit=1, cursor=cursor)


# -------------------------------------------------------------------------------------------- views


def test_an_event_reads_as_the_contract_says(database: Database) -> None:
    trigger_id = create(database)
    late = NOON + timedelta(milliseconds=12, microseconds=345)
    event_id = add(
        database,
        trigger_id,
        NOON,
        started_at=late,
        attempt_started_at=late,
        finished_at=NOON + seconds(1),
        coalesced=3,
        coalesced_from=NOON - seconds(20),
        result={"status": 200, "body": "ok"},
        progress=[1],
    )
    with database.read() as connection:
        assert reads.get_event(connection, event_id.upper()) == {
            "id": event_id,
            "trigger_id": trigger_id,
            "trigger_name": "t",
            "scheduled_for": "2026-11-20T12:00:00.000000Z",
            "fire_at": "2026-11-20T12:00:00.000000Z",
            "source": "schedule",
            "status": "succeeded",
            "state": "active",
            "reason": None,
            "attempt": 1,
            "coalesced": 3,
            "coalesced_from": "2026-11-20T11:59:40.000000Z",
            "created_at": "2026-11-20T12:00:00.000000Z",
            "started_at": "2026-11-20T12:00:00.012345Z",
            "finished_at": "2026-11-20T12:00:01.000000Z",
            "lateness_ms": 12.345,
            "result": {"status": 200, "body": "ok"},
            "error": None,
            "progress": [1],
            "attempts": [
                {
                    "attempt": 1,
                    "started_at": "2026-11-20T12:00:00.012345Z",
                    "finished_at": "2026-11-20T12:00:01.000000Z",
                    "duration_ms": 987.655,
                    "outcome": "succeeded",
                    "result": {"status": 200, "body": "ok"},
                    "error": None,
                }
            ],
        }


def test_attempts_are_those_that_failed_and_the_latest(database: Database) -> None:
    trigger_id = create(database)
    event_id = add(database, trigger_id, NOON, attempt=3)
    error = {"type": "E", "message": "m"}
    with database.write() as connection:
        for number, outcome in ((1, "failed"), (2, "lost")):
            at = NOON + seconds(number)
            connection.execute(
                insert(Attempt).values(
                    event_id=event_id,
                    attempt=number,
                    started_at=at,
                    finished_at=at,
                    outcome=outcome,
                    error=error,
                )
            )
    with database.read() as connection:
        attempts = reads.get_event(connection, event_id)["attempts"]
    outcomes = [(attempt["attempt"], attempt["outcome"], attempt["error"]) for attempt in attempts]
    assert outcomes == [(1, "failed", error), (2, "lost", error), (3, "succeeded", None)]


def test_an_event_of_a_deleted_trigger_keeps_its_name(database: Database) -> None:
    event_id = add(database, create(database), NOON)
    with database.write() as connection:
        manage.delete(connection, "t", NOON)
    with database.read() as connection:
        assert reads.get_event(connection, event_id)["trigger_name"] == "t"
        assert len(reads.event_page(connection, limit=9)["items"]) == 1
        with pytest.raises(NotFound):
            reads.get_trigger(connection, "t")


@pytest.mark.parametrize("event_id", ["", "x", "\0", "0194e8a0-0000-7000-8000-000000000000"])
def test_an_event_that_is_not_there(database: Database, event_id: str) -> None:
    with database.read() as connection, pytest.raises(NotFound):
        reads.get_event(connection, event_id)


def test_next_fire_at_is_the_earliest_instant_not_yet_started(database: Database) -> None:
    create(database, schedule=EVERY_10_S | {"max_runs": 7})

    def read() -> tuple[Any, Any, list[str]]:
        with database.read() as connection:
            view = reads.describe_trigger(connection, "t", NOON, warnings_for)
        following = [instant[17:19] for instant in view["next_occurrences"]]
        return view["next_fire_at"], view["last_fired_at"], following

    assert read() == ("2026-11-20T12:00:00.000000Z", None, ["00", "10", "20", "30", "40"])
    tick.execute_scheduled_triggers(database, lambda _: True, seconds(35), "x")
    assert read() == ("2026-11-20T12:00:00.000000Z", None, ["00", "10", "20", "30", "40"])
    with database.write() as connection:
        ids = [item["id"] for item in reads.event_page(connection, limit=9)["items"]]
        assert len(delivery.start(connection, ids, NOON + seconds(20.5), NOON + seconds(60))) == 3
    assert read() == (
        "2026-11-20T12:00:30.000000Z",
        "2026-11-20T12:00:20.500000Z",
        ["30", "40", "50", "00"],
    )
    with database.write() as connection:
        manage.pause(connection, "t", NOON + seconds(21))
    assert read() == (None, "2026-11-20T12:00:20.500000Z", [])
    with database.write() as connection:
        manage.resume(connection, "t", NOON + seconds(51))
        connection.execute(text("DELETE FROM events"))
    assert read() == ("2026-11-20T12:01:00.000000Z", None, ["00", "10", "20", "30"])


def test_next_fire_at_counts_the_jitter(database: Database) -> None:
    from triggers.schedule import fire_at

    trigger_id = create(database, schedule=EVERY_10_S | {"jitter_seconds": 3600})
    with database.read() as connection:
        read = reads.get_trigger(connection, "t")["next_fire_at"]
    assert datetime.fromisoformat(read) == fire_at(trigger_id, NOON, 3600)


def test_a_schedule_that_is_not_understood_any_more_can_be_read(database: Database) -> None:
    create(database, schedule={"type": "cron", "cron": "0 0 * * *"})
    with database.write() as connection:
        gone = json.dumps({"type": "cron", "cron": "0 0 * * *", "timezone": "Gone/City"})
        cast = "CAST(:gone AS json)" if database.is_postgres else ":gone"
        connection.execute(text(f"UPDATE triggers SET schedule = {cast}, next_at = NULL"), {"gone": gone})
    with database.read() as connection:
        view = reads.describe_trigger(connection, "t", NOON, warnings_for)
    assert view["next_occurrences"] == []
    assert "Gone/City" in view["warnings"][0]


# --------------------------------------------------------------------------------------------- costs

MANY = """
INSERT INTO events (id, trigger_id, scheduled_for, fire_at, due_at, source, status, state, attempt,
                    dispatches, coalesced, created_at, started_at, attempt_started_at, finished_at)
SELECT gen_random_uuid(), t.id, x.at, x.at, x.at, CASE WHEN g % 10 = 0 THEN 'manual' ELSE 'schedule' END,
       'succeeded', 'active', 1, 0, 1, x.at, x.at, x.at, x.at
FROM triggers t, generate_series(1, 500) g, LATERAL (SELECT now() + g * interval '1 minute' AS at) x
"""


def test_no_page_scans_the_table_or_sorts_more_than_itself(postgres_url: str) -> None:
    database = Database(postgres_url)
    trigger_ids = [create(database, f"t{number}") for number in range(40)]
    with database.write() as connection:
        connection.execute(text(MANY))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE events"))
    with database.read() as connection:
        cursor = reads.event_page(connection, limit=300)["next_cursor"]
        for trigger_id in (None, trigger_ids[7]):
            for conditions in ([], reads.before(cursor)):
                statement = reads.events(trigger_id, conditions, 101).compile(
                    dialect=connection.dialect, compile_kwargs={"literal_binds": True}
                )
                (found,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}").scalars()
                for node in nodes(found[0]["Plan"]):
                    if node.get("Relation Name") == "events":
                        assert node["Node Type"] == "Index Scan"
                        assert node["Actual Rows"] <= 250
                        assert node["Index Name"] != "ix_events_finished"
                    if node["Node Type"] == "Sort":
                        assert node["Actual Rows"] <= 202
    database.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inside in plan.get("Plans", []):
        yield from nodes(inside)
