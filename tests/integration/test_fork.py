"""A process that forks while its threads work in the database: what the child finds there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import text

from models.database import Database
from tests.processes import wait_until


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def write(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE triggers SET name = name"))


def child_writes(database: Database) -> int:
    """Fork; the exit status of a child that writes."""
    pid = os.fork()
    if pid == 0:  # nothing of the test run may go on here
        status = 1
        with suppress(BaseException):
            write(database)
            status = 0
        os._exit(status)
    ended: list[int] = []

    def reaped() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        ended.append(os.waitstatus_to_exitcode(status))
        return found == pid

    wait_until(reaped, 20, "the child ends")
    return ended[-1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_can_write_whatever_its_parent_was_doing(database: Database) -> None:
    """The parent is in the middle of a write half of the time, and lets others write in the other half."""
    over = threading.Event()
    entered = threading.Event()

    def work() -> None:
        while not over.is_set():
            with database.write() as connection:
                connection.execute(text("UPDATE triggers SET name = name"))
                entered.set()
                time.sleep(0.1)
            time.sleep(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert entered.wait(10)
        assert [child_writes(database) for _ in range(8)] == [0] * 8
    finally:
        over.set()
        thread.join(10)
    write(database)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_inside_a_transaction_does_not_wait_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.fork.PATIENCE_SECONDS", 0.2)
    with database.read() as connection:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert connection.execute(text("SELECT count(*) FROM triggers")).scalar_one() == 0
