"""The broker as a tick sees it: whether messages wait, on Redis and RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from celery import Celery
from kombu import pools

from celery_config import dispatch as dispatcher
from celery_config.broker import backlog, is_backlog, options
from celery_config.dispatch import dispatch, look, put_back, wait_for_deliveries
from tests.servers import RabbitMQ, Valkey
from triggers.settings import BACKLOG, OURS, Settings
from triggers.tick import Hint, Queues

TASKS = ("tasks", "more")
HINT = Hint("01a1f892-3393-73c0-949a-272df0e0657a", datetime(2026, 11, 20, 12, tzinfo=UTC), "log", "t")
EVENTS = [(HINT.event_id, HINT.due_at)]


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


def test_what_was_put_into_the_backlog_is_one_of_ours_that_waits(app: Celery) -> None:
    batch = [[HINT.due_at.isoformat(), [HINT.event_id]]]
    assert put_back(app, HINT.kind, EVENTS, "(log: t)")
    assert seen(app, Queues(ours=True, tasks=False))
    with app.connection_for_read() as connection:
        queue = backlog(OURS)(connection.default_channel)
        message = queue.get(no_ack=True)
        assert message.payload[0] == [HINT.kind, batch]
        assert message.headers["argsrepr"] == "(log: t)"
        assert is_backlog(message)
    assert seen(app, Queues(ours=False, tasks=False))
    assert OURS + BACKLOG not in app.amqp.queues.consume_from, "Celery's own consumer takes nothing from it"


def test_what_waits_in_the_backlog_of_a_queue_is_of_users_tasks(app: Celery) -> None:
    app.send_task("users.task", queue=backlog("tasks"))
    assert seen(app, Queues(ours=False, tasks=True))
    with app.connection_for_read() as connection:
        backlog("tasks")(connection.default_channel).purge()
    assert seen(app, Queues(ours=False, tasks=False))


def test_a_tick_with_much_to_send_waits_while_enough_is_there(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "ENOUGH_DELIVERIES", 2)
    monkeypatch.setattr(dispatcher, "PATIENCE_SECONDS", 60)
    assert dispatch(app, [HINT])
    assert put_back(app, HINT.kind, EVENTS, None)
    assert put_back(app, HINT.kind, EVENTS, None)
    assert seen(app, Queues(ours=True, tasks=False))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for_deliveries, app)
        with suppress(TimeoutError):
            waiting.result(0.3)
        assert not waiting.done()
        with app.connection_for_read() as connection:
            backlog(OURS)(connection.default_channel).purge()
        waiting.result(20)


def test_who_asks_again_and_again_stays_connected(broker_url: str, valkey: Valkey) -> None:
    def connections() -> int:
        return int(valkey.command("INFO", "stats")["total_connections_received"])

    app = Celery("tests", set_as_current=False)
    app.conf.update(options(Settings(celery_broker_url=broker_url)), task_serializer="json")
    with closing(app):
        assert look(app, TASKS) == Queues(ours=False, tasks=False)
        before = connections()
        for _ in range(10):
            assert look(app, TASKS) == Queues(ours=False, tasks=False)
        assert connections() == before + 1, "whoever counts comes anew"
        pools.reset()


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


@pytest.mark.usefixtures("rabbitmq")  # which says when it is not installed; the one of all tests stays
def test_who_lost_rabbitmq_asks_it_anew(tmp_path: Path) -> None:
    with RabbitMQ(tmp_path) as rabbitmq:
        app = Celery("tests", set_as_current=False)
        app.conf.update(options(Settings(celery_broker_url=rabbitmq.url())), task_serializer="json")
        with closing(app):
            assert look(app, TASKS) == Queues(ours=False, tasks=False)
            rabbitmq.kill()
            assert look(app, TASKS) == Queues(ours=True, tasks=True)
            assert look(app, TASKS) == Queues(ours=True, tasks=True)
            rabbitmq.start()
            assert look(app, TASKS) == Queues(ours=False, tasks=False)
            pools.reset()


def test_who_cannot_ask_says_that_messages_wait(broker_url: str, valkey: Valkey) -> None:
    app = Celery("tests", set_as_current=False)
    app.conf.update(options(Settings(celery_broker_url=broker_url)))
    with closing(app):
        assert look(app, TASKS) == Queues(ours=False, tasks=False)
        valkey.kill()
        assert look(app, TASKS) == Queues(ours=True, tasks=True)
        valkey.start()
        assert look(app, TASKS) == Queues(ours=False, tasks=False), "it is asked anew"
        pools.reset()
