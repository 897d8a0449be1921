"""How late events start, from one a second to a thousand, planned ahead by a real beat for a real worker.

    python -m benchmarks.lateness [--cases 1,100,1000,seconds,instants] [--seconds 30] [--minute 60]
        [--spread 20000] [--databases postgresql,sqlite]

    1, 100, 1000  so many starts a second for `--seconds`, each at an instant of its own; beat at 20 s
    seconds       20,000 occurrences spread over a minute, on whole seconds; beat at 60 s
    instants      the same, each at an instant of its own

Every trigger fires again and again, and beat ticks in the middle of what is measured: planning what comes
next is part of the load, as it always is. Late is `started_at` less `scheduled_for`, by the database's clock;
below zero would be early. Beside it two floors, measured while nothing else runs: how late a sleep of this
machine ends, and how long its disk takes to keep a page, which every commit waits for.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks import stored
from benchmarks.harness import DATABASES, Site, now, report, site, sleep_until, table
from tests.servers import wait_until

RATES = ("1", "100", "1000")
MINUTE_MS = {"seconds": (10.0, 40.0), "instants": (20.0, 60.0)}  # p50, p99 to stay under
ANY_MS = (None, 100.0)  # what is promised at any rate: 99 of 100 starts
RATE_TICK_SECONDS = 20
MINUTE_SECONDS = 60
DISK_SECONDS = 3.0
PAGE = 8192  # bytes: PostgreSQL's
WARM_UP = timedelta(seconds=5)  # from the first instant on: not measured

STARTS = """
SELECT scheduled_for, started_at, status FROM events
WHERE scheduled_for >= :since AND scheduled_for < :until ORDER BY scheduled_for
"""
OPEN = """
SELECT EXISTS (SELECT 1 FROM events WHERE recheck_at IS NOT NULL AND scheduled_for < :until) AS open
"""


@dataclass(frozen=True)
class Case:
    """What fires, and for how long it is measured. Every trigger fires once a tick of beat."""

    name: str
    triggers: int
    tick_seconds: int
    seconds: int
    whole_seconds: bool

    @property
    def must_ms(self) -> tuple[float | None, float]:
        """What p50 and p99 must stay under."""
        return MINUTE_MS.get(self.name, ANY_MS)


def case(name: str, seconds: int, minute: int, spread: int) -> Case:
    """A case by its name."""
    if name in MINUTE_MS:
        return Case(name, spread, MINUTE_SECONDS, minute, name == "seconds")
    return Case(name, int(name) * RATE_TICK_SECONDS, RATE_TICK_SECONDS, seconds, False)


def store(place: Site, what: Case, first: datetime) -> None:
    """The triggers, spread evenly over one tick."""
    if not what.whole_seconds:
        step = timedelta(seconds=what.tick_seconds) / what.triggers
        insert = {"apart": step, "every_seconds": what.tick_seconds}
        stored.insert_triggers(place, what.triggers, stored.LOG, first, **insert)  # type: ignore[arg-type]
        return
    for second in range(what.tick_seconds):
        count = len(range(second, what.triggers, what.tick_seconds))
        at = first + timedelta(seconds=second)
        stored.insert_triggers(place, count, stored.LOG, at, every_seconds=what.tick_seconds)


def lateness(place: Site, what: Case) -> list[float]:
    """Milliseconds from the instant to the start, of every event of the measured time, sorted."""
    place.environment["TICK_SECONDS"] = str(what.tick_seconds)
    place.start_worker()
    loading = timedelta(seconds=6 + what.triggers / 10_000)  # and beat's start, and its first tick
    first = (now() + loading).replace(microsecond=0 if what.whole_seconds else 271_828)
    store(place, what, first)
    place.settle()
    place.start_celery("beat")
    since = first + WARM_UP
    until = since + timedelta(seconds=what.seconds)
    sleep_until(until)
    wait_until(lambda: not place.query(OPEN, until=until)[0]["open"], 60, "all events of the time to end")
    rows = place.query(STARTS, since=since, until=until)
    assert {row["status"] for row in rows} == {"succeeded"}
    expected = what.triggers * what.seconds / what.tick_seconds
    assert abs(len(rows) - expected) <= max(1, expected / 50), f"{len(rows)} events instead of {expected:.0f}"
    late = (place.instant(row["started_at"]) - place.instant(row["scheduled_for"]) for row in rows)
    return sorted(one / timedelta(milliseconds=1) for one in late)


def sleep_lateness() -> list[float]:
    """The floor: milliseconds by which sleeps of this machine end late, sorted."""
    late = []
    for number in range(100):
        due = time.monotonic() + 0.01 + number / 10_000
        time.sleep(due - time.monotonic())
        late.append((time.monotonic() - due) * 1_000)
    return sorted(late)


def disk_lateness(directory: Path) -> list[float]:
    """The floor of a commit: milliseconds until the disk has kept a page, sorted."""
    took: list[float] = []
    file = os.open(directory / "page", os.O_CREAT | os.O_WRONLY)
    until = time.monotonic() + DISK_SECONDS
    while (began := time.monotonic()) < until:
        os.pwrite(file, bytes(PAGE), len(took) * PAGE)
        os.fdatasync(file)
        took.append((time.monotonic() - began) * 1_000)
        time.sleep(0.002)
    os.close(file)
    return sorted(took)


def part(ordered: list[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measure(kind: str, what: Case) -> list[object]:
    """One run on a database of its own; prints its JSON line and returns the table's row."""
    with site(kind) as place:
        late = lateness(place, what)
        durability = place.durability()
        place.stack.close()
        disk = disk_lateness(place.directory)
    floor = sleep_lateness()
    early = sum(one < 0 for one in late)
    must_p50, must_p99 = what.must_ms
    figures = {
        "database": kind,
        "case": what.name,
        "triggers": what.triggers,
        "starts": len(late),
        "seconds": what.seconds,
        "tick_seconds": what.tick_seconds,
        "p50_ms": part(late, 0.5),
        "p99_ms": part(late, 0.99),
        "max_ms": late[-1],
        "min_ms": late[0],
        "early": early,
        "sleep_p99_ms": part(floor, 0.99),
        "disk_p99_ms": part(disk, 0.99),
        "disk_max_ms": disk[-1],
        "must_reach_p50_ms": must_p50,
        "must_reach_p99_ms": must_p99,
    }
    report("lateness", figures, durability)
    p50: list[object] = [part(late, 0.5), "" if must_p50 is None else must_p50]
    p99: list[object] = [part(late, 0.99), must_p99]
    return [f"{kind}, {told(what)}", len(late), *p50, *p99, late[-1], early, part(floor, 0.99), disk[-1]]


def told(what: Case) -> str:
    """The case in the table."""
    if what.name in MINUTE_MS:
        how = "whole seconds" if what.whole_seconds else "instants of their own"
        return f"{what.triggers:,} over a minute, {how}"
    return f"{what.name} a second"


HEADERS = (
    "starts",
    "measured",
    "p50 ms",
    "must",
    "p99 ms",
    "must",
    "max ms",
    "early",
    "sleep p99 ms",
    "disk max ms",
)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.lateness", description="starts against their instants")
    parser.add_argument("--cases", default=",".join((*RATES, *MINUTE_MS)))
    parser.add_argument("--seconds", type=int, default=30, help="measured at each rate")
    parser.add_argument("--minute", type=int, default=60, help="measured of the spread ones, in seconds")
    parser.add_argument("--spread", type=int, default=20_000, help="occurrences in a minute")
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    rows = [
        measure(kind, case(name, options.seconds, options.minute, options.spread))
        for kind in options.databases.split(",")
        for name in options.cases.split(",")
    ]
    table("Starts, planned ahead by beat: milliseconds late", HEADERS, rows)


if __name__ == "__main__":
    main()
