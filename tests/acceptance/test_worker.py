"""The worker as operators know it: its queues, its log, its start and its end, and a broker that fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kombu import Connection
from sqlalchemy import update

from celery_config.dispatch import dispatch
from models.event import Event
from tests.acceptance.conftest import sqlite_copy
from tests.acceptance.installation import (
    Installation,
    in_seconds,
    json_lines,
    message,
    task,
)
from tests.processes import Process, free_port, wait_until
from tests.servers import RabbitMQ, Server, Valkey
from triggers import queue_view, tick
from triggers.settings import with_backlogs
from triggers.tick import Hint

WRONG_TICK = "TICK_SECONDS='soon' is not allowed: it must be a whole number of seconds from 1 to 3600"
EVENT_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"


# ------------------------------------------------------------------------ two workers, a queue each


class Apart(NamedTuple):
    """A worker for our queue, which logs text, and one for the users', which logs JSON."""

    installation: Installation
    ours: Process
    users: Process


@pytest.fixture(scope="module", params=["redis", "quorum"])
def apart(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Apart]:
    directory = tmp_path_factory.mktemp("apart")
    settings = {}
    if request.param == "redis":
        broker = request.getfixturevalue("module_valkey").url
    else:
        rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
        broker = rabbitmq.url(rabbitmq.create_virtual_host())
        settings = {"CELERY_QUEUE_TYPE": "quorum"}
    database = sqlite_copy(directory, sqlite_template)
    with Installation(directory, database, broker, **settings) as installation:
        ours = installation.worker_unready("-Q", "celery", "-n", "ours@%h", name="ours")
        users = installation.worker("-Q", "tasks", "-n", "users@%h", name="users", LOG_FORMAT="json")
        ours.expect(" ready.", 20)
        yield Apart(installation, ours, users)


def test_each_queue_may_have_a_worker_of_its_own(apart: Apart, tmp_path: Path) -> None:
    """Ours plans and delivers, the users' runs the users' tasks, and neither does the other's work."""
    told = tmp_path / "told"
    apart.installation.create("apart-log", message())
    apart.installation.now("apart-task", task("note", str(told)))
    event = apart.installation.wait_for("apart-task")
    apart.installation.wait_for("apart-log")
    assert told.read_text().split()[:2] == [event.id, "tasks"]
    assert "users_tasks.note[" not in apart.ours.output()
    assert "celery_config.celery_worker" not in "".join(
        line["message"] for line in json_lines(apart.users.output()) if " received" in line["message"]
    )


def test_an_event_leaves_a_line_for_each_step(apart: Apart) -> None:
    name = apart.installation.now("text-lines", message("hello"))
    event = apart.installation.wait_for(name)
    common = rf"trigger=text-lines event={event.id} scheduled_for={INSTANT}"
    wait_until(lambda: f"succeeded trigger={name}" in apart.ours.output(), 10, "the last line")
    lines = [line for line in apart.ours.output().splitlines() if "trigger=text-lines" in line]
    for pattern in (
        rf"planned {common} status=pending",
        rf"started {common} attempt=1 status=running late=\d+\.\d{{3}}",
        rf"succeeded {common} attempt=1 status=succeeded took=\d+\.\d{{3}}",
    ):
        found = [line for line in lines if re.fullmatch(rf"{INSTANT} INFO +{pattern}", line)]
        assert len(found) == 1, (pattern, lines)


def test_the_same_lines_as_json(apart: Apart) -> None:
    name = apart.installation.now("json-lines", task("divide", 1, 0))
    event = apart.installation.wait_for(name, "failed")

    def steps() -> list[dict[str, Any]]:
        lines = json_lines(apart.users.output())
        return [line for line in lines if line.get("event") == event.id and "step" in line]

    wait_until(lambda: len(steps()) >= 2, 10, lambda: str(steps()))
    started, failed = steps()
    assert (started["step"], failed["step"]) == ("started", "failed")
    for line in (started, failed):
        assert line["level"] == "INFO"
        assert line["trigger"] == name
        assert line["attempt"] == 1
        assert re.fullmatch(INSTANT, line["scheduled_for"])
    assert isinstance(started["late"], float)
    assert isinstance(failed["took"], float)
    assert (failed["status"], failed["error"]) == ("failed", "ZeroDivisionError: division by zero")


