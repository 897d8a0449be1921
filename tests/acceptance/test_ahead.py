"""Planned before they are due: a beat that ticks seldom, and one that is late, delay nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.acceptance.installation import Installation, in_seconds, message
from tests.processes import wait_until

SOON_SECONDS = 5  # generous; without a plan ahead it would be the next tick


@pytest.mark.slow
def test_what_is_due_before_the_next_tick_starts_on_its_instant(
    broker_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """Beat is not even there: the endpoint's own hint has it planned."""
    with Installation(tmp_path, postgres_url, broker_url, TICK_SECONDS=60) as installation:
        installation.worker(pool="solo")
        endpoint = installation.endpoint().ready()
        body = {"name": "soon", "schedule": in_seconds(installation, 4), "target": message()}
        assert endpoint.ask("POST", "/triggers", body)["next_fire_at"]
        event = installation.wait_for("soon", seconds=30)
        assert event.started_at is not None
        assert timedelta(0) <= event.started_at - event.due_at < timedelta(seconds=SOON_SECONDS)


@pytest.mark.slow
def test_a_beat_that_is_late_delays_nothing(broker_url: str, sqlite_url: str, tmp_path: Path) -> None:
    """By ten seconds and more; the horizon reaches thirty beyond the next tick."""
    schedule = {"type": "interval", "every_seconds": 1}
    with Installation(tmp_path, sqlite_url, broker_url, TICK_SECONDS=1) as installation:
        installation.create("each", message(), schedule=schedule)
        installation.worker(pool="solo")
        beat = installation.beat()
        wait_until(lambda: done(installation) >= 2, 60, "the first events")
        beat.freeze()
        begun = done(installation)
        wait_until(lambda: done(installation) >= begun + 12, 30, "events although beat is away")
        beat.thaw()
        events = [event for event in installation.events("each") if event.status == "succeeded"][-12:]
        for event in events:
            assert event.started_at is not None
            assert event.started_at - event.scheduled_for < timedelta(seconds=SOON_SECONDS)
            assert event.coalesced == 1


def done(installation: Installation) -> int:
    """How many events have succeeded."""
    return sum(event.status == "succeeded" for event in installation.events("each"))
