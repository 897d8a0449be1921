"""After an update of the tz database plans are made anew, forwards, once, and nothing of the past moves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from models import Event, Node, Trigger, TriggerChange, ZoneRules
from tests.integration.test_tick import (  # noqa: F401  fixtures
    NOON,
    World,
    emptied_postgres_url,
    reused_postgres_url,
    seconds,
    world,
)
from tests.tz_files import tz_path, write_release, write_zone
from triggers import manage, tzdata, zone_update
from triggers.status import zones_document
from triggers.zone_update import ZoneUpdate, forget

HOUR = 3_600
ZONE = "Europe/Berlin"
WINTER = "<+01>-1"  # as it is in November, all year long
LATER = "<+02>-2"  # a new law: one hour further east, so that everything comes an hour earlier
EARLIER = "<+00>0"  # or back: an hour later


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    """The directory of zones."""
    directory = tmp_path / "zoneinfo"
    write_zone(directory, ZONE, WINTER)
    write_release(directory, "2026a")
    with tz_path(directory):
        yield directory


@pytest.fixture
def settled(world: World, files: Path) -> World:  # noqa: F811
    """A database whose plans so far were made by 2026a."""
    look(world)
    return world


def look(world: World) -> ZoneUpdate:  # noqa: F811
    """The first tick of a new process."""
    forget()
    made = ZoneUpdate(world.database, tzdata.rules)
    made.look()
    return made


def updated(files: Path, rule: str, release: str = "2026b") -> None:
    """The administrator brings the tz database up to date."""
    write_zone(files, ZONE, rule)
    write_release(files, release)


def cron(text: str, **bounds: Any) -> dict[str, Any]:
    return {"type": "cron", "cron": text, "timezone": ZONE, **bounds}


def local(at: str) -> dict[str, Any]:
    return {"type": "once", "at": at, "timezone": ZONE}


def next_offset(world: World, name: str = "t") -> float | None:  # noqa: F811
    """The next instant in seconds after noon (UTC)."""
    at: datetime | None = world.trigger(name).next_at
    return None if at is None else (at - NOON).total_seconds()


def replanned(world: World) -> list[Any]:  # noqa: F811
    return [row for row in world.rows(TriggerChange) if row.change == "replanned"]


def berlin(world: World) -> Any:  # noqa: F811
    (row,) = [row for row in world.rows(ZoneRules) if row.zone == ZONE]
    return row


def test_the_first_tick_of_all_notes_by_which_rules_plans_are_made(settled: World) -> None:
    rows = settled.rows(ZoneRules)
    assert len(rows) > 400
    assert {(row.tzdata, row.moved, row.adopted_at) for row in rows} == {("2026a", None, NOON)}
    assert settled.changes() == []


def test_the_next_instant_moves_with_the_rules(settled: World, files: Path) -> None:
    settled.create(schedule=cron("0 15 * * *"))
    assert next_offset(settled) == 2 * HOUR
    updated(files, LATER)
    look(settled)
    assert next_offset(settled) == HOUR
    (change,) = replanned(settled)
    assert (change.effective_at, change.tzdata, change.state) == (NOON, "2026b", "active")
    assert change.detail == "tzdata 2026b: next 2026-11-20T14:00:00Z is now 2026-11-20T13:00:00Z"
    assert settled.trigger().planned_until == NOON
    row = berlin(settled)
    assert (row.tzdata, row.adopted_at, row.moved) == ("2026b", NOON, 1)
    assert row.examples == [{"trigger": "t", "was": "2026-11-20T14:00:00Z", "now": "2026-11-20T13:00:00Z"}]


def test_what_was_planned_and_not_started_moves_too(settled: World, files: Path) -> None:
    settled.create(schedule=cron("1 13 * * *"))
    settled.tick()
    assert settled.offsets() == [60]
    updated(files, EARLIER)
    look(settled)
    assert settled.offsets() == []
    assert next_offset(settled) == HOUR + 60
    assert settled.trigger().planned_count == 0
    (change,) = replanned(settled)
    assert change.detail == "tzdata 2026b: next 2026-11-20T12:01:00Z is now 2026-11-20T13:01:00Z"
    assert berlin(settled).examples == [
        {"trigger": "t", "was": "2026-11-20T12:01:00Z", "now": "2026-11-20T13:01:00Z"}
    ]
    settled.now += seconds(HOUR)
    settled.tick()
    assert settled.offsets() == [HOUR + 60]


def test_an_instant_that_lies_behind_is_not_planned_and_what_ran_stays(settled: World, files: Path) -> None:
    """13:30 here is half past twelve by the old rules, half past eleven by the new: it is past."""
    settled.create(schedule=cron("30 13 * * *"))
    settled.create("ran", schedule=cron("0,30 13 * * *"))
    settled.tick()
    updated(files, LATER)
    look(settled)
    settled.tick()
    assert next_offset(settled) == 23.5 * HOUR
    assert settled.offsets() == [0], "of the other, which was due at noon by the old rules"
    assert settled.event().status == "pending"


@pytest.mark.parametrize("misfire", ["skip", "fire_once", "fire_all"])
def test_what_is_due_and_not_planned_yet_is_not_lost(settled: World, files: Path, misfire: str) -> None:
    """The ticks are late, by half an hour: the occurrence that the old rules named gets its event."""
    settled.create(schedule=cron("0 13 * * *"), policy={"misfire": misfire})
    settled.now += seconds(HOUR / 2)
    updated(files, EARLIER)
    look(settled)
    settled.tick()
    assert settled.offsets() == [0]
    assert next_offset(settled) == HOUR


def test_what_the_rules_do_not_touch_does_not_move(settled: World, files: Path) -> None:
    settled.create("other-zone", schedule={"type": "cron", "cron": "0 15 * * *", "timezone": "Asia/Tokyo"})
    settled.create("interval", schedule={"type": "interval", "every_seconds": 60})
    settled.create("offset", schedule={"type": "once", "at": "2027-01-01T00:00:00Z", "timezone": ZONE})
    settled.create("each-minute", schedule=cron("* * * * *"))
    settled.create("limited", schedule=cron("* * * * *", max_runs=2))
    settled.create("paused", schedule=cron("0 15 * * *"))
    settled.tick()
    with settled.database.write() as connection:
        manage.pause(connection, "paused", settled.now)
    before = [settled.rows(model) for model in (Trigger, Event, TriggerChange)]
    updated(files, LATER)
    look(settled)
    assert [settled.rows(model) for model in (Trigger, Event, TriggerChange)] == before
    assert (berlin(settled).tzdata, berlin(settled).moved) == ("2026b", 0)


def test_a_local_time_moves_and_one_that_has_passed_by_the_new_rules_stays(
    settled: World, files: Path
) -> None:
    settled.create("soon", schedule=local("2026-11-20T13:01:00"))  # 12:01 by the old rules
    settled.create("late", schedule=local("2026-11-20T18:00:00"))
    settled.create("close", schedule=local("2026-11-20T13:40:00"))  # 12:40, and 11:40 by the new
    settled.tick()
    updated(files, LATER)
    look(settled)
    assert settled.offsets() == [60], "it would be lost otherwise"
    assert (next_offset(settled, "late"), next_offset(settled, "close")) == (4 * HOUR, 40 * 60)


def test_the_last_occurrence_of_a_trigger_moves_before_it_is_completed(settled: World, files: Path) -> None:
    settled.create(schedule=cron("1 13 * * *", max_runs=1))
    settled.create("once", schedule=local("2026-11-20T13:01:00"))
    settled.tick()
    assert settled.trigger().exhausted
    updated(files, EARLIER)
    look(settled)
    assert settled.offsets() == []
    for name in ("t", "once"):
        assert (next_offset(settled, name), settled.trigger(name).exhausted) == (HOUR + 60, False)
    settled.now += seconds(HOUR)
    settled.tick()
    assert settled.offsets() == [HOUR + 60] * 2


def test_max_runs_still_ends_the_plan(settled: World, files: Path) -> None:
    settled.create(schedule=cron("0 * * * *", max_runs=2))
    settled.tick()
    settled.now += seconds(HOUR)
    settled.tick()
    updated(files, "<+0030>-0:30")
    look(settled)
    settled.now += seconds(10 * HOUR)
    settled.tick()
    assert settled.offsets() == [0, HOUR]


def test_an_occurrence_that_was_cancelled_ahead_still_counts(settled: World, files: Path) -> None:
    settled.create(schedule=cron("1 13 * * *", max_runs=1))
    settled.tick()
    settled.change(Event, status="cancelled", reason="paused", finished_at=NOON, recheck_at=None)
    updated(files, EARLIER)
    look(settled)
    assert (next_offset(settled), settled.trigger().exhausted) == (None, True)
    assert settled.trigger().planned_count == 1


def test_nothing_is_done_twice(settled: World, files: Path) -> None:
    settled.create(schedule=cron("0 15 * * *"))
    updated(files, LATER)
    look(settled).look()
    before = [settled.rows(model) for model in (Trigger, TriggerChange, ZoneRules)]
    settled.now += seconds(60)
    look(settled).look()
    assert [settled.rows(model) for model in (Trigger, TriggerChange, ZoneRules)] == before


def test_an_older_release_does_not_move_plans_back(
    settled: World, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settled.create(schedule=cron("0 15 * * *"))
    updated(files, LATER)
    look(settled)
    updated(files, WINTER, "2026a")
    with caplog.at_level(logging.WARNING):
        look(settled)
    assert next_offset(settled) == HOUR
    assert berlin(settled).tzdata == "2026b"
    assert "the tz database of this machine is 2026a, plans were made by 2026b" in caplog.text


def test_what_an_older_release_planned_meanwhile_is_made_good(
    settled: World, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines are brought up to date one after another, and go on ticking meanwhile."""
    updated(files, LATER)
    new = look(settled)
    updated(files, WINTER, "2026a")
    forget()
    settled.now += seconds(60)
    settled.create(schedule=cron("0 15 * * *"))
    node = {"took_seconds": 0.0, "planned": 0, "clock_skew_seconds": 0.0, "tzdata": "2026a"}
    with settled.database.write() as connection:
        connection.execute(insert(Node).values(name="old", last_tick_at=settled.now, **node))
    assert next_offset(settled) == 2 * HOUR
    updated(files, LATER)
    forget()
    monkeypatch.setattr(zone_update, "AGAIN_SECONDS", 3_600.0)
    new.look()
    assert next_offset(settled) == 2 * HOUR, "not at every tick"
    monkeypatch.setattr(zone_update, "AGAIN_SECONDS", 0.0)
    new.look()
    assert next_offset(settled) == HOUR
    assert berlin(settled).moved == 1
    settled.now += seconds(60)
    look(settled)
    assert len(replanned(settled)) == 1


