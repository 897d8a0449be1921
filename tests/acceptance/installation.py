"""One installation: a database, a broker, and the real processes that work on them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.request import Request, urlopen

from celery import Celery
from kombu import Connection, pools
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from celery_config.broker import options
from celery_config.dispatch import TICK, dispatch
from models.database import Database, schema_is_current
from models.event import Attempt, Event
from models.trigger import Trigger
from tests.processes import Process, free_port, wait_until
from tests.servers import PostgreSQL
from triggers import manage, tzdata
from triggers.audit.run import audit
from triggers.definition import parse_trigger
from triggers.settings import Settings
from triggers.tick import Hint

ROOT = Path(__file__).resolve().parents[2]
TASKS = "tests.acceptance.users_tasks"
NOW = {"type": "once", "at": "now"}
TOKEN = "the-acceptance-tests-own"
READY_SECONDS = 40  # for a worker to start, on a machine that is busy with other things
SECONDS = 15  # for what takes milliseconds, likewise


class Seen(NamedTuple):
    """An event as it stands."""

    id: str
    status: str
    reason: str | None
    attempt: int
    scheduled_for: datetime
    due_at: datetime
    started_at: datetime | None
    attempt_started_at: datetime | None
    finished_at: datetime | None
    result: Any
    error: Any
    progress: Any
    coalesced: int


class Installation:
    """Creates triggers as the endpoint would, reads events, and starts processes with the same settings.

    Processes run in a directory of their own, so that no `.env` of the machine's user plays a part.
    """

    def __init__(self, directory: Path, database_url: str, broker_url: str, **settings: str | int) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": database_url,
            "CELERY_BROKER_URL": broker_url,
            "ALLOW_PRIVATE_TARGETS": "true",
            "TASK_MODULES": f"examples.tasks,{TASKS}",
            "ALLOWED_TASKS": f"examples.tasks.*,{TASKS}.*",
            "TICK_SECONDS": "3600",
            **{name: str(value) for name, value in settings.items()},
        }
        self.settings = Settings.from_environment(self.environment)
        self.database = Database(database_url)
        self.app = Celery("tests", set_as_current=False)
        self.app.conf.update(options(self.settings), task_serializer="json", accept_content=["json"])
        self.processes: list[Process] = []
        self.changed_by_hand = False  # rows, as the audit in the end would find
        self.api: Endpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
        pools.reset()
        self.app.close()
        try:
            if error is None and not self.changed_by_hand and self.migrated():
                self.audit()
        finally:
            self.database.close()

    def migrated(self) -> bool:
        """Whether there is anything to look at: some tests need no database, or one that is away."""
        with suppress(OperationalError), self.database.read() as connection:
            return schema_is_current(connection)
        return False

    def audit(self) -> None:
        """Whatever was killed: no occurrence is missing or doubled, and no record contradicts itself.

        Late is what nobody was left to do.
        """
        _, report = audit(
            self.database,
            None,
            None,
            None,
            patience=timedelta(seconds=self.settings.tick_seconds + self.settings.horizon_seconds),
            archive_after=timedelta(seconds=self.settings.event_active_seconds),
            tzdata=tzdata.release(),
        )
        wrong = [finding for finding in report.findings if finding.kind != "overdue"]
        assert not wrong, wrong

    # Processes

    def start(self, *command: str, name: str = "", **settings: str | int) -> Process:
        """Start a command line; it ends with the installation at the latest."""
        more = {key: str(value) for key, value in settings.items()}
        environment = self.environment | more
        process = Process(command, self.directory, env=environment, name=name, cwd=self.directory)
        self.processes.append(process)
        return process

    def celery(self, command: str, *arguments: str, **settings: str | int) -> Process:
        """Start one of Celery's commands on the app."""
        name = settings.pop("name", command)
        words = ["celery", "-A", "celery_config.celery_worker", command, *arguments]
        return self.start(*words, name=str(name), **settings)

    def worker(self, *arguments: str, pool: str = "prefork", **settings: str | int) -> Process:
        """Start a worker, and wait until it takes messages."""
        worker = self.worker_unready(*arguments, pool=pool, **settings)
        worker.expect(" ready.", READY_SECONDS)
        return worker

    def worker_unready(self, *arguments: str, pool: str = "prefork", **settings: str | int) -> Process:
        """Start a worker. Two processes, as many as slots in the tests that fill them all."""
        fixed = ["--loglevel=info", f"--pool={pool}", "--concurrency=2"]
        return self.celery("worker", *fixed, *arguments, **settings)

    def beat(self, **settings: str | int) -> Process:
        """Start beat."""
        return self.celery("beat", "--loglevel=info", **settings)

    def endpoint(self) -> Endpoint:
        """Start the admin endpoint."""
        port = free_port()
        command = ["flask", "--app", "triggers.api", "run", f"--port={port}"]
        return Endpoint(self.start(*command, name="flask", ADMIN_TOKEN=TOKEN), port)

    # Triggers

    def create(
        self,
        name: str,
        target: dict[str, Any],
        schedule: dict[str, Any] | None = None,
        policy: dict[str, Any] | None = None,
        retry: dict[str, Any] | None = None,
    ) -> manage.Created:
        """Store a trigger. Unlike the endpoint it asks nobody for a tick."""
        document = {"name": name, "target": target, "schedule": schedule or NOW}
        document |= {"policy": policy or {}, "retry": retry or {"max_attempts": 1}}
        with self.database.write() as connection:
            now = self.database.now(connection)
            return manage.create(connection, parse_trigger(document, self.settings, now), now)

    def create_many(self, prefix: str, targets: list[dict[str, Any]], **more: Any) -> None:
        """Store a trigger for each target, due now if `more` says no other, in one transaction."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            for number, target in enumerate(targets):
                document = {"name": f"{prefix}-{number}", "target": target, "schedule": NOW} | more
                manage.create(connection, parse_trigger(document, self.settings, now), now)

    def now(self, name: str, target: dict[str, Any], **more: Any) -> str:
        """Store a trigger that is due at once and ask for a tick, as the endpoint would; its name."""
        self.create(name, target, **more)
        self.hint()
        return name

    def fire(self, name: str) -> str:
        """What the operator's `fire` does; the event's id."""
        with self.database.write() as connection:
            fired = manage.fire(connection, name, self.database.now)
        self.send([Hint(fired.event_id, fired.due_at, fired.target_type, fired.name)])
        return fired.event_id

    def hint(self) -> None:
        """Ask the workers for a tick."""
        self.app.send_task(TICK, kwargs={"hint": True}, ignore_result=True)

    def tick(self) -> None:
        """Send what beat sends."""
        self.app.send_task(TICK, ignore_result=True)

    def send(self, hints: list[Hint]) -> None:
        """Hand events to the broker as a tick does."""
        assert dispatch(self.app, hints)

    # Events

    def events(self, name: str) -> list[Seen]:
        """The events of a trigger, the oldest first."""
        columns = [getattr(Event, column) for column in Seen._fields]
        statement = select(*columns).join(Trigger, Trigger.id == Event.trigger_id).where(Trigger.name == name)
        with self.database.read() as connection:
            return [Seen(*row) for row in connection.execute(statement.order_by(Event.scheduled_for))]

    def event(self, name: str) -> Seen:
        """The one event of a trigger."""
        (found,) = self.events(name)
        return found

    def wait_for(self, name: str, status: str = "succeeded", seconds: float = SECONDS) -> Seen:
        """Wait until the one event of a trigger has this status."""

        def reached() -> Seen | None:
            found = self.events(name)
            assert len(found) < 2, found
            return found[0] if found and found[0].status == status else None

        told = wait_until(
            reached, seconds, lambda: f"{name} is {status}: {self.events(name)}", poll_seconds=0.05
        )
        assert told is not None
        return told

    def wait_for_all(self, names: list[str], status: str = "succeeded", seconds: float = SECONDS) -> None:
        """Wait until the events of all these triggers have this status."""
        for name in names:
            self.wait_for(name, status, seconds)

    def attempts(self, event_id: str) -> list[tuple[int, str, Any]]:
        """Number, outcome and error of the attempts that did not succeed."""
        statement = select(Attempt.attempt, Attempt.outcome, Attempt.error)
        statement = statement.where(Attempt.event_id == event_id).order_by(Attempt.attempt)
        with self.database.read() as connection:
            return [tuple(row) for row in connection.execute(statement)]

    # The broker

    def waiting(self, queue: str) -> int:
        """How many messages wait in a queue."""
        with Connection(self.settings.celery_broker_url) as connection:
            declared = connection.default_channel.queue_declare(queue, passive=True)
            return int(declared.message_count)


class Endpoint:
    """The running admin endpoint."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; the JSON of its answer. Raises what `urllib` raises for any but a success."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        with urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def ready(self) -> Self:
        """Wait until it answers."""
        self.process.expect("Running on ", READY_SECONDS)
        return self


