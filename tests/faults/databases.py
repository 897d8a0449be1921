"""Faults of the database."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg

from models.database import PATIENCE_SECONDS
from tests.faults.catalogue import AFTER_DEATH, AFTER_OUTAGE, fault
from tests.faults.lane import MAX_CONNECTIONS, Lane
from tests.processes import Process
from tests.servers import PostgreSQL

COMMITS = (b"COMMIT", b"UPDATE events")
BALLAST_BYTES = 1 << 20
WRITER = """
import random, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE nodes SET planned = planned")
    time.sleep(random.uniform(0, 0.1))
    connection.execute("COMMIT")
    time.sleep(random.uniform(0, 0.2))
"""

# -------------------------------------------------------------------------------------- PostgreSQL


def server(lane: Lane) -> PostgreSQL:
    """The PostgreSQL of this lane."""
    assert lane.postgres is not None
    return lane.postgres


@fault(AFTER_OUTAGE, on="postgresql")
def postgres_immediate(lane: Lane) -> None:
    """Stopped with `-m immediate` (no checkpoint, recovery at the start), away for 5 s."""
    postgres = server(lane)
    postgres.process.signal(signal.SIGQUIT)
    postgres.process.wait(20)
    lane.wait(5)
    postgres.start()


@fault(AFTER_OUTAGE, on="postgresql", times=3)
def postgres_restart_loop(lane: Lane) -> None:
    """Restarted three times, 4 s apart ("fast": transactions are rolled back)."""
    for _ in range(3):
        server(lane).restart()
        lane.wait(4)


@fault(AFTER_OUTAGE, on="postgresql")
def postgres_freeze(lane: Lane) -> None:
    """All of PostgreSQL holds its connections and answers nothing, for 12 s."""
    server(lane).freeze()
    lane.wait(12)
    server(lane).thaw()


@fault(PATIENCE_SECONDS + AFTER_DEATH, on="postgresql", deaths=True)
def postgres_silent(lane: Lane) -> None:
    """Connections to PostgreSQL stay open and carry nothing, for 12 s; those stay so for good. What runs
    meanwhile counts as lost: its end is recorded only after a statement has waited as long as one may take.
    """
    assert lane.database_proxy is not None
    lane.database_proxy.silence()
    lane.wait(12)
    lane.database_proxy.speak()


@fault(AFTER_OUTAGE, on="postgresql")
def postgres_exhausted(lane: Lane) -> None:
    """Our connections are ended and all of them taken by somebody else, for 10 s."""
    where = f"host=127.0.0.1 port={server(lane).port} user=postgres connect_timeout=5"
    ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'triggerbeat'"
    with ExitStack() as stack:
        first = stack.enter_context(psycopg.connect(where, autocommit=True))
        first.execute(ends)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with suppress(psycopg.OperationalError):
                for _ in range(MAX_CONNECTIONS):
                    stack.enter_context(psycopg.connect(where))
            first.execute(ends)
            lane.wait(0.2)


@fault(AFTER_OUTAGE, on="postgresql")
def postgres_terminate(lane: Lane) -> None:
    """pg_terminate_backend on a random connection of ours, some twenty times a second for 12 s."""
    end = time.monotonic() + 12
    where = f"host=127.0.0.1 port={server(lane).port} user=postgres connect_timeout=5"
    with psycopg.connect(where, autocommit=True) as connection:
        while time.monotonic() < end:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
                " WHERE application_name = 'triggerbeat' ORDER BY random() LIMIT 1) AS one"
            )
            lane.wait(0.05)


@fault(AFTER_DEATH, on="postgresql")
def commit_unheard(lane: Lane) -> None:
    """A tenth of the commits are done, and the connection reset before PostgreSQL says so, for 15 s. A start
    that its worker did not hear of is taken back when its lease is over.
    """
    assert lane.database_proxy is not None
    before = lane.database_proxy.lost_replies
    lane.database_proxy.lose_replies(0.1, *COMMITS)
    lane.wait(15)
    lane.database_proxy.keep_replies()
    lane.notes.append(f"{lane.database_proxy.lost_replies - before} commits unheard")


# ------------------------------------------------------------------------------------------ SQLite


def file_of(lane: Lane) -> Path:
    """SQLite's file."""
    return Path(lane.database_url.removeprefix("sqlite:///"))


@fault(AFTER_OUTAGE, on="sqlite")
def sqlite_writers(lane: Lane) -> None:
    """Four more processes write, each holding the lock for up to 100 ms at a time, for 12 s."""
    command = ["python", "-c", WRITER, str(file_of(lane)), "12"]
    writers = [Process(command, lane.directory / "writers", name="writer") for _ in range(4)]
    for writer in writers:
        assert writer.wait(60) == 0, writer.output()
        writer.kill()


@fault(AFTER_OUTAGE, on="sqlite", times=2)
def sqlite_locked(lane: Lane) -> None:
    """Somebody holds the write lock for 8 s, longer than anybody waits for it, twice."""
    for _ in range(2):
        connection = sqlite3.connect(file_of(lane), isolation_level=None, timeout=30)
        connection.execute("BEGIN IMMEDIATE")
        lane.wait(8)
        connection.execute("ROLLBACK")
        connection.close()
        lane.wait(0.5)


@fault(AFTER_OUTAGE, on="sqlite")
def sqlite_disk_full(lane: Lane) -> None:
    """The file system of SQLite's file is full, for 10 s."""
    assert lane.disk is not None
    ballast = lane.disk / "ballast"
    end = time.monotonic() + 10
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        piece = BALLAST_BYTES
        while time.monotonic() < end:
            try:
                os.write(file, b"x" * piece)
            except OSError:
                piece = max(1, piece // 2)
                lane.wait(0.02 if piece > 1 else 0.2)
    finally:
        os.close(file)
        ballast.unlink()
