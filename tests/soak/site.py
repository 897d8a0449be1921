"""The installation that soaks: real processes, a steady load, and somebody who goes on creating triggers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from models.base import instant_text
from models.database import migrate
from tests.acceptance.installation import ROOT, TASKS, TOKEN, Installation
from tests.faults.workload import Client, Targets, document, every
from tests.processes import Process, free_port
from tests.servers import PostgreSQL, Valkey
from triggers import manage
from triggers.definition import parse_trigger

START_SECONDS = 120
AUDIT_SECONDS = 900
TICK_SECONDS = 10
CLEANER = "celery_config.celery_worker.update_event_states"
# Of a hundred occurrences; the rest are log lines. Some fail, so that attempts are recorded and purged, too.
HTTP, TASK, FAILING = 30, 8, 2
DATABASES = ("postgresql", "sqlite")


class Site:
    """Beat, two workers, the endpoint, their database and their broker, and a sink.

    Events are archived after `keep_seconds` and deleted after twice that.
    """

    def __init__(self, database: str, directory: Path, rate: int, keep_seconds: int) -> None:
        self.database = database
        self.directory = directory
        self.rate = rate
        self.keep_seconds = keep_seconds
        self.postgres: PostgreSQL | None = None
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _start(self) -> None:
        self.valkey = self._stack.enter_context(Valkey(self.directory / "valkey"))
        if self.database == "postgresql":
            self.postgres = self._stack.enter_context(PostgreSQL(self.directory / "postgres"))
            self.database_url = self.postgres.url()
        else:
            self.database_url = f"sqlite:///{self.directory / 'triggerbeat.db'}"
        migrate(self.database_url)
        sink = Process(
            ["python", "-m", "tests.sink"], self.directory / "sink", name="sink",
            env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._stack.callback(sink.kill)
        port = int(re.findall(r"\d+", sink.expect("port", START_SECONDS))[0])
        self.targets = Targets(port, self.directory / "tasks.jsonl")
        self._start_installation()

    def _start_installation(self) -> None:
        self.installation = self._stack.enter_context(
            Unaudited(
                self.directory / "files",
                self.database_url,
                self.valkey.url,
                TICK_SECONDS=TICK_SECONDS,
                EVENT_ACTIVE_SECONDS=self.keep_seconds,
                EVENT_ARCHIVED_SECONDS=2 * self.keep_seconds,
                EVENT_FAILED_SECONDS=2 * self.keep_seconds,
                ADMIN_TOKEN=TOKEN,
                TASK_MODULES=f"examples.tasks,{TASKS},tests.faults.tasks",
                ALLOWED_TASKS=f"examples.tasks.*,{TASKS}.*,tests.faults.tasks.*",
            )
        )
        self.began = datetime.now(UTC)
        self.create_standing()
        api_port = free_port()
        installation = self.installation
        self.processes = {
            "worker-a": installation.worker_unready("-n", "worker-a@%h", name="worker-a"),
            "worker-b": installation.worker_unready("-n", "worker-b@%h", name="worker-b"),
            "beat": installation.beat(),
            "endpoint": installation.start(
                "flask", "--app", "triggers.api", "run", f"--port={api_port}", name="endpoint"
            ),
        }
        for name, ready in (("worker-a", " ready."), ("worker-b", " ready."), ("endpoint", "Running on ")):
            self.processes[name].expect(ready, START_SECONDS)
        self.client = Client(f"http://127.0.0.1:{api_port}", self.targets)
        self.client.start()
        self._stack.callback(self.client.stop)

    def create_standing(self) -> None:
        """A trigger for each occurrence a second."""
        with self.installation.database.write() as connection:
            now = self.installation.database.now(connection)
            for wanted in standing(self.targets, self.rate):
                manage.create(connection, parse_trigger(wanted, self.installation.settings, now), now)

    def clean(self) -> None:
        """Send what beat sends each half hour: too seldom for what shall be level within an hour."""
        self.installation.app.send_task(CLEANER, ignore_result=True)

    def instant_of_sqlite(self) -> str:
        """Five seconds ago, as SQLite's column has it."""
        return f"'{instant_text(datetime.now(UTC) - timedelta(seconds=5))}'"

    def count_purged(self) -> int:
        """How many events retention has deleted."""
        with self.installation.database.read() as connection:
            statement = "SELECT coalesce(sum(events), 0) FROM purged_events"
            return int(connection.exec_driver_sql(statement).scalar_one())

    def audit(self) -> dict[str, Any]:
        """What `triggerbeat audit --json` says of all of it."""
        words = ["audit", "--json", "--from", self.began.isoformat(), "--to", datetime.now(UTC).isoformat()]
        done = subprocess.run(
            [sys.executable, "-m", "triggers.cli", *words],
            capture_output=True, text=True, timeout=AUDIT_SECONDS, check=False,
            env={**os.environ, **self.installation.environment}, cwd=self.installation.directory,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


class Unaudited(Installation):
    """An installation whose audit is reported instead of raised."""

    def audit(self) -> None:
        return


def standing(targets: Targets, rate: int) -> Iterator[dict[str, Any]]:
    """The load: `rate` occurrences a second, of each kind of target, each second of all."""
    twice = {"max_attempts": 2, "min_backoff_seconds": 1, "max_backoff_seconds": 1}
    for number in range(rate):
        share = 100 * number // rate
        if share < FAILING:
            yield document(f"failing-{number}", every(1), targets.http("/status/500"), twice)
        elif share < FAILING + HTTP:
            yield document(f"http-{number}", every(1), targets.http())
        elif share < FAILING + HTTP + TASK:
            yield document(f"task-{number}", every(1), targets.task())
        else:
            yield document(f"log-{number}", every(1), targets.log())
