"""Nothing that a target or a user's task does holds up a tick, a log event or another delivery."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from models.base import new_ids
from models.event import Event
from tests.acceptance.conftest import sqlite_copy
from tests.acceptance.installation import TASKS, Installation, fresh_postgres, message, task
from tests.processes import Process, wait_until
from tests.servers import PostgreSQL, Valkey
from tests.sink import Sink
from triggers.settings import BACKLOG, OURS

NEVER = {"type": "manual"}
HOUR = {"timeout_seconds": 3600}
HANGING = 1000
HANGING_HOSTS = 10  # so that all of them are called at once: each host gets a limited number of calls
BACKLOG_EVENTS = 80_000
PROMPTLY = 5.0  # seconds; takes milliseconds, unless the machine is busy


class Stage:
    """A worker of this module, and what its tests share."""

    def __init__(self, pool: str, installation: Installation, worker: Process) -> None:
        self.pool = pool
        self.installation = installation
        self.worker = worker
        self.slots = 2 if pool == "prefork" else 1


@contextmanager
def stage_on(pool: str, directory: Path, database: str, broker: str) -> Iterator[Stage]:
    """A running worker of this pool. It starts with Debian's limit of open files."""
    with Installation(directory, database, broker) as installation:
        options = f"worker --loglevel=info --pool={pool} --concurrency=2"
        limited = f"ulimit -Sn 1024; exec celery -A celery_config.celery_worker {options}"
        worker = installation.start("sh", "-c", limited, name="worker")
        worker.expect(" ready.", 40)
        yield Stage(pool, installation, worker)