def test_celerys_own_lines_are_there(apart: Apart) -> None:
    event = apart.installation.wait_for(apart.installation.now("celery-lines", task("divide", 1, 4)))
    name = f"Task examples.tasks.divide[{event.id}]"
    apart.users.expect(f"{name} received", 10)
    apart.users.expect(f"{name} succeeded in ", 10)
    ours = apart.ours.output()
    deliver = re.search(rf"Task celery_config.celery_worker.deliver\[({EVENT_ID})\] received", ours)
    assert deliver is not None
    assert f"deliver[{deliver[1]}] succeeded in " in ours
    assert re.search(
        rf"Task celery_config.celery_worker.execute_scheduled_triggers\[{EVENT_ID}\] succeeded", ours
    )


def test_celerys_commands_see_both_workers(apart: Apart) -> None:
    queues, status, ping = (
        apart.installation.celery(*command, "--timeout=3", name=command[-1])
        for command in (("inspect", "active_queues"), ("status",), ("inspect", "ping"))
    )
    for process in (queues, status, ping):
        assert process.wait(40) == 0, process.output()
    assert "2 nodes online." in status.output()
    assert ping.output().count("pong") == 2
    ours, users = sorted(re.split(r"(?m)^->", queues.output())[1:], key=lambda part: "users@" in part)
    assert "ours@" in ours
    assert "'name': 'celery'" in ours
    assert "'name': 'tasks'" not in ours
    assert "'name': 'tasks'" in users
    assert "'name': 'celery'" not in users


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_queue_comes_and_goes_with_its_backlog(
    broker: str, request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path
) -> None:
    """Given with `-Q`, and taken away and given again while the worker runs."""
    url = request.getfixturevalue("rabbitmq_url" if broker == "rabbitmq" else "broker_url")

    def named(installation: Installation) -> list[str]:
        process = installation.celery("inspect", "active_queues", "--json", "--timeout=3")
        assert process.wait(40) == 0, process.output()
        (queues,) = json.loads(process.output().strip().splitlines()[-1]).values()
        return sorted(queue["name"] for queue in queues)

    with Installation(tmp_path, sqlite_url, url, CELERY_QUEUES="tasks,more") as installation:
        installation.worker("-Q", "celery,more")
        both = ["celery", "celery.backlog", "more", "more.backlog"]
        assert named(installation) == both
        for command, expected in (("cancel_consumer", both[:2]), ("add_consumer", both)):
            process = installation.celery("control", "--timeout=3", command, "more", name=command)
            assert process.wait(40) == 0, process.output()
            wait_until(lambda wanted=expected: named(installation) == wanted, 20, command)  # type: ignore[misc]


def test_the_raw_queue_names_the_trigger(valkey: Valkey, sqlite_url: str, tmp_path: Path) -> None:
    """While no worker takes anything."""
    with Installation(tmp_path, sqlite_url, valkey.url) as installation:
        installation.create("shown-by-name", message())
        installation.create("task-shown-by-name", task("add", 1, 2), schedule=in_seconds(installation, 5))
        plan(installation)
        program = shutil.which("redis-cli")
        if program:  # Debian's redis-tools; what the README tells people to look with
            words = [program, "-p", str(valkey.port), "LRANGE", "celery", "0", "-1"]
            shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
        else:
            shown = "\n".join(valkey.command("LRANGE", "celery", 0, -1))
        event = installation.event("task-shown-by-name")
        assert "log: shown-by-name at " in shown
        assert f"celery: task-shown-by-name at {event.due_at:%Y-%m-%dT%H:%M:%SZ}" in shown


def plan(installation: Installation) -> None:
    """A tick of the test's own, in this process."""
    tick.execute_scheduled_triggers(
        installation.database, lambda hints: dispatch(installation.app, hints), timedelta(seconds=90), "test"
    )


# -------------------------------------------------------------------------------------- wrong settings


