"""Kombu's transport for Redis, where anybody may leave anything in a list, and the server may go away.

What is no message of kombu's raises in the loop that takes messages, which ends the worker. So it is looked
at as it comes from Redis, and what kombu could not read is dropped there, with a line in the log.

A message that a worker has taken stands in Redis until it is acknowledged, so that people see it, and another
worker finds it an hour after this one died. An event is in the database, and a tick sends it again: of its
message Redis is told when it has waited here for a moment. That saves a short task two of its three round
trips.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis import exceptions

SHOWN = 100  # bytes of what was dropped
TELL_SECONDS = 0.2  # between two times that Redis is told what a worker holds

log = logging.getLogger("triggerbeat.broker")


class QoS(redis.QoS):
    """Which messages this worker has taken; of those of events Redis is told only when they wait here."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self._untold: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Taken."""
        if message.headers.get("triggerbeat_event"):
            virtual.QoS.append(self, message, delivery_tag)
            self._untold.add(delivery_tag)
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Done with."""
        if delivery_tag in self._untold:
            self._untold.discard(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Not taken after all."""
        self.tell()
        super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    def restore_unacked(self, client: Any = None) -> None:
        """Back into their queues, for other workers."""
        self.tell()
        super().restore_unacked(client)  # type: ignore[no-untyped-call]

    def tell(self) -> None:
        """Write down what is held. Raises what Redis raises; the rest is told the next time."""
        for tag in list(self._untold):
            message = self._delivered.get(tag)
            if message is not None:
                super().append(message, tag)  # type: ignore[no-untyped-call]
            self._untold.discard(tag)


class Channel(redis.Channel):
    """Takes only messages out of the lists."""

    QoS = QoS
    Message: Any
    connection: Any
    _pool: Any
    _at_hand: Any = None

    def _connparams(self, asynchronous: bool = False) -> Any:
        # Of a connection that Celery gave up, kombu closes a channel twice, which then wants to hand back its
        # messages. Without this an AttributeError ends the worker, where it would connect anew.
        if self.connection.client is None:
            raise exceptions.ConnectionError("the connection is closed")
        return super()._connparams(asynchronous)  # type: ignore[no-untyped-call]

    def _create_client(self, asynchronous: bool = False) -> Any:
        """A client; of those that block the one that is there. Kombu makes one for each question it asks,
        which takes as long as to ask it.
        """
        if not asynchronous and self._at_hand is not None and self._at_hand.connection_pool is self._pool:
            return self._at_hand
        client = super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        client.parse_response = partial(self._sifted, client.parse_response)
        if not asynchronous:
            self._at_hand = client
        return client

    def _sifted(self, read: Callable[..., Any], connection: Any, command: str, **options: Any) -> Any:
        """The answer to a command; none, as of an empty list, instead of what is no message."""
        answer = read(connection, command, **options)
        if command not in ("BRPOP", "RPOP") or not answer:
            return answer
        item = answer[1] if command == "BRPOP" else answer
        return answer if self._is_message(item) else None

    def _is_message(self, item: bytes) -> bool:
        try:
            check(self.Message(loads(bytes_to_str(item)), channel=self))
        except Exception as error:
            shown = repr(item[:SHOWN]) + ("..." if len(item) > SHOWN else "")
            log.error("dropped from a queue, being no message: %s (%s)", shown, type(error).__name__)
            return False
        return True


def check(message: Any) -> None:
    """Raise unless the message has the members that kombu and Celery take for granted."""
    expected = {
        "body": (message.body, str | bytes),
        "delivery_tag": (message.delivery_tag, str),
        "exchange": (message.delivery_info["exchange"], str),
        "routing_key": (message.delivery_info["routing_key"], str),
        "headers": (message.headers, dict),
        "task": (message.headers.get("task", ""), str),
    }
    for name, (value, kind) in expected.items():
        if not isinstance(value, kind):
            raise TypeError(name)


class Transport(redis.Transport):
    """Redis, with our channel."""

    Channel = Channel
    cycle: Any
    telling: Any = None  # its timer

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Take part in the worker's loop."""
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        if self.telling is not None:
            self.telling.cancel()
        self.telling = loop.call_repeatedly(TELL_SECONDS, self.tell)

    def tell(self) -> None:
        """Let Redis know what is held; when it cannot be told, the loop finds that out by itself."""
        for channel in list(self.cycle._channels):
            with suppress(*self.connection_errors, *self.channel_errors):
                channel.qos.tell()


def install() -> None:
    """Use it for all connections of this process. Under kombu's own names: it reads `rediss` for TLS."""
    name = f"{__name__}:{Transport.__qualname__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name)
