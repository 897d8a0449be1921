"""Beat as operators know it: any number of them, restarted at will, with a broker that comes and goes."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
import redis

from tests.acceptance.installation import Installation, message
from tests.processes import Process, wait_until
from tests.servers import Valkey

TICK = "celery_config.celery_worker.execute_scheduled_triggers"
TICKED = "sent execute_scheduled_triggers"
UPDATED = "sent update_event_states"
SCHEDULE = """
import json
from celery_config.celery_worker import celery
print(json.dumps({name: [entry["task"], repr(entry["schedule"])] for name, entry in
                  celery.conf.beat_schedule.items()}))
print(celery.conf.broker_url, celery.conf.task_default_queue)
"""


def test_the_schedule_has_the_two_entries_and_nothing_else(tmp_path: Path) -> None:
    """With no setting at all, as a newcomer has it."""
    with Installation(tmp_path, f"sqlite:///{tmp_path}/unused.db", "redis://unused") as installation:
        unset = dict.fromkeys(["CELERY_BROKER_URL", "DATABASE_URL", "TICK_SECONDS", "TASK_MODULES"], "")
        process = installation.start("python", "-c", SCHEDULE, name="python", **unset)
        assert process.wait(30) == 0, process.output()
        entries, names = process.output().splitlines()[-2:]
        assert names == "redis://localhost:6379/0 celery"
        assert json.loads(entries) == {
            "execute_scheduled_triggers": [TICK, "datetime.timedelta(seconds=60)"],
            "update_event_states": [
                "celery_config.celery_worker.update_event_states",
                "<crontab: */30 * * * * (m/h/dM/MY/d)>",
            ],
        }


def test_beat_does_without_the_libraries_of_those_who_call_and_who_read(tmp_path: Path) -> None:
    """aiohttp and pydantic are a fifth of its memory, and beat only sends two messages."""
    script = (
        "import sys, celery_config.celery_worker; print(*{'aiohttp', 'pydantic'} & set(sys.modules), 'end')"
    )
    with Installation(tmp_path, f"sqlite:///{tmp_path}/unused.db", "redis://unused") as installation:
        process = installation.start("python", "-c", script, name="python", TASK_MODULES="json")
        assert process.wait(30) == 0, process.output()
        assert process.output().splitlines()[-1] == "end"


def test_both_entries_are_due_at_the_start_and_then_at_their_interval(
    broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """And nothing is left on the disk, where a stock beat keeps its shelve file."""
    with Installation(tmp_path / "files", sqlite_url, broker_url, TICK_SECONDS=2) as installation:
        beat = installation.beat()
        for _ in range(4):
            beat.expect(TICKED, 40)
        assert beat.output().count(UPDATED) == 1
        sent = [instant_of(line) for line in beat.output().splitlines() if TICKED in line]
        waits = [(after - before).total_seconds() for before, after in pairwise(sent)]
        assert all(1 < wait < 3 for wait in waits), waits
        assert 5 < sum(waits) < 7.5, waits  # three intervals: what one is late the next makes up for
        assert installation.waiting("celery") >= 5
        assert beat.terminate() == 0
        assert {path.name for path in installation.directory.iterdir()} == {"beat.log"}


def instant_of(line: str) -> datetime:
    """When a line of the log was written."""
    return datetime.fromisoformat(line.split()[0])


def test_a_beat_that_is_restarted_all_the_time_ticks(
    broker_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """Its interval of an hour never passes."""
    with Installation(tmp_path, sqlite_url, broker_url) as installation:
        for count in (1, 2, 3):
            with installation.beat() as beat:
                beat.expect("beat: Starting...", 40)
                beat.expect(TICKED, 4)
            assert ticks_waiting(installation) == count


def ticks_waiting(installation: Installation) -> int:
    """How many ticks wait in the queue, by the messages' own word."""
    with redis.Redis.from_url(installation.settings.celery_broker_url) as client:
        messages = [json.loads(text) for text in cast("list[bytes]", client.lrange("celery", 0, -1))]
    return sum(message["headers"]["task"] == TICK for message in messages)


@pytest.mark.slow
def test_two_beats_double_nothing(broker_url: str, database_url: str, tmp_path: Path) -> None:
    """Two beats, two workers, an occurrence a second: each is delivered once, and none is left out."""
    ledger = tmp_path / "ledger"
    with (
        Process(["python", "-m", "tests.sink", "--ledger", ledger], tmp_path, name="sink") as sink,
        Installation(tmp_path, database_url, broker_url, TICK_SECONDS=1) as installation,
    ):
        port = re.findall(r"\d+", sink.expect("port"))[0]
        target = {"type": "http", "url": f"http://127.0.0.1:{port}/"}
        installation.create("every-second", target, schedule={"type": "interval", "every_seconds": 1})
        workers = [installation.worker_unready("-n", f"{name}@%h", pool="solo", name=name) for name in "ab"]
        beats = [installation.beat(name=f"beat-{name}") for name in "ab"]
        for process in [*workers, *beats]:
            process.expect(" ready." if process in workers else TICKED, 60)
        began = len(delivered(ledger))
        wait_until(lambda: len(delivered(ledger)) >= began + 5, 30, "five more deliveries")
        assert [count for count in Counter(delivered(ledger)).values() if count > 1] == []
        for before, after in pairwise(installation.events("every-second")):
            assert (after.scheduled_for - before.scheduled_for).total_seconds() == after.coalesced


def delivered(ledger: Path) -> list[str]:
    """The ids of the events that arrived, one for each delivery."""
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return [json.loads(line)["headers"]["webhook-id"] for line in lines]


@pytest.mark.slow
def test_beat_tries_until_the_broker_is_there(sqlite_url: str, tmp_path: Path) -> None:
    """Away at the start, and killed later; whatever was due while it was away is sent when it is back."""
    valkey = Valkey(tmp_path / "valkey")
    with Installation(tmp_path / "files", sqlite_url, valkey.url, TICK_SECONDS=1) as installation:
        installation.create("waiting", message())
        beat = installation.beat()
        wait_until(lambda: "rror" in beat.output() or "annot" in beat.output(), 40, beat.output)
        with valkey:
            beat.expect(TICKED, 40)
            valkey.kill()
            beat.expect("cannot send execute_scheduled_triggers, trying again", 20)
            assert beat.alive()
            valkey.start()
            beat.expect(TICKED, 20)
            assert ticks_waiting(installation) >= 1
            installation.worker(pool="solo")
            installation.wait_for("waiting")
