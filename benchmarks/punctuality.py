"""How late events start at low load, with a real beat at 60 s and a real worker.

    python -m benchmarks.punctuality [--seconds 120] [--triggers 150] [--databases postgresql,sqlite]

Each trigger fires once a minute, at an instant of its own that is no whole second; over two minutes beat
ticks three times. Late is `started_at` less `fire_at`; below zero would be early. Beside it the floor: how
late a sleep of this machine ends.
"""

from __future__ import annotations

import argparse
import time
from datetime import datetime, timedelta

from benchmarks import stored
from benchmarks.harness import DATABASES, Site, now, report, site, sleep_until, table
from tests.servers import wait_until

EVERY_SECONDS = 60
LEAD = timedelta(seconds=5)  # before the first instant: beat's first tick plans it
MUST_REACH_MS = 100.0  # 99 of 100 starts

STARTS = "SELECT fire_at, started_at, status FROM events WHERE fire_at >= :since AND fire_at < :until"


def lateness(place: Site, triggers: int, seconds: int) -> list[float]:
    """Milliseconds from the instant to the start, of every event within `seconds`, sorted."""
    place.start_worker()
    since = now() + LEAD
    until = since + timedelta(seconds=seconds)
    step = timedelta(seconds=EVERY_SECONDS) / triggers
    stored.insert_triggers(place, triggers, stored.LOG, since, apart=step, every_seconds=EVERY_SECONDS)
    place.settle()
    place.start_celery("beat")
    sleep_until(until)
    wait_until(lambda: all_started(place, since, until), 30, "all events of the time to start")
    rows = place.query(STARTS, since=since, until=until)
    expected = sum(-(-(seconds - n * step.total_seconds()) // EVERY_SECONDS) for n in range(triggers))
    assert abs(len(rows) - expected) <= 1, f"{len(rows)} events instead of {expected:.0f}"
    late = (place.instant(row["started_at"]) - place.instant(row["fire_at"]) for row in rows)
    return sorted(one / timedelta(milliseconds=1) for one in late)


def all_started(place: Site, since: datetime, until: datetime) -> bool:
    """Whether every event that was planned for this time is `succeeded`."""
    rows = place.query(STARTS, since=since, until=until)
    return bool(rows) and all(row["status"] == "succeeded" for row in rows)


def sleep_lateness() -> list[float]:
    """The floor: milliseconds by which sleeps of this machine end late, sorted."""
    late = []
    for number in range(100):
        due = time.monotonic() + 0.01 + number / 10_000
        time.sleep(due - time.monotonic())
        late.append((time.monotonic() - due) * 1_000)
    return sorted(late)


def part(ordered: list[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measure(kind: str, triggers: int, seconds: int) -> list[object]:
    """One run; prints its JSON line and returns the table's row."""
    with site(kind) as place:
        late = lateness(place, triggers, seconds)
        durability = place.durability()
    floor = sleep_lateness()
    early = sum(one < 0 for one in late)
    figures = {
        "database": kind,
        "starts": len(late),
        "seconds": seconds,
        "p50_ms": part(late, 0.5),
        "p99_ms": part(late, 0.99),
        "max_ms": late[-1],
        "min_ms": late[0],
        "early": early,
        "sleep_p99_ms": part(floor, 0.99),
        "must_reach_p99_ms": MUST_REACH_MS,
    }
    report("punctuality", figures, durability)
    times = [part(late, 0.5), part(late, 0.99), MUST_REACH_MS, late[-1]]
    return [kind, len(late), *times, early, part(floor, 0.99)]


HEADERS = ("database", "starts", "p50 ms", "p99 ms", "must stay under", "max ms", "early", "sleep p99 ms")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.punctuality", description="lateness at low load")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--triggers", type=int, default=150)
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    rows = [measure(kind, options.triggers, options.seconds) for kind in options.databases.split(",")]
    table("Starts at low load, beat at 60 s: milliseconds late", HEADERS, rows)


if __name__ == "__main__":
    main()
