"""A PostgreSQL that is frozen: it keeps its connections, takes new ones, and answers nothing.

Its own time limits do not help then, since it is the one who would watch them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from models.database import CONNECT_SECONDS, LOCK_SECONDS, Database, migrate
from tests.integration.test_api import BODY, Api
from tests.servers import PostgreSQL
from triggers import manage, tick
from triggers.definition import parse_trigger
from triggers.settings import Settings
from triggers.store import plan
from triggers.tick import Tick

PATIENCE_SECONDS = 2.0
ANSWER_SECONDS = LOCK_SECONDS + CONNECT_SECONDS + 5  # a lock's wait, a connection that is tried, and slack


@pytest.fixture
def frozen(private_postgres: PostgreSQL) -> PostgreSQL:
    """Migrated; the test freezes it."""
    migrate(private_postgres.url())
    return private_postgres


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Threads for what might hang."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def execute(database: Database) -> Tick:
    return tick.execute_scheduled_triggers(database, lambda _: True, timedelta(seconds=90), "test")


def create(database: Database, name: str) -> None:
    with database.write() as connection:
        document = parse_trigger(BODY | {"name": name}, Settings(), database.now(connection))
        manage.create(connection, document, database.now)


def ended(future: Future[Any]) -> Any:
    """What came of it within the bound."""
    return future.result(ANSWER_SECONDS)


def test_the_endpoint_says_503_and_goes_on(frozen: PostgreSQL, aside: ThreadPoolExecutor) -> None:
    api = Api(frozen.url())
    try:
        assert api.get("/triggers").status_code == 200
        asked: list[Callable[[], Any]] = [
            lambda: api.get("/triggers"),
            lambda: api.post(BODY),
            lambda: api.get("/readyz"),
        ]
        frozen.freeze()
        for answer in [ended(future) for future in [aside.submit(ask) for ask in asked]]:
            assert answer.status_code == 503
        assert ended(aside.submit(asked[0])).headers["Retry-After"] == "5"
        assert ended(aside.submit(lambda: api.client.get("/healthz"))).status_code == 200
        frozen.thaw()
        assert api.get("/triggers").get_json()["items"] == [], "what was not answered was not stored"
        assert api.post(BODY).status_code == 201
    finally:
        api.database.close()


def test_a_tick_ends_with_an_error_and_the_next_one_goes_on(
    frozen: PostgreSQL, aside: ThreadPoolExecutor
) -> None:
    database = Database(frozen.url(), patience=PATIENCE_SECONDS)
    try:
        create(database, "before")
        assert execute(database).planned == 2
        frozen.freeze()
        with pytest.raises(OperationalError):
            ended(aside.submit(execute, database))
        with pytest.raises(OperationalError):
            ended(aside.submit(create, database, "meanwhile"))
        frozen.thaw()
        create(database, "after")
        assert execute(database).planned == 2
    finally:
        database.close()


def test_a_tick_that_is_frozen_in_its_middle_leaves_nothing_half_done(
    frozen: PostgreSQL, aside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its events and its cursors. The server, thawed, rolls back what nobody committed."""
    database = Database(frozen.url(), patience=PATIENCE_SECONDS)
    try:
        create(database, "t")
        insert = plan.insert_events

        def insert_and_freeze(*arguments: Any) -> None:
            insert(*arguments)
            frozen.freeze()

        with monkeypatch.context() as patch:
            patch.setattr(plan, "insert_events", insert_and_freeze)
            with pytest.raises(OperationalError):
                ended(aside.submit(execute, database))
        frozen.thaw()
        assert execute(database).planned == 2
    finally:
        database.close()