def stepped_clock(file: Path) -> dict[str, str]:
    """The environment of a process whose clock of the wall is off by as many seconds as the file says."""
    path = os.pathsep.join([str(ROOT / "tests" / "stepped_clock"), str(ROOT)])
    return {"PYTHONPATH": path, "STEPPED_CLOCK": str(file)}


def task(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The target that calls a task: one of the examples, or of the tests' own."""
    module = "examples.tasks" if name in ("call_microservice", "divide", "process_text", "add") else TASKS
    return {"type": "celery", "task": f"{module}.{name}", "args": list(args), "kwargs": kwargs}


def message(text: str = "hello") -> dict[str, Any]:
    """The target that writes a line to the log."""
    return {"type": "log", "message": text}


def in_seconds(installation: Installation, seconds: float) -> dict[str, Any]:
    """The schedule of one instant that far ahead."""
    with installation.database.read() as connection:
        at = installation.database.now(connection) + timedelta(seconds=seconds)
    return {"type": "once", "at": at.isoformat()}


def json_lines(text: str) -> list[dict[str, Any]]:
    """The log of a process with LOG_FORMAT=json."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@contextmanager
def fresh_postgres(server: PostgreSQL, template: str) -> Iterator[str]:
    """A migrated database, for fixtures that live longer than a test."""
    name = server.create_database(template=template)
    try:
        yield server.url(name)
    finally:
        server.drop_database(name)
