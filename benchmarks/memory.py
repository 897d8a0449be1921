"""Resident memory of each process: at rest, and of the worker that plans and delivers 100,000 due at once.

    python -m benchmarks.memory [--count 100000] [--databases postgresql,sqlite]

At rest is: the endpoint has answered requests, beat has ticked, every process of the worker's pool has run
tasks, and then nothing happens for a few seconds. Pages that processes share (a pool's processes are forks of
their worker, and all of them have the same libraries) count in equal parts in the proportional set size
(PSS), which therefore add up, and in full in the resident set size (RSS), which is what a process needs that
is alone on its machine, and is held against what must be reached; where a burst makes it the peak is, the
kernel's own note of the largest RSS there ever was (VmHWM). Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stored
from benchmarks.burst import burst
from benchmarks.create import requests, send_all, start_server
from benchmarks.harness import DATABASES, Site, now, report, site, table
from tests.processes import Process
from tests.servers import wait_until

BEAT, CHILD, TICKING = "beat", "worker's pool process, at rest", "worker's main process, after the burst"
MUST_STAY_UNDER_MB = {BEAT: 90, CHILD: 120, TICKING: 250}
WARM_UP_TASKS = 500
REST_SECONDS = 5.0


@dataclass(frozen=True)
class Memory:
    """One process, in MB."""

    pss: float
    rss: float
    peak_rss: float


def memory(pid: int) -> Memory:
    """What the kernel says of a process. PSS is that of RSS where it may not be read."""
    status = fields(Path(f"/proc/{pid}/status"))
    rss, peak = status["VmRSS"], status["VmHWM"]
    pss = rss
    with suppress(OSError):
        pss = fields(Path(f"/proc/{pid}/smaps_rollup"))["Pss"]
    return Memory(pss / 1024, rss / 1024, peak / 1024)


def fields(path: Path) -> dict[str, int]:
    """The kB in a file of `name: value kB` lines."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}


def largest(pids: Iterable[int]) -> Memory:
    """The process that needs most."""
    return max((memory(pid) for pid in pids), key=lambda one: one.rss)


def at_rest(place: Site, beat: Process, worker: Process, endpoint: Process) -> dict[str, Memory]:
    """What each process needs while nothing happens."""
    time.sleep(REST_SECONDS)
    return {
        "endpoint, gunicorn's master": memory(endpoint.pid),
        "endpoint, gunicorn's worker": largest(endpoint.descendants()),
        BEAT: memory(beat.pid),
        "worker's main process, at rest": memory(worker.pid),
        CHILD: largest(worker.descendants()),
    }


def run(kind: str, count: int) -> tuple[dict[str, Memory], dict[str, str]]:
    """All processes of one installation, in the order of the table."""
    with site(kind) as place:
        endpoint, port = start_server(place)
        asyncio.run(send_all(port, requests("one by one", "warm", 200), 8))
        worker = place.start_worker()
        before = now()
        beat = place.start_celery("beat")
        wait_until(lambda: place.last_tick(since=before), 60, beat.output)
        burst(place, WARM_UP_TASKS, stored.NOOP)
        found = at_rest(place, beat, worker, endpoint)
        burst(place, count, stored.LOG)
        time.sleep(REST_SECONDS)
        found[TICKING] = memory(worker.pid)
        return found, place.durability()


def measure(kind: str, count: int) -> list[list[object]]:
    """One run; prints its JSON line and returns the table's rows."""
    found, durability = run(kind, count)
    figures = {
        name: {
            "pss_mb": round(one.pss, 1),
            "rss_mb": round(one.rss, 1),
            "peak_rss_mb": round(one.peak_rss, 1),
            "must_stay_under_mb": MUST_STAY_UNDER_MB.get(name),
        }
        for name, one in found.items()
    }
    report("memory", {"database": kind, "count": count, "processes": figures}, durability)
    return [
        [f"{kind}, {name}", one.pss, one.rss, one.peak_rss, MUST_STAY_UNDER_MB.get(name, "")]
        for name, one in found.items()
    ]


HEADERS = ("process", "PSS MB", "RSS MB", "peak RSS MB", "must stay under")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description="resident memory of each process")
    parser.add_argument("--count", type=int, default=100_000, help="events of the burst")
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    rows = [row for kind in options.databases.split(",") for row in measure(kind, options.count)]
    table(f"Memory of each process, before and after {options.count:,} events at once", HEADERS, rows)


if __name__ == "__main__":
    main()
