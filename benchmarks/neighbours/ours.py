"""Triggerbeat in the same place: N triggers due at one instant, PostgreSQL, one worker with its defaults.

Each is an interval of a year. The clock starts when the message that beat sends is sent, at the instant,
and stops at the latest `finished_at`; start and finish of each event are on record, and are counted there.
A small burst goes before, so that connections are open.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks import stored
from benchmarks.burst import WARM_UP, burst, is_settled, prepare
from benchmarks.harness import Site, site
from benchmarks.neighbours.outcomes import CELERY, LOG, LOG_AT_INFO, Outcome

DONE = """
SELECT count(*) AS events, max(finished_at) AS last_finish FROM events
WHERE scheduled_for = :due AND status = 'succeeded' AND finished_at <= :until
"""
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Ours:
    """One way to use it."""

    name: str
    title: str
    target: dict[str, Any]
    log_level: str = "WARNING"
    runs_celery: bool = False


WAYS = (
    Ours(LOG, "Triggerbeat, `log`", stored.LOG),
    Ours(LOG_AT_INFO, "Triggerbeat, `log`, level INFO", stored.LOG, log_level="INFO"),
    Ours(CELERY, "Triggerbeat, `celery`", stored.NOOP, runs_celery=True),
)


def measure(way: Ours, count: int, cut: float) -> Outcome:
    """One run on a database of its own."""
    with site("postgresql") as place:
        place.environment["LOG_LEVEL"] = way.log_level
        place.start_worker()
        burst(place, min(WARM_UP, count), way.target)
        return run(place, way, count, cut)


def run(place: Site, way: Ours, count: int, cut: float) -> Outcome:
    """From the message on, until every event is `succeeded` or the time is up."""
    due = prepare(place, count, way.target)
    sent = place.send_tick()
    while time.time() < sent + cut and not is_settled(place, due):
        time.sleep(POLL_SECONDS)
    until = datetime.fromtimestamp(sent + cut, UTC)
    found = place.query(DONE, due=due, until=until)[0]
    if found["events"] < count:
        assert time.time() >= sent + cut, f"{count - found['events']} events did not succeed"
        return Outcome(count, found["events"], cut)
    return Outcome(count, count, place.instant(found["last_finish"]).timestamp() - sent)
