"""All due at one instant: from the tick's message until all are `succeeded`, beside a bulk load of such rows.

    python -m benchmarks.burst [--count 100000] [--databases postgresql,sqlite] [--repeat 3]

One worker process with its defaults, `log` target, log level WARNING. The clock starts when the message
that beat would send is sent, and stops at the latest `finished_at`; start and finish of every event are
recorded. The floor is the same rows, with the same indexes, loaded by COPY on PostgreSQL and by one
`executemany` on SQLite.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks import stored
from benchmarks.bounds import BURST_MUST
from benchmarks.harness import DATABASES, Site, report, site, sleep_until, table
from tests.servers import wait_until

WARM_UP = 200  # events before the measured ones: connections are open, statements prepared
DEADLINE_SECONDS = 600
STORED_A_SECOND = (
    20_000  # about; on a slower machine the instant has passed when all are stored, which is no harm
)

SETTLED = """
SELECT NOT EXISTS (SELECT 1 FROM triggers WHERE next_at <= :due)
   AND NOT EXISTS (SELECT 1 FROM events WHERE recheck_at IS NOT NULL) AS settled
"""
FATES = """
SELECT status, count(*) AS events, min(started_at) AS first_start, max(finished_at) AS last_finish
FROM events WHERE scheduled_for = :due AND started_at IS NOT NULL AND finished_at IS NOT NULL GROUP BY status
"""
SQLITE_INDEXES = "SELECT sql FROM sqlite_master WHERE tbl_name = 'events' AND sql LIKE 'CREATE%INDEX%'"


@dataclass(frozen=True)
class Burst:
    """How long it took from the tick's message on, in seconds."""

    count: int
    first_start: float
    tick: float
    last_finish: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.count / self.last_finish


def burst(place: Site, count: int, target: dict[str, Any]) -> Burst:
    """Store triggers due at one instant, wait for it, send a tick, wait until every event is final."""
    return run(place, count, prepare(place, count, target))


def prepare(place: Site, count: int, target: dict[str, Any]) -> datetime:
    """Store triggers due at one instant, and wait for that; the instant."""
    due = datetime.fromtimestamp(math.ceil(time.time() + count / STORED_A_SECOND + 0.5), UTC)
    stored.insert_triggers(place, count, target, due)
    place.settle()
    sleep_until(due)
    return due


def run(place: Site, count: int, due: datetime) -> Burst:
    """Send a tick for what is due, and wait until every event is final."""
    sent = place.send_tick()
    wait_until(lambda: is_settled(place, due), DEADLINE_SECONDS, "all succeeded", poll_seconds=0.1)
    fates = place.query(FATES, due=due)
    assert [(row["status"], row["events"]) for row in fates] == [("succeeded", count)], fates
    ticked = wait_until(lambda: place.last_tick(since=due), 30, "the tick to leave word of its end")
    assert ticked is not None
    first, last = (place.instant(fates[0][name]).timestamp() for name in ("first_start", "last_finish"))
    return Burst(count, first - sent, float(ticked["took_seconds"]), last - sent)


def is_settled(place: Site, due: datetime) -> bool:
    """Whether nothing is left to plan and nothing unfinished; stops looking at the first that is found."""
    return bool(place.query(SETTLED, due=due)[0]["settled"])


def floor_seconds(place: Site) -> float:
    """How long the database takes to load all its events in bulk, with the same indexes."""
    connection = place.database.engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        driver.rollback()
        return postgres_floor(driver) if place.kind == "postgresql" else sqlite_floor(driver)
    finally:
        connection.close()


def postgres_floor(driver: Any) -> float:
    """COPY into a twin of the table."""
    rows = io.BytesIO()
    with driver.cursor().copy("COPY events TO STDOUT") as source:
        for block in source:
            rows.write(block)
    driver.execute("CREATE TABLE floor (LIKE events INCLUDING INDEXES) WITH (fillfactor = 50)")
    driver.commit()
    began = time.monotonic()
    with driver.cursor().copy("COPY floor FROM STDIN") as copy:
        copy.write(rows.getbuffer())
    driver.commit()
    return time.monotonic() - began


def sqlite_floor(driver: Any) -> float:
    """One executemany into a twin of the table."""
    rows = driver.execute("SELECT * FROM events").fetchall()
    driver.execute("CREATE TABLE floor AS SELECT * FROM events WHERE false")
    driver.execute("CREATE UNIQUE INDEX floor_id ON floor (id)")
    for (index,) in driver.execute(SQLITE_INDEXES).fetchall():
        driver.execute(index.replace("INDEX ", "INDEX floor_", 1).replace(" ON events", " ON floor"))
    began = time.monotonic()
    driver.execute("BEGIN IMMEDIATE")
    driver.executemany(f"INSERT INTO floor VALUES ({', '.join('?' * len(rows[0]))})", rows)
    driver.commit()
    return time.monotonic() - began


def measure(kind: str, count: int, repeat: int) -> list[object]:
    """Some bursts, each on a database of its own; prints its JSON line and returns the table's row."""
    found: list[Burst] = []
    floors: list[float] = []
    durability: dict[str, str] = {}
    for _ in range(repeat):
        with site(kind) as place:
            place.start_worker()
            burst(place, min(WARM_UP, count), stored.LOG)
            found.append(burst(place, count, stored.LOG))
            floors.append(floor_seconds(place))
            durability = place.durability()
    middle = sorted(found, key=lambda one: one.last_finish)[len(found) // 2]
    floor = statistics.median(floors)
    report(
        "burst",
        {
            "database": kind,
            "count": count,
            "seconds": middle.last_finish,
            "events_per_second": middle.rate,
            "first_start_seconds": middle.first_start,
            "tick_seconds": middle.tick,
            "floor_seconds": floor,
            "times_floor": middle.last_finish / floor,
            "must_reach": BURST_MUST[kind],
            "all_runs": [one.rate for one in found],
        },
        durability,
    )
    rates = f"{min(one.rate for one in found):,.0f} to {max(one.rate for one in found):,.0f}"
    times = middle.last_finish / floor
    return [kind, middle.rate, rates, BURST_MUST[kind], middle.last_finish, middle.tick, floor, times]


HEADERS = ("database", "events/s", "all runs", "must reach", "seconds", "tick s", "bulk load s", "times bulk")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.burst", description="all due at one instant")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    rows = [measure(kind, options.count, options.repeat) for kind in options.databases.split(",")]
    table(f"{options.count:,} `log` events due at one instant, one worker, until succeeded", HEADERS, rows)


if __name__ == "__main__":
    main()
