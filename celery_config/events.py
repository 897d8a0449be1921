"""What the worker tells Flower, over a connection that comes and goes."""

from __future__ import annotations

import logging
from typing import Any

from celery.events.dispatcher import EventDispatcher

log = logging.getLogger("triggerbeat.events")


class Dispatcher(EventDispatcher):
    """Sends Celery's worker and task events, and makes another connection when its own is broken.

    The stock one leaves that to kombu, which tries without an end. When the broken connection has been
    replaced already, kombu goes on declaring the exchange on the channel of the old one: the worker's main
    thread then connects and fails for ever, some fifty times a second, and takes no message any more.
    """

    def _publish(
        self, event: Any, producer: Any, routing_key: str, retry: bool = False, *args: Any, **more: Any
    ) -> None:
        """Send one event, once; what cannot be sent is kept. With `retry` (a heartbeat) reconnect first."""
        kept = len(self._outbound_buffer)
        super()._publish(event, producer, routing_key)
        if retry and len(self._outbound_buffer) > kept and self.reconnect():
            waiting = list(self._outbound_buffer)
            self._outbound_buffer.clear()
            for one, key in waiting:
                super()._publish(one, producer, key)

    def reconnect(self) -> bool:
        """Leave the broken connection and make another; whether it worked. If not, the next heartbeat may."""
        try:
            self.connection.collect()
            self.producer.revive(self.connection.default_channel)
        except Exception as error:
            log.warning("cannot tell Flower anything: %s: %s", type(error).__name__, error)
            return False
        return True
