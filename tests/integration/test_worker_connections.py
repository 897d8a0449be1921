"""The worker's connections to its broker: the one for Flower, when it breaks, and how it comes back."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from amqp.exceptions import RecoverableConnectionError
from celery import Celery
from kombu import Connection, pools

from celery_config.broker import AGAIN_SECONDS, options
from celery_config.celery_worker import celery
from celery_config.dispatch import dispatch
from celery_config.events import Dispatcher
from tests.faults.proxy import Proxy
from tests.processes import free_port, wait_until
from tests.servers import RabbitMQ, Valkey
from triggers.settings import Settings
from triggers.tick import Hint

SECONDS = 10


def test_the_worker_uses_it() -> None:
    assert issubclass(celery.events.Dispatcher, Dispatcher)


@pytest.mark.parametrize("broker", ["valkey", "rabbitmq"])
def test_a_heartbeat_over_a_connection_that_broke_comes_back(
    broker: str, request: pytest.FixtureRequest
) -> None:
    """Also when somebody else has made a new one meanwhile: then kombu would try for ever on the old one."""
    server: Valkey | RabbitMQ = request.getfixturevalue(broker)
    url = server.url if isinstance(server, Valkey) else server.url()
    with Proxy(server.port) as proxy, Celery("tests", set_as_current=False) as app:
        proxied = url.replace(f":{server.port}/", f":{proxy.port}/")
        app.conf.update(options(Settings.from_environment({"CELERY_BROKER_URL": proxied})))
        app.events.dispatcher_cls = "celery_config.events:Dispatcher"
        with app.connection_for_write() as connection:
            dispatcher = app.events.Dispatcher(connection, hostname="tests")
            dispatcher.send("worker-online", retry=True)
            broken = dispatcher.producer.channel.connection
            proxy.cut()
            wait_until(lambda: unsent(dispatcher) or broker == "valkey")
            assert connection.connection
            sending = threading.Thread(
                target=dispatcher.send, args=("worker-heartbeat",), kwargs={"retry": True}
            )
            sending.daemon = True
            sending.start()
            sending.join(SECONDS)
            assert not sending.is_alive()
            dispatcher.flush()  # as the worker does all the time
            assert list(dispatcher._outbound_buffer) == []
        if broker == "rabbitmq":
            broken.collect()  # kombu replaced it without closing it


def unsent(dispatcher: Dispatcher) -> bool:
    """Send an event; whether it could not be sent."""
    dispatcher.send("task-sent")
    return len(dispatcher._outbound_buffer) > 0


class EnoughError(Exception):
    """The test has seen it."""


def test_a_broker_that_is_away_is_asked_every_two_seconds() -> None:
    """However long it has been away."""
    pauses: list[float] = []

    def told(error: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 3:
            raise EnoughError

    with (
        celery.connection_for_read(f"redis://127.0.0.1:{free_port()}/0") as connection,
        pytest.raises(EnoughError),
    ):
        connection.ensure_connection(told)
    assert pauses == [AGAIN_SECONDS] * 3


def test_a_publish_over_a_connection_that_went_silent_gives_up(rabbitmq: RabbitMQ) -> None:
    """It ends; the next one takes a new connection, and an answer that comes late is nobody's."""
    with Proxy(rabbitmq.port) as proxy, Celery("tests", set_as_current=False) as app:
        proxied = rabbitmq.url().replace(f":{rabbitmq.port}/", f":{proxy.port}/")
        app.conf.update(options(Settings.from_environment({"CELERY_BROKER_URL": proxied})))
        hint = Hint("e", datetime(2026, 11, 20, 9, tzinfo=UTC), "log", "t")
        assert dispatch(app, [hint])
        proxy.silence()
        told: list[bool] = []
        sending = threading.Thread(target=lambda: told.append(dispatch(app, [hint])), daemon=True)
        sending.start()
        sending.join(6 * SECONDS)
        assert told == [False]
        proxy.speak()
        assert dispatch(app, [hint])
        pools.reset()


@pytest.mark.parametrize("question", ["open", "declare"])
def test_whatever_waits_for_an_answer_gives_up(rabbitmq: RabbitMQ, question: str) -> None:
    with Proxy(rabbitmq.port) as proxy:
        proxied = rabbitmq.url().replace(f":{rabbitmq.port}/", f":{proxy.port}/")
        connection = Connection(proxied)
        channel = connection.channel()
        proxy.silence()
        raised: list[Exception] = []

        def ask() -> None:
            try:
                if question == "open":
                    connection.channel()
                else:
                    channel.queue_declare("celery", passive=True)
            except Exception as error:
                raised.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(6 * SECONDS)
        assert [type(error) for error in raised] == [RecoverableConnectionError]