def test_a_wrong_setting_stops_every_process_with_one_line(sqlite_url: str, tmp_path: Path) -> None:
    with Installation(tmp_path, sqlite_url, "redis://127.0.0.1:1/0") as installation:
        wrong = {"TICK_SECONDS": "soon", "ADMIN_TOKEN": "token"}
        processes = [
            installation.worker_unready(**wrong),
            installation.beat(**wrong),
            installation.start("flask", "--app", "triggers.api", "run", name="flask", **wrong),
            installation.start("triggerbeat", "list", name="triggerbeat", **wrong),
        ]
        assert [process.wait(40) for process in processes] == [2, 2, 3, 2]  # 3 tells gunicorn to give up
        said = {process.name: process.output().strip() for process in processes}
        for name, output in said.items():
            assert output.endswith(WRONG_TICK), said
            assert len(output.splitlines()) == 1, (name, output)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (None, "ModuleNotFoundError: No module named 'broken'"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import sys; sys.exit()", "SystemExit:"),
    ],
)
def test_a_task_module_that_cannot_be_imported_stops_the_worker_with_one_line(
    sqlite_url: str, tmp_path: Path, source: str | None, why: str
) -> None:
    with Installation(tmp_path, sqlite_url, "redis://127.0.0.1:1/0", TASK_MODULES="broken") as installation:
        if source is not None:
            (installation.directory / "broken.py").write_text(source)
        worker = installation.worker_unready()
        assert worker.wait(40) == 2
        line = f"triggerbeat: TASK_MODULES='broken' cannot be imported: {why}"
        assert worker.output().strip() == line


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_task_that_is_not_allowed_any_more_fails_and_does_not_run(
    pool: str, valkey: Valkey, sqlite_url: str, tmp_path: Path
) -> None:
    """The list was tightened after the trigger was made."""
    ran = tmp_path / "ran"
    with Installation(tmp_path, sqlite_url, valkey.url) as installation:
        installation.worker(pool=pool, ALLOWED_TASKS="examples.tasks.*")
        installation.now("forbidden", task("append", str(ran), "ran"))
        event = installation.wait_for("forbidden", "failed")
        assert event.error == {"type": "NotAllowed", "message": "ALLOWED_TASKS does not name it"}
        installation.now("allowed", task("divide", 4, 2))
        installation.wait_for("allowed")
        assert not ran.exists()


# -------------------------------------------------------------------------------- a database that fails


@pytest.mark.parametrize("wrong", ["unmigrated", "away"])
def test_a_database_that_cannot_be_used_is_one_line_a_tick(
    wrong: str, valkey: Valkey, empty_database_url: str, tmp_path: Path
) -> None:
    """And not a traceback. Our two tasks, a message about events, and whatever the courier tries."""
    database = empty_database_url
    if wrong == "away":
        nowhere = "/nowhere/at/all.db" if database.startswith("sqlite") else "x@127.0.0.1:1/x"
        database = database.partition("://")[0] + ":///"[: 4 if "sqlite" in database else 3] + nowhere
    with Installation(tmp_path, database, valkey.url) as installation:
        worker = installation.worker()
        for _ in range(2):
            installation.hint()
        installation.app.send_task("celery_config.celery_worker.update_event_states")
        installation.send([Hint("01a1f892-3393-73c0-949a-272df0e0657a", datetime.now(UTC), "http", "t")])

        def said(text: str) -> list[str]:
            return [line for line in worker.output().splitlines() if text in line]

        wait_until(lambda: len(said("cannot tick, the next one makes up for it: ")) == 2, 30, worker.output)
        wait_until(lambda: len(said("cannot archive and delete, ")) == 1, 30, worker.output)
        events = "cannot take over 1 events, " if wrong == "away" else "the next tick takes these events back"
        wait_until(lambda: said(events), 30, worker.output)
        assert "Traceback" not in worker.output()
        assert all(
            re.match(INSTANT, line) for line in worker.output().partition(" ready.")[2].splitlines()[1:]
        )
        if wrong == "unmigrated":
            assert all("`triggerbeat migrate`" in line for line in said("cannot tick"))
        assert worker.alive()


# ---------------------------------------------------------------------------------- a broker that fails


@contextmanager
def own_broker(kind: str, directory: Path) -> Iterator[tuple[Server, str, dict[str, str]]]:
    """A broker to kill and to freeze, not yet started; its URL and the settings it needs."""
    if kind == "redis":
        valkey = Valkey(directory)
        try:
            yield valkey, valkey.url, {}
        finally:
            close(valkey)
        return
    if not RabbitMQ.installed():
        if os.environ.get("CI") == "true":
            pytest.fail("RabbitMQ is missing: apt-get install rabbitmq-server")
        pytest.skip("RabbitMQ is missing: apt-get install rabbitmq-server")
    rabbitmq = RabbitMQ(directory)
    try:
        yield rabbitmq, rabbitmq.url(), {"CELERY_QUEUE_TYPE": kind}
    finally:
        close(rabbitmq)


