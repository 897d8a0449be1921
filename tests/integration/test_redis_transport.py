"""Our channel to Redis, where kombu's own would end the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue

from celery_config import redis_transport
from tests.servers import Valkey


def test_a_connection_that_holds_messages_can_be_closed_after_its_broker_is_gone(tmp_path: Path) -> None:
    """As Celery does when it has lost it: collect, whatever that raises, and close."""
    redis_transport.install()
    with Valkey(tmp_path) as valkey, Connection(valkey.url) as connection:
        held: list[object] = []
        channels = [connection.default_channel, connection.channel()]
        for number, channel in enumerate(channels):
            queue = Queue(f"queue-{number}")
            with connection.Producer() as producer:
                producer.publish("a message", routing_key=queue.name, declare=[queue])
            consumer = connection.Consumer(queue, callbacks=[lambda *message: held.append(message)])
            consumer.revive(channel)
            consumer.consume()
        while len(held) < 2:
            connection.drain_events(timeout=10)
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)  # both wait for the next message now
        valkey.kill()
        with suppress(Exception):
            connection.collect(socket_timeout=0.1)
        connection.close()
        channels[1].qos.restore_at_shutdown = False  # or it tries to at the end of this process


def test_a_channel_makes_one_client_for_all_its_questions_and_another_one_for_other_connections(
    valkey: Valkey,
) -> None:
    redis_transport.install()
    with Connection(valkey.url) as connection:
        channel: Any = connection.default_channel
        first = channel._create_client()
        assert channel._create_client() is first is not channel._create_client(asynchronous=True)
        channel._disconnect_pools()
        assert channel._create_client() is not first
        assert channel._create_client().ping()


EVENT = {"triggerbeat_event": True}


@contextmanager
def taken(valkey: Valkey, headers: dict[str, Any], *bodies: str) -> Iterator[list[Any]]:
    """Messages that a consumer has taken and holds; they are given up at the end."""
    redis_transport.install()
    valkey.flush()
    held: list[Any] = []
    with Connection(valkey.url) as connection:
        queue = Queue("queue")
        for body in bodies:
            connection.Producer().publish(body, routing_key=queue.name, declare=[queue], headers=headers)
        with connection.Consumer(queue, on_message=held.append):
            while len(held) < len(bodies):
                connection.drain_events(timeout=10)
        yield held


@pytest.mark.parametrize(("headers", "kept"), [({}, 1), (EVENT, 0)])
def test_a_message_of_an_event_is_kept_in_redis_only_when_it_waits(
    valkey: Valkey, headers: dict[str, Any], kept: int
) -> None:
    with taken(valkey, headers, "short", "waits") as held:
        assert in_redis(valkey) == 2 * kept
        held[0].ack()
        assert in_redis(valkey) == kept
        held[1].channel.connection.tell()
        assert in_redis(valkey) == 1
        held[1].ack()
        assert in_redis(valkey) == 0
    assert valkey.command("LLEN", "queue") == 0


def in_redis(valkey: Valkey) -> int:
    """How many messages stand there as taken by somebody."""
    held = int(valkey.command("HLEN", "unacked"))
    assert held == valkey.command("ZCARD", "unacked_index")
    return held


@pytest.mark.parametrize("headers", [{}, EVENT])
def test_what_was_taken_and_not_acknowledged_goes_back_when_a_worker_ends(
    valkey: Valkey, headers: dict[str, Any]
) -> None:
    with taken(valkey, headers, "first", "second", "third") as held:
        held[1].ack()
    with Connection(valkey.url) as connection, connection.SimpleQueue("queue") as queue:
        left = [queue.get(timeout=5) for _ in range(2)]
        assert {message.payload for message in left} == {"first", "third"}
        assert all(message.headers.get("redelivered") for message in left)
        for message in left:
            message.ack()
    assert valkey.command("LLEN", "queue") == valkey.command("HLEN", "unacked") == 0


@pytest.mark.parametrize("headers", [{}, EVENT])
@pytest.mark.parametrize(("again", "left"), [(True, 1), (False, 0)])
def test_a_message_that_is_rejected_goes_back_only_when_asked_for(
    valkey: Valkey, headers: dict[str, Any], again: bool, left: int
) -> None:
    with taken(valkey, headers, "a message") as held:
        held[0].reject(requeue=again)
        assert valkey.command("LLEN", "queue") == left
    assert valkey.command("LLEN", "queue") == left
    assert valkey.command("HLEN", "unacked") == 0


def test_a_redis_that_is_away_when_it_is_to_be_told_is_told_later(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, taken(valkey, EVENT, "a message") as held:
        transport = held[0].channel.connection
        valkey.kill()
        transport.tell()
        valkey.start()
        transport.tell()
        assert in_redis(valkey) == 1


PROPERTIES = '{"delivery_tag": "x", "delivery_info": {"exchange": "", "routing_key": "queue"}}'


@pytest.mark.parametrize("headers", ["", ', "headers": null', ', "headers": []', ', "headers": ""'])
def test_a_message_without_headers_ends_nobody(valkey: Valkey, headers: str) -> None:
    """Anybody may leave one; kombu makes it empty headers, and Celery says that it knows no such task."""
    redis_transport.install()
    valkey.flush()
    held: list[Any] = []
    with Connection(valkey.url) as connection, connection.Consumer(Queue("queue"), on_message=held.append):
        valkey.command("RPUSH", "queue", f'{{"body": "", "properties": {PROPERTIES}{headers}}}')
        connection.drain_events(timeout=10)
        assert [message.headers for message in held] == [{}]
