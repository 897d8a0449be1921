"""Users' tasks, all due at one instant: no-ops of a worker with its default pool, then of two workers.

    python -m benchmarks.celery_tasks [--count 10000] [--workers 1,2] [--databases postgresql,sqlite]

From the tick's message until every event is `succeeded` with start and finish recorded. Beside it the
floor: plain Celery messages of the same no-op through the same workers, first published while the workers
run them (as ours are), then all published before the workers may take one (their own ceiling).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from benchmarks import stored
from benchmarks.burst import Burst, burst
from benchmarks.harness import DATABASES, Site, report, site, table
from tests.servers import wait_until

TASK = "benchmarks.tasks.noop"
QUEUE = "tasks"
WARM_UP = 200
MUST_REACH = 800  # on one worker
DEADLINE_SECONDS = 300
MOST_PLAIN = 3_000  # plain messages: their rate does not depend on the number


def plain(place: Site, count: int) -> float:
    """Plain messages a second, published while the workers run them."""
    return count / timed(place, lambda: publish(place, count))


def plain_queued(place: Site, count: int) -> float:
    """Plain messages a second, when all of them wait in the broker already."""
    place.app.control.cancel_consumer(QUEUE, reply=True, timeout=2)
    publish(place, count)
    return count / timed(place, lambda: place.app.control.add_consumer(QUEUE))


def publish(place: Site, count: int) -> None:
    """Send the no-op so many times."""
    with place.app.producer_or_acquire() as producer:
        for _ in range(count):
            place.app.send_task(TASK, queue=QUEUE, producer=producer)


def timed(place: Site, begin: Callable[[], object]) -> float:
    """Seconds from `begin` until the broker has nothing left: no message waits, none is held."""
    began = time.monotonic()
    begin()
    wait_until(lambda: is_drained(place), DEADLINE_SECONDS, "all messages taken", poll_seconds=0.01)
    return time.monotonic() - began


def is_drained(place: Site) -> bool:
    """Whether every message was handed to a pool process."""
    command = place.valkey.command
    return not (command("LLEN", QUEUE) or command("HLEN", "unacked"))


def measure(kind: str, count: int, workers: int) -> list[object]:
    """One burst and its floors; prints its JSON line and returns the table's row."""
    with site(kind) as place:
        for _ in range(workers):
            place.start_worker()
        burst(place, WARM_UP, stored.NOOP)
        ours = burst(place, count, stored.NOOP)
        few = min(count, MOST_PLAIN)
        floor, ceiling = plain(place, few), plain_queued(place, few)
        report("celery_tasks", figures(kind, workers, ours, floor, ceiling), place.durability())
    return [kind, workers, ours.rate, MUST_REACH if workers == 1 else "", floor, ceiling, ours.rate / floor]


def figures(kind: str, workers: int, ours: Burst, floor: float, ceiling: float) -> dict[str, object]:
    """What the JSON line says."""
    return {
        "database": kind,
        "workers": workers,
        "count": ours.count,
        "seconds": ours.last_finish,
        "events_per_second": ours.rate,
        "first_start_seconds": ours.first_start,
        "plain_messages_per_second": floor,
        "plain_messages_per_second_queued_before": ceiling,
        "part_of_plain": ours.rate / floor,
        "must_reach": MUST_REACH if workers == 1 else None,
    }


HEADERS = (
    "database",
    "workers",
    "events/s",
    "must reach",
    "plain Celery/s",
    "plain, queued/s",
    "part of plain",
)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.celery_tasks", description="users' tasks due at one instant"
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    rows = [
        measure(kind, options.count, int(workers))
        for kind in options.databases.split(",")
        for workers in options.workers.split(",")
    ]
    table(f"{options.count:,} `celery` events (no-op) due at one instant, until succeeded", HEADERS, rows)


if __name__ == "__main__":
    main()
