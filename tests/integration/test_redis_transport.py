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


LIMIT = 8  # of messages that a consumer may hold
SENT = 30


@contextmanager
def limited(
    valkey: Valkey,
    headers: dict[str, Any],
    begun: int,
    broken: str | None = None,
    limit: int = LIMIT,
    prefix: str = "",
) -> Iterator[tuple[Connection, list[Any]]]:
    """A consumer of at most `limit` that has just begun so many of its messages, while others wait."""
    redis_transport.install()
    valkey.flush()
    held: list[Any] = []
    with Connection(valkey.url, transport_options={"global_keyprefix": prefix}) as connection:
        queue = Queue("queue")
        for number in range(begun + SENT):
            if broken is not None and number == begun + 3:
                valkey.command("LPUSH", "queue", broken)
            connection.Producer().publish(
                f"{number}", routing_key=queue.name, declare=[queue], headers=headers
            )
        with connection.Consumer(queue, on_message=held.append) as consumer:
            consumer.qos(prefetch_count=limit)
            while len(held) < begun:
                connection.drain_events(timeout=10)
                held[-1].ack()
            held.clear()
            yield connection, held


def take_all(connection: Connection) -> None:
    """Until the limit is reached, or nothing is left."""
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0.2)


def after_a_moment(connection: Connection) -> Any:
    """What the timer of a worker's loop does; the quality of service of the channel."""
    connection.default_channel.connection.tell()
    return connection.default_channel.qos


@pytest.mark.parametrize(
    ("headers", "begun", "several"),
    [(EVENT, redis_transport.SHORT, True), (EVENT, redis_transport.SHORT - 1, False), ({}, 99, False)],
    ids=["short tasks", "long tasks", "no events"],
)
def test_while_short_tasks_end_one_after_the_other_several_are_taken_at_once(
    valkey: Valkey, headers: dict[str, Any], begun: int, several: bool
) -> None:
    with limited(valkey, headers, begun) as (connection, held):
        qos = after_a_moment(connection)
        connection.drain_events(timeout=10)
        assert len(held) == (1 + redis_transport.SEVERAL if several else 1)
        take_all(connection)
        assert len(held) == (1 + redis_transport.SEVERAL if several else LIMIT), "what is left waits"
        while len(held) > LIMIT - redis_transport.SEVERAL:
            held.pop(0).ack()
        take_all(connection)
        assert len(held) == LIMIT, "and never more than the limit"
        held.pop(0).ack()
        assert qos.can_consume() is not several
        after_a_moment(connection)
        assert qos.can_consume(), "these are not begun at once any more"
        take_all(connection)
        assert [message.payload for message in held] == [f"{int(held[0].payload) + n}" for n in range(LIMIT)]


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_with_a_small_limit_or_none_there_is_always_room_in_the_end(valkey: Valkey, limit: int) -> None:
    with limited(valkey, EVENT, redis_transport.SHORT, limit=limit) as (connection, held):
        after_a_moment(connection)
        take_all(connection)
        assert len(held) == (limit or SENT)
        for message in held:
            message.ack()
        assert connection.default_channel.qos.can_consume()


def test_with_a_limit_of_celerys_own_no_more_are_taken(valkey: Valkey) -> None:
    """`worker_disable_prefetch` puts a function in the place of `can_consume`."""
    with limited(valkey, EVENT, redis_transport.SHORT) as (connection, held):
        qos = connection.default_channel.qos
        qos.can_consume = lambda: not held
        after_a_moment(connection)
        take_all(connection)
        assert len(held) == 1


def test_the_lists_names_may_have_a_prefix(valkey: Valkey) -> None:
    begun = redis_transport.SHORT
    with limited(valkey, EVENT, begun, prefix="mine-") as (connection, held):
        assert valkey.command("LLEN", "mine-queue") == SENT
        after_a_moment(connection)
        connection.drain_events(timeout=10)
        assert len(held) == 1 + redis_transport.SEVERAL


@pytest.mark.parametrize("broken", ["no JSON", "{}", '{"body": 1}'])
def test_of_several_that_are_taken_at_once_what_is_no_message_is_dropped(
    valkey: Valkey, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun = redis_transport.SHORT
    with limited(valkey, EVENT, begun, broken) as (connection, held):
        after_a_moment(connection)
        connection.drain_events(timeout=10)
        assert [message.payload for message in held] == [
            f"{begun + number}" for number in range(redis_transport.SEVERAL)
        ]
    assert "dropped from a queue" in caplog.text


PROPERTIES = '{"delivery_tag": "x", "delivery_info": {"exchange": "", "routing_key": "queue"}}'


@pytest.mark.parametrize("headers", ["", ', "headers": null', ', "headers": []', ', "headers": ""'])
@pytest.mark.parametrize("begun", [0, redis_transport.SHORT])
def test_a_message_without_headers_ends_nobody(valkey: Valkey, headers: str, begun: int) -> None:
    """Anybody may leave one; kombu makes it empty headers, and Celery says that it knows no such task."""
    with limited(valkey, EVENT, begun) as (connection, held):
        after_a_moment(connection)
        valkey.command("RPUSH", "queue", f'{{"body": "", "properties": {PROPERTIES}{headers}}}')
        connection.drain_events(timeout=10)
        assert [message.headers for message in held] == [{}]
        connection.drain_events(timeout=10)
        assert held[1].headers == EVENT
