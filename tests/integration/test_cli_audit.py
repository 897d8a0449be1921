"""`triggerbeat audit`, as it is typed: what it prints, how it exits, what it refuses."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select, text, update

from models import Event, Trigger
from models.database import Database
from tests.integration import test_cli
from tests.integration.test_cli import Terminal
from triggers import manage, tick
from triggers.definition import parse_trigger
from triggers.rfc3339 import format_utc
from triggers.settings import Settings

terminal = test_cli.terminal
database = test_cli.database

KEYS = {"expected", "recorded", "missing", "duplicate", "unexpected", "overdue", "unfinished", "purged"}
HOUR = timedelta(hours=1)


@pytest.fixture
def recorded(database: Database) -> Database:
    """An hour of a trigger that fires every minute: each event succeeded, ten minutes ago and before."""
    with database.write() as connection:
        now = database.now(connection).replace(microsecond=0)
        begin = now - HOUR - timedelta(minutes=10)
        schedule = {
            "type": "interval",
            "every_seconds": 60,
            "start_time": format_utc(begin),
            "end_time": format_utc(begin + HOUR - timedelta(seconds=1)),
        }
        policy = {"overlap": "skip"}
        given = {"name": "minutely", "schedule": schedule, "target": {"type": "log"}, "policy": policy}
        manage.create(connection, parse_trigger(given, Settings(), begin), begin)
    early = Database(database.url.render_as_string(hide_password=False), clock=lambda _: begin)
    tick.execute_scheduled_triggers(early, lambda hints: True, HOUR, "any")
    early.close()
    with database.write() as connection:
        succeed = {"status": "succeeded", "attempt": 1, "recheck_at": None}
        instants = dict.fromkeys(("started_at", "attempt_started_at", "finished_at"), Event.scheduled_for)
        connection.execute(update(Event).values(succeed | instants))
    return database


def test_a_clean_day_is_told_in_counts(terminal: Terminal, recorded: Database) -> None:
    answer = terminal.json("audit")
    assert {key: answer[key] for key in KEYS} == dict.fromkeys(KEYS, 0) | {"expected": 60, "recorded": 60}
    assert (answer["ok"], answer["findings"], answer["triggers"]) == (True, [], 1)
    assert "notes" not in answer
    shown = terminal("audit")
    assert "expected" in shown
    assert "WHAT" not in shown


def test_what_is_missing_is_told_with_its_instant_and_exit_status_1(
    terminal: Terminal, recorded: Database
) -> None:
    with recorded.write() as connection:
        at = connection.execute(
            delete(Event).returning(Event.scheduled_for).where(Event.id == first(recorded))
        )
        instant = at.scalar_one()
    answer = terminal.json("audit", expect=1)
    assert (answer["expected"], answer["recorded"], answer["missing"], answer["ok"]) == (60, 59, 1, False)
    (finding,) = answer["findings"]
    assert finding == {
        "kind": "missing",
        "code": "missing",
        "trigger": "minutely",
        "trigger_id": finding["trigger_id"],
        "scheduled_for": format_utc(instant),
        "event": None,
        "occurrences": 1,
        "text": "planned, and no event has it",
    }
    shown = terminal("audit", expect=1)
    assert "minutely" in shown
    assert "planned, and no event has it" in shown
    # outside of the span it is not seen
    assert terminal.json("audit", "--from", format_utc(instant + timedelta(seconds=1)))["expected"] == 59
    assert terminal.json("audit", "--to", format_utc(instant))["expected"] == 0


def first(database: Database) -> str:
    with database.read() as connection:
        return str(connection.execute(select(Event.id).order_by(Event.scheduled_for).limit(1)).scalar_one())


def test_one_trigger_is_audited_by_name_and_by_id_and_tells_why_it_did_not_run(
    terminal: Terminal, recorded: Database
) -> None:
    with recorded.write() as connection:
        skipped = {"status": "skipped", "reason": "overlap", "attempt": 0}
        skipped |= {"started_at": None, "attempt_started_at": None}
        connection.execute(update(Event).where(Event.id == first(recorded)).values(skipped))
    answer = terminal.json("audit", "--trigger", "minutely")
    assert (answer["recorded"], answer["did_not_run"]) == (60, {"overlap": 1})
    (note,) = answer["notes"]
    assert (note["code"], note["occurrences"]) == ("overlap", 1)
    with recorded.read() as connection:
        id_ = connection.execute(select(Trigger.id)).scalar_one()
    assert terminal.json("audit", "--trigger", id_)["notes"] == [note]
    assert "overlap" in terminal("audit", "--trigger", "minutely")


def test_what_cannot_be_asked_is_refused(terminal: Terminal, database: Database) -> None:
    assert "--from" in terminal.refuses("audit", "--from", "yesterday", status=2)
    assert "offset" in terminal.refuses("audit", "--to", "2026-11-20T12:00:00", status=2)
    span = ("--from", "2026-11-20T12:00:00Z", "--to", "2026-11-20T11:00:00Z")
    assert "ends before it begins" in terminal.refuses("audit", *span, status=2)
    assert "there is no trigger" in terminal.refuses("audit", "--trigger", "nobody")


def test_a_span_may_begin_with_the_first_instant_and_end_with_the_last(
    terminal: Terminal, recorded: Database
) -> None:
    first, last = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
    assert terminal.json("audit", "--from", first)["expected"] == 60
    assert terminal.json("audit", "--from", first, "--to", last)["expected"] == 60
    answer = terminal.json("audit", "--to", "0001-01-01T05:00:00Z")
    assert (answer["from"], answer["expected"]) == (first, 0)


def test_a_row_that_cannot_be_read_is_no_wrong_use(terminal: Terminal, recorded: Database) -> None:
    if recorded.is_postgres:
        spoilt = "UPDATE events SET finished_at = 'infinity'"
    else:
        spoilt = "UPDATE events SET finished_at = 'yesterday'"
    with recorded.write() as connection:
        connection.execute(text(spoilt))
    assert terminal.json("audit", expect=1)["unexpected"] == 60


def test_an_empty_installation_is_in_order(terminal: Terminal, database: Database) -> None:
    answer = terminal.json("audit")
    assert {answer[key] for key in KEYS} == {0}
