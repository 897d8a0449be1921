"""Faults of the broker, and of what it carries."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import redis
from amqp import Message
from kombu import Connection

from tests.acceptance.test_worker import NO_MESSAGES
from tests.faults.catalogue import AFTER_OUTAGE, fault
from tests.faults.lane import Lane
from tests.processes import free_port
from triggers.settings import OURS, with_backlogs

QUEUES = with_backlogs([OURS, "tasks"])
CREATE_MS = 200
COMPETITORS = 6  # of ours for each message, beside the workers
PUBLISH = b"\x00\x3c\x00\x28"  # the method `basic.publish` in a frame of AMQP
DELIVER = "celery_config.celery_worker.deliver"
MALFORMED: list[Any] = [{"a": 1}, [], [[], {}, {}], [["log", [["x", ["y"]]]], {}, {}], "text", 7, None]

# -------------------------------------------------------------------------------------------- both


@fault(AFTER_OUTAGE, create_ms=CREATE_MS)
def broker_kill(lane: Lane) -> None:
    """kill -9 of the broker, nothing for 6 s, then an empty one (RabbitMQ keeps its durable queues)."""
    lane.broker.kill()
    lane.wait(6)
    lane.broker.start()


@fault(AFTER_OUTAGE, create_ms=CREATE_MS)
def broker_freeze(lane: Lane) -> None:
    """The broker holds its connections and answers nothing, for 5 to 30 s."""
    frozen(lane, lane.between(5, 30))


@fault(AFTER_OUTAGE, create_ms=CREATE_MS)
def broker_freeze_long(lane: Lane) -> None:
    """The same for 120 s."""
    frozen(lane, 120)


def frozen(lane: Lane, seconds: float) -> None:
    """Stop the broker's process, and let it go on."""
    lane.broker.freeze()
    lane.wait(seconds)
    lane.broker.thaw()


@fault(AFTER_OUTAGE, create_ms=CREATE_MS)
def broker_silent(lane: Lane) -> None:
    """Connections to the broker stay open and carry nothing, for 15 s; those stay so for good."""
    lane.broker_proxy.silence()
    lane.wait(15)
    lane.broker_proxy.speak()


@fault(AFTER_OUTAGE)
def broker_cut(lane: Lane) -> None:
    """Connections to the broker are reset at random, for 10 s."""
    for _ in range(10):
        lane.broker_proxy.cut(0.4)
        lane.wait(1)


@fault(AFTER_OUTAGE)
def publish_unheard(lane: Lane) -> None:
    """A third of what is published is queued, and the connection reset before that is said, for 15 s."""
    lane.broker_proxy.lose_replies(0.33, b"LPUSH", PUBLISH)
    lane.wait(15)
    lane.broker_proxy.keep_replies()


@fault(AFTER_OUTAGE)
def tripled(lane: Lane) -> None:
    """What can be had of the messages for 15 s, users' tasks included, three times and in a random order; and
    an old copy of each 10 s later.
    """
    take, put = (redis_taker, redis_putter) if lane.valkey else (rabbitmq_taker, rabbitmq_putter)
    old: dict[Any, tuple[str, Any]] = {}
    end = time.monotonic() + 15
    while time.monotonic() < end:
        back: list[tuple[str, Any]] = []
        for queue, message in take(lane):
            key = message if lane.valkey else (message.body, message.headers["id"])
            back += [(queue, message)] * (1 if key in old else 3)  # of copies one: they would grow and grow
            old[key] = (queue, message)
        lane.chance.shuffle(back)
        put(lane, back)
        lane.wait(0.5)
    lane.wait(10)
    put(lane, list(old.values()))
    lane.notes.append(f"{len(old)} messages tripled")


