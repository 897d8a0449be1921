"""`triggerbeat up`: the whole of it as a user starts, uses, damages and ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.processes import Process, free_port, wait_until
from triggers import local_files
from triggers.supervisor import Output

ROOT = Path(__file__).parents[2]
START_SECONDS = 40.0  # on a machine that is busy with other tests; alone it takes 4
STOP_SECONDS = 5.0
SET_BY_A_TEST = ("CELERY_BROKER_URL", "ADMIN_TOKEN", "DATABASE_URL", "TICK_SECONDS", "LOG_FORMAT", "HOST")
DEFAULTS = dict.fromkeys(SET_BY_A_TEST, "")  # an empty value counts as unset
LOG = {"type": "log", "message": "here"}


class Up:
    """One `triggerbeat up` in a directory of its own."""

    def __init__(self, directory: Path, *options: str, **settings: str) -> None:
        self.directory = directory
        self.mark = f"TRIGGERBEAT_TEST={directory}"
        self.port = int(settings.setdefault("PORT", str(free_port())))
        environment = DEFAULTS | settings | {"PYTHONPATH": str(ROOT), "TRIGGERBEAT_TEST": str(directory)}
        command = [sys.executable, "-m", "triggers.cli", "up", *options]
        self.process = Process(command, directory / "logs", env=environment, cwd=directory, name="up")
        self.environment = environment

    def expect(self, text: str, seconds: float = START_SECONDS) -> str:
        return self.process.expect(text, seconds)

    def command(self, *words: str) -> Process:
        """Run another command of the same installation to its end."""
        name = f"triggerbeat-{words[0]}"
        process = Process(
            [sys.executable, "-m", "triggers.cli", *words],
            self.directory / "logs",
            env=self.environment,
            cwd=self.directory,
            name=name,
        )
        process.wait(30)
        return process

    def token(self) -> str:
        return (self.directory / ".triggerbeat" / "admin-token").read_text().strip()

    def request(self, path: str, body: Any = None) -> Any:
        """Ask the endpoint; the JSON it answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token()}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def pids(self) -> dict[int, str]:
        """Every process that belongs to it, whoever its parent is by now, with its command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                here = os.readlink(folder / "cwd").startswith(str(self.directory))
                if here or self.mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = words
        return found

    def pid(self, part: str, *, leader: bool = True) -> int:
        """The process whose command line has this part, and that leads its group."""
        for pid, words in self.pids().items():
            with suppress(ProcessLookupError):
                if part in words and (os.getpgid(pid) == pid) == leader:
                    return pid
        raise AssertionError(f"no {part!r} in {self.pids()}")

    def nothing_left(self) -> bool:
        return not self.pids()

    def close(self) -> None:
        self.process.kill()
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """Start `up` in a directory of this test's; whatever the test leaves running is ended."""
    running: list[Up] = []
    directory = tmp_path / "here"
    directory.mkdir()

    def start(*options: str, **settings: str) -> Up:
        running.append(Up(directory, *options, **settings))
        return running[-1]

    yield start
    for up in running:
        up.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_from_the_first_start_to_ctrl_c(started: Any) -> None:
    """A trigger fires within seconds, another is created with the token that is shown, Ctrl-C ends all."""
    # Given a first start
    began = time.monotonic()
    up = started("--demo")
    up.expect("Triggerbeat is up.")
    queue_port = int(re.search(r"-p (\d+) LRANGE celery 0 -1", up.expect("redis-cli ")).group(1))  # type: ignore[union-attr]
    assert up.token() in up.expect('-H "Authorization: Bearer ')
    # Then the demo's event is seen, on a line with its process's name
    line = up.expect("succeeded trigger=demo-heartbeat")
    print(f"from `up` to the first event: {time.monotonic() - began:.1f} s")
    assert line.startswith("worker | ")
    # And the files beside the database are private
    folder = up.directory / ".triggerbeat"
    assert mode(folder) == 0o700
    assert {mode(folder / name) for name in ("admin-token", "broker-url", "valkey.conf")} == {0o600}
    assert up.token() not in (folder / "valkey.conf").read_text()

    # When a trigger is created with that token, it fires too
    schedule = {"type": "interval", "every_seconds": 1}
    up.request("/triggers", {"name": "pasted", "schedule": schedule, "target": LOG})
    up.expect("succeeded trigger=pasted")

    # And anybody on the machine may look at the queue, as the banner says, and do no more
    with redis.Redis(port=queue_port, socket_timeout=5) as nobody:
        assert isinstance(nobody.lrange("celery", 0, -1), list)
        for words in (("LPUSH", "celery", "{}"), ("LRANGE", "tasks", 0, -1), ("FLUSHALL",), ("KEYS", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                nobody.execute_command(*words)

    # And the commands find the broker without being told
    status = json.loads(up.command("status", "--json").output())
    assert status["ok"]
    assert status["broker"]["reachable"]
    fired = up.command("fire", "pasted")
    assert "note:" not in fired.output(), "the hint went through"

    # And a second one beside it refuses, in one line
    second = up.command("up")
    assert second.wait() == 1
    assert second.output().count("\n") == 1
    assert "already runs here" in second.output()

    # When Ctrl-C is pressed, which a terminal sends to the whole group, and that is us alone
    assert [pid for pid in up.pids() if os.getpgid(pid) == up.process.pid] == [up.process.pid]
    os.killpg(up.process.pid, signal.SIGINT)
    # Then all ends within 5 s, in order, without a traceback
    assert up.process.wait(STOP_SECONDS) == 0
    assert up.nothing_left(), up.pids()
    end = up.process.output().partition("| stopping\n")[2]
    assert not re.search(r"Traceback|refused|Error", end), "nobody missed the broker"
    assert not (folder / "broker-url").exists()
    assert (folder / "admin-token").exists()


@pytest.mark.slow
def test_what_dies_is_started_again_and_nothing_survives_kill_9(started: Any) -> None:
    up = started("--demo", TICK_SECONDS="5")  # what a worker held when it was killed waits for a tick
    token = wait_until(lambda: up.directory.joinpath(".triggerbeat/admin-token").exists() and up.token())
    up.expect("succeeded trigger=demo-heartbeat")

    # When a worker is killed, its pool goes with it, and a new one delivers
    pool = up.pids()
    os.kill(up.pid("celery_worker worker"), signal.SIGKILL)
    up.expect("worker was ended by SIGKILL; it starts again in 1 s")
    up.expect("ready.")
    assert up.pid("celery_worker worker") not in pool
    up.expect("succeeded trigger=demo-heartbeat")

    # When the broker is killed, it comes back on the same port, and all find it
    where = up.directory.joinpath(".triggerbeat/broker-url").read_text()
    os.kill(up.pid("valkey-server"), signal.SIGKILL)
    up.expect("broker was ended by SIGKILL")
    port = int(where.strip().rpartition(":")[2].partition("/")[0])
    wait_until(lambda: reachable(port), 10, "the broker on its old port")
    up.request("/triggers", {"name": "after", "schedule": {"type": "once", "at": "now"}, "target": LOG})
    up.expect("succeeded trigger=after")

    # When the parent is killed, everything goes: pools, gunicorn's worker and broker too
    os.kill(up.process.pid, signal.SIGKILL)
    wait_until(up.nothing_left, 3, lambda: f"left: {up.pids()}")

    # And the next start is not hindered by what was left lying about, and has the same token
    again = started(PORT=str(up.port))
    again.expect("Triggerbeat is up.")
    assert again.token() == token
    again.process.signal(signal.SIGTERM)
    assert again.process.wait(STOP_SECONDS) == 0
    assert again.nothing_left(), again.pids()


def json_lines(up: Up, name: str) -> str:
    """What a process logged, one JSON object a line."""
    found = [line.partition(" | ")[2] for line in up.process.output().splitlines() if line.startswith(name)]
    return "\n".join(str(json.loads(line)) for line in found if line.startswith("{") and line.endswith("}"))


def reachable(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.slow
def test_a_given_token_and_broker_are_used_and_the_token_is_not_shown(started: Any, broker_url: str) -> None:
    given = "given-token-0123456789"
    up = started("--json", "--demo", ADMIN_TOKEN=given, CELERY_BROKER_URL=broker_url, LOG_FORMAT="json")
    wait_until(lambda: '"queue_command"' in up.process.output(), START_SECONDS)
    wait_until(lambda: "step" in json_lines(up, "worker"), START_SECONDS, up.process.output)
    assert "Listening at" in json_lines(up, "api"), "gunicorn's lines are JSON, too"
    assert "received" in json_lines(up, "worker"), "and Celery's"
    assert given not in up.process.output()
    assert not (up.directory / ".triggerbeat" / "admin-token").exists()
    assert "broker |" not in up.process.output()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{up.port}/triggers", timeout=10)
    up.process.signal(signal.SIGTERM)
    assert up.process.wait(STOP_SECONDS) == 0
    assert up.nothing_left(), up.pids()


def test_a_port_that_is_taken_is_named_in_one_line(started: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        up = started(PORT=str(other.getsockname()[1]))
        assert up.process.wait(START_SECONDS) == 1
    assert up.process.output().count("\n") == 1
    assert f"HOST=127.0.0.1 PORT={up.port}" in up.process.output()


def test_a_private_file_is_private_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        local_files.write_private(tmp_path / "secret", "text")
    finally:
        os.umask(before)
    assert mode(tmp_path / "secret") == 0o600
    with pytest.raises(FileExistsError):
        local_files.write_private(tmp_path / "secret", "another")
    (tmp_path / "secret").chmod(0o644)
    assert local_files.read_private(tmp_path / "secret") == "text"
    assert mode(tmp_path / "secret") == 0o600


@pytest.mark.parametrize("colour", [False, True])
def test_lines_are_whole_and_aligned_and_coloured_only_on_a_terminal(colour: bool) -> None:
    ours, theirs = os.pipe()
    output = Output(["worker", "up"], colour, theirs)
    written, read = os.pipe()
    output.follow("worker", os.fdopen(written, "rb"))
    os.write(read, b"one\r\ntw")
    os.write(read, b"o\n")
    os.close(read)
    output.drain()
    output.say("up", "stopping")
    output.drain()
    os.close(theirs)
    with os.fdopen(ours) as stream:
        lines = stream.read().splitlines()
    plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
    assert plain == ["worker | one", "worker | two", "up     | stopping"]
    assert (lines != plain) == colour
