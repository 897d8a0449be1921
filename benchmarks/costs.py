"""What triggers and events cost PostgreSQL: bytes, log, dead rows, vacuum, archive and purge, connections.

    python -m benchmarks.costs [--count 20000] [--targets log,http,celery] [--vacuum-seconds 75]

For each kind of target a database of its own, with the endpoint, beat and one worker: triggers are created
over HTTP, and weighed; then a burst as in `burst` is recorded, PostgreSQL vacuums by itself, the burst is
repeated with other triggers, and all of it is archived and purged as `update_event_states` does. Sizes are
the relations' own, indexes and all; the log is what the server has written to its WAL, which includes a full
image of every page that is touched first after a checkpoint: each burst begins with one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks import burst, stored
from benchmarks.celery_tasks import publish
from benchmarks.create import requests, send_all, start_server
from benchmarks.harness import Site, meanwhile, now, report, site, table
from benchmarks.http_deliveries import BODY, start_sink
from benchmarks.workers import wal_bytes
from celery_config.dispatch import dispatch
from models.base import new_ids
from tests.processes import Process
from tests.servers import wait_until
from triggers import retention
from triggers.tick import Hint

KIND = "postgresql"
WARM_UP = 500
CREATED = 5_000
QUEUED = 10_000
LOOK_SECONDS = 0.1
TOLD_SECONDS = 12
NAMES = ("events", "triggers")
MAIN = "worker's main process"
NEVER, AT_ONCE = timedelta(days=365), timedelta(0)

SIZES = """
SELECT pg_relation_size(:name) AS heap, pg_indexes_size(:name) AS indexes,
       pg_total_relation_size(:name) AS total
"""
ROWS = """
SELECT n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_hot_upd AS hot, n_dead_tup AS dead,
       autovacuum_count AS vacuums
FROM pg_stat_user_tables WHERE relname = :name
"""


IMAGES = "SELECT wal_fpi AS images FROM pg_stat_wal"


def page_images(place: Site) -> int:
    """How many full images of pages the server has logged so far; some seconds old at times."""
    return int(place.query(IMAGES)[0]["images"])


def size(place: Site, name: str) -> dict[str, int]:
    """Bytes of a table."""
    return {part: int(value) for part, value in place.query(SIZES, name=name)[0].items()}


def rows(place: Site, name: str) -> dict[str, int]:
    """The server's count of what was done to a table; some seconds old at times."""
    return {part: int(value) for part, value in place.query(ROWS, name=name)[0].items()}


def settle_statistics(place: Site, name: str, inserted: int) -> None:
    """Wait until every backend has told the server what it did, which idle ones do within ten seconds."""
    wait_until(lambda: rows(place, name)["inserted"] >= inserted, 60, "the server's statistics")
    time.sleep(TOLD_SECONDS)


@contextmanager
def connections(place: Site, processes: dict[str, Process]) -> Iterator[dict[str, int]]:
    """The most connections to the database that one process of each kind has meanwhile."""
    assert place.postgres is not None
    port = place.postgres.port
    most = dict.fromkeys(processes, 0)

    def look() -> None:
        sockets = sockets_to(port)
        for name, process in processes.items():
            pids = (process.pid, *process.descendants())
            if name == MAIN:
                pids = (process.pid,)
            most[name] = max(most[name], *(len(sockets & sockets_of(pid)) for pid in pids))

    with meanwhile(look, LOOK_SECONDS):
        yield most


def sockets_to(port: int) -> set[str]:
    """The inodes of this machine's TCP sockets that are connected to a port."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {words[9] for words in lines if words[2].endswith(f":{port:04X}")}


def sockets_of(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open."""
    found = set()
    with suppress(OSError):  # it ended meanwhile
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    return found


def create(place: Site, port: int) -> dict[str, float]:
    """Bytes of a trigger that was created over HTTP, in its table and in the log of its changes."""
    names = ("triggers", "trigger_changes")
    before = {name: size(place, name)["total"] for name in names}
    asyncio.run(send_all(port, requests("in bulk", "costs", CREATED), 2))
    return {name: (size(place, name)["total"] - before[name]) / CREATED for name in names}


def queued(place: Site, count: int) -> dict[str, float]:
    """Bytes in the broker of an event that waits in a batch of hints, and of a user's task that waits.

    Before there is a worker to take them; the broker is empty again afterwards.
    """
    place.valkey.flush()
    ids, due = new_ids(now(), count), now()
    found = {}
    steps: dict[str, Callable[[], object]] = {
        "hint": lambda: dispatch(place.app, [Hint(id_, due, "log", "any") for id_ in ids]),
        "task": lambda: publish(place, count),
    }
    for name, send in steps.items():
        before = used_memory(place)
        send()
        found[name] = (used_memory(place) - before) / count
        place.valkey.flush()
    return found


def used_memory(place: Site) -> int:
    """Bytes of memory that the broker uses."""
    return int(place.valkey.command("INFO", "memory")["used_memory"])


def record(place: Site, count: int, target: dict[str, Any], vacuum_seconds: float) -> dict[str, Any]:
    """One burst: what it added to the tables and to the log for each event, when PostgreSQL cleared up."""
    due = burst.prepare(place, count, target)
    before, logged, images = size(place, "events"), wal_bytes(place), page_images(place)
    counted = {name: rows(place, name) for name in NAMES}
    ours = burst.run(place, count, due)
    ended, logged, after = time.monotonic(), wal_bytes(place) - logged, size(place, "events")
    settle_statistics(place, "events", counted["events"]["inserted"] + count)
    told = {name: rows(place, name) for name in NAMES}
    return {
        "events_per_second": ours.rate,
        "wal_bytes": logged / count,
        "wal_page_images": (page_images(place) - images) / count,
        **{f"{part}_bytes": (after[part] - before[part]) / count for part in after},
        **{
            f"{name}_{what}": (told[name][what] - counted[name][what]) / count
            for name in NAMES
            for what in ("updated", "hot")
        },
        "autovacuum": {name: vacuumed(place, name, counted, ended, vacuum_seconds) for name in NAMES},
    }


