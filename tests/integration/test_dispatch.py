"""The broker as a tick sees it: whether messages wait, on Redis and RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from celery import Celery
from kombu import pools

from celery_config.broker import OURS, options
from celery_config.dispatch import dispatch, look
from tests.servers import Valkey
from triggers.settings import Settings
from triggers.tick import Hint, Queues

TASKS = ("tasks", "more")
HINT = Hint("01a1f892-3393-73c0-949a-272df0e0657a", datetime(2026, 11, 20, 12, tzinfo=UTC), "log", "t")


@pytest.fixture(params=["redis", "classic", "quorum"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    redis = request.param == "redis"
    settings = Settings(
        celery_broker_url=request.getfixturevalue("broker_url" if redis else "rabbitmq_url"),
        celery_queue_type="classic" if redis else request.param,
        celery_queues=TASKS,
    )
    made = Celery("tests", set_as_current=False)
    made.conf.update(options(settings), task_serializer="json")
    with closing(made):
        yield made
        pools.reset()


def seen(app: Celery, wanted: Queues) -> bool:
    """RabbitMQ counts a message a moment after it has confirmed it."""
    return any(look(app, TASKS) == wanted for _ in range(100))


def test_queues_that_nobody_declared_are_empty(app: Celery) -> None:
    assert look(app, TASKS) == Queues(ours=False, tasks=False)
    assert look(app, TASKS) == Queues(ours=False, tasks=False), "and the connection is as good as before"


def test_what_waits_is_seen_until_it_is_taken(app: Celery) -> None:
    assert dispatch(app, [HINT])
    assert seen(app, Queues(ours=True, tasks=False))
    app.send_task("users.task", queue="more")
    assert seen(app, Queues(ours=True, tasks=True))
    with app.connection_for_read() as connection:
        for name in (OURS, "more"):
            app.amqp.queues[name](connection.default_channel).purge()
    assert seen(app, Queues(ours=False, tasks=False))


def test_after_a_flush_there_is_nothing_and_what_is_sent_arrives(broker_url: str, valkey: Valkey) -> None:
    app = Celery("tests", set_as_current=False)
    app.conf.update(options(Settings(celery_broker_url=broker_url)), task_serializer="json")
    with closing(app):
        assert dispatch(app, [HINT])
        valkey.flush()
        assert look(app, TASKS) == Queues(ours=False, tasks=False)
        assert dispatch(app, [HINT])
        assert look(app, TASKS) == Queues(ours=True, tasks=False)
        pools.reset()


def test_who_cannot_ask_says_that_messages_wait(broker_url: str, valkey: Valkey) -> None:
    app = Celery("tests", set_as_current=False)
    app.conf.update(options(Settings(celery_broker_url=broker_url)))
    with closing(app):
        valkey.kill()
        assert look(app, TASKS) == Queues(ours=True, tasks=True)
        pools.reset()
