"""The servers of the tests do what tests expect of them. Short: one for each promise."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from kombu.connection import Connection
from sqlalchemy import create_engine, text

from tests.servers import PostgreSQL, Process, Valkey, wait_until


def test_valkey_answers_is_flushed_and_comes_back_empty_on_its_port(valkey: Valkey) -> None:
    valkey.command("LPUSH", "celery", "message")
    assert valkey.command("LRANGE", "celery", 0, -1) == ["message"]
    valkey.flush()
    assert valkey.command("LLEN", "celery") == 0

    valkey.command("LPUSH", "celery", "message")
    port = valkey.port
    valkey.kill()
    valkey.restart()
    assert (valkey.port, valkey.command("LLEN", "celery")) == (port, 0)


def test_a_frozen_valkey_keeps_silent_until_it_is_thawed(valkey: Valkey) -> None:
    client = redis.Redis.from_url(valkey.url, socket_timeout=0.2, retry=None)
    valkey.freeze()
    with pytest.raises(redis.exceptions.TimeoutError):
        client.ping()
    valkey.thaw()
    assert client.ping()
    client.close()


def test_a_database_of_each_kind_is_empty_and_ones_own(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (id integer)"))
        assert connection.execute(text("SELECT count(*) FROM mine")).scalar_one() == 0
    engine.dispose()


def test_a_killed_postgres_comes_back_with_what_was_committed(private_postgres: PostgreSQL) -> None:
    private_postgres.execute("CREATE TABLE kept AS SELECT 1 AS id")
    private_postgres.kill()
    private_postgres.restart()
    assert private_postgres.execute("SELECT id FROM kept") == [(1,)]


def test_rabbitmq_takes_and_gives_a_message(rabbitmq_url: str) -> None:
    with Connection(rabbitmq_url) as connection, connection.SimpleQueue("greetings") as queue:
        queue.put("hello")
        message = queue.get(timeout=5)
        message.ack()
        assert message.payload == "hello"


def test_a_process_tells_what_it_says_and_ends_when_asked(tmp_path: Path) -> None:
    program = "import time; print('one'); print('two'); time.sleep(60)"
    with Process([sys.executable, "-c", program], tmp_path) as process:
        process.expect("one")
        assert process.expect("tw") == "two"
        assert process.terminate() == -15
        with pytest.raises(AssertionError, match="ended without 'three'"):
            process.expect("three")


RUN = """
import os, signal, sys
from pathlib import Path
from tests.servers import Process, Valkey
valkey = Valkey(Path(sys.argv[1])).start()
shell = Process(["sh", "-c", "sleep 600 & sleep 600"], Path(sys.argv[1]))
valkey.freeze()
print(valkey.process.pid, shell.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", RUN, tmp_path], capture_output=True, text=True, check=False)
    groups = [int(word) for word in run.stdout.split()]
    assert len(groups) == 2, run.stderr
    wait_until(lambda: not any(map(_group_exists, groups)), 10, f"the end of the groups {groups}")


def _group_exists(group: int) -> bool:
    """Whether anything runs in the group. What has ended and waits to be reaped by init does not count."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, of_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                return True
    return False
