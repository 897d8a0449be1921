"""What goes wrong around the product, at random: deaths, freezes, outages, an emptied broker, a dark hour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.simulation.scheduler import SECOND, Process, Steps

if TYPE_CHECKING:
    from tests.simulation.world import World

LONGEST_FREEZE_SECONDS = 200
POLL_SECONDS = 0.2
LATEST = 50  # deliveries that are looked at


class Nemesis:
    """Does one thing after another until the world is healed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.process = Process(world.scheduler, "nemesis", self.start)

    def start(self) -> Iterable[Steps]:
        """Its only actor; things that take a while end by themselves."""
        yield self.live()

    def live(self) -> Steps:
        """Every few minutes something."""
        world, random = self.world, self.world.random
        while True:
            yield random.expovariate(1 / world.calm_seconds)
            deed = random.choices(
                (
                    self.kill,
                    self.stop,
                    self.freeze,
                    self.broker,
                    self.flush,
                    self.database,
                    self.dark,
                    self.outlive,
                ),
                (4, 2, 3, 2, 2, 2, 1, 4),
            )[0]
            world.scheduler.tell("nemesis", deed.__name__)
            world.faults[deed.__doc__ or ""] += 1
            yield from deed()

    def kill(self) -> Steps:
        """process killed"""
        self.world.random.choice(self.world.processes).die()
        return
        yield

    def stop(self) -> Steps:
        """worker stopped"""
        worker = self.world.random.choice(self.world.workers)
        if worker.process.alive and not worker.stopping:
            worker.process.spawn(worker.stop())
        return
        yield

    def freeze(self) -> Steps:
        """process frozen"""
        random = self.world.random
        random.choice(self.world.processes).freeze(random.choice((2, 20, 60, 150)) * random.random())
        return
        yield

    def broker(self) -> Steps:
        """broker away"""
        self.world.broker.is_away = True
        yield self.world.random.uniform(1, 120)
        self.world.broker.is_away = False
        self.world.broker.wake()

    def flush(self) -> Steps:
        """broker emptied"""
        self.world.broker.flush()
        return
        yield

    def database(self) -> Steps:
        """database away"""
        self.world.database.is_away = True
        yield self.world.random.uniform(0.5, 60)
        self.world.database.is_away = False

    def dark(self) -> Steps:
        """all processes down"""
        world = self.world
        until = world.scheduler.micros + int(world.random.uniform(60, 600) * SECOND)
        while world.scheduler.micros < until:
            for process in world.processes:
                process.die()
            yield 0.4

    def outlive(self) -> Steps:
        """worker frozen until another has its event"""
        world = self.world
        busy = [worker for worker in world.workers if worker.process.alive and worker.calls]
        if not busy:
            return
        worker = world.random.choice(busy)
        waiting = {(one.event_id, one.attempt) for one in worker.calls}
        until = world.scheduler.micros + LONGEST_FREEZE_SECONDS * SECOND
        while world.scheduler.micros < until:
            worker.process.freeze(POLL_SECONDS + 0.05)
            for one in reversed(world.ledger.deliveries[-LATEST:]):
                if one.ended is None and (one.event_id, one.attempt - 1) in waiting:
                    world.faults["worker came back while another had its event"] += 1
                    return
            yield POLL_SECONDS