def vacuumed(
    place: Site, name: str, counted: dict[str, dict[str, int]], ended: float, seconds: float
) -> dict[str, Any]:
    """When PostgreSQL vacuumed a table by itself, seconds after the burst, and what is dead then."""
    while not (came := rows(place, name)["vacuums"] > counted[name]["vacuums"]):
        if time.monotonic() - ended > seconds:
            break
        time.sleep(1)
    after = round(time.monotonic() - ended) if came else None
    return {"came_within_seconds": after, "dead": rows(place, name)["dead"]}


def vacuum(place: Site) -> float:
    """How long it takes to vacuum all events by hand, in seconds."""
    with place.unhurried(autocommit=True) as driver:
        began = time.monotonic()
        driver.execute("VACUUM events")
        return time.monotonic() - began


def keep(place: Site) -> dict[str, float]:
    """Archive all events, then purge them: events a second, and what each adds to the log."""
    found: dict[str, float] = {}
    steps = {
        "archived": retention.Ages(AT_ONCE, NEVER, NEVER),
        "deleted": retention.Ages(AT_ONCE, AT_ONCE, AT_ONCE),
    }
    for name, ages in steps.items():
        logged, began = wal_bytes(place), time.monotonic()
        done = retention.update_event_states(place.database, ages)[name]
        found[f"{name}_per_second"] = done / (time.monotonic() - began)
        found[f"{name}_wal_bytes"] = (wal_bytes(place) - logged) / done
    accounts = place.query("SELECT count(*) AS n FROM purged_events")[0]["n"]
    found["account_bytes"] = size(place, "purged_events")["total"] / accounts
    return found


def measure(kind: str, count: int, vacuum_seconds: float) -> dict[str, Any]:
    """All of it for one kind of target; prints its JSON line."""
    with site(KIND) as place:
        place.environment["ALLOW_PRIVATE_TARGETS"] = "true"
        http = {"type": "http", "url": f"http://127.0.0.1:{start_sink(place)}/hook", "body": BODY}
        targets: dict[str, dict[str, Any]] = {"log": stored.LOG, "http": http, "celery": stored.NOOP}
        target = targets[kind]
        waiting = queued(place, QUEUED)
        endpoint, port = start_server(place)
        worker = place.start_worker()
        before = now()
        beat = place.start_celery("beat")
        wait_until(lambda: place.last_tick(since=before), 60, beat.output)
        processes = {"endpoint": endpoint, "beat": beat, MAIN: worker, "any of a worker's": worker}
        with connections(place, processes) as most:
            created = create(place, port)
            burst.burst(place, WARM_UP, target)
            first = record(place, count, target, vacuum_seconds)
        figures = {
            "target": kind,
            "count": count,
            "trigger_bytes": created,
            "event": first,
            "vacuum_seconds": vacuum(place),
            "event_of_a_second_burst": record(place, count, target, 0),
            "retention": keep(place),
            "connections": most,
            "broker_bytes": waiting,
        }
        report("costs", figures, place.durability())
    return figures


def shown(found: dict[str, Any]) -> list[object]:
    """The table's column of one kind of target."""
    created, first, second = found["trigger_bytes"], found["event"], found["event_of_a_second_burst"]
    kept, own = found["retention"], first["autovacuum"]["events"]
    return [
        created["triggers"],
        created["trigger_changes"],
        first["total_bytes"],
        first["heap_bytes"],
        first["indexes_bytes"],
        second["total_bytes"],
        first["wal_bytes"],
        first["wal_page_images"],
        first["events_updated"],
        first["events_hot"],
        first["triggers_updated"],
        own["came_within_seconds"] or "not",
        own["dead"] / found["count"],
        found["vacuum_seconds"],
        kept["archived_per_second"],
        kept["archived_wal_bytes"],
        kept["deleted_per_second"],
        kept["deleted_wal_bytes"],
        kept["account_bytes"],
        *found["connections"].values(),
        *found["broker_bytes"].values(),
    ]


LINES = (
    "trigger, bytes", "  its creation in the log of changes, bytes", "event, bytes", "  of them the table",
    "  of them indexes", "  of a second burst after vacuum", "WAL of an event, bytes", "  page images in it",
    "updates of an event", "  of them HOT", "updates of its trigger",
    "autovacuum came, seconds after the burst", "  dead rows an event then", "VACUUM by hand, seconds",
    "archived a second", "  WAL of each, bytes", "purged a second", "  WAL of each, bytes",
    "account of purged ones a trigger and month, bytes", "connections: endpoint", "  beat",
    "  worker's main process", "  any process of a worker",
    "bytes in the broker: an event in a batch of hints", "  a user's task",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.costs", description="what an event costs PostgreSQL")
    parser.add_argument("--count", type=int, default=20_000, help="events of each burst")
    parser.add_argument("--targets", default="log,http,celery")
    parser.add_argument("--vacuum-seconds", type=float, default=75, help="to wait for autovacuum")
    options = parser.parse_args(arguments)
    kinds = options.targets.split(",")
    columns = [shown(measure(kind, options.count, options.vacuum_seconds)) for kind in kinds]
    lines = [[line, *values] for line, *values in zip(LINES, *columns, strict=True)]
    table(f"What it costs PostgreSQL, {options.count:,} events a burst", ("each", *kinds), lines)


if __name__ == "__main__":
    main()
