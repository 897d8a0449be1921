"""Creating triggers over HTTP, through gunicorn as `up` starts it: one by one, and a thousand a request.

    python -m benchmarks.create [--one-by-one 8000] [--in-bulk 60000] [--connections 8] [--repeat 3]

The client has its bodies ready, keeps its connections and reads no more of an answer than its length; it
shares the machine's cores with the server and the database. Each trigger has a name of its own, one of a
hundred cron expressions in a zone with changes of clock, and an HTTP target with headers and a body. Beside
the rate stands the processor time that the server, without PostgreSQL's own, took for each. The floor is the
same rows, with the same indexes, loaded by COPY on PostgreSQL and by one `executemany` on SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import DATABASES, ROOT, Site, cpu_seconds, report, site, table
from tests.processes import Process, free_port
from tests.servers import wait_until

TOKEN = "benchmark"
MUST_REACH = {"one by one": 1_000, "in bulk": 8_000}
WARM_UP = {"one by one": 200, "in bulk": 4}  # requests before the measured ones
BULK = 1_000
SQLITE_INDEXES = "SELECT sql FROM sqlite_master WHERE tbl_name = 'triggers' AND sql LIKE 'CREATE%INDEX%'"


class Connection(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is complete."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self.requests = requests
        self.done = done
        self.seen = 0
        self.length = 0
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        """The next request, or the end."""
        self.seen, self.length, self.head = 0, 0, b""
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
        else:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self.length:
            data = self.head + data
            head, found, _ = data.partition(b"\r\n\r\n")
            if not found:
                self.head = data
                return
            if not head.startswith(b"HTTP/1.1 201"):
                self.transport.abort()
                self.done.set_exception(AssertionError(data[:2000]))
                return
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            self.length = len(head) + 4 + int(length)
        self.seen += len(data)
        if self.seen >= self.length:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)


async def send_all(port: int, requests: list[bytes], connections: int) -> float:
    """Send all requests over so many connections; how long it took, in seconds."""
    loop = asyncio.get_running_loop()
    each = iter(requests)
    began = time.monotonic()
    ends = [loop.create_future() for _ in range(connections)]
    for end in ends:
        await loop.create_connection(lambda end=end: Connection(each, end), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*ends)
    return time.monotonic() - began


def trigger(name: str, number: int) -> dict[str, Any]:
    """The body of one create."""
    return {
        "name": f"{name}-{number}",
        "tags": ["billing"],
        "schedule": {
            "type": "cron",
            "cron": f"{number % 50} {7 + number % 2} * * 1-5",
            "timezone": "Europe/Berlin",
        },
        "target": {
            "type": "http",
            "url": "https://hooks.example.org/report",
            "headers": {"X-Env": "prod"},
            "body": {"day": "{{scheduled_for}}"},
        },
    }


def request(path: str, document: Any) -> bytes:
    """A whole request."""
    body = json.dumps(document).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests(way: str, name: str, triggers: int) -> list[bytes]:
    """All requests of a measure."""
    bodies = [trigger(name, number) for number in range(triggers)]
    if way == "one by one":
        return [request("/triggers", body) for body in bodies]
    return [request("/triggers:bulk", bodies[at : at + BULK]) for at in range(0, triggers, BULK)]


def start_server(place: Site) -> tuple[Process, int]:
    """gunicorn with the project's own configuration, and its port."""
    port = free_port()
    environment = {
        "DATABASE_URL": place.database_url,
        "CELERY_BROKER_URL": place.valkey.url,
        "ADMIN_TOKEN": TOKEN,
        "PORT": str(port),
        "LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:triggers.gunicorn_config"]
    process = Process(
        [*command, "triggers.api:create_app()"], place.directory, name="gunicorn", env=environment, cwd=ROOT
    )
    place.stack.enter_context(process)
    wait_until(lambda: answers(port), 30, process.output)
    return process, port


def answers(port: int) -> bool:
    """Whether something listens there."""
    try:
        asyncio.run(send_all(port, [], 1))
    except OSError:
        return False
    return True


def at_rest(server: Process) -> bool:
    """Whether a server that nobody asks does nothing: it imports Celery's wiring while it answers already."""
    before = cpu_seconds(server)
    time.sleep(0.2)
    return cpu_seconds(server) - before < 0.02


def floor_rate(place: Site) -> float:
    """Rows a second with which the database loads all its triggers in bulk, with the same indexes."""
    connection = place.database.engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        driver.rollback()
        count, seconds = postgres_floor(driver) if place.kind == "postgresql" else sqlite_floor(driver)
        return count / seconds
    finally:
        connection.close()


