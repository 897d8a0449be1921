"""Kombu's transport for Redis, where anybody may leave anything in a list, and the server may go away.

What is no message of kombu's raises in the loop that takes messages, which ends the worker. So it is looked
at as it comes from Redis, and what kombu could not read is dropped there, with a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis import exceptions

SHOWN = 100  # bytes of what was dropped

log = logging.getLogger("triggerbeat.broker")


class Channel(redis.Channel):
    """Takes only messages out of the lists."""

    Message: Any
    connection: Any

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
        item = answer[1] if command == "BRPOP" else answer
        try:
            check(self.Message(loads(bytes_to_str(item)), channel=self))
        except Exception as error:
            shown = repr(item[:SHOWN]) + ("..." if len(item) > SHOWN else "")
            log.error("dropped from a queue, being no message: %s (%s)", shown, type(error).__name__)
            return None
        return answer


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


def install() -> None:
    """Use it for all connections of this process. Under kombu's own names: it reads `rediss` for TLS."""
    name = f"{__name__}:{Transport.__qualname__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name)
