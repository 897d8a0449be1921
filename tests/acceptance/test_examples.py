"""The tasks of `examples/`, each as a trigger on a real worker: over every broker, on both pools.

Half of the layouts run on SQLite, half on PostgreSQL. A database, a broker and a worker make a layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery.result import AsyncResult

from tests.acceptance.conftest import sqlite_copy
from tests.acceptance.installation import NOW, Installation, fresh_postgres, in_seconds, task
from tests.processes import Process, wait_until
from tests.servers import PostgreSQL, RabbitMQ, Valkey

DAY_SECONDS = 86_400


class Layout(NamedTuple):
    """Which of the parts."""

    broker: str
    pool: str
    database: str
    results: bool = False

    def __str__(self) -> str:
        return "-".join([*self[:3], *(["results"] if self.results else [])])


LAYOUTS = [
    Layout("redis", "prefork", "sqlite"),
    Layout("redis", "prefork", "postgres", results=True),
    Layout("redis", "solo", "postgres"),
    Layout("classic", "prefork", "postgres"),
    Layout("classic", "solo", "sqlite"),
    Layout("quorum", "prefork", "sqlite"),
    Layout("quorum", "solo", "postgres"),
]


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def layout(request: pytest.FixtureRequest) -> Layout:
    chosen: Layout = request.param
    return chosen


@pytest.fixture(scope="module")
def database(
    layout: Layout,
    postgres: PostgreSQL,
    postgres_template: str,
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    if layout.database == "sqlite":
        yield sqlite_copy(tmp_path_factory.mktemp("database"), sqlite_template)
        return
    with fresh_postgres(postgres, postgres_template) as url:
        yield url


@pytest.fixture(scope="module")
def installation(
    layout: Layout, database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """With a running worker. Its ticks plan a day ahead, as those of a beat once a day would have to."""
    settings: dict[str, str | int] = {"HORIZON_SECONDS": DAY_SECONDS}
    if layout.broker == "redis":
        valkey: Valkey = request.getfixturevalue("module_valkey")
        valkey.flush()
        broker = valkey.url
    else:
        rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
        broker = rabbitmq.url(rabbitmq.create_virtual_host())
        settings |= {"CELERY_QUEUE_TYPE": layout.broker}
    if layout.results:
        settings |= {"CELERY_RESULT_BACKEND": broker}
    directory = tmp_path_factory.mktemp("installation")
    with Installation(directory, database, broker, **settings) as made:
        endpoint = made.endpoint()
        made.worker(pool=layout.pool)
        made.api = endpoint.ready()
        yield made


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service that `call_microservice` calls, instead of one on the internet."""
    with Process(["python", "-m", "tests.sink"], tmp_path_factory.mktemp("sink"), name="sink") as sink:
        yield f"http://127.0.0.1:{json.loads(sink.expect('port'))['port']}"


def test_a_service_is_called_at_once(installation: Installation, service: str) -> None:
    create(installation, "call", task("call_microservice", url=f"{service}/get"))
    assert installation.wait_for("call").result == 200


def create(
    installation: Installation, name: str, target: dict[str, Any], schedule: dict[str, Any] = NOW
) -> None:
    """The smallest trigger, through the endpoint."""
    body = {"name": name, "schedule": schedule, "target": target}
    assert installation.api.ask("POST", "/triggers", body)["name"] == name


def test_a_service_that_answers_with_an_error_fails_the_event(
    installation: Installation, service: str
) -> None:
    installation.now("call-503", task("call_microservice", f"{service}/status/503"))
    event = installation.wait_for("call-503", "failed")
    assert (event.reason, event.error["type"]) == ("attempts", "HTTPError")


def test_a_service_is_called_daily_at_midnight(installation: Installation, service: str) -> None:
    """Planned for the next midnight and not started; and it is the very task that would then run."""
    target = task("call_microservice", f"{service}/get")
    installation.now("midnight", target, schedule={"type": "cron", "cron": "0 0 * * *"})
    event = installation.wait_for("midnight", "pending")
    tomorrow = datetime.combine(datetime.now(UTC).date() + timedelta(days=1), time(), UTC)
    assert (event.scheduled_for, event.due_at, event.attempt) == (tomorrow, tomorrow, 0)
    fired = installation.fire("midnight")
    wait_until(lambda: result_of(installation, "midnight", fired) == 200, message="fired by hand")
    assert [e.status for e in installation.events("midnight")] == ["succeeded", "pending"]


def test_numbers_are_divided(installation: Installation) -> None:
    installation.now("divide", task("divide", a=1, b=4))
    event = installation.wait_for("divide")
    assert event.result == 0.25
    assert event.progress == {"step": "done", "current": 2, "total": 2}


def test_dividing_by_zero_fails_with_what_python_says(installation: Installation) -> None:
    installation.now("divide-by-zero", task("divide", 1, 0), retry={"max_attempts": 1})
    event = installation.wait_for("divide-by-zero", "failed")
    assert event.error == {"type": "ZeroDivisionError", "message": "division by zero"}
    assert (event.reason, event.attempt) == ("attempts", 1)
    assert event.progress == {"step": "dividing", "current": 1, "total": 2}
    assert installation.attempts(event.id) == [(1, "failed", event.error)]


def test_text_is_processed(installation: Installation) -> None:
    installation.now("text", task("process_text", "tick", times=3))
    event = installation.wait_for("text")
    assert event.result == "TICK TICK TICK"
    assert event.progress == {"current": 3, "total": 3}


def test_an_addition_is_followed_from_pending_to_its_result(installation: Installation) -> None:
    """As a client would: create it, find its event, and ask for that again and again."""
    create(installation, "add", task("add", 2, 3), in_seconds(installation, 2))
    (event,) = wait_until(lambda: installation.api.ask("GET", "/triggers/add/events")["items"], 10)
    seen = [event["status"]]

    def ended() -> bool:
        nonlocal event
        event = installation.api.ask("GET", f"/events/{event['id']}")
        if event["status"] != seen[-1]:
            seen.append(event["status"])
        return event["finished_at"] is not None

    wait_until(ended, 20, lambda: f"the addition: {seen}")
    assert seen == ["pending", "running", "succeeded"]
    assert (event["result"], event["error"], event["attempt"]) == (5, None, 1)
    took = datetime.fromisoformat(event["finished_at"]) - datetime.fromisoformat(event["started_at"])
    assert timedelta(seconds=3) <= took < timedelta(seconds=6)


def result_of(installation: Installation, name: str, event_id: str) -> object:
    """The result of one of a trigger's events."""
    return next(event.result for event in installation.events(name) if event.id == event_id)


# With a result backend users may ask Celery, too; without one there is nothing to ask.


def test_celery_knows_state_and_result_where_there_is_a_backend(
    installation: Installation, layout: Layout
) -> None:
    installation.now("asked", task("process_text", "tick", 2))
    installation.now("asked-failing", task("divide", 1, 0))
    succeeded = AsyncResult(installation.wait_for("asked").id, app=installation.app)
    failed = AsyncResult(installation.wait_for("asked-failing", "failed").id, app=installation.app)
    if not layout.results:
        assert installation.app.conf.result_backend is None
        return
    assert succeeded.get(timeout=10) == "TICK TICK"
    wait_until(lambda: failed.state == "FAILURE", message="the failure in the backend")
    assert succeeded.state == "SUCCESS"
    assert isinstance(failed.result, ZeroDivisionError)
    succeeded.forget()