def postgres_floor(driver: Any) -> tuple[int, float]:
    """COPY into a twin of the table."""
    with driver.cursor().copy("COPY triggers TO STDOUT") as source:
        rows = b"".join(bytes(block) for block in source)
    driver.execute("CREATE TABLE floor (LIKE triggers INCLUDING INDEXES)")
    driver.commit()
    began = time.monotonic()
    with driver.cursor().copy("COPY floor FROM STDIN") as copy:
        copy.write(rows)
    driver.commit()
    return rows.count(b"\n"), time.monotonic() - began


def sqlite_floor(driver: Any) -> tuple[int, float]:
    """One executemany into a twin of the table."""
    rows = driver.execute("SELECT * FROM triggers").fetchall()
    driver.execute("CREATE TABLE floor AS SELECT * FROM triggers WHERE false")
    driver.execute("CREATE UNIQUE INDEX floor_id ON floor (id)")
    for (index,) in driver.execute(SQLITE_INDEXES).fetchall():
        driver.execute(index.replace("INDEX ", "INDEX floor_", 1).replace(" ON triggers", " ON floor"))
    began = time.monotonic()
    driver.execute("BEGIN IMMEDIATE")
    driver.executemany(f"INSERT INTO floor VALUES ({', '.join('?' * len(rows[0]))})", rows)
    driver.commit()
    return len(rows), time.monotonic() - began


@dataclass(frozen=True)
class Run:
    """By way: triggers a second, and the server's processor time for each, in microseconds."""

    rate: dict[str, float]
    cpu: dict[str, float]
    floor: float
    durability: dict[str, str]


def run(kind: str, counts: dict[str, int], connections: int) -> Run:
    """One run on a database of its own."""
    with site(kind) as place:
        server, port = start_server(place)
        rate: dict[str, float] = {}
        cpu: dict[str, float] = {}
        for way, count in counts.items():
            each = BULK if way == "in bulk" else 1
            asyncio.run(send_all(port, requests(way, f"warm-{each}", WARM_UP[way] * each), connections))
            place.settle()
            wait_until(lambda: at_rest(server), 30, "the server has loaded what it loads beside its start")
            ready = requests(way, f"measured-{each}", count)
            before = cpu_seconds(server)
            rate[way] = count / asyncio.run(send_all(port, ready, connections))
            cpu[way] = (cpu_seconds(server) - before) / count * 1e6
        stored = place.query("SELECT count(*) AS n FROM triggers WHERE name LIKE 'measured-%'")[0]["n"]
        assert stored == sum(counts.values()), stored
        return Run(rate, cpu, floor_rate(place), place.durability())


def measure(kind: str, counts: dict[str, int], connections: int, repeat: int) -> list[list[object]]:
    """Some runs; prints the JSON line and returns the table's rows."""
    runs = [run(kind, counts, connections) for _ in range(repeat)]
    floor = statistics.median(one.floor for one in runs)
    rows: list[list[object]] = []
    figures: dict[str, Any] = {"floor_per_second": floor}
    for way, count in counts.items():
        rates = [one.rate[way] for one in runs]
        cpu = statistics.median(one.cpu[way] for one in runs)
        middle = statistics.median(rates)
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        rows.append([f"{kind}, {way}", count, middle, spread, MUST_REACH[way], cpu, floor])
        figures[way.replace(" ", "_")] = {
            "triggers": count,
            "per_second": middle,
            "all_runs": rates,
            "must_reach": MUST_REACH[way],
            "server_cpu_us": cpu,
        }
    report("create", {"database": kind, "connections": connections, **figures}, runs[0].durability)
    return rows


HEADERS = (
    "created over HTTP",
    "triggers",
    "a second",
    "all runs",
    "must reach",
    "server us each",
    "bulk load",
)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.create", description="creating triggers over HTTP")
    parser.add_argument("--one-by-one", type=int, default=8_000)
    parser.add_argument("--in-bulk", type=int, default=60_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    counts = {"one by one": options.one_by_one, "in bulk": options.in_bulk}
    counts = {way: count for way, count in counts.items() if count}
    rows = []
    for kind in options.databases.split(","):
        rows += measure(kind, counts, options.connections, options.repeat)
    table(f"Triggers created over HTTP, {options.connections} connections, gunicorn", HEADERS, rows)


if __name__ == "__main__":
    main()
