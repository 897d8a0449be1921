"""A hundred seeds of the simulation, and the proof that it would see what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, RARE, broken
from tests.simulation.run import Simulation, simulation

SEEDS = 100
MUTANT_SEEDS = 80  # among which a mutant must be found; mostly one of the first four, `fold_ignored` takes 42
ROOT = Path(__file__).parents[2]
DIGEST = """
from tests.simulation.run import simulation
with simulation() as made:
    print(made.run({seed}, telling=True).digest)
"""


@pytest.fixture(scope="module")
def simulated() -> Iterator[Simulation]:
    with simulation() as made:
        yield made


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_invented(simulated: Simulation) -> None:
    """Whatever is killed, dropped, doubled, delayed, frozen or away."""
    occurrences, faults = 0, 0
    for seed in range(SEEDS):
        result = simulated.run(seed)
        assert not result.violations, f"make simulate ARGS='--seed {seed}': {result.violations[:3]}"
        occurrences += result.occurrences
        faults += sum(result.faults.values())
    assert occurrences > 50 * SEEDS
    assert faults > 20 * SEEDS


@pytest.mark.parametrize("seed", [5, 8])
def test_a_seed_replays_exactly(simulated: Simulation, seed: int) -> None:
    """In this process, and in another, whose sets and dictionaries have another order."""
    first = simulated.run(seed, telling=True)
    assert len(first.story) > 100
    assert simulated.run(seed, telling=True).story == first.story
    environment = os.environ | {"PYTHONHASHSEED": "17", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DIGEST.format(seed=seed)]
    told = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == first.digest


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m not in RARE], ids=lambda m: m.__name__)
def test_a_broken_product_is_found(mutant: Callable[[], Iterator[object]]) -> None:
    with broken(mutant), simulation() as made:
        assert any(made.run(seed).violations for seed in range(MUTANT_SEEDS)), f"{mutant.__doc__} Unnoticed."
