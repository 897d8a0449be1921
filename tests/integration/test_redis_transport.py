"""Our channel to Redis, where kombu's own would end the worker."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

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
