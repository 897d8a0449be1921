"""A tick that finds nothing due, over few and over many stored triggers.

    python -m benchmarks.idle_tick [--stored 10000,1000000] [--databases postgresql,sqlite]

`--stored 10000,1000000,10000000` goes as far as ten million; loading them takes minutes and some ten
gigabytes of disk for the time of the measure.

The median of 50 ticks in one process, each complete: claim, take back, complete, and the word it leaves.
Beside it the floor: a transaction that changes one row, of which such a tick has several.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import text

from benchmarks import stored
from benchmarks.harness import DATABASES, Site, now, report, site, table
from triggers import tick

TICKS = 50
WARM_UP = 5
HORIZON = timedelta(seconds=90)
MUST_REACH_MS = 5.0
WITHIN = 3.0
ROOM_EACH = 3_000  # bytes of disk a trigger while it is loaded: its row, its indexes, the log of both
SIZE = {
    "postgresql": "SELECT pg_total_relation_size('triggers') AS bytes",
    "sqlite": "SELECT page_count * page_size AS bytes FROM pragma_page_count(), pragma_page_size()",
}


def idle_tick(place: Site) -> None:
    """One tick of the worker's own kind; nothing may come of it."""
    made = tick.run(place.database, lambda hints: True, HORIZON, "benchmark", "benchmark")
    assert not made.planned
    assert not made.taken_back


def one_row(place: Site) -> None:
    """The floor: a commit of one changed row."""
    with place.database.write() as connection:
        connection.execute(text("UPDATE nodes SET planned = planned + 1 WHERE name = 'benchmark'"))


def milliseconds(call: Callable[[], None]) -> list[float]:
    """How long each of many calls takes, sorted."""
    for _ in range(WARM_UP):
        call()
    taken = []
    for _ in range(TICKS):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1_000)
    return sorted(taken)


def measure(kind: str, counts: list[int]) -> list[list[object]]:
    """Ticks over more and more stored triggers; prints JSON lines and returns the table's rows."""
    rows: list[list[object]] = []
    medians: list[float] = []
    with site(kind) as place:
        there = 0
        for count in counts:
            # Spread over a year from tomorrow on: none is due within the horizon.
            step = timedelta(days=365) / count
            began = time.monotonic()
            stored.insert_triggers(place, count - there, stored.LOG, now() + timedelta(days=1), apart=step)
            loaded = (count - there) / (time.monotonic() - began)
            there = count
            place.settle()
            ticks = milliseconds(lambda: idle_tick(place))
            floor = statistics.median(milliseconds(lambda: one_row(place)))
            medians.append(statistics.median(ticks))
            ratio = medians[-1] / medians[0]
            size = int(place.query(SIZE[kind])[0]["bytes"]) / count
            figures = {
                "database": kind,
                "stored": count,
                "median_ms": medians[-1],
                "worst_ms": ticks[-1],
                "times_first": ratio,
                "one_row_transaction_ms": floor,
                "bytes_each": size,
                "loaded_per_second": loaded,
                "must_reach_ms": MUST_REACH_MS,
                "must_reach_times": WITHIN,
            }
            report("idle_tick", figures, place.durability())
            rows.append([kind, count, medians[-1], MUST_REACH_MS, ticks[-1], ratio, WITHIN, floor, size])
    return rows


def check_room(most: int) -> None:
    """Refuse what would fill the disk. Raises SystemExit."""
    directory = tempfile.gettempdir()
    needed, free = most * ROOM_EACH, shutil.disk_usage(directory).free
    if needed > free:
        sys.exit(f"{most:,} triggers take up to {needed / 2**30:.0f} GiB; {directory} has {free / 2**30:.0f}")


HEADERS = ("database", "stored", "median ms", "must stay under", "worst ms", "times first", "must stay in",
           "one row ms", "bytes each")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.idle_tick", description="a tick with nothing due")
    parser.add_argument("--stored", default="10000,1000000")
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    counts = sorted(int(count) for count in options.stored.split(","))
    check_room(counts[-1])
    rows = [row for kind in options.databases.split(",") for row in measure(kind, counts)]
    table(f"A tick with nothing due, median of {TICKS}", HEADERS, rows)


if __name__ == "__main__":
    main()
