"""The clock is the database's: processes whose own is wrong by minutes plan the same and start none early."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select, text

from models import Event, Node
from models.database import Database
from tests.acceptance.installation import Installation, message, stepped_clock
from tests.processes import wait_until

EVERY_SECOND = {"type": "interval", "every_seconds": 1}
OFF_SECONDS = 180
HOUR_SECONDS = 3_600
HORIZON_SECONDS = 6
BEAT = {"TICK_SECONDS": 2, "HORIZON_SECONDS": HORIZON_SECONDS}


def shift_clock(url: str, by_seconds: int) -> None:
    """Let the database's own clock be another than that of this machine, for all who connect from now on."""
    database = Database(url)
    with database.write() as connection:
        connection.execute(text("CREATE SCHEMA shifted"))
        connection.execute(
            text(
                "CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
                f" $$ SELECT pg_catalog.clock_timestamp() + interval '{by_seconds} seconds' $$"
            )
        )
        name = make_url(url).database
        connection.execute(text(f'ALTER DATABASE "{name}" SET search_path = shifted, pg_catalog, public'))
    database.close()


def planned(installation: Installation) -> list[Any]:
    with installation.database.read() as connection:
        return list(connection.execute(select(Event.__table__).order_by(Event.scheduled_for)).all())


def enough_succeeded(installation: Installation, wanted: int) -> bool:
    return len([event for event in planned(installation) if event.status == "succeeded"]) >= wanted


def check_plan(installation: Installation) -> None:
    """Every second has its event, none began early or much too late, none lies beyond the horizon."""
    with installation.database.read() as connection:
        now = installation.database.now(connection)
    events = planned(installation)
    for before, after in pairwise(events):
        assert after.scheduled_for - before.scheduled_for == timedelta(seconds=1)
    assert {event.coalesced for event in events} == {1}
    assert events[-1].scheduled_for <= now + timedelta(seconds=HORIZON_SECONDS)
    started = [event for event in events if event.started_at]
    late = [(event.started_at - event.fire_at).total_seconds() for event in started]
    assert min(late) >= 0
    assert max(late) < OFF_SECONDS / 6, "not by the distance of the clocks"
    assert {event.status for event in started} <= {"succeeded", "running"}


@pytest.mark.slow
@pytest.mark.parametrize("off", [OFF_SECONDS, -OFF_SECONDS])
def test_all_processes_are_wrong_by_minutes(
    broker_url: str, postgres_url: str, tmp_path: Path, off: int
) -> None:
    """It is the database's clock that is moved here, which for them comes to the same."""
    shift_clock(postgres_url, -off)
    with Installation(tmp_path, postgres_url, broker_url, **BEAT) as installation:
        installation.create("each", message(), schedule=EVERY_SECOND)
        worker = installation.worker(pool="solo")
        installation.beat()
        wait_until(
            lambda: sum(event.status == "succeeded" for event in planned(installation)) >= 8,
            60,
            worker.output,
        )
        check_plan(installation)
        worker.expect("the clock of this machine", 20)
        with installation.database.read() as connection:
            (skew,) = connection.execute(select(Node.clock_skew_seconds)).scalars()
        assert skew == pytest.approx(off, abs=2)
        status = installation.start("triggerbeat", "status", "--json", name="status")
        assert status.wait(30) == 0, status.output()
        warnings = json.loads(re.findall(r"^\{.*^\}|^\{.*\}$", status.output(), re.S | re.M)[0])["warnings"]
        assert len(warnings) == 1
        assert f"{off:+d}" in warnings[0]


def wrong_clock(file: Path, by_seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is off."""
    file.write_text(str(by_seconds))
    return stepped_clock(file)


@pytest.mark.slow
def test_of_two_workers_one_is_wrong_and_beat_is_wrong_the_other_way(
    broker_url: str, postgres_url: str, tmp_path: Path
) -> None:
    wrong = wrong_clock(tmp_path / "ahead", OFF_SECONDS)
    other_way = wrong_clock(tmp_path / "behind", -OFF_SECONDS)
    with Installation(tmp_path, postgres_url, broker_url, **BEAT) as installation:
        installation.create("each", message(), schedule=EVERY_SECOND)
        right = installation.worker_unready("-n", "right@%h", pool="solo", name="right")
        ahead = installation.worker_unready("-n", "ahead@%h", pool="solo", name="ahead", **wrong)
        right.expect(" ready.", 60)
        ahead.expect(" ready.", 60)
        written = datetime.fromisoformat(ahead.output().splitlines()[-1].split()[0])
        assert written > datetime.now(UTC) + timedelta(seconds=OFF_SECONDS / 2), "its clock is off"
        installation.beat(**other_way)
        for worker in (right, ahead):
            worker.expect("succeeded trigger=each", 60)
        ahead.expect("the clock of this machine", 60)
        wait_until(
            lambda: sum(event.status == "succeeded" for event in planned(installation)) >= 8,
            60,
            ahead.output,
        )
        check_plan(installation)
        assert "the clock of this machine" not in right.output()


@pytest.mark.slow
def test_clocks_that_are_set_by_hours_while_they_run_stop_nothing(
    broker_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """Beat's and a worker's, forth and back: neither waits for the hour it knows, nor makes up for it."""
    stepped = wrong_clock(tmp_path / "clock", 0)
    with Installation(tmp_path, postgres_url, broker_url, **BEAT) as installation:
        installation.create("each", message(), schedule=EVERY_SECOND)
        worker = installation.worker(pool="solo", **stepped)
        installation.beat(**stepped)
        succeeded = 0
        for off in (0, 3 * HOUR_SECONDS, -3 * HOUR_SECONDS, 0):
            wrong_clock(tmp_path / "clock", off)
            wanted = succeeded + HORIZON_SECONDS + 6  # more than was planned before
            wait_until(partial(enough_succeeded, installation, wanted), 60, worker.output)
            succeeded = wanted
        assert "the clock of this machine" in worker.output()
        check_plan(installation)