def close(broker: Server) -> None:
    """Stop it, if the test came as far as to start it."""
    if hasattr(broker, "process"):
        broker.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis", "quorum"])
def test_worker_and_beat_outlive_their_broker(kind: str, postgres_url: str, tmp_path: Path) -> None:
    """Away at their start, killed and restarted, frozen for 8 s. Each time what was due is delivered."""
    with (
        own_broker(kind, tmp_path / "broker") as (broker, url, settings),
        Installation(tmp_path, postgres_url, url, **settings, TICK_SECONDS=2) as installation,
    ):
        installation.create("first", message())
        worker = installation.worker_unready()
        beat = installation.beat()
        wait_until(lambda: "annot connect to" in worker.output(), 40, worker.output)
        broker.start()
        installation.wait_for("first", seconds=40)

        broker.kill()
        create_both(installation, "killed")
        wait_until(lambda: "onnection" in worker.output().partition("first")[2], 20, worker.output)
        broker.start()
        installation.wait_for_all(["killed-log", "killed-task"], seconds=60)

        broker.freeze()
        create_both(installation, "frozen")
        thaw_after(broker, 8)
        installation.wait_for_all(["frozen-log", "frozen-task"], seconds=60)
        promptly(installation)
        assert worker.alive()
        assert beat.alive()
        assert "EngineConsumer" not in worker.output(), worker.output()  # no stack that people look into


def test_a_worker_outlives_a_redis_that_refuses_writes(sqlite_url: str, tmp_path: Path) -> None:
    """As in a failover. What it holds and what it calls would end with it."""
    with (
        Valkey(tmp_path / "valkey") as valkey,
        Installation(tmp_path / "files", sqlite_url, valkey.url) as installation,
    ):
        worker = installation.worker()
        valkey.command("REPLICAOF", "127.0.0.1", free_port())
        wait_until(lambda: re.search("ReadOnly|READONLY|read only", worker.output()), 60, worker.output)
        valkey.command("REPLICAOF", "NO", "ONE")
        installation.create("after", {"type": "log", "message": "hello"})
        installation.hint()
        installation.wait_for_all(["after"], seconds=60)
        assert worker.alive(), worker.output()


@pytest.mark.parametrize("target", [message(), task("divide", 1, 2)], ids=["log", "task"])
def test_what_an_emptied_broker_has_lost_is_sent_by_the_next_tick(
    target: dict[str, Any], valkey: Valkey, database_url: str, tmp_path: Path
) -> None:
    """It was sent many times in a backlog, and would be looked at in five minutes. The worker lives on."""
    with Installation(tmp_path, database_url, valkey.url) as installation:
        installation.worker()
        installation.now("before", target)
        installation.wait_for("before")
        installation.create("lost", target)
        tick.execute_scheduled_triggers(
            installation.database, lambda hints: True, timedelta(seconds=90), "test"
        )
        with installation.database.write() as connection:
            now = installation.database.now(connection)
            often = {"dispatches": 7, "recheck_at": now + timedelta(seconds=285)}
            overdue = {"due_at": now - timedelta(seconds=600), "fire_at": now - timedelta(seconds=600)}
            overdue |= {"scheduled_for": now - timedelta(seconds=600)}
            connection.execute(
                update(Event).where(Event.status == "pending").values(**often, **overdue, misfire_at=None)
            )
        installation.changed_by_hand = True
        valkey.flush()
        installation.tick()
        installation.wait_for("lost")


def create_both(installation: Installation, name: str) -> None:
    """A trigger for each side of the worker."""
    installation.create(f"{name}-log", message())
    installation.create(f"{name}-task", task("divide", 1, 2))


def thaw_after(broker: Server, seconds: float) -> None:
    """The fault itself takes this long: nothing is waited for."""
    time.sleep(seconds)
    broker.thaw()


def promptly(installation: Installation) -> None:
    """Once all is well again a hint is followed at once: both consumers are back."""
    create_both(installation, "after")
    installation.hint()
    installation.wait_for_all(["after-log", "after-task"], seconds=10)


