"""Beat, as the product's scheduler class is: sends when it starts, and then at each interval."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.simulation.broker import OURS, BrokerAway
from tests.simulation.scheduler import Process, Steps

if TYPE_CHECKING:
    from tests.simulation.world import World

AGAIN_SECONDS = 1.0


class Beat:
    """One beat. What it sends is all that it does; it may be there twice, or die."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.process = Process(world.scheduler, name, self.start, restarts_after=20.0)

    def start(self) -> Iterable[Steps]:
        """Its two entries."""
        yield self.send(("tick", False), self.world.tick_every)
        yield self.send(("retain",), timedelta(seconds=self.world.random.uniform(200, 600)))

    def send(self, body: tuple[Any, ...], every: timedelta) -> Steps:
        """Send, and again after the interval; what could not be sent is tried again."""
        while True:
            try:
                self.world.broker.publish(OURS, body)
            except BrokerAway:
                yield AGAIN_SECONDS
                continue
            yield every.total_seconds()
