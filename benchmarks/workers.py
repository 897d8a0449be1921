"""One burst shared by one to four worker processes on PostgreSQL, and what the database does meanwhile.

    python -m benchmarks.workers [--workers 1,2,3,4] [--log 100000] [--tasks 10000]

All due at one instant, as in `burst` and `celery_tasks`: from the tick's message until every event is
`succeeded` with start and finish recorded. Beside the rate stand the cores that the database's backends, the
workers and the broker used meanwhile, and the processor time that each took for an event: workers help each
other until the cores are used up or the database's backends wait for each other. What backends wait for is
asked fifty times a second; `processor` means that they wait for nothing but a core.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import burst, stored
from benchmarks.harness import Site, cpu_seconds, machine, meanwhile, report, site, table
from tests.processes import Process

KIND = "postgresql"
WARM_UP = 500
TARGETS: dict[str, dict[str, Any]] = {"log": stored.LOG, "celery": stored.NOOP}
ASK_SECONDS = 0.02
SHOWN = 3  # of what the backends wait for

WAITS = """
SELECT COALESCE(wait_event_type || ' ' || wait_event, 'processor') AS waits_for, count(*) AS backends
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid() GROUP BY 1
"""
WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS bytes"


@contextmanager
def waits(place: Site) -> Iterator[Counter[str]]:
    """What busy backends wait for, as often as it was seen."""
    found: Counter[str] = Counter()
    with place.unhurried(autocommit=True) as driver:

        def look() -> None:
            for waits_for, backends in driver.execute(WAITS).fetchall():
                found[waits_for] += backends

        with meanwhile(look, ASK_SECONDS):
            yield found


def used(groups: dict[str, list[Process]]) -> dict[str, float]:
    """Processor time so far, in seconds, of each group of processes."""
    return {name: sum(cpu_seconds(one) for one in processes) for name, processes in groups.items()}


def wal_bytes(place: Site) -> int:
    """How much the database has logged so far."""
    return int(place.query(WAL)[0]["bytes"])


def measure(kind: str, workers: int, count: int) -> list[object]:
    """One burst on a database of its own; prints its JSON line and returns the table's row."""
    with site(KIND) as place:
        assert place.postgres is not None
        groups = {"workers": [place.start_worker() for _ in range(workers)]}
        groups |= {"database": [place.postgres.process], "broker": [place.valkey.process]}
        burst.burst(place, WARM_UP, TARGETS[kind])
        due = burst.prepare(place, count, TARGETS[kind])
        before, logged = used(groups), wal_bytes(place)
        with waits(place) as seen:
            ours = burst.run(place, count, due)
        cpu = {name: seconds - before[name] for name, seconds in used(groups).items()}
        figures = {
            "database": KIND,
            "target": kind,
            "workers": workers,
            "count": count,
            "seconds": ours.last_finish,
            "events_per_second": ours.rate,
            "cores": {name: seconds / ours.last_finish for name, seconds in cpu.items()},
            "cpu_us_per_event": {name: seconds / count * 1e6 for name, seconds in cpu.items()},
            "wal_bytes_per_event": (wal_bytes(place) - logged) / count,
            "backends_seen": dict(seen.most_common()),
        }
        report("workers", figures, place.durability())
    each = [seconds / count * 1e6 for seconds in (cpu["database"], cpu["workers"], cpu["broker"])]
    cores = [cpu["database"] / ours.last_finish, sum(cpu.values()) / ours.last_finish]
    return [f"{kind}, {workers}", ours.rate, ours.last_finish, *cores, *each, shares(seen)]


def shares(seen: Counter[str]) -> str:
    """What backends mostly wait for."""
    every = seen.total() or 1
    return ", ".join(f"{name} {times / every:.0%}" for name, times in seen.most_common(SHOWN))


def rows_of(kind: str, workers: Iterable[int], count: int) -> list[list[object]]:
    """The curve of one kind of target, with each rate against that of the first."""
    rows = [measure(kind, number, count) for number in workers]
    first = rows[0][1]
    assert isinstance(first, float)
    for row in rows:
        assert isinstance(row[1], float)
        row.insert(2, row[1] / first)
    return rows


HEADERS = (
    "target, workers", "events/s", "times first", "seconds", "cores, database", "cores, all",
    "us each, database", "workers", "broker", "the database's backends",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.workers", description="one burst, several workers")
    parser.add_argument("--workers", default="1,2,3,4")
    parser.add_argument("--log", type=int, default=100_000, help="events of target `log`; 0: none")
    parser.add_argument("--tasks", type=int, default=10_000, help="events of target `celery`; 0: none")
    options = parser.parse_args(arguments)
    workers = [int(number) for number in options.workers.split(",")]
    counts = {"log": options.log, "celery": options.tasks}
    rows = [row for kind, count in counts.items() if count for row in rows_of(kind, workers, count)]
    cores = machine()["cores"]
    table(f"All due at one instant, shared by several workers, PostgreSQL, {cores} cores", HEADERS, rows)


if __name__ == "__main__":
    main()
