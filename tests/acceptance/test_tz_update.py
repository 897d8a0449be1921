"""The administrator brings the tz database up to date, and restarts the worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from models import Trigger, ZoneRules
from tests.acceptance.installation import Installation, message
from tests.processes import wait_until
from tests.tz_files import write_release, write_zone

ZONE = "Asia/Tokyo"  # without changes of its own, so that the test does not depend on the day
YEARLY = {"type": "cron", "cron": "30 12 1 1 *", "timezone": ZONE}


@pytest.mark.slow
def test_after_a_restart_with_new_rules_plans_are_new(
    broker_url: str, database_url: str, tmp_path: Path
) -> None:
    files = tmp_path / "zoneinfo"
    write_zone(files, ZONE, "<+09>-9")
    write_release(files, "2026a")
    with Installation(
        tmp_path, database_url, broker_url, TICK_SECONDS=1, PYTHONTZPATH=str(files)
    ) as installation:
        installation.create("yearly", message(), schedule=YEARLY)  # by the machine's own rules, the same
        assert next_hour(installation) == 3
        installation.beat()
        worker = installation.worker(pool="solo")
        wait_until(lambda: rules(installation), 60, worker.output)
        assert rules(installation).tzdata == "2026a"
        worker.terminate(30)
        write_zone(files, ZONE, "<+08>-8")
        write_release(files, "2026b")
        worker = installation.worker(pool="solo")
        worker.expect("replanned trigger=yearly", 60)
        wait_until(lambda: rules(installation).tzdata == "2026b", 20, worker.output)
        assert next_hour(installation) == 4
        status = installation.start("triggerbeat", "status", "--json", name="status")
        wait_until(lambda: not status.alive(), 30, status.output)
        shown = json.loads(status.output()[status.output().index("{") :])["tzdata"]
        assert (shown["release"], shown["triggers_moved"]) == ("2026b", 1)
        assert [(one["trigger"], one["zone"]) for one in shown["moved"]] == [("yearly", ZONE)]


def next_hour(installation: Installation) -> int:
    """The hour (UTC) at which the trigger fires next."""
    with installation.database.read() as connection:
        at = connection.execute(select(Trigger.next_at)).scalar_one()
    assert at is not None
    return at.hour


def rules(installation: Installation) -> Any:
    """By which rules of the zone plans are made."""
    with installation.database.read() as connection:
        return connection.execute(select(ZoneRules.__table__).where(ZoneRules.zone == ZONE)).first()
