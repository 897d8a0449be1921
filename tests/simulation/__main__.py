"""python -m tests.simulation: seeds by the thousand, one seed with its story, or the mutants."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.database import BAD, Fate
from tests.simulation.mutants import MUTANTS, broken
from tests.simulation.run import Result, run_seeds, simulation

SEEDS = 10_000
CHUNK = 50  # seeds that a process takes at a time
MUTANT_SEEDS = 400  # in which a mutant must be found; `queue_never_released` takes 246
EVERY_SECONDS = 30.0  # a line of progress


class Totals:
    """What many seeds add up to."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.said = self.began
        self.seeds = self.calm = self.occurrences = self.events = self.deliveries = self.commits = 0
        self.virtual_seconds = 0.0
        self.faults: Counter[str] = Counter()
        self.sites: Counter[tuple[str, Fate]] = Counter()
        self.failed: list[int] = []

    def add(self, result: Result) -> None:
        """One more seed."""
        self.seeds += 1
        self.calm += result.calm
        self.occurrences += result.occurrences
        self.events += result.events
        self.deliveries += result.deliveries
        self.commits += result.commits
        self.virtual_seconds += result.virtual_seconds
        self.faults += result.faults
        self.sites += result.sites
        if result.violations:
            self.failed.append(result.seed)
            print(
                f"seed {result.seed}: {len(result.violations)} violations, the first: {result.violations[0]}"
            )
            print(f"    make simulate ARGS='--seed {result.seed}' tells the story", flush=True)
        if time.monotonic() - self.said > EVERY_SECONDS:
            self.said = time.monotonic()
            print(f"{self.seeds:,} seeds, {self.occurrences:,} occurrences", flush=True)

    def summary(self) -> str:
        """The figures."""
        minutes = (time.monotonic() - self.began) / 60
        lines = [
            f"{self.seeds:,} seeds ({self.calm:,} without faults) in {minutes:.1f} minutes,"
            f" {self.virtual_seconds / 86_400:,.0f} days of virtual time",
            f"{self.occurrences:,} occurrences in {self.events:,} events, {self.deliveries:,} deliveries,"
            f" {self.commits:,} commits",
            f"{sum(self.faults.values()):,} faults:",
            *(f"  {count:>9,} {name}" for name, count in self.faults.most_common()),
            "commits that went wrong, by the function that made them: " + ", ".join(BAD),
        ]
        for site in sorted({site for site, _ in self.sites}):
            counts = " ".join(f"{self.sites[site, fate]:>7,}" for fate in BAD)
            lines.append(f"  {site:<24}{counts}")
        lines.append(f"violated: {len(self.failed)} seeds {self.failed[:20] if self.failed else ''}")
        return "\n".join(lines)


def tell(seed: int) -> int:
    """One seed, line by line."""
    with simulation() as made:
        result = made.run(seed, telling=True)
    print("\n".join(result.story))
    print(
        f"\nseed {seed}: {result.occurrences} occurrences, {result.events} events, {result.commits} commits,"
    )
    print(f"{sum(result.faults.values())} faults, {len(result.violations)} violations")
    for what in result.violations:
        print(f"  {what}")
    return min(1, len(result.violations))


def run_many(seeds: range, jobs: int) -> int:
    """All these seeds, on all cores."""
    totals = Totals()
    for result in results(seeds, jobs):
        totals.add(result)
    print(totals.summary())
    return min(1, len(totals.failed))


def results(seeds: range, jobs: int) -> Iterator[Result]:
    """What each seed led to, as they end."""
    if jobs == 1:
        yield from run_seeds(seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
        for done in as_completed([pool.submit(run_chunk, chunk) for chunk in chunks]):
            yield from done.result()


def run_chunk(seeds: Sequence[int]) -> list[Result]:
    """In a process of the pool."""
    return list(run_seeds(seeds))


def run_mutants(seeds: range) -> int:
    """Each mutant, until a seed finds it."""
    missed = 0
    for mutant in MUTANTS:
        found = None
        with broken(mutant), simulation() as made:
            for seed in seeds[:MUTANT_SEEDS]:
                if violations := made.run(seed).violations:
                    found = f"seed {seed}: {violations[0].splitlines()[0]}"
                    break
        missed += found is None
        print(f"{mutant.__name__:<28} {found or 'NOT FOUND'}", flush=True)
    return min(1, missed)


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"how many (default {SEEDS})")
    parser.add_argument(
        "--from", type=int, default=0, dest="first", metavar="S", help="the first (default 0)"
    )
    parser.add_argument("--seed", type=int, metavar="ONE", help="this one alone, and its story")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes")
    parser.add_argument("--mutants", action="store_true", help="break the product in each known way instead")
    given = parser.parse_args()
    if given.seed is not None:
        return tell(given.seed)
    seeds = range(given.first, given.first + given.seeds)
    return run_mutants(seeds) if given.mutants else run_many(seeds, given.jobs)


if __name__ == "__main__":
    sys.exit(main())
