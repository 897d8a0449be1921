"""What is planned while the faults are on, and the client that goes on creating triggers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.acceptance.installation import TOKEN
from tests.faults.catalogue import MIN_BACKOFF_SECONDS, TIMEOUT_SECONDS
from tests.faults.tasks import RECORD

FRESH = 12  # triggers that fire each second, by which it is told whether events start on time
BURST = 70  # tasks that are due at one instant: so many travel in bundles
FRESH_PREFIX = "fresh-"
BAD_PREFIX = "bad-"  # of triggers whose target misbehaves
EDITED_PREFIX = "edited-"
OVERLAP_PREFIX = "overlap-"
CREATES_A_SECOND = 8
ANSWER_SECONDS = 15

PATIENT = {"misfire": "fire_all", "misfire_grace_seconds": 86_400}  # so every occurrence has to be delivered
RETRY = {"max_attempts": 10, "min_backoff_seconds": MIN_BACKOFF_SECONDS, "max_backoff_seconds": 2}


class Targets:
    """Makes targets that keep a record of what arrives."""

    def __init__(self, sink_port: int, task_ledger: Path) -> None:
        self.sink_port = sink_port
        self.task_ledger = str(task_ledger)

    def http(self, path: str = "/status/200") -> dict[str, Any]:
        """A request to the sink."""
        body = {"event": "{{event_id}}", "attempt": "{{attempt}}"}
        return {"type": "http", "url": f"http://127.0.0.1:{self.sink_port}{path}", "body": body}

    def task(self, seconds: float = 0.0) -> dict[str, Any]:
        """A task that runs for so long."""
        words = [self.task_ledger, "{{event_id}}", "{{attempt}}", "{{scheduled_for}}", seconds]
        return {"type": "celery", "task": RECORD, "args": words}

    def log(self) -> dict[str, Any]:
        """A line in the log."""
        return {"type": "log", "message": "{{trigger_name}} {{event_id}}"}


def document(
    name: str,
    schedule: dict[str, Any],
    target: dict[str, Any],
    retry: dict[str, Any] | None = None,
    **policy: Any,
) -> dict[str, Any]:
    """A trigger that keeps trying for longer than any fault lasts."""
    policy = {"timeout_seconds": TIMEOUT_SECONDS, **PATIENT, **policy}
    return {"name": name, "schedule": schedule, "target": target, "policy": policy, "retry": retry or RETRY}


def every(seconds: int, **more: Any) -> dict[str, Any]:
    """An interval."""
    return {"type": "interval", "every_seconds": seconds, **more}


def triggers(targets: Targets) -> Iterator[dict[str, Any]]:
    """The standing load: some forty occurrences a second, of each kind of schedule, target and policy."""
    for number in range(FRESH):
        yield document(f"{FRESH_PREFIX}{number}", every(1), targets.http())
    for seconds in (2, 3, 5, 7, 10):
        yield document(f"http-{seconds}s", every(seconds), targets.http())
        yield document(f"task-{seconds}s", every(seconds), targets.task())
    for number in range(4):
        yield document(f"task-{number}", every(2), targets.task())
        yield document(f"log-{number}", every(1), targets.log())
    for number in range(BURST):
        at_once = every(10, start_time="2026-01-01T00:00:00Z")
        yield document(f"burst-{number}", at_once, targets.task())
    yield document("slow-task", every(3), targets.task(1.0))
    yield document("slow-http", every(1), targets.http("/slow/0.7"))
    for kind in ("fire_once", "skip"):
        grace: dict[str, Any] = {"misfire": kind, "misfire_grace_seconds": 5}
        yield document(f"{kind}-http", every(1), targets.http(), **grace)
        yield document(f"{kind}-task", every(2), targets.task(), **grace)
    for overlap in ("skip", "queue"):
        yield document(
            f"overlap-{overlap}", every(1), targets.http("/slow/1.5"), overlap=overlap, misfire="skip"
        )
    yield document("jitter", every(1, jitter_seconds=3), targets.http())
    for number, zone in enumerate(("UTC", "Europe/Berlin", "Asia/Kolkata")):
        cron = {"type": "cron", "cron": "* * * * *", "timezone": zone}
        yield document(f"cron-{number}", cron, targets.http() if number else targets.task())


class Create(NamedTuple):
    """One trigger, from the first time it was asked for until it was granted. `at` is monotonic time."""

    at: float
    seconds: float


class Creates(NamedTuple):
    """How long creates took: 99 of 100 of them no longer than `p99_ms`; None when there was none."""

    number: int
    p99_ms: float | None


class Client(threading.Thread):
    """Creates triggers through the endpoint, a few each second, and asks again until it is told yes.

    With an Idempotency-Key, so that asking again makes no second one. `created` are the ids it was promised.
    """

    def __init__(self, url: str, targets: Targets) -> None:
        super().__init__(name="client", daemon=True)
        self.url = url
        self.targets = targets
        self.creates: list[Create] = []
        self.created: list[str] = []
        self.strange: list[str] = []  # answers that no request may get
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        self.join(ANSWER_SECONDS + 5)

    def run(self) -> None:
        number = 0
        due = time.monotonic()
        while not self._stopped.is_set():
            number += 1
            self.insist(number)
            due = max(due + 1 / CREATES_A_SECOND, time.monotonic())
            self._stopped.wait(due - time.monotonic())

    def insist(self, number: int) -> None:
        """Create one trigger, however long it takes."""
        ahead = timedelta(seconds=number % 4)
        at = (datetime.now(UTC) + ahead).isoformat()
        makers = (self.targets.http, self.targets.task, self.targets.log)
        target = makers[number % len(makers)]()
        body = json.dumps(document(f"made-{number}", {"type": "once", "at": at}, target)).encode()
        began = time.monotonic()
        while not self._stopped.is_set():
            if self.ask(body, f"key-{number}"):
                self.creates.append(Create(began, time.monotonic() - began))
                return
            self._stopped.wait(0.3)

    def ask(self, body: bytes, key: str) -> bool:
        """One request; whether it was granted."""
        headers = {
            "Authorization": f"Bearer {TOKEN}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        status, text = 0, b"{}"  # no answer at all
        try:
            with urlopen(Request(self.url + "/triggers", body, headers), timeout=ANSWER_SECONDS) as answer:
                status, text = answer.status, answer.read()
        except HTTPError as error:
            status, text = error.code, error.read()
        except (OSError, ValueError):
            pass  # being restarted
        if status in (200, 201):
            self.created.append(json.loads(text)["id"])
            return True
        if status not in (0, 503):
            self.strange.append(f"{status} {text.decode(errors='replace')[:300]}")
            return True
        return False

    def took(self, since: float, until: float) -> Creates:
        """Of the creates that were begun in between, with all that had to be asked again."""
        return slowest([create.seconds for create in self.creates if since <= create.at < until])


def slowest(seconds: Sequence[float]) -> Creates:
    """Number and p99 (nearest rank, so of fewer than a hundred the longest)."""
    if not seconds:
        return Creates(0, None)
    rank = -(-99 * len(seconds) // 100)
    return Creates(len(seconds), round(1000 * sorted(seconds)[rank - 1], 1))
