"""A burst of users' tasks, which travels in bundles: each is a task of its own all the same."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installation import READY_SECONDS, TASKS, Installation, in_seconds, task
from tests.processes import Process, wait_until
from tests.servers import RabbitMQ
from triggers import queue_view

MANY = 100  # more than go out one by one


def names(prefix: str) -> list[str]:
    return [f"{prefix}-{number}" for number in range(MANY)]


def broker_of(broker: str, request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """Its URL, and the settings that belong to it."""
    if broker == "redis":
        return request.getfixturevalue("broker_url"), {}
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
    return rabbitmq.url(rabbitmq.create_virtual_host()), {"CELERY_QUEUE_TYPE": "quorum"}


def left(installation: Installation) -> int:
    """How many messages wait in the broker, or are held by a worker."""
    found = queue_view.queues(installation.settings, installation.settings.celery_broker_url)
    held: int = found["held"]["count"] if found["held"] else 0
    return held + sum(int(queue["waiting"]) for queue in found["queues"])


def told(worker: Process, what: str) -> dict[str, int]:
    """How often Celery's line of this kind is in the log for each task's id."""
    return Counter(re.findall(rf"Task {TASKS}\.append\[(.*)\] {what}", worker.output()))


@pytest.mark.parametrize(
    ("broker", "pool", "database"),
    [
        ("redis", "prefork", "postgres_url"),
        ("redis", "solo", "sqlite_url"),
        ("quorum", "prefork", "postgres_url"),
    ],
)
def test_each_task_of_a_burst_is_received_and_run_once_by_its_events_id(
    broker: str, pool: str, database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    broker_url, settings = broker_of(broker, request)
    ran = tmp_path / "ran"
    url = request.getfixturevalue(database)
    with Installation(tmp_path, url, broker_url, **settings) as installation:
        installation.create_many("burst", [task("append", str(ran), "{{event_id}}")] * MANY)
        worker = installation.worker(pool=pool)
        installation.tick()
        installation.wait_for_all(names("burst"), seconds=60)
        events = [installation.event(name) for name in names("burst")]
        ids = {event.id: 1 for event in events}
        assert Counter(ran.read_text().split()) == ids
        assert {event.attempt for event in events} == {1}
        for said in ("received", "succeeded"):
            wait_until(lambda said=said: told(worker, said) == ids, 10, worker.output)  # type: ignore[misc]
        wait_until(lambda: left(installation) == 0, 10, "all to be acknowledged")


def test_tasks_that_are_long_are_shared_by_all_workers(
    broker_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """The first that takes the bundles keeps what it has room for, and no more."""
    with Installation(tmp_path, postgres_url, broker_url) as installation:
        first = installation.worker("-n", "first@%h")
        installation.create_many("long", [task("rest", 0.2)] * MANY)
        installation.tick()
        second = installation.worker("-n", "second@%h")
        installation.wait_for_all(names("long"), seconds=60)
        shares = [worker.output().count(f"Task {TASKS}.rest[") for worker in (first, second)]
        assert min(shares) > MANY // 4, shares
        assert {installation.event(name).attempt for name in names("long")} == {1}


def test_behind_a_task_that_hangs_the_others_of_its_bundle_run(
    broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    targets: list[dict[str, Any]] = [task("own_pid", str(tmp_path / "pid")), *[task("divide", 4, 2)] * MANY]
    with Installation(tmp_path, sqlite_url, broker_url) as installation:
        installation.worker()
        installation.create_many("behind", targets)
        installation.tick()
        installation.wait_for_all([f"behind-{number}" for number in range(1, MANY + 1)], seconds=60)
        assert installation.event("behind-0").status == "running"


def test_tasks_of_a_burst_that_the_worker_does_not_have_fail(
    broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    with Installation(tmp_path, sqlite_url, broker_url) as installation:
        installation.worker(TASK_MODULES="examples.tasks")
        installation.create_many("unknown", [task("append", "nowhere", "")] * MANY, retry={"max_attempts": 1})
        installation.tick()
        installation.wait_for_all(names("unknown"), "failed", seconds=60)
        assert {str(installation.event(name).error["type"]) for name in names("unknown")} == {"NotRegistered"}


@pytest.mark.parametrize("database", ["sqlite_url", "postgres_url"])
def test_a_crash_takes_no_result_of_the_task_before_along(
    database: str, broker_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """In the same process, a moment after that one has ended."""
    targets = [task("exit_at_once") if number % 4 == 3 else task("divide", 4, 2) for number in range(8)]
    with Installation(tmp_path, request.getfixturevalue(database), broker_url) as installation:
        installation.worker("--concurrency=1")
        installation.create_many(
            "crash", targets, schedule=in_seconds(installation, 3), retry={"max_attempts": 1}
        )
        installation.tick()
        for number, target in enumerate(targets):
            crashes = target["task"].endswith("exit_at_once")
            event = installation.wait_for(f"crash-{number}", "failed" if crashes else "succeeded", 30)
            assert event.reason == ("lost" if crashes else None)


# ------------------------------------------------------------------------------------ behind long ones

LONG = 3  # tasks, on the four processes of two workers


def behind_long_ones(installation: Installation, wanted: int, tmp_path: Path) -> None:
    """Tasks that wait for a file, and as many short ones, so that all the short ones have to end."""
    holds = task("wait_for_file", str(tmp_path / "go on"))
    installation.create_many("behind", [holds] * LONG + [task("divide", 4, 2)] * wanted)
    installation.tick()
    names = [f"behind-{number}" for number in range(LONG, LONG + wanted)]
    installation.wait_for_all(names, seconds=20)


@pytest.mark.parametrize(("broker", "count"), [("redis", 20), ("redis", MANY), ("quorum", 20)])
def test_no_task_waits_behind_long_ones_while_another_worker_is_idle(
    broker: str, count: int, request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path
) -> None:
    """Celery gives each process of a pool a message more than it runs."""
    url, settings = broker_of(broker, request)
    with Installation(tmp_path, sqlite_url, url, **settings) as installation:
        workers = [installation.worker_unready("-n", f"{name}@%h", name=name) for name in ("a", "b")]
        for worker in workers:
            worker.expect(" ready.", READY_SECONDS)
        behind_long_ones(installation, count, tmp_path)
        (tmp_path / "go on").touch()
        installation.wait_for_all([f"behind-{number}" for number in range(LONG)])
        assert {installation.event(f"behind-{number}").attempt for number in range(LONG + count)} == {1}


def test_what_a_worker_that_is_to_end_has_not_begun_another_runs_at_once(
    broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    with Installation(tmp_path, sqlite_url, broker_url) as installation:
        first = installation.worker("-n", "a@%h")
        holds = task("wait_for_file", str(tmp_path / "go on"))
        installation.create_many("stop", [holds] * 2 + [task("divide", 4, 2)] * 2)
        installation.tick()
        wait_until(lambda: users_tasks_received(first) == 4, 20, first.output)
        first.signal(signal.SIGTERM)
        installation.worker("-n", "b@%h")
        installation.wait_for_all(["stop-2", "stop-3"])
        (tmp_path / "go on").touch()
        assert first.wait(20) == 0
        installation.wait_for_all(["stop-0", "stop-1"])


def users_tasks_received(worker: Process) -> int:
    """How many users' tasks a worker has taken."""
    lines = [line for line in worker.output().splitlines() if line.endswith(" received")]
    return sum("celery_worker" not in line for line in lines)


