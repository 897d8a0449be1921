"""Kombu's transport for Redis, where anybody may leave anything in a list, and the server may go away.

What is no message of kombu's raises in the loop that takes messages, which ends the worker. So it is looked
at as it comes from Redis, and what kombu could not read is dropped there, with a line in the log.

A message that a worker has taken stands in Redis until it is acknowledged, so that people see it, and another
worker finds it an hour after this one died. An event is in the database, and a tick sends it again: of its
message Redis is told when it has waited here for a moment. That saves a short task two of its three round
trips. And while short tasks end one after the other, several are taken in the round trip of one.
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
SHORT = 20  # events begun in that time: tasks are short, and several messages are worth waiting for
SEVERAL = 4  # free places within the prefetch limit for which a worker waits then, to fill them at once

log = logging.getLogger("triggerbeat.broker")


class QoS(redis.QoS):
    """Which messages this worker has taken; of those of events Redis is told only when they wait here."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self._untold: set[str] = set()
        self._begun = 0
        self.takes_several = False

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
            self._begun += 1
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

    def look_back(self) -> None:
        """Tell by the last moment whether tasks are short.

        When they are not any more, one free place is enough again, so that nothing waits for longer than this
        moment. It always is with Celery's worker_disable_prefetch, which puts its own limit in the place of
        `can_consume`.
        """
        self.takes_several = self._begun >= SHORT and "can_consume" not in vars(self)
        self._begun = 0

    def can_consume(self) -> bool:
        """Whether there is room within the prefetch limit; with short tasks, for several messages."""
        room = self.can_consume_max_estimate()  # type: ignore[no-untyped-call]
        least = min(SEVERAL, self.prefetch_count // 2) if self.takes_several else 1
        return room is None or room >= max(1, least)


class Channel(redis.Channel):
    """Takes only messages out of the lists."""

    QoS = QoS
    Message: Any
    connection: Any
    behind: str | None = None  # the list that the last event came from

    def _connparams(self, asynchronous: bool = False) -> Any:
        # Of a connection that Celery gave up, kombu closes a channel twice, which then wants to hand back its
        # messages. Without this an AttributeError ends the worker, where it would connect anew.
        if self.connection.client is None:
            raise exceptions.ConnectionError("the connection is closed")
        return super()._connparams(asynchronous)  # type: ignore[no-untyped-call]

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        client.parse_response = partial(self._sifted, client.parse_response)
        return client

    def _sifted(self, read: Callable[..., Any], connection: Any, command: str, **options: Any) -> Any:
        """The answer to a command; none, as of an empty list, instead of what is no message."""
        answer = read(connection, command, **options)
        if command not in ("BRPOP", "RPOP") or not answer:
            return answer
        if isinstance(answer, list) and command == "RPOP":
            return answer  # `_take_several` looks at each
        payload = self._payload(answer[1] if command == "BRPOP" else answer)
        if command == "BRPOP":
            headers = (payload or {}).get("headers") or {}
            self.behind = bytes_to_str(answer[0]) if headers.get("triggerbeat_event") else None
        return answer if payload else None

    def _payload(self, item: bytes) -> Any:
        """What was in a list, if it is a message."""
        try:
            payload = loads(bytes_to_str(item))
            check(self.Message(payload, channel=self))
        except Exception as error:
            shown = repr(item[:SHOWN]) + ("..." if len(item) > SHOWN else "")
            log.error("dropped from a queue, being no message: %s (%s)", shown, type(error).__name__)
            return None
        return payload

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver the message that was waited for; with short tasks also some behind it, if there is room."""
        delivered = super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        if self.behind is not None and self.qos.takes_several:
            self._take_several(self.behind)
        return delivered

    def _take_several(self, key: str) -> None:
        """On the connection that waited for the first: it has nothing else to do in this turn of the loop."""
        room = self.qos.can_consume_max_estimate()  # None: any number
        most = SEVERAL if room is None else min(SEVERAL, room)
        if most < 1:
            return
        connection = self.client.connection
        command = ["RPOP", key, most]
        try:
            connection.send_command(
                *(self.client._prefix_args(command) if self.global_keyprefix else command)
            )
            items = self.client.parse_response(connection, "RPOP")
        except self.connection_errors:
            connection.disconnect()  # as kombu does; events whose messages are lost here are sent again
            raise
        for item in items or []:
            if payload := self._payload(item):
                self.connection._deliver(payload, key.rsplit(self.sep, 1)[0])


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
            channel.qos.look_back()


def install() -> None:
    """Use it for all connections of this process. Under kombu's own names: it reads `rediss` for TLS."""
    name = f"{__name__}:{Transport.__qualname__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name)
