"""The judge of `make faults` sees what it is there to see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.faults.judge import wrong_delivery, wrong_end
from tests.faults.lane import came_up
from tests.faults.ledger import Delivery

DUE = datetime(2026, 11, 20, 9, tzinfo=UTC)


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


def test_how_long_workers_took_to_come_up_is_read_from_their_logs() -> None:
    logs = [
        "2026-11-20T08:59:58.000Z INFO    worker-a@vm ready.\n"
        "2026-11-20T09:00:03.500Z INFO    worker-a@vm ready.\n",
        "2026-11-20T09:00:02.000Z INFO    worker-b@vm ready.\n2026-11-20T09:00:09.000Z INFO    planned x\n",
    ]
    assert came_up(logs, DUE) == 3.5
    assert came_up(logs, DUE + timedelta(seconds=4)) is None
