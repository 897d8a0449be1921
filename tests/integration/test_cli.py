"""The operator's commands, as they are typed: what they print, what they change, how they fail."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy import event as sqlalchemy_event

from models import Event, Node, Trigger, TriggerChange, ZoneRules
from models.database import Database, migrate
from tests.processes import Process, free_port, wait_until
from tests.servers import PostgreSQL, Valkey
from triggers import cli, local_files, queue_view
from triggers.apply import Applied, apply
from triggers.rfc3339 import parse_instant
from triggers.schedule import next_occurrences
from triggers.settings import BACKLOG, Settings
from triggers.tick import execute_scheduled_triggers

ROOT = Path(__file__).parents[2]
NOWHERE = "redis://127.0.0.1:1/0"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOURLY = {"name": "hourly", "schedule": {"type": "cron", "cron": "0 * * * *"}, "target": {"type": "log"}}
HOOK_TARGET = {"type": "http", "url": "https://hooks.example.org/", "body": {"a": 1}, "secret": SECRET}
HOOK = {"name": "hook", "schedule": {"type": "manual"}, "target": HOOK_TARGET}
ONCE = {"name": "once", "schedule": {"type": "once", "at": "now"}, "target": {"type": "log"}}


class Terminal:
    """Runs commands in this process, with settings of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.error = ""

    def __call__(self, *words: str, expect: int = 0) -> str:
        """Run one command; what it printed. What it printed on standard error stays in `error`."""
        self._monkeypatch.setattr(sys, "argv", ["triggerbeat", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output, self.error = self._capsys.readouterr()
        assert end.value.code == expect, self.error or output
        assert "Traceback" not in self.error
        return output

    def json(self, *words: str, expect: int = 0) -> Any:
        """Run one command with `--json`; the document it printed."""
        return json.loads(self(*words, "--json", expect=expect))

    def refuses(self, *words: str, status: int = 1) -> str:
        """Run a command that fails; its one line on standard error."""
        assert self(*words, expect=status) == ""
        assert self.error.count("\n") == 1
        assert self.error.startswith("triggerbeat: error: ")
        return self.error


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Terminal]:
    """Commands in an empty directory, with no broker in reach."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELERY_BROKER_URL", NOWHERE)
    yield Terminal(monkeypatch, capsys)
    for thread in threading.enumerate():
        if thread.name == "hint":  # a command ends without waiting for it; a test must not
            thread.join(10)
    root.handlers[:], root.level = before, level
    logging.captureWarnings(False)
    logging.getLogger("triggerbeat.dispatch").disabled = False


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A migrated database, which the commands use too."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], str]:
    """Write a file: a document as JSON (which is YAML, too), or a text. Its path."""

    def write(content: Any) -> str:
        path = tmp_path / "file"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def count(database: Database, row: Any) -> int:
    with database.read() as connection:
        return len(connection.execute(select(row.id)).all())


def finish(database: Database, event_id: str, **values: Any) -> None:
    """Make an event one that ended."""
    with database.write() as connection:
        now = database.now(connection)
        ended = {"status": "succeeded", "attempt": 1, "started_at": now, "attempt_started_at": now}
        ended |= {"finished_at": now, "recheck_at": None, "lease_until": now}
        connection.execute(update(Event).where(Event.id == event_id).values(ended | values))


# ---------------------------------------------------------------------------------------- triggers


def test_create_stores_and_shows_what_the_endpoint_would(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    created = terminal.json("create", "-f", write(HOURLY))
    assert created["name"] == "hourly"
    assert created["state"] == "active"
    assert len(created["next_occurrences"]) == 5
    assert created["warnings"] == []
    shown = terminal.json("show", "hourly")
    assert shown == created
    assert terminal.json("show", created["id"]) == created
    assert re.search(r"schedule\.cron +0 \* \* \* \*", terminal("show", "hourly"))


def test_create_reads_standard_input(
    terminal: Terminal, database: Database, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], str]
) -> None:
    with open(write(HOURLY)) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert "created hourly" in terminal("create", "-f", "-")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not JSON"),
        ('{"name": "a", "name": "b"}', "there twice"),
        ({**HOURLY, "x": 1}, "/x: unknown field"),
        ({**HOURLY, "schedule": {"type": "cron", "cron": "61 * * * *"}}, "/schedule/cron: "),
    ],
)
def test_a_document_that_is_wrong_is_refused_in_one_line(
    terminal: Terminal, database: Database, write: Callable[[Any], str], content: Any, expected: str
) -> None:
    assert expected in terminal.refuses("create", "-f", write(content))
    assert count(database, Trigger) == 0


def test_a_name_in_use_is_refused(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    terminal("create", "-f", write(HOURLY))
    assert "hourly is in use" in terminal.refuses("create", "-f", write(HOURLY))


def test_a_secret_is_never_printed(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    path = write(HOOK)
    printed = [terminal("create", "-f", path), terminal("show", "hook"), terminal("list", "--json")]
    target = {**HOOK_TARGET, "secret": SECRET[:-1] + "x"}
    again = write({"triggers": [{**HOOK, "target": target}]})
    printed += [terminal("apply", "-f", again)]
    assert "/target/secret" in printed[-1]
    assert not any(SECRET[6:-1] in text for text in printed)
    assert terminal.json("show", "hook")["target"]["has_secret"] is True


def test_list_gives_pages(terminal: Terminal, database: Database, write: Callable[[Any], str]) -> None:
    many = [{**HOURLY, "name": f"t{number}", "tags": ["odd"] if number % 2 else []} for number in range(5)]
    terminal("apply", "-f", write({"triggers": many}))
    terminal("pause", "t4")
    first = terminal.json("list", "--limit", "3")
    rest = terminal.json("list", "--cursor", first["next_cursor"])
    assert [one["name"] for one in first["items"] + rest["items"]] == ["t0", "t1", "t2", "t3", "t4"]
    assert rest["next_cursor"] is None
    assert [one["name"] for one in terminal.json("list", "--tag", "odd")["items"]] == ["t1", "t3"]
    assert [one["name"] for one in terminal.json("list", "--state", "paused")["items"]] == ["t4"]
    lines = terminal("list").splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "t0", "t1", "t2", "t3", "t4"]
    assert {line.index("0 * * * * UTC") for line in lines[1:]} == {lines[0].index("SCHEDULE")}


def test_pause_resume_and_delete(terminal: Terminal, database: Database, write: Callable[[Any], str]) -> None:
    terminal("create", "-f", write(HOURLY))
    assert terminal.json("pause", "hourly")["state"] == "paused"
    assert terminal("pause", "hourly") == "hourly: paused already\n"
    assert terminal.json("resume", "hourly")["state"] == "active"
    assert terminal.json("delete", "hourly")["deleted"] is True
    assert "there is no trigger" in terminal.refuses("show", "hourly")


# ------------------------------------------------------------------------------------------- apply


def test_apply_creates_edits_and_leaves_alone(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    path = write({"triggers": [HOURLY, HOOK, ONCE]})
    assert terminal("apply", "-f", path).splitlines()[-1] == "3 created, 0 edited, 0 unchanged"
    once = terminal.json("show", "once")
    path = write({"triggers": [HOURLY, {**HOOK, "tags": ["x"], "retry": {"max_attempts": 5}}, ONCE]})
    text = terminal("apply", "-f", path)
    assert text.splitlines() == [
        "= hourly  unchanged",
        "~ hook  edited",
        '    /tags: [] -> ["x"]',
        "    /retry/max_attempts: 3 -> 5",
        "= once  unchanged",
        "0 created, 1 edited, 2 unchanged",
    ]
    assert terminal.json("show", "once") == once, "its `at: now` was then"
    assert {one["action"] for one in terminal.json("apply", "-f", path)["items"]} == {"unchanged"}


def test_apply_changes_all_or_nothing(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    terminal("create", "-f", write(HOURLY))
    edited = {**HOURLY, "description": "new"}
    broken = {**HOOK, "schedule": {"type": "interval", "every_seconds": 0}}
    line = terminal.refuses("apply", "-f", write({"triggers": [edited, ONCE, broken, {"x": 1}]}))
    assert "/triggers/2/schedule/every_seconds" in line
    assert "/triggers/3/name: missing" in line, "all problems are told at once"
    assert count(database, Trigger) == 1
    assert terminal.json("show", "hourly")["description"] == ""


def test_apply_shows_what_it_would_do(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    terminal("apply", "-f", write({"triggers": [HOURLY, ONCE]}))
    path = write({"triggers": [{**HOURLY, "tags": ["x"]}, HOOK]})
    before = terminal.json("list")
    expected = [
        "~ hourly  edited",
        '    /tags: [] -> ["x"]',
        "+ hook  created",
        "- once  deleted",
        "nothing is changed, it would be: 1 created, 1 edited, 0 unchanged, 1 deleted",
    ]
    assert terminal("apply", "-f", path, "--prune", "--dry-run").splitlines() == expected
    assert terminal.error == "", "nothing of what did not happen is logged"
    items = terminal.json("apply", "-f", path, "--dry-run")["items"]
    assert [(one["action"], one["id"]) for one in items] == [
        ("edited", before["items"][0]["id"]),
        ("created", None),
    ]
    assert terminal.json("list") == before
    assert count(database, TriggerChange) == 2
    refused = write({"triggers": [{**HOURLY, "tags": [1]}]})
    assert "/triggers/0/tags/0" in terminal.refuses("apply", "-f", refused, "--dry-run")


def test_apply_prunes_what_is_not_in_the_file(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    """Whatever its state: afterwards the file says all there is."""
    terminal("apply", "-f", write({"triggers": [HOURLY, HOOK, ONCE]}))
    terminal("pause", "hook")
    path = write({"triggers": [HOURLY]})
    assert terminal("apply", "-f", path).splitlines()[-1] == "0 created, 0 edited, 1 unchanged"
    assert len(terminal.json("list")["items"]) == 3
    text = terminal("apply", "-f", path, "--prune")
    assert text.splitlines() == [
        "= hourly  unchanged",
        "- hook  deleted",
        "- once  deleted",
        "0 created, 0 edited, 1 unchanged, 2 deleted",
    ]
    assert "cancelled trigger=once " in terminal.error
    assert [one["name"] for one in terminal.json("list")["items"]] == ["hourly"]
    assert "would delete every trigger" in terminal.refuses("apply", "-f", write({"triggers": []}), "--prune")
    broken = write({"triggers": [{**HOOK, "tags": [1]}]})
    assert "/triggers/0/tags/0" in terminal.refuses("apply", "-f", broken, "--prune")
    assert [one["name"] for one in terminal.json("list")["items"]] == ["hourly"]


def test_two_that_apply_at_once_wait_for_each_other(database_url: str) -> None:
    """Each its own order of the same triggers, again and again: neither ends in a deadlock."""
    migrate(database_url)
    names = [f"t{number}" for number in range(40)]
    barrier = threading.Barrier(2)

    def go(order: list[str], which: int, turns: int = 6) -> None:
        database = Database(database_url)
        try:
            for turn in range(turns):
                documents = [{**HOURLY, "name": name, "description": f"{which} {turn}"} for name in order]
                if which:
                    barrier.wait(30)
                apply(database, documents, Settings(), prune=True)
        finally:
            database.close()

    go(names, 0, turns=1)
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(go, names, 1), pool.submit(go, names[::-1], 2)]
        for end in ends:
            end.result(120)


def test_of_two_that_prune_the_same_at_once_each_succeeds(database_url: str) -> None:
    migrate(database_url)
    kept = {**HOURLY, "name": "kept"}
    barrier = threading.Barrier(2)

    def go() -> list[Applied]:
        database = Database(database_url)
        try:
            with database.read() as connection:
                database.now(connection)  # connected
            barrier.wait(30)
            return apply(database, [kept], Settings(), prune=True)
        finally:
            database.close()

    for _ in range(3):
        database = Database(database_url)
        apply(database, [kept, *({**HOURLY, "name": f"t{number}"} for number in range(150))], Settings())
        database.close()
        with ThreadPoolExecutor(2) as pool:
            done = [end.result(120) for end in [pool.submit(go), pool.submit(go)]]
        assert sum(one.action == "deleted" for each in done for one in each) == 150


def test_apply_creates_many_with_as_many_statements_as_one(
    terminal: Terminal, database: Database, write: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[str] = []
    begin, execute = Database.write, psycopg.Connection.execute

    def straight(self: psycopg.Connection[Any], statement: Any, *more: Any, **options: Any) -> Any:
        executed.append(str(statement))  # not by way of SQLAlchemy, as what stores on PostgreSQL
        return execute(self, statement, *more, **options)

    def remember(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    @contextmanager
    def counted(self: Database) -> Iterator[Connection]:
        with begin(self) as connection:
            sqlalchemy_event.listen(connection, "before_cursor_execute", remember)
            yield connection

    monkeypatch.setattr(Database, "write", counted)
    monkeypatch.setattr(psycopg.Connection, "execute", straight)
    numbers = []
    for number in (1, 50):
        executed.clear()
        many = [{**HOURLY, "name": f"t{number}-{n}"} for n in range(number)]
        text = terminal("apply", "-f", write({"triggers": many}))
        assert text.splitlines()[-1] == f"{number} created, 0 edited, 0 unchanged"
        numbers.append(len(executed))
    assert numbers[0] == numbers[1] > 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("triggers: " + "[" * 5000, "nested too deep"),
        ("triggers:\n" + "- " * 100_000, "nested too deep"),
        ("triggers:\n- name: a\n  name: b\n", "line 3, column 3: the key 'name' is there twice"),
        ("triggers: [", "not YAML"),
        ("triggers: !!python/object:os.system {}", "not YAML"),
        ("- name: a\n", "/triggers: must be a list"),
        ("triggers: []\nmore: 1\n", "/more: unknown field"),
        ("triggers:\n- {name: a, tags: [!!timestamp 2026-11-20]}\n", "/triggers/0/tags/0"),
        ("triggers:\n- name: a\n- name: a\n", "/triggers/1/name: 'a' is there twice"),
    ],
)
def test_apply_reads_yaml_strictly(
    terminal: Terminal, database: Database, write: Callable[[Any], str], content: str, expected: str
) -> None:
    assert expected in terminal.refuses("apply", "-f", write(content))


def test_yaml_means_what_one_sees(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    text = """
    triggers:
    - name: yes
      description: 2026-11-20
      schedule: {type: once, at: 2126-11-20T09:00:00Z}
      target: {type: http, url: https://example.org/, body: {on: off, number: 017, none: ~, yes: true}}
    """
    terminal("apply", "-f", write(text))
    shown = terminal.json("show", "yes")
    assert shown["description"] == "2026-11-20"
    assert shown["schedule"]["at"] == "2126-11-20T09:00:00Z"
    assert shown["target"]["body"] == {"on": "off", "number": 17, "none": None, "yes": True}


# ------------------------------------------------------------------------------------------ events


def test_fire_and_the_events_it_leads_to(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    terminal("create", "-f", write(HOOK))
    fired = terminal.json("fire", "hook", "--payload", '{"b": [1, "ü"]}')
    assert (fired["source"], fired["status"], fired["trigger_name"]) == ("manual", "pending", "hook")
    with database.read() as connection:
        assert connection.execute(select(Event.payload)).scalar_one() == {"b": [1, "ü"]}
    finish(database, fired["id"], result={"status": 200})
    event = terminal.json("event", fired["id"])
    assert event["status"] == "succeeded"
    assert [attempt["outcome"] for attempt in event["attempts"]] == ["succeeded"]
    assert "succeeded" in terminal("event", fired["id"])
    terminal("fire", "hook")
    assert [one["status"] for one in terminal.json("events")["items"]] == ["pending", "succeeded"]
    assert [one["id"] for one in terminal.json("events", "--status", "succeeded")["items"]] == [fired["id"]]
    page = terminal.json("events", "hook", "--limit", "1")
    rest = terminal.json("events", "hook", "--limit", "1", "--cursor", page["next_cursor"])
    assert [one["id"] for one in rest["items"]] == [fired["id"]]
    assert "there is no trigger" in terminal.refuses("events", "nothing")
    assert "there is no event" in terminal.refuses("event", "nothing")


def test_fire_refuses_a_payload_that_cannot_be_used(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    terminal("apply", "-f", write({"triggers": [HOURLY, HOOK]}))
    assert "not JSON" in terminal.refuses("fire", "hook", "--payload", "{", status=2)
    assert "null" in terminal.refuses("fire", "hook", "--payload", "null", status=2)
    assert "log target" in terminal.refuses("fire", "hourly", "--payload", "{}")
    assert count(database, Event) == 0


def spawn(words: list[str], directory: Path, **environment: str) -> Process:
    command = [sys.executable, "-m", "triggers.cli", *words]
    settings = {"PYTHONPATH": str(ROOT), "CELERY_BROKER_URL": NOWHERE, **environment}
    return Process(command, directory / "logs", env=settings, cwd=directory, name="triggerbeat")


def test_follow_prints_an_object_a_line_as_things_happen(
    terminal: Terminal, database: Database, database_url: str, write: Callable[[Any], str], tmp_path: Path
) -> None:
    terminal("create", "-f", write(HOOK))
    old, fails = (terminal.json("fire", "hook")["id"] for _ in range(2))
    finish(database, old)
    with spawn(["events", "--follow", "--json"], tmp_path, DATABASE_URL=database_url) as follower:

        def seen() -> list[tuple[str, str]]:
            whole = follower.output().rpartition("\n")[0]
            return [(one["id"], one["status"]) for one in map(json.loads, whole.splitlines())]

        expected = [(old, "succeeded")]
        wait_until(lambda: seen() == expected, 15, lambda: f"what was before: {follower.output()}")
        with database.write() as connection:
            now = database.now(connection)
            running = {"status": "running", "attempt": 1, "started_at": now, "attempt_started_at": now}
            values = running | {"lease_until": now}
            connection.execute(update(Event).where(Event.id == fails).values(values))
        expected += [(fails, "running")]
        wait_until(lambda: seen() == expected, 10, lambda: f"the start: {follower.output()}")
        finish(database, fails, status="failed", reason="attempts", error={"type": "E", "message": "m"})
        expected += [(fails, "failed")]
        wait_until(lambda: seen() == expected, 10, lambda: f"the end: {follower.output()}")
        # Nothing is told twice, and Ctrl-C ends it without a word
        follower.signal(signal.SIGINT)
        assert follower.wait() == 130
        assert seen() == expected
        assert len(follower.output().splitlines()) == len(expected)


def test_a_reader_that_has_had_enough_is_no_error(
    terminal: Terminal, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    many = [{**HOURLY, "name": f"t{number}", "description": "x" * 1_000} for number in range(300)]
    terminal("apply", "-f", write({"triggers": many}))
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m triggers.cli list --json | head -n 1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


# ----------------------------------------------------------------------------------------- preview


def test_preview_gives_the_next_occurrences_and_a_note_at_a_clock_change(terminal: Terminal) -> None:
    zone = ("--timezone", "Europe/Berlin", "--from", "2026-03-28T00:00:00Z", "-n", "3")
    found = terminal.json("preview", "30 2 * * *", *zone)
    schedule = {"type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    after = parse_instant(found["after"], "after")
    expected = [one.isoformat().replace("+00:00", "Z") for one in next_occurrences(schedule, after, 3)]
    assert [one["scheduled_for"] for one in found["items"]] == expected
    assert found["next_cursor"] is None
    assert "jump" in found["items"][1]["note"]
    assert "2026-03-29T03:00:00+02:00" in terminal("preview", "30 2 * * *", *zone)
    assert len(terminal.json("preview", "@daily")["items"]) == 10


def test_preview_needs_no_database_and_refuses_in_one_line(terminal: Terminal, tmp_path: Path) -> None:
    assert "minute" in terminal.refuses("preview", "61 * * * *")
    assert "time zone" in terminal.refuses("preview", "@daily", "--timezone", "Nowhere/Land")
    assert "--from" in terminal.refuses("preview", "@daily", "--from", "tomorrow", status=2)
    assert "-n" in terminal.refuses("preview", "@daily", "-n", "0", status=2)
    assert not list(tmp_path.glob("*.db"))


# -------------------------------------------------------------------------------- queue and status


def test_queue_shows_what_waits_and_what_is_held_and_what_is_not_ours(
    terminal: Terminal, database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], str],
) -> None:  # fmt: skip
    terminal("create", "-f", write(HOOK))
    monkeypatch.setenv("CELERY_BROKER_URL", valkey.url)
    terminal("fire", "hook")
    assert terminal.error == "", "the hint went out"
    envelope = valkey.command("LRANGE", "celery", 0, -1)[0]
    for held in (json.dumps([envelope, "", "celery"]), json.dumps([json.loads(envelope), "", "tasks"]), "x"):
        valkey.command("HSET", "unacked", held[:99], held)
    for foreign in ("\x00\x1b[31m", "[]", '{"headers": 1}', '{"headers": {"task": "a.b"}, "body": "?"}', "{"):
        valkey.command("LPUSH", "tasks", foreign)
    with redis.Redis(port=valkey.port) as client:
        client.lpush("tasks", b"\xff\xfe")

    backlogs = ["celery" + BACKLOG, "tasks" + BACKLOG]
    for name in backlogs:
        valkey.command("LPUSH", name, envelope)
    shown = {one["name"]: one["waiting"] for one in terminal.json("queue")["broker"]["queues"]}
    assert shown == {"celery": 1, "celery.backlog": 1, "tasks": 6, "tasks.backlog": 1}
    valkey.command("DEL", *backlogs)
    found = terminal.json("queue")
    ours, tasks = found["broker"]["queues"]
    assert (ours["name"], ours["waiting"], tasks["name"], tasks["waiting"]) == ("celery", 1, "tasks", 6)
    assert ours["messages"][0]["task"] == "celery_config.celery_worker.execute_scheduled_triggers"
    assert ours["messages"][0]["kwargs"] == {"hint": True}
    assert [message["task"] for message in tasks["messages"]] == [None, None, None, "a.b", None, None]
    assert found["broker"]["held"]["count"] == 3
    assert [m.get("queue") for m in found["broker"]["held"]["messages"] if m["task"]] == ["tasks"]
    assert found["database"]["due_now"] == 1
    assert "not ours" in terminal("queue")


def test_queue_shows_a_bounded_part_of_a_long_queue(
    terminal: Terminal, sqlite_url: str, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("CELERY_BROKER_URL", valkey.url)
    valkey.command("LPUSH", "celery", *(str(number) for number in range(1_000)))
    valkey.command("HSET", "unacked", *(str(number // 2) for number in range(2_000)))
    broker = terminal.json("queue")["broker"]
    assert broker["queues"][0]["waiting"] == 1_000
    assert [message["raw"] for message in broker["queues"][0]["messages"]] == [str(n) for n in range(100)]
    assert broker["held"]["count"] == 1_000
    assert len(broker["held"]["messages"]) == 100


def test_queue_on_rabbitmq_tells_what_rabbitmq_tells(
    terminal: Terminal, sqlite_url: str, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], str],
) -> None:  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("CELERY_BROKER_URL", rabbitmq_url)
    terminal("create", "-f", write(HOOK))
    assert [one["waiting"] for one in terminal.json("queue")["broker"]["queues"]] == [0, 0], "no queue yet"
    terminal("fire", "hook")
    assert terminal.error == "", "the hint went out"
    wait_until(lambda: terminal.json("queue")["broker"]["queues"][0]["waiting"] == 1)
    found = terminal.json("queue")["broker"]
    assert found["error"] is None
    assert found["held"] is None
    assert "RabbitMQ does not tell" in terminal("queue")


def test_queue_without_a_broker_still_shows_the_database(terminal: Terminal, database: Database) -> None:
    found = terminal.json("queue")
    assert found["broker"]["error"]
    assert found["database"] == {"due_now": 0, "ahead": 0, "running": 0, "oldest_due": None}
    terminal("queue")
    assert terminal.error.count("\n") == 1


def test_status_says_whether_ticks_happen(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    never = terminal.json("status", expect=1)
    assert (never["ok"], never["last_tick"], never["nodes"]) == (False, None, [])
    assert never["lateness"] == {"events": 0, "p50_ms": None, "p99_ms": None}
    with database.write() as connection:
        ticked = database.now(connection) - timedelta(seconds=100)
        node = {"took_seconds": 0.01, "planned": 3, "clock_skew_seconds": 0.002, "tzdata": "2026a"}
        connection.execute(insert(Node).values(name="one", last_tick_at=ticked, **node))
        longer_ago = ticked - timedelta(hours=1)
        connection.execute(insert(Node).values(name="two", last_tick_at=longer_ago, **node))
    terminal("create", "-f", write(HOURLY))
    terminal("fire", "hourly")
    status = terminal.json("status")
    assert status["ok"]
    assert 100 <= status["last_tick_seconds_ago"] < 160
    assert [node["name"] for node in status["nodes"]] == ["one", "two"]
    assert (status["backlog"], status["running"]) == (1, 0)
    assert status["next_event"].endswith(":00:00Z")
    assert status["triggers"] == {"active": 1, "paused": 0, "completed": 0}
    assert not status["broker"]["reachable"]
    with database.write() as connection:
        connection.execute(update(Node).values(last_tick_at=ticked - timedelta(seconds=100)))
    assert terminal.json("status", expect=1)["ok"] is False, "three intervals are 180 s"
    terminal("status", expect=1)
    assert "no tick for three intervals" in terminal.error


def test_status_warns_of_clocks_and_tz_databases_that_are_off(terminal: Terminal, database: Database) -> None:
    with database.write() as connection:
        node = {"last_tick_at": database.now(connection), "took_seconds": 0.01, "planned": 3}
        for name, skew, release in (("good", 0.9, "2026b"), ("ahead", 120.4, "2026b"), ("old", 0.2, "2026a")):
            more = {"name": name, "clock_skew_seconds": skew, "tzdata": release}
            connection.execute(insert(Node).values(**node, **more))
    assert sorted(terminal.json("status")["warnings"]) == [
        "the clock of ahead is +120.4 s off the database's",
        "the tz database of old is 2026a, another machine has 2026b",
    ]
    assert "+120.400 s" in terminal("status")
    assert "the clock of ahead is +120.4 s off" in terminal.error
    assert terminal.error.count("\n") == 2


def test_status_shows_what_an_update_of_the_tz_database_moved(terminal: Terminal, database: Database) -> None:
    assert terminal.json("status", expect=1)["tzdata"] is None
    with database.write() as connection:
        at = database.now(connection)
        row = {"digest": "d", "tzdata": "2026a", "adopted_at": at, "checked_at": at}
        connection.execute(insert(ZoneRules).values(zone="Asia/Tokyo", **row))
    found = terminal.json("status", expect=1)["tzdata"]
    assert (found["release"], found["zones_changed"], found["triggers_moved"]) == ("2026a", 0, 0)
    moved = {"trigger": "nightly", "was": "2026-12-01T14:00:00Z", "now": "2026-12-01T13:00:00Z"}
    with database.write() as connection:
        row |= {"tzdata": "2026b", "adopted_at": at + timedelta(seconds=1), "moved": 1, "examples": [moved]}
        connection.execute(insert(ZoneRules).values(zone="Europe/Berlin", **row))
    found = terminal.json("status", expect=1)["tzdata"]
    assert (found["release"], found["zones_changed"], found["triggers_moved"]) == ("2026b", 1, 1)
    assert found["moved"] == [{"zone": "Europe/Berlin", **moved}]
    shown = terminal("status", expect=1)
    assert "1 zones changed, 1 triggers moved" in shown
    assert [line for line in shown.splitlines() if line.startswith("nightly") and "Europe/Berlin" in line]


def test_status_knows_the_lateness_of_the_last_hour(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    trigger = terminal.json("create", "-f", write(HOURLY))
    with database.write() as connection:
        now = database.now(connection)
        for number in range(100):
            at = now - timedelta(minutes=59) + timedelta(seconds=number)
            started = at + timedelta(milliseconds=number + 1)
            row = {"id": f"00000000-0000-7000-8000-{number:012}", "trigger_id": trigger["id"]}
            row |= {"scheduled_for": at, "fire_at": at, "due_at": at, "created_at": at}
            row |= {"source": "schedule", "status": "succeeded", "state": "active", "attempt": 1}
            row |= {"started_at": started, "attempt_started_at": started, "finished_at": started}
            connection.execute(insert(Event).values(**row))
        long_ago = now - timedelta(hours=2)  # more than an hour, so the latest of all does not count
        latest = update(Event).where(Event.id == row["id"])
        connection.execute(latest.values(scheduled_for=long_ago, fire_at=long_ago))
    assert terminal.json("status", expect=1)["lateness"] == {"events": 99, "p50_ms": 50.0, "p99_ms": 99.0}


# ------------------------------------------------------------------------------ hints and failures


@pytest.mark.parametrize("command", ["create", "apply", "fire", "resume"])
def test_what_is_due_at_once_is_hinted(
    terminal: Terminal, sqlite_url: str, valkey: Valkey, monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], str], command: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    soon = {**HOURLY, "name": "soon", "schedule": {"type": "interval", "every_seconds": 30}}
    terminal("apply", "-f", write({"triggers": [HOURLY, HOOK, soon]}))
    terminal("pause", "soon")
    terminal("pause", "hourly")
    monkeypatch.setenv("CELERY_BROKER_URL", valkey.url)
    if time.gmtime().tm_min < 58:  # else it is due soon
        terminal("resume", "hourly")
    assert valkey.command("LLEN", "celery") == 0, "an hour is longer than a tick"
    words = {
        "create": ["-f", write(ONCE)] if command == "create" else [],
        "apply": ["-f", write({"triggers": [ONCE]})] if command == "apply" else [],
        "fire": ["hook"],
        "resume": ["soon"],
    }[command]
    terminal(command, *words)
    assert valkey.command("LLEN", "celery") == 1


@pytest.mark.parametrize(
    ("change", "hints"),
    [
        ({"target": {"type": "http", "url": "https://hooks.example.org/"}}, 1),
        ({"schedule": {"type": "interval", "every_seconds": 20}}, 1),
        ({"policy": {"misfire": "skip"}}, 1),
        ({"schedule": {"type": "once", "at": "now"}}, 1),
        ({"schedule": {"type": "cron", "cron": "0 0 1 1 *"}}, 0),
        ({"description": "only words"}, 0),
        ({"target": {"type": "log", "message": "other words"}}, 0),
        ({}, 0),
    ],
)
def test_an_edit_by_apply_is_hinted_when_something_is_due_soon(
    terminal: Terminal, database: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], str], change: dict[str, Any], hints: int,
) -> None:  # fmt: skip
    soon = {**HOURLY, "name": "soon", "schedule": {"type": "interval", "every_seconds": 30}}
    terminal("apply", "-f", write({"triggers": [soon]}))
    execute_scheduled_triggers(database, lambda _: True, timedelta(seconds=90), "test")
    monkeypatch.setenv("CELERY_BROKER_URL", valkey.url)
    terminal("apply", "-f", write({"triggers": [soon | change]}))
    assert "the broker cannot be reached" not in terminal.error
    assert valkey.command("LLEN", "celery") == hints


COMMIT_TO_PUBLISH = """
import socket, sys
from sqlalchemy.engine.default import DefaultDialect
from triggers import cli

commit, sendall = DefaultDialect.do_commit, socket.socket.sendall

def committed(self, connection):
    commit(self, connection)
    globals().setdefault("known", set(sys.modules))

def sent(self, data, *more):
    if b"LPUSH" in bytes(data):
        print("sent", *sorted(set(sys.modules) - known), file=sys.stderr)
    return sendall(self, data, *more)

DefaultDialect.do_commit, socket.socket.sendall = committed, sent
cli.main()
"""


@pytest.mark.parametrize("command", ["create", "apply", "fire", "resume"])
def test_all_that_a_hint_needs_is_there_before_the_commit(
    terminal: Terminal, sqlite_url: str, valkey: Valkey, monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], str], command: str,
) -> None:  # fmt: skip
    """Half a second of imports after the commit would be half a second of lateness."""
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    soon = {**HOURLY, "name": "soon", "schedule": {"type": "interval", "every_seconds": 30}}
    terminal("apply", "-f", write({"triggers": [HOOK, soon]}))
    terminal("pause", "soon")
    words = {"fire": ["hook"], "resume": ["soon"]}.get(command, ["-f"])
    if words == ["-f"]:
        words.append(write(ONCE if command == "create" else {"triggers": [ONCE]}))
    done = subprocess.run(
        [sys.executable, "-c", COMMIT_TO_PUBLISH, command, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CELERY_BROKER_URL": valkey.url},
        capture_output=True,
        text=True,
        timeout=30,
    )
    word, *imported = done.stderr.split()
    assert word == "sent", done.stderr
    late = [
        name for name in imported if name.partition(".")[0] in ("celery", "celery_config", "kombu", "redis")
    ]
    assert not late, late


def test_a_broker_that_does_not_answer_costs_two_seconds_and_a_note(
    terminal: Terminal, sqlite_url: str, valkey: Valkey, monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], str],
) -> None:  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("CELERY_BROKER_URL", valkey.url)
    path = write(ONCE)
    valkey.freeze()
    began = time.monotonic()
    assert terminal.json("create", "-f", path)["name"] == "once"
    assert time.monotonic() - began < 4
    assert "the next tick starts what is due" in terminal.error
    assert terminal.json("status", expect=1)["broker"]["reachable"] is False
    valkey.thaw()


def test_the_broker_that_up_left_is_found(
    terminal: Terminal, sqlite_url: str, valkey: Valkey, monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.delenv("CELERY_BROKER_URL")
    folder = local_files.directory(Settings(database_url=sqlite_url))
    assert folder == tmp_path / ".triggerbeat"
    folder.mkdir()
    local_files.write_broker_url(folder, valkey.url)
    terminal("create", "-f", write(ONCE))
    assert terminal.error == ""
    assert valkey.command("LLEN", "celery") == 1
    monkeypatch.setenv("CELERY_BROKER_URL", NOWHERE)
    assert terminal.json("queue")["broker"]["url"] == NOWHERE, "the environment wins"


def test_a_database_that_is_not_migrated_is_said_so(
    terminal: Terminal, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    path = write(HOURLY)
    for words in (["list"], ["events"], ["queue"], ["status"], ["fire", "x"], ["create", "-f", path]):
        assert "run `triggerbeat migrate`" in terminal.refuses(*words)
    assert re.fullmatch(r"\d{4}", terminal.json("migrate")["schema"])
    assert terminal.json("list") == {"items": [], "next_cursor": None}


def test_a_database_that_is_away_is_said_so(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:hush@127.0.0.1:{free_port()}/nothing")
    for words in (["list"], ["migrate"], ["fire", "x"]):
        line = terminal.refuses(*words)
        assert "refused" in line
        assert "hush" not in line


PATIENCE = 12.0  # seconds of somebody at a terminal; half of it, unless the machine is busy


def test_a_frozen_database_is_said_so_before_one_loses_patience(
    terminal: Terminal, private_postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(private_postgres.url())
    monkeypatch.setenv("DATABASE_URL", private_postgres.url())
    assert terminal.json("list")["items"] == []
    connect = Database._make_engine

    def connect_and_freeze(self: Database) -> None:
        """The connection is made, the question is not answered any more."""
        connect(self)
        with self.engine.connect():
            pass
        private_postgres.freeze()

    for make_engine in (connect_and_freeze, connect):
        monkeypatch.setattr(Database, "_make_engine", make_engine)
        began = time.monotonic()
        assert "does not answer" in terminal.refuses("list")
        assert time.monotonic() - began < PATIENCE
    private_postgres.thaw()


def test_a_locked_database_is_said_so_before_one_loses_patience(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    path = write(HOURLY)
    with database.write() as connection:
        if database.is_postgres:
            connection.execute(text("LOCK TABLE triggers IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        assert re.search("lock", terminal.refuses("create", "-f", path))
        assert time.monotonic() - began < PATIENCE
    terminal("create", "-f", path)


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["list", "--nonsense"],
        ["show"],
        ["create"],
        ["create", "-f", "not-there.json"],
        ["events", "--status", "nonsense"],
        ["list", "--limit", "0"],
        ["events", "--follow", "--cursor", "x"],
    ],
)
def test_wrong_use_is_one_line_and_status_2(terminal: Terminal, sqlite_url: str, words: list[str]) -> None:
    terminal.refuses(*words, status=2)


def test_an_error_names_the_first_few_problems_in_one_line(
    terminal: Terminal, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    line = terminal.refuses("create", "-f", write([HOURLY]))
    assert line == "triggerbeat: error: must be a JSON object\n", "the root has no pointer"
    line = terminal.refuses("create", "-f", write({"name": "a b", "x": 1, "y": 2}))
    assert all(f"/{field}: " in line for field in ("name", "schedule", "target", "x", "y"))
    assert "more" not in line
    line = terminal.refuses("apply", "-f", write({"triggers": [{"name": f"t{n}"} for n in range(4)]}))
    assert "/triggers/2/schedule: missing; and 3 more" in line


def test_apply_says_all_that_is_wrong_at_once(
    terminal: Terminal, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    line = terminal.refuses("apply", "-f", write({"x": 1, "y": 2, "triggers": 3}))
    assert all(f"/{field}: " in line for field in ("x", "y", "triggers"))
    twice = [HOURLY, HOURLY, HOOK, HOOK, {**ONCE, "z": 1}]
    line = terminal.refuses("apply", "-f", write({"triggers": twice}))
    assert all(f"/triggers/{place}: " in line for place in ("1/name", "3/name", "4/z"))


def test_up_without_its_database_is_one_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, valkey: Valkey, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": f"postgresql://me:hush@localhost:{free_port()}/nothing",
        "CELERY_BROKER_URL": valkey.url,
        "PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "triggers.cli", "up", "--demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("triggerbeat: error: the database cannot be used: ")
    assert done.stderr.count("\n") == 1
    assert "hush" not in done.stderr


def test_a_wrong_setting_is_one_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICK_SECONDS", "often")
    assert "TICK_SECONDS='often'" in terminal.refuses("list", status=2)
    assert "Usage" in terminal("list", "--help")


def test_control_characters_do_not_reach_the_terminal(
    terminal: Terminal, database: Database, write: Callable[[Any], str]
) -> None:
    terminal("create", "-f", write({**HOURLY, "description": "\x1b[2Jclear\nforged"}))
    assert "\\x1b[2Jclear\\nforged" in terminal("show", "hourly")


def test_a_message_of_any_shape_is_described() -> None:
    for raw in (b"null", b"1", b'"x"', b"[" * 5_000, b'{"headers": {"task": 1}}', b"\x80"):
        assert queue_view.message(raw)["task"] is None
        assert queue_view.held_message(raw)["task"] is None