# --------------------------------------------------------------------------------- the end of a worker


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pool"), [("redis", "prefork"), ("quorum", "solo")])
def test_a_warm_shutdown_ends_what_runs_and_hands_on_what_waits(
    kind: str, pool: str, sqlite_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SIGTERM while a task runs, a call is in flight, and events are held for later.

    The other worker starts those on their instant; the first one ends when its call and its task have.
    """
    with ExitStack() as stack:
        if kind == "redis":
            settings, url = {}, str(request.getfixturevalue("broker_url"))
        else:
            settings, url = {"CELERY_QUEUE_TYPE": kind}, str(request.getfixturevalue("rabbitmq_url"))
        installation = stack.enter_context(Installation(tmp_path, sqlite_url, url, **settings))
        sink = stack.enter_context(Process(["python", "-m", "tests.sink"], tmp_path / "sink", name="sink"))
        port = re.findall(r"\d+", sink.expect("port"))[0]
        first = installation.worker("-n", "first@%h", name="first", pool=pool)
        end = tmp_path / "end"
        installation.create("running", task("wait_for_file", str(end)), policy={"timeout_seconds": 600})
        url = f"http://127.0.0.1:{port}/slow/29"  # longer than anything but the attempt's own timeout
        installation.create("calling", {"type": "http", "url": url}, policy={"timeout_seconds": 60})
        installation.create(
            "failing",
            {"type": "http", "url": f"http://127.0.0.1:{port}/hang"},
            policy={"timeout_seconds": 4},
            retry={"max_attempts": 2, "min_backoff_seconds": 3, "max_backoff_seconds": 3},
        )
        later = in_seconds(installation, 15)
        installation.create("held-log", message(), schedule=later)
        installation.create("held-task", task("divide", 1, 2), schedule=later)
        installation.hint()
        installation.wait_for_all(["running", "calling", "failing"], "running")
        installation.wait_for_all(["held-log", "held-task"], "pending")
        first.expect("planned trigger=held-task")
        second = installation.worker_unready("-n", "second@%h", name="second", pool=pool)
        first.signal(signal.SIGTERM)
        second.expect(" ready.", 40)
        installation.wait_for_all(["held-log", "held-task"], seconds=30)
        for name in ("held-log", "held-task"):
            event = installation.event(name)
            assert event.started_at is not None
            assert event.started_at - event.due_at < timedelta(seconds=1), name
            assert f"started trigger={name}" in second.output()
        installation.wait_for("calling", seconds=40)
        retried = installation.wait_for("failing", "failed", seconds=30)
        assert retried.attempt_started_at is not None
        assert retried.attempt_started_at - retried.due_at < timedelta(seconds=1)
        assert first.alive()
        end.touch()
        assert first.wait(20) == 0
        assert installation.event("running").status == "succeeded"
        assert installation.event("calling").attempt == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_second_signal_ends_a_worker_that_waits_at_once(
    pool: str, number: signal.Signals, valkey: Valkey, sqlite_url: str, tmp_path: Path
) -> None:
    """While a task of an hour runs and a call hangs. What it held it has handed back before."""
    with (
        Installation(tmp_path, sqlite_url, valkey.url) as installation,
        Process(["python", "-m", "tests.sink"], tmp_path / "sink", name="sink") as sink,
    ):
        port = re.findall(r"\d+", sink.expect("port"))[0]
        hour = {"timeout_seconds": 3600}
        worker = installation.worker(pool=pool)
        installation.create("task", task("wait_for_file", str(tmp_path / "never")), policy=hour)
        installation.create("call", {"type": "http", "url": f"http://127.0.0.1:{port}/hang"}, policy=hour)
        installation.create("held", message(), schedule=in_seconds(installation, 60))
        installation.hint()
        installation.wait_for_all(["task", "call"], "running")
        worker.expect("planned trigger=held")
        children = worker.descendants()
        worker.signal(signal.SIGTERM)
        wait_until(lambda: valkey.command("LLEN", "celery") == 1, 15, "what it held is handed back")
        assert "log: held at " in valkey.command("LRANGE", "celery", 0, -1)[0]
        assert worker.alive()
        worker.signal(number)
        worker.wait(10)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10, "none is left")


@pytest.mark.slow
def test_the_lease_brings_back_what_a_dead_machine_held(
    valkey: Valkey, postgres_url: str, tmp_path: Path
) -> None:
    """The worker and all its children are killed in the middle of a task and of a call."""
    with (
        Installation(tmp_path, postgres_url, valkey.url, TICK_SECONDS=2) as installation,
        Process(["python", "-m", "tests.sink"], tmp_path / "sink", name="sink") as sink,
    ):
        port = re.findall(r"\d+", sink.expect("port"))[0]
        policy, retry = {"timeout_seconds": 3}, {"max_attempts": 2, "min_backoff_seconds": 1}
        worker = installation.worker_unready()
        installation.beat()
        worker.expect(" ready.", 40)
        installation.create("task", task("hang_first", "{{attempt}}"), policy=policy, retry=retry)
        url = f"http://127.0.0.1:{port}/slow/0.9"
        installation.create("call", {"type": "http", "url": url}, policy=policy, retry=retry)
        installation.hint()
        wait_until(statuses(installation, ["task", "call"], "running"), 15, poll_seconds=0.005)
        worker.kill()
        installation.worker_unready(name="next")
        installation.wait_for_all(["task", "call"], seconds=60)
        for name in ("task", "call"):
            event = installation.event(name)
            assert event.attempt == 2
            assert [(number, outcome) for number, outcome, _ in installation.attempts(event.id)] == [
                (1, "lost")
            ]
        assert installation.event("task").result == "attempt 2"


def test_the_next_worker_takes_over_what_a_killed_one_held(
    valkey: Valkey, sqlite_url: str, tmp_path: Path
) -> None:
    """Without any tick. Celery's message is gone: the killed worker had taken it."""
    with Installation(tmp_path, sqlite_url, valkey.url) as installation:
        worker = installation.worker()
        at = (datetime.now(UTC) + timedelta(seconds=8)).isoformat()
        installation.create("held", {"type": "log", "message": "hello"}, {"type": "once", "at": at})
        installation.hint()
        wait_until(lambda: re.search(r"deliver\[.* succeeded", worker.output()), 20)
        worker.kill()
        assert installation.event("held").status == "pending"
        installation.worker_unready(name="next")
        installation.wait_for_all(["held"], seconds=40)
        assert installation.event("held").status == "succeeded"


def test_copies_of_messages_do_nothing_when_their_events_are_done_or_gone(
    valkey: Valkey, sqlite_url: str, tmp_path: Path
) -> None:
    """Redis brings back after an hour what was taken and not acknowledged; by then events may be deleted."""
    ages = {"EVENT_ACTIVE_SECONDS": 1, "EVENT_ARCHIVED_SECONDS": 1, "EVENT_FAILED_SECONDS": 1}
    with Installation(tmp_path, sqlite_url, valkey.url, **ages) as installation:
        installation.create("says", message())
        installation.create("appends", task("append", str(tmp_path / "file"), "once"))
        plan(installation)
        copies = {"celery": valkey.command("LRANGE", "celery", 0, -1)}
        first = installation.worker("-n", "first@%h", "-Q", "celery", name="first")
        wait_until(lambda: valkey.command("LLEN", "tasks") == 1, 20)
        copies["tasks"] = valkey.command("LRANGE", "tasks", 0, -1)
        second = installation.worker("-n", "second@%h", "-Q", "tasks", name="second")
        installation.wait_for_all(["says", "appends"])

        def replay() -> None:
            for queue, messages in copies.items():
                valkey.command("LPUSH", queue, *messages)
            for _ in copies["celery"]:
                first.expect("celery_worker.deliver[", 20)
                first.expect(" succeeded in ", 20)
            second.expect("] ignored", 20)

        def gone() -> bool:
            installation.app.send_task("celery_config.celery_worker.update_event_states")
            return not installation.events("says") + installation.events("appends")

        replay()
        wait_until(gone, 30, poll_seconds=0.5)
        replay()
        assert (tmp_path / "file").read_text().count("once") == 1
        assert (first.output() + second.output()).count(" started trigger=") == 2
        assert first.alive()
        assert second.alive()


def statuses(installation: Installation, names: list[str], status: str) -> Callable[[], bool]:
    """Whether the events of all these triggers have this status."""
    return lambda: all([e.status for e in installation.events(name)] == [status] for name in names)


def test_the_queue_shows_what_a_busy_worker_holds(valkey: Valkey, sqlite_url: str, tmp_path: Path) -> None:
    """A message that is neither in its list any more nor begun, for as long as that takes."""
    with Installation(tmp_path, sqlite_url, valkey.url) as installation:
        installation.worker("-c", "1")
        end = tmp_path / "end"
        installation.now("busy", task("wait_for_file", str(end)))
        installation.wait_for("busy", "running")
        installation.now("waits", task("divide", 4, 2))
        waits = installation.wait_for("waits", "pending").id
        url = installation.settings.celery_broker_url

        def held() -> list[str]:
            shown = queue_view.queues(installation.settings, url)["held"]["messages"]
            return [str(one["id"]) for one in shown]

        wait_until(lambda: held() == [waits], 20)
        end.touch()
        installation.wait_for_all(["busy", "waits"])
        assert held() == []


@pytest.mark.parametrize("queue", ["celery", "tasks"])
def test_a_malformed_message_kills_no_worker(queue: str, apart: Apart) -> None:
    """Valid JSON of the wrong shape, to a task of ours and to a user's: reported, rejected, gone."""
    name = "celery_config.celery_worker.deliver" if queue == "celery" else "examples.tasks.add"
    worker = apart.ours if queue == "celery" else apart.users
    with Connection(apart.installation.settings.celery_broker_url) as connection:
        headers = {"task": name, "id": f"malformed-{queue}", "lang": "py"}
        producer = connection.Producer(serializer="json")
        producer.publish({"a": 1}, exchange=queue, routing_key=queue, headers=headers)
    worker.expect("malformed message", 20)
    again = f"after-malformed-{queue}"
    apart.installation.now(again, message() if queue == "celery" else task("divide", 4, 2))
    apart.installation.wait_for(again)
    assert worker.alive()


NO_MESSAGES = [
    "null", "not json", "[]", "{}", "42", '"text"', "", "\xff", "[" * 100_000, '{"__type__": "x"}',
    '{"properties": null}', '{"properties": {"delivery_tag": []}}',
    '{"properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}}, "body": 5}',
    '{"properties": {"delivery_tag": "t", "delivery_info": 7}, "headers": {}, "body": "x"}',
    '{"properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}},'
    ' "headers": {"task": []}, "body": "x"}',
]  # fmt: skip


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_what_is_no_message_kills_no_worker(
    pool: str, valkey: Valkey, sqlite_url: str, tmp_path: Path
) -> None:
    """Whatever somebody leaves in our lists is dropped with a line, and the same process goes on."""
    with Installation(tmp_path, sqlite_url, valkey.url) as installation:
        worker = installation.worker(pool=pool)
        for queue in with_backlogs(["celery", "tasks"]):
            for entry in NO_MESSAGES:
                valkey.command("LPUSH", queue, entry)
        installation.create("after-log", message())
        installation.now("after-task", task("divide", 4, 2))
        installation.wait_for_all(["after-log", "after-task"])
        assert worker.alive()
        lines = [line for line in worker.output().splitlines() if "being no message" in line]
        assert len(lines) == 4 * len(NO_MESSAGES)
        assert all(len(line) < 300 for line in lines)
        assert "Traceback" not in worker.output()
        assert valkey.command("HLEN", "unacked") == 0


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_message_that_cannot_be_decoded_ends_no_worker(
    broker: str, request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path
) -> None:
    """In whichever queue it is left; the next message is taken."""
    url = request.getfixturevalue("rabbitmq_url" if broker == "rabbitmq" else "broker_url")
    with Installation(tmp_path, sqlite_url, url) as installation:
        worker = installation.worker()
        with Connection(url) as connection:
            producer = connection.Producer(serializer="json")
            for queue in with_backlogs(["celery", "tasks"]):
                headers = {"task": "examples.tasks.divide", "id": queue, "compression": "application/x-gzip"}
                producer.publish([[1, 2], {}, {}], exchange=queue, routing_key=queue, headers=headers)
        installation.create("after-log", message())
        installation.now("after-task", task("divide", 4, 2))
        installation.wait_for_all(["after-log", "after-task"])
        assert worker.alive()
        wait_until(lambda: worker.output().count("Can't decode message body") == 4, 20, worker.output)
        assert "Unrecoverable error" not in worker.output()
