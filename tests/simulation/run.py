"""Runs seeds, one or many, in this process or in several."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.simulation.database import SimulatedDatabase, make_template
from tests.simulation.judge import Judge
from tests.simulation.world import Result, World, surroundings

__all__ = ["Result", "Simulation", "run_seeds", "simulation"]

SHARED_MEMORY = Path("/dev/shm")


class Simulation:
    """Runs seed after seed with one set of compiled statements."""

    def __init__(self, directory: Path) -> None:
        self.template = make_template(directory)
        self.database = SimulatedDatabase(directory)

    def run(self, seed: int, telling: bool = False) -> Result:
        """One seed, from the first trigger to the verdict."""
        world = World(seed, self.database, self.template, telling)
        self.database.sites.clear()
        with surroundings(world):
            world.live()
            judge = Judge(world)
            judge.judge()
        scheduler = world.scheduler
        return Result(
            seed=seed,
            calm=not world.faulty,
            violations=world.violations,
            occurrences=judge.occurrences,
            events=len(judge.events),
            deliveries=len(world.ledger.deliveries) + sum(world.ledger.logged.values()),
            commits=self.database.commits,
            steps=scheduler.steps,
            virtual_seconds=scheduler.micros / 1_000_000,
            faults=world.faults,
            sites=self.database.sites.copy(),
            story=scheduler.story,
        )

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()


@contextmanager
def simulation() -> Iterator[Simulation]:
    """A simulation on a disk that is memory, if there is one."""
    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="triggerbeat-simulation-", dir=place) as directory:
        made = Simulation(Path(directory))
        try:
            yield made
        finally:
            made.close()


def run_seeds(seeds: Sequence[int]) -> Iterator[Result]:
    """These seeds, one after another."""
    with simulation() as made:
        for seed in seeds:
            yield made.run(seed)