def test_a_new_process_finds_what_an_older_release_planned(settled: World, files: Path) -> None:
    updated(files, LATER)
    look(settled)
    updated(files, WINTER, "2026a")
    forget()
    settled.now += seconds(60)
    with settled.database.write() as connection:
        node = {"took_seconds": 0.0, "planned": 0, "clock_skew_seconds": 0.0, "tzdata": "2026a"}
        connection.execute(insert(Node).values(name="old", last_tick_at=settled.now, **node))
    settled.create(schedule=cron("0 15 * * *"))
    updated(files, LATER)
    look(settled)
    assert next_offset(settled) == HOUR


def test_directories_that_do_not_say_their_release_are_adopted(settled: World, files: Path) -> None:
    settled.create(schedule=cron("0 15 * * *"))
    write_zone(files, ZONE, LATER)
    (files / "tzdata.zi").unlink()
    look(settled)
    assert next_offset(settled) == HOUR
    assert berlin(settled).tzdata.startswith("custom-")


def test_a_process_that_is_not_restarted_reads_a_new_release_when_it_has_settled(
    settled: World, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.create(schedule=cron("0 15 * * *"))
    process = look(settled)
    updated(files, LATER)
    process.look()
    process.look()
    assert next_offset(settled) == 2 * HOUR, "its files may still be on their way"
    monkeypatch.setattr(zone_update, "SETTLE_SECONDS", 0.0)
    process.look()
    assert next_offset(settled) == HOUR
    assert replanned(settled)[0].tzdata == "2026b"
    settled.create("new", schedule=cron("0 15 * * *"))
    assert next_offset(settled, "new") == HOUR
    process.look()
    assert len(replanned(settled)) == 1


def test_the_walk_goes_on_where_a_tick_left_it(
    settled: World, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zone_update, "WINDOW", 2)
    monkeypatch.setattr(zone_update, "BATCH", 1)
    monkeypatch.setattr(zone_update, "TICK_SECONDS", 0.0)
    for number in range(5):
        settled.create(f"t-{number}", schedule=cron("0 15 * * *"))
    updated(files, LATER)
    process = look(settled)
    assert len(replanned(settled)) == 2
    assert berlin(settled).tzdata == "2026a", "a process that starts now begins the walk anew"
    process.look()
    process.look()
    assert {next_offset(settled, f"t-{number}") for number in range(5)} == {HOUR}
    assert (berlin(settled).tzdata, berlin(settled).moved) == ("2026b", 5)
    assert len(replanned(settled)) == 5


def test_a_window_that_failed_is_looked_at_again(
    settled: World, files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settled.create(schedule=cron("0 15 * * *"))
    updated(files, LATER)
    with monkeypatch.context() as broken:
        broken.setattr(zone_update, "plan_anew", lambda *_: 1 / 0)
        process = look(settled)
    assert "the next tick tries again" in caplog.text
    assert next_offset(settled) == 2 * HOUR
    process.look()
    assert next_offset(settled) == HOUR


def test_it_is_logged_and_shown(settled: World, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    settled.create(schedule=cron("0 15 * * *"))
    updated(files, LATER)
    with caplog.at_level(logging.INFO):
        look(settled)
    assert "replanned trigger=t zone=Europe/Berlin was=2026-11-20T14:00:00Z now=2026-11-20T13:00:00Z" in (
        caplog.text
    )
    assert "of 1 zones the rules changed, 1 triggers were planned anew" in caplog.text
    with settled.database.read() as connection:
        shown = zones_document(connection)
    assert shown == {
        "release": "2026b",
        "adopted_at": "2026-11-20T12:00:00Z",
        "zones_changed": 1,
        "triggers_moved": 1,
        "moved": [
            {"zone": ZONE, "trigger": "t", "was": "2026-11-20T14:00:00Z", "now": "2026-11-20T13:00:00Z"}
        ],
    }