@pytest.fixture(scope="module", params=["prefork", "solo"])
def stage(
    request: pytest.FixtureRequest,
    module_valkey: Valkey,
    postgres: PostgreSQL,
    postgres_template: str,
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """Prefork on PostgreSQL, solo on SQLite."""
    module_valkey.flush()
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "solo":
        with stage_on("solo", directory, sqlite_copy(directory, sqlite_template), module_valkey.url) as made:
            yield made
        return
    with (
        fresh_postgres(postgres, postgres_template) as url,
        stage_on("prefork", directory, url, module_valkey.url) as made,
    ):
        yield made


@pytest.fixture
def installation(stage: Stage) -> Installation:
    return stage.installation


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """A sink on all addresses of the loopback network, in a thread of the test run."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Sink(host="0.0.0.0")
    asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(5)
    yield made
    asyncio.run_coroutine_threadsafe(made.__aexit__(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
def busy(stage: Stage, tmp_path: Path) -> Iterator[list[str]]:
    """Every slot has a task that does not end, and more of them wait. They end with the test."""
    end = tmp_path / "end"
    names = [f"{tmp_path.name}-{number}" for number in range(3 * stage.slots + 2)]
    for name in names:
        stage.installation.create(name, task("wait_for_file", str(end)), policy=HOUR)
    stage.installation.hint()
    wait_until(lambda: len(running(stage, names)) == stage.slots, 20, "all slots are taken")
    yield names
    end.touch()
    stage.installation.wait_for_all(names, seconds=30)


def running(stage: Stage, names: list[str]) -> list[str]:
    """Those of the triggers whose event runs."""
    return [n for n in names if [e.status for e in stage.installation.events(n)] == ["running"]]


def http(sink: Sink, path: str, host: str = "127.0.0.1") -> dict[str, str]:
    """The target that calls a path of the sink."""
    return {"type": "http", "url": sink.url(path, host)}


def everything_else_goes_on(installation: Installation, sink: Sink, suffix: str) -> None:
    """A tick plans, a log event is logged, an HTTP delivery arrives, promptly."""
    began = time.monotonic()
    installation.create(f"log-{suffix}", message())
    installation.create(f"http-{suffix}", http(sink, f"/{suffix}"))
    installation.hint()
    installation.wait_for_all([f"log-{suffix}", f"http-{suffix}"])
    assert time.monotonic() - began < PROMPTLY


def test_hour_long_tasks_hold_up_nothing_else(stage: Stage, busy: list[str], sink: Sink) -> None:
    everything_else_goes_on(stage.installation, sink, "busy")
    assert len(running(stage, busy)) == stage.slots  # all this while


@pytest.mark.slow
def test_hanging_targets_hold_up_nothing_else(stage: Stage, busy: list[str], sink: Sink) -> None:
    """In addition to the hour-long tasks."""
    hosts = [f"127.0.1.{1 + number % HANGING_HOSTS}" for number in range(HANGING)]
    before = len(sink.requests)
    stage.installation.create_many(
        "hanging", [http(sink, "/hang", host) for host in hosts], policy={"timeout_seconds": 600}
    )
    stage.installation.hint()
    wait_until(lambda: len(sink.requests) >= before + HANGING, 40, "all hanging targets are called")
    everything_else_goes_on(stage.installation, sink, "hanging")
    assert stage.worker.alive()


def backfill(installation: Installation, trigger_id: str, count: int) -> None:
    """So many events of a trigger that were due a minute ago."""
    installation.changed_by_hand = True
    with installation.database.write() as connection:
        now = installation.database.now(connection) - timedelta(minutes=1)
        instants = dict.fromkeys(("scheduled_for", "fire_at", "due_at", "created_at", "recheck_at"), now)
        row = {"trigger_id": trigger_id, "source": "backfill", "status": "pending", **instants}
        rows = [
            {"id": id_} | row | {"scheduled_for": now - timedelta(seconds=number)}
            for number, id_ in enumerate(new_ids(now, count))
        ]
        connection.execute(insert(Event.__table__), rows)  # type: ignore[arg-type]


def half_of_the_pool_is_left(installation: Installation, directory: Path) -> None:
    """To others, who come now and then, by a backlog of tasks that do not end."""
    end = directory / "end"
    installation.worker()
    created = installation.create("noisy", task("wait_for_file", str(end)), schedule=NEVER, policy=HOUR)
    installation.now("before", task("divide", 4, 2))
    installation.wait_for("before")
    backfill(installation, created.id, 200)
    installation.tick()
    wait_until(lambda: count(installation, "noisy", "running"), 20, "one of them runs")
    for number in range(5):
        began = time.monotonic()
        installation.now(f"beside-{number}", task("divide", 4, 2))
        installation.wait_for(f"beside-{number}")
        assert time.monotonic() - began < PROMPTLY
    assert count(installation, "noisy", "running") == 1
    end.touch()


def count(installation: Installation, name: str, status: str) -> int:
    """How many events of this trigger have this status."""
    return [event.status for event in installation.events(name)].count(status)


def test_a_backlog_of_long_tasks_leaves_half_of_the_pool(
    broker_url: str, database_url: str, tmp_path: Path
) -> None:
    with Installation(tmp_path, database_url, broker_url) as installation:
        half_of_the_pool_is_left(installation, tmp_path)


def test_a_backlog_of_long_tasks_leaves_half_of_the_pool_on_rabbitmq(
    rabbitmq_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    with Installation(tmp_path, sqlite_url, rabbitmq_url) as installation:
        half_of_the_pool_is_left(installation, tmp_path)


def test_what_is_created_beside_a_great_backlog_starts_promptly(
    valkey: Valkey, postgres: PostgreSQL, postgres_template: str, tmp_path: Path, sink: Sink
) -> None:
    """Eighty thousand users' tasks: neither their messages nor who looks at them are in the way."""
    with (
        fresh_postgres(postgres, postgres_template) as url,
        Installation(tmp_path, url, valkey.url) as installation,
    ):
        installation.worker()
        created = installation.create("noisy", task("divide", 4, 2), schedule=NEVER)
        backfill(installation, created.id, BACKLOG_EVENTS)
        installation.tick()
        wait_until(
            lambda: valkey.command("LLEN", OURS + BACKLOG), 20, "the backlog is there", poll_seconds=0.01
        )
        for number in range(5):
            everything_else_goes_on(installation, sink, f"beside-{number}")
        with installation.database.read() as connection:
            waits = select(func.count()).where(Event.trigger_id == created.id, Event.status == "pending")
            assert connection.execute(waits).scalar_one() > BACKLOG_EVENTS / 2, "all this while"


# What follows needs free slots.


@pytest.fixture
def free(stage: Stage) -> Installation:
    return stage.installation


def test_a_task_that_exceeds_its_timeout_fails(free: Installation, tmp_path: Path) -> None:
    name = free.now("too-long", task("wait_for_file", str(tmp_path / "never")), policy={"timeout_seconds": 1})
    event = free.wait_for(name, "failed")
    assert (event.reason, event.error["type"]) == ("attempts", "Timeout")
    assert event.started_at is not None
    assert event.finished_at is not None
    assert 0.9 < (event.finished_at - event.started_at).total_seconds() < PROMPTLY


def test_a_sleeping_task_is_woken_by_its_timeout(free: Installation, stage: Stage) -> None:
    if stage.pool == "solo":
        return  # a thread's wait in the operating system cannot be ended from outside
    free.now("asleep", task("sleep", 3600), policy={"timeout_seconds": 1})
    event = free.wait_for("asleep", "failed")
    assert event.error["type"] == "Timeout"


def test_waiting_in_the_queue_uses_up_no_timeout(free: Installation, stage: Stage) -> None:
    before = [f"before-{number}" for number in range(stage.slots)]
    for name in before:
        free.create(name, task("sleep", 3), policy={"timeout_seconds": 30})
    free.hint()
    wait_until(lambda: len(running(stage, before)) == stage.slots, 20, "all slots are taken")
    free.now("waiting", task("sleep", 1.2), policy={"timeout_seconds": 2})
    event = free.wait_for("waiting")
    assert event.started_at is not None
    assert (event.started_at - event.due_at).total_seconds() > 2  # so it would have been too late


def test_a_retry_within_an_event_is_the_events(free: Installation) -> None:
    """Celery's own retry would send the task again beside the row; the row's own has the next number."""
    retry = {"max_attempts": 3, "min_backoff_seconds": 1, "max_backoff_seconds": 1}
    free.now("retrying", task("retry_until", "2", "{{attempt}}"), retry=retry)
    event = free.wait_for("retrying")
    assert (event.attempt, event.result) == (2, "attempt 2")
    assert free.attempts(event.id) == [
        (1, "failed", {"type": "ValueError", "message": "attempt 1 is not enough"})
    ]


def test_a_task_that_is_called_directly_is_a_plain_celery_task(free: Installation, tmp_path: Path) -> None:
    told = tmp_path / "told"
    free.now("delegating", task("delegate", str(told)))
    called = free.wait_for("delegating").result
    wait_until(told.exists, 10, "the plain task ran")
    wait_until(told.read_text, 5, "it left its word")
    assert told.read_text() == f"{called} tasks 0"


def test_a_message_for_an_event_that_is_taken_ends_as_ignored(
    free: Installation, stage: Stage, tmp_path: Path
) -> None:
    """A doubled message, and one with another task's name, run nothing."""
    ran = tmp_path / "ran"
    free.now("once", task("append", str(ran), "run"))
    event = free.wait_for("once")
    for name in ("append", "note"):
        free.app.send_task(
            f"{TASKS}.{name}",
            (str(ran), "again") if name == "append" else (str(ran),),
            queue="tasks",
            task_id=event.id,
            headers={"triggerbeat_event": True},
        )
        stage.worker.expect(f"Task {TASKS}.{name}[{event.id}] ignored", 15)
    assert ran.read_text() == "run\n"
    assert free.event("once") == event


def test_a_task_that_exits_fails_and_leaves_its_process_alive(free: Installation, stage: Stage) -> None:
    children = sorted(stage.worker.descendants())
    free.now("exiting", task("exit_politely"))
    event = free.wait_for("exiting", "failed")
    assert (event.reason, event.error) == ("attempts", {"type": "SystemExit", "message": "3"})
    free.now("after-exit", task("divide", 1, 2))
    free.wait_for("after-exit")
    assert sorted(stage.worker.descendants()) == children


def test_a_result_that_is_not_json_is_kept_as_its_text(free: Installation) -> None:
    free.now("strange", task("strange"))
    result = free.wait_for("strange").result
    assert isinstance(result, str)
    assert "neither a list nor an object" in result


def test_a_result_that_cannot_even_be_written_down_is_told_by_its_type(free: Installation) -> None:
    free.now("unspeakable", task("unspeakable"))
    assert free.wait_for("unspeakable").result == "<int>"


def test_a_huge_result_is_kept_in_part(free: Installation) -> None:
    free.now("huge", task("huge", 20_000_000))
    result = free.wait_for("huge").result
    assert isinstance(result, str)
    assert re.fullmatch(r'"?x{30000,70000}\.*"?', result)


@pytest.mark.slow
def test_a_task_that_will_not_end_is_lost_with_its_lease(free: Installation, stage: Stage) -> None:
    """It is killed with its process. The next tick judges it, and another process takes the slot."""
    if stage.pool == "solo":
        return  # nobody can kill a thread
    for name in ("swallow", "swallow_all"):
        free.now(name, task(name, 3600), policy={"timeout_seconds": 1})
    reasons = {"swallow_all": "lost", "swallow": "attempts"}

    def judged() -> bool:
        free.hint()
        return all([event.status for event in free.events(name)] == ["failed"] for name in reasons)

    wait_until(judged, 45, lambda: f"all are judged: {[free.events(n) for n in reasons]}", poll_seconds=0.5)
    assert {name: free.event(name).reason for name in reasons} == reasons
    assert free.event("swallow").error["type"] == "Timeout"
    free.now("after-lost", task("divide", 1, 2))
    free.wait_for("after-lost")
    assert len(stage.worker.descendants()) >= stage.slots


# ----------------------------------------------------------------- processes that die, on all databases

AGAIN = {"max_attempts": 2, "min_backoff_seconds": 1, "max_backoff_seconds": 1}


def killed_and_tried_again(installation: Installation, directory: Path, worker: Process) -> None:
    """Two attempts at a task are killed with an hour to go, another task ends its own process.

    There is no tick: all that happens follows from the deaths.
    """
    pid = directory / "pid"
    installation.now("killed", task("own_pid", str(pid)), policy=HOUR, retry=AGAIN)
    killed: list[int] = []
    for attempt in (1, 2):
        wait_until(lambda: pid.exists() and pid.read_text(), 15, "the task told its process")
        assert installation.event("killed").attempt == attempt
        killed.append(int(pid.read_text()))
        pid.unlink()
        os.kill(killed[-1], signal.SIGKILL)
    event = installation.wait_for("killed", "failed")
    assert (event.reason, event.error["type"]) == ("lost", "WorkerLost")
    assert [(n, outcome) for n, outcome, _ in installation.attempts(event.id)] == [(1, "lost"), (2, "lost")]
    installation.now("exits", task("exit_at_once"), policy=HOUR)
    assert installation.wait_for("exits", "failed").reason == "lost"
    installation.now("after-killed", task("divide", 1, 2))
    installation.wait_for("after-killed")
    assert worker.alive()


def test_a_task_whose_process_is_killed_is_tried_again_at_once(
    broker_url: str, database_url: str, tmp_path: Path
) -> None:
    with Installation(tmp_path, database_url, broker_url) as installation:
        killed_and_tried_again(installation, tmp_path, installation.worker())


def test_a_killed_task_is_tried_again_at_once_on_rabbitmq(
    rabbitmq_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    with Installation(tmp_path, sqlite_url, rabbitmq_url) as installation:
        killed_and_tried_again(installation, tmp_path, installation.worker())
