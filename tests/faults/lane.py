"""One running installation: its servers, its processes, its targets, and who restarts what died."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from models.database import migrate
from tests.acceptance.installation import ROOT, TASKS, TOKEN, Installation
from tests.faults.catalogue import HORIZON_SECONDS, TICK_SECONDS
from tests.faults.ledger import Ledger
from tests.faults.proxy import Proxy
from tests.faults.workload import Client, Targets, triggers
from tests.processes import Process, free_port, wait_until
from tests.servers import PostgreSQL, RabbitMQ, Valkey
from triggers.errors import NameInUse

START_SECONDS = 90
SUPERVISE_SECONDS = 0.5
DISK_MB = 256  # of the little disk that SQLite's file is on
MAX_CONNECTIONS = 60
OLDER = "8b50b69"  # the last commit before the migrations 0002 and 0003; the last release, once there is one
READY = re.compile(r"^(\S+Z) .* ready\.$", re.MULTILINE)


class Fleet:
    """The processes by their role, restarted when they die, as systemd or `up` would."""

    def __init__(self) -> None:
        self.makers: dict[str, Callable[[], Process]] = {}
        self.running: dict[str, Process] = {}
        self.held: set[str] = set()  # roles that stay as they are
        self.restarts = 0
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="fleet", daemon=True)

    def add(self, role: str, maker: Callable[[], Process]) -> Process:
        """Start a process, and keep it running."""
        with self._lock:
            self.makers[role] = maker
            self.running[role] = maker()
            return self.running[role]

    def watch(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(20)

    def hold(self, *roles: str) -> None:
        """Leave these alone, dead or alive."""
        with self._lock:
            self.held |= set(roles)

    def release(self, *roles: str) -> None:
        with self._lock:
            self.held -= set(roles)

    def remove(self, role: str) -> Process:
        """A role that is filled no longer; its process runs on."""
        with self._lock:
            del self.makers[role]
            return self.running.pop(role)

    def roles(self, prefix: str) -> list[str]:
        with self._lock:
            return [role for role in self.running if role.startswith(prefix)]

    def all(self, prefix: str) -> list[Process]:
        with self._lock:
            return [self.running[role] for role in self.roles(prefix)]

    def _supervise(self) -> None:
        while not self._stopped.wait(SUPERVISE_SECONDS):
            with self._lock:
                for role, maker in self.makers.items():
                    if role not in self.held and not self.running[role].alive():
                        self.running[role] = maker()
                        self.restarts += 1


class Judged(Installation):
    """An installation that somebody else audits, and reports instead of raising."""

    def audit(self) -> None:
        return


class Lane:
    """Everything on one machine, each server behind a proxy of ours."""

    def __init__(self, name: str, directory: Path, seed: int) -> None:
        self.name = name
        self.directory = directory
        self.chance = random.Random(f"{name}-{seed}")
        self.fleet = Fleet()
        self.notes: list[str] = []
        self.disk: Path | None = None  # where SQLite's file is, when its space is bounded
        self.older: Path | None = None  # the code of an older version, where there is its history

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        with ExitStack() as stack:
            self._stack = stack
            self._start_servers()
            self._start_targets()
            self._find_older()
            self._start_installation()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    # Start

    def _start_servers(self) -> None:
        directory = self.directory
        self.valkey: Valkey | None = None
        self.rabbitmq: RabbitMQ | None = None
        self.postgres: PostgreSQL | None = None
        self.database_proxy: Proxy | None = None
        if self.name.endswith("valkey"):
            self.valkey = self._stack.enter_context(Valkey(directory / "valkey"))
        else:
            self.rabbitmq = self._stack.enter_context(RabbitMQ(directory / "rabbitmq"))
        self.broker: Valkey | RabbitMQ = self.valkey or self.rabbitmq  # type: ignore[assignment]
        self.broker_proxy = self._stack.enter_context(Proxy(self.broker.port, 1))
        if self.name.startswith("postgresql"):
            options = ["-c", f"max_connections={MAX_CONNECTIONS}"]
            self.postgres = self._stack.enter_context(PostgreSQL(directory / "postgres", options=options))
            self.database_proxy = self._stack.enter_context(Proxy(self.postgres.port, 2))
            self.database_url = self.postgres.url()
            self.processes_url = self.database_url.replace(
                f":{self.postgres.port}/", f":{self.database_proxy.port}/"
            )
        else:
            self._small_disk()
            self.database_url = f"sqlite:///{(self.disk or directory) / 'triggerbeat.db'}"
            self.processes_url = self.database_url

    def _small_disk(self) -> None:
        """A file system of its own for SQLite, where we may make one."""
        disk = self.directory / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
        if (
            os.geteuid() != 0
            or shutil.which("mount") is None
            or subprocess.call(command, stderr=subprocess.DEVNULL)
        ):
            self.notes.append("no file system of its own for SQLite: the disk is never full here")
            return
        self.disk = disk
        self._stack.callback(subprocess.call, ["umount", "-l", str(disk)])

    def _find_older(self) -> None:
        """The code of an older version, out of the history of this one."""
        archive = self.directory / "older.tar"
        command = ["git", "-C", str(ROOT), "archive", "--output", str(archive), OLDER]
        if shutil.which("git") is None or subprocess.call(command, stderr=subprocess.DEVNULL):
            self.notes.append("no history of the code here: no older version runs beside it")
            return
        self.older = self.directory / "older"
        self.older.mkdir()
        subprocess.run(["tar", "-xf", str(archive), "-C", str(self.older)], check=True)

    def _start_targets(self) -> None:
        sink_ledger, task_ledger = self.directory / "sink.jsonl", self.directory / "tasks.jsonl"
        self.ledger = Ledger(sink_ledger, task_ledger)
        command = ["python", "-m", "tests.sink", "--ledger", str(sink_ledger)]
        sink = Process(command, self.directory / "sink", name="sink", env={"PYTHONPATH": str(ROOT)})
        self._stack.callback(sink.kill)
        port = int(re.findall(r"\d+", sink.expect("port", 30))[0])
        self.targets = Targets(port, task_ledger)

    def _start_installation(self) -> None:
        migrate(self.database_url)
        broker_url = self.broker.url
        direct = broker_url if isinstance(broker_url, str) else broker_url()
        self.installation = self._stack.enter_context(
            Judged(
                self.directory / "files",
                self.database_url,
                direct,
                TICK_SECONDS=TICK_SECONDS,
                HORIZON_SECONDS=HORIZON_SECONDS,
                TASK_MODULES=f"examples.tasks,{TASKS},tests.faults.tasks",
                ALLOWED_TASKS=f"examples.tasks.*,{TASKS}.*,tests.faults.tasks.*",
            )
        )
        # The processes speak through the proxies; what this one looks at, it looks at directly.
        proxied = direct.replace(f":{self.broker.port}/", f":{self.broker_proxy.port}/")
        self.installation.environment |= {
            "DATABASE_URL": self.processes_url, "CELERY_BROKER_URL": proxied, "ADMIN_TOKEN": TOKEN,
        }  # fmt: skip
        self.began = datetime.now(UTC)
        for document in triggers(self.targets):
            self.create(document)
        self.api_port = free_port()
        self._stack.callback(self.fleet.stop)
        first = [
            self.fleet.add(*self.worker("worker-a")),
            self.fleet.add(*self.worker("worker-b", pool="solo")),
        ]
        self.fleet.add("beat", lambda: self.installation.beat())
        self.fleet.add("endpoint", self.endpoint)
        for worker in first:
            worker.expect(" ready.", START_SECONDS)
        self.fleet.running["endpoint"].expect("Running on ", START_SECONDS)
        self.fleet.watch()
        self.client = Client(f"http://127.0.0.1:{self.api_port}", self.targets)
        self.client.start()
        self._stack.callback(self.client.stop)

    # Processes

    def worker(self, role: str, pool: str = "prefork", **settings: str) -> tuple[str, Callable[[], Process]]:
        """A role for the fleet."""
        return role, lambda: self.installation.worker_unready(
            "-n", f"{role}@%h", pool=pool, name=role, **settings
        )

    def endpoint(self) -> Process:
        """The admin endpoint, on the same port each time."""
        command = ["flask", "--app", "triggers.api", "run", f"--port={self.api_port}"]
        return self.installation.start(*command, name="flask")

    def create(self, document: dict[str, Any]) -> None:
        """Store a trigger, as a program would that uses the database directly; in a storm it tries again."""
        wait_until(partial(self._is_created, document), START_SECONDS, f"the trigger {document['name']}")

    def _is_created(self, document: dict[str, Any]) -> bool:
        names = ("name", "target", "schedule", "policy", "retry")
        try:
            self.installation.create(*(document[name] for name in names))
        except NameInUse:
            return True  # the answer to an earlier try was lost
        except (SQLAlchemyError, TimeoutError):
            return False
        return True

    def audit(self, since: datetime, until: datetime) -> dict[str, Any]:
        """What `triggerbeat audit --json` says of this span."""
        words = ["audit", "--json", "--from", since.isoformat(), "--to", until.isoformat()]
        errors = self.directory / "audit-errors.log"
        with errors.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "triggers.cli", *words],
                stdout=subprocess.PIPE, stderr=log, timeout=300, check=False,
                env={**os.environ, **self.installation.environment}, cwd=self.installation.directory,
            )  # fmt: skip
        assert done.returncode in (0, 1), errors.read_text()
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer["ok"] == (done.returncode == 0)
        return answer

    # For faults

    def can(self, fault: str) -> bool:
        """Whether there is what a fault needs."""
        needed = {"sqlite-disk-full": self.disk, "version-back": self.older}
        return needed.get(fault, self.directory) is not None

    def wait(self, seconds: float) -> None:
        """The fault itself takes this long: nothing is waited for."""
        time.sleep(seconds)

    def between(self, low: float, high: float) -> float:
        return self.chance.uniform(low, high)

    def any_worker(self) -> str:
        return self.chance.choice(sorted(self.fleet.roles("worker")))

    def age(self, now: datetime) -> float:
        """Seconds since the first trigger."""
        return round((now - self.began).total_seconds(), 1)

    def came_up(self, since: datetime) -> float | None:
        """Seconds from an instant until the last of the workers was ready that have come up since."""
        logs = [worker.output() for worker in self.fleet.all("worker")]
        return came_up(logs, since)

    def workers_ready(self) -> None:
        """Wait until those that were started have come up: a start is not a fault."""
        for process in self.fleet.all("worker"):
            wait_until(partial(up_or_ended, process), START_SECONDS, process.name)


def came_up(logs: Iterable[str], since: datetime) -> float | None:
    """The same, by what the workers wrote; None when each was ready before."""
    told = [datetime.fromisoformat(at) for log in logs for at in READY.findall(log)]
    return max(((at - since).total_seconds() for at in told if at > since), default=None)


def up_or_ended(worker: Process) -> bool:
    """Whether there is nothing to wait for any more."""
    return " ready." in worker.output() or not worker.alive()
