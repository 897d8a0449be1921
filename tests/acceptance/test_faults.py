"""A minute of `make faults`: that it runs, and that its judge sees what it is there to see."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.judge import wrong_delivery, wrong_end
from tests.faults.ledger import Delivery
from tests.faults.nemesis import Outcome, applicable, run_lane

LANE = "sqlite-valkey"
DUE = datetime(2026, 11, 20, 9, tzinfo=UTC)


@pytest.mark.slow
def test_real_processes_under_two_faults(tmp_path: Path) -> None:
    """Pool processes killed in the middle of tasks, and the broker emptied at random."""
    told: list[Outcome] = []
    faults = applicable(LANE, ["child-kill", "redis-flush"])
    run_lane(LANE, faults, tmp_path / "lane", 1, time.monotonic() + 120, told.append)
    assert [outcome.fault for outcome in told] == ["child-kill", "redis-flush", "whole-run"]
    for outcome in told:
        assert outcome.wrong == []
        assert outcome.recovery is not None, outcome.slow
        assert outcome.occurrences > 100
        assert outcome.deliveries > 100


class Row(NamedTuple):
    """An event as the judge reads it."""

    id: str = "e"
    name: str = "fresh-1"
    status: str = "succeeded"
    reason: str | None = None
    attempt: int = 1
    scheduled_for: datetime = DUE
    fire_at: datetime = DUE
    error: Any = None
    target_type: str = "http"


ARRIVED = Delivery("e", 1, "2026-11-20T09:00:00Z", DUE.timestamp(), "/")


def delivery(row: Row | None, **changes: Any) -> list[str]:
    """What is wrong with an arrival."""
    wrong = wrong_delivery(ARRIVED._replace(**changes), row)  # type: ignore[arg-type]
    return [line.partition(":")[0] for line in wrong]


def end(row: Row, *arrived: int) -> list[str]:
    """What is wrong with the end of an event of which these attempts arrived."""
    return [line.partition(":")[0] for line in wrong_end(row, arrived)]  # type: ignore[arg-type]


def test_the_judge_sees_a_delivery_that_nothing_explains() -> None:
    assert delivery(Row()) == []
    assert delivery(None) == ["invented"]
    assert delivery(Row(), attempt=2) == ["invented"]
    assert delivery(Row(), scheduled_for="2026-11-20T09:00:01Z") == ["invented"]
    assert delivery(Row(fire_at=DUE + timedelta(milliseconds=1))) == ["early"]


def test_the_judge_sees_an_end_that_nothing_explains() -> None:
    assert end(Row(), 1) == end(Row(target_type="log")) == end(Row(attempt=2), 1, 2) == []
    assert end(Row()) == end(Row(attempt=2), 1) == ["lost"]
    assert end(Row(status="failed"), 1) == end(Row(status="skipped")) == ["lost"]
    assert end(Row(name="skip-http", status="skipped")) == end(Row(name="bad-1", status="failed")) == []
    assert end(Row(name="edited-1", status="cancelled")) == []
    assert end(Row(status="cancelled")) == ["lost"]