def redis_taker(lane: Lane) -> list[tuple[str, Any]]:
    """What comes into the lists in a second, as far as we get it before the workers do."""
    taken: list[tuple[str, Any]] = []

    def pop() -> None:
        with redis.Redis(port=server(lane).port, socket_timeout=5) as client:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                if (found := client.brpop(list(QUEUES), 0.2)) is not None:
                    queue, entry = found
                    taken.append((queue.decode(), entry))

    threads = [threading.Thread(target=pop) for _ in range(COMPETITORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def redis_putter(lane: Lane, messages: Sequence[tuple[str, Any]]) -> None:
    """Put copies into the lists."""
    with redis.Redis(port=server(lane).port, socket_timeout=5) as client:
        for queue, entry in messages:
            client.lpush(queue, entry)


def rabbitmq_taker(lane: Lane) -> list[tuple[str, Any]]:
    """The same from RabbitMQ, as some more consumers."""
    taken: list[tuple[str, Any]] = []
    with Connection(lane.installation.settings.celery_broker_url) as connection:
        channel = connection.channel()
        for queue in QUEUES:
            for _ in range(COMPETITORS):
                channel.basic_consume(queue, no_ack=True, callback=partial(remember, taken, queue))
        end = time.monotonic() + 1
        while time.monotonic() < end:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
    return taken


def remember(taken: list[tuple[str, Any]], queue: str, message: Any) -> None:
    """What a consumer is called with."""
    taken.append((queue, message))


def rabbitmq_putter(lane: Lane, messages: Sequence[tuple[str, Any]]) -> None:
    """Publish copies."""
    with Connection(lane.installation.settings.celery_broker_url) as connection:
        channel = connection.channel()
        for queue, message in messages:
            copy = Message(message.body, **message.properties)
            channel.basic_publish(copy, exchange=queue, routing_key=queue)


@fault(AFTER_OUTAGE)
def malformed(lane: Lane) -> None:
    """Messages with bodies of the wrong shape, to our task and a user's; on Redis also what is no message."""
    with Connection(lane.installation.settings.celery_broker_url) as connection:
        producer = connection.Producer(serializer="json")
        for number, body in enumerate(MALFORMED * 4):
            queue = QUEUES[number % len(QUEUES)]
            name = DELIVER if queue.startswith(OURS) else "examples.tasks.add"
            headers = {"task": name, "id": f"malformed-{number}", "lang": "py", "triggerbeat_event": True}
            producer.publish(body, exchange=queue, routing_key=queue, headers=headers)
            lane.wait(0.2)
    if lane.valkey:
        for queue in QUEUES:
            for entry in NO_MESSAGES:
                lane.valkey.command("LPUSH", queue, entry)
    lane.wait(3)


# ------------------------------------------------------------------------------------------- Redis


def server(lane: Lane) -> Any:
    """The Redis of this lane."""
    assert lane.valkey is not None
    return lane.valkey


@fault(AFTER_OUTAGE, on="valkey", times=6)
def redis_flush(lane: Lane) -> None:
    """FLUSHALL six times, at random within 15 s."""
    for _ in range(6):
        lane.wait(lane.between(0.5, 4))
        server(lane).flush()


@fault(AFTER_OUTAGE, on="valkey")
def redis_full(lane: Lane) -> None:
    """No memory left (maxmemory) for 12 s."""
    server(lane).command("CONFIG", "SET", "maxmemory", 1)
    lane.wait(12)
    server(lane).command("CONFIG", "SET", "maxmemory", 0)


@fault(AFTER_OUTAGE, on="valkey")
def redis_read_only(lane: Lane) -> None:
    """Writes are refused for want of replicas (min-replicas-to-write), for 12 s."""
    server(lane).command("CONFIG", "SET", "min-replicas-to-write", 1)
    lane.wait(12)
    server(lane).command("CONFIG", "SET", "min-replicas-to-write", 0)


@fault(AFTER_OUTAGE, on="valkey")
def redis_replica(lane: Lane) -> None:
    """It becomes a replica of a host that is not there, and so read-only, for 12 s."""
    server(lane).command("REPLICAOF", "127.0.0.1", free_port())
    lane.wait(12)
    server(lane).command("REPLICAOF", "NO", "ONE")


# ---------------------------------------------------------------------------------------- RabbitMQ


@fault(AFTER_OUTAGE, on="rabbitmq", create_ms=CREATE_MS)
def rabbitmq_restart(lane: Lane) -> None:
    """An orderly stop and a start."""
    assert lane.rabbitmq is not None
    lane.rabbitmq.restart()


@fault(AFTER_OUTAGE, on="rabbitmq", times=4)
def rabbitmq_close_connections(lane: Lane) -> None:
    """RabbitMQ closes all its connections, four times in 12 s."""
    assert lane.rabbitmq is not None
    for _ in range(4):
        with suppress(AssertionError):  # it fails when one of them ends at the same moment by itself
            lane.rabbitmq.control('rabbit_networking:close_all_connections("fault").')
        lane.wait(3)


@fault(AFTER_OUTAGE, on="rabbitmq", times=6)
def rabbitmq_purge(lane: Lane) -> None:
    """The queues are purged six times, at random within 15 s, while the workers are stopped for seconds."""
    with Connection(lane.installation.settings.celery_broker_url) as connection:
        channel = connection.channel()
        for _ in range(6):
            workers = lane.fleet.all("worker")
            for worker in workers:
                worker.signal(signal.SIGSTOP)
            lane.wait(lane.between(0.5, 2))
            for queue in QUEUES:
                channel.queue_purge(queue)
            for worker in workers:
                worker.signal(signal.SIGCONT)
            lane.wait(lane.between(0.5, 2))