def test_a_worker_that_is_stopped_while_it_takes_a_task_waits_for_the_task_alone(
    broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """Of what a process had just begun Celery forgot that it is there, and half a minute was added."""
    with Installation(tmp_path, sqlite_url, broker_url) as installation:
        workers = [installation.worker_unready("-n", f"{name}@%h", name=name) for name in "abcd"]
        for worker in workers:
            worker.expect(" ready.", READY_SECONDS)
        installation.create_many("held", [task("wait_for_file", str(tmp_path / "go on"))] * 2 * len(workers))
        installation.tick()
        left = list(workers)
        while left:
            wait_until(lambda: any(map(users_tasks_received, left)), 20, poll_seconds=0.001)
            for worker in [one for one in left if users_tasks_received(one)]:
                worker.signal(signal.SIGTERM)
                left.remove(worker)
        for worker in workers:
            worker.expect("Warm shutdown", 20)
        (tmp_path / "go on").touch()
        for worker in workers:
            assert worker.wait(20) == 0


def test_a_worker_that_is_told_to_quit_ends_without_a_stack(
    broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """Celery has taken the pool down by then."""
    with Installation(tmp_path, sqlite_url, broker_url) as installation:
        worker = installation.worker()
        worker.signal(signal.SIGQUIT)
        worker.wait(20)
        assert "Traceback" not in worker.output()
