"""Kombu's transport for RabbitMQ, for connections that go silent without an end.

py-amqp waits for the answer to a publish, a declaration, an open or a close for as long as it takes: beat, a
worker's threads and its main loop for ever, when the answer cannot come any more.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport import TRANSPORT_ALIASES, pyamqp

ANSWER_SECONDS = 5.0


class Impatient:
    """Gives up waiting for an answer, and with it the connection: a late one would count for the next."""

    connection: Any

    def wait(
        self, method: Any, callback: Any = None, timeout: float | None = None, returns_tuple: bool = False
    ) -> Any:
        """The answer. Raises RecoverableConnectionError when there is none within `timeout` seconds."""
        seconds = timeout or ANSWER_SECONDS
        try:
            return super().wait(method, callback, seconds, returns_tuple)  # type: ignore[misc]
        except TimeoutError:
            if self.connection is not None:
                self.connection.collect()
            raise RecoverableConnectionError(f"RabbitMQ did not answer within {seconds:g} s") from None


class Channel(Impatient, pyamqp.Channel):
    """A channel that gives up."""


class Connection(Impatient, pyamqp.Connection):
    """A connection that gives up, with such channels."""

    Channel = Channel


class Transport(pyamqp.Transport):
    """RabbitMQ, with our connections."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    """The same over TLS."""

    Connection = Connection


def install() -> None:
    """Use it for all connections of this process, under kombu's own names."""
    plain, tls = (f"{__name__}:{kind.__qualname__}" for kind in (Transport, SSLTransport))
    TRANSPORT_ALIASES.update(amqp=plain, amqps=tls, pyamqp=plain)
