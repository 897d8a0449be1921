"""What a user would pick instead, beside ours: N due at one instant, until each has run a no-op.

    python -m benchmarks.neighbours [--counts 1000,10000,100000] [--only redbeat,triggerbeat-log] [--cut 60]
        [--brief]

Each neighbour is set up as its own documentation advises for speed; its program in `programs/` says how. All
use the same PostgreSQL, with durability on, and the same Valkey, empty for each run, and are installed, with
fixed versions, into environments of their own below `.benchmarks/`. Everything is stored beforehand, and a
few that are due earlier show that all is loaded and connected. The clock starts at the instant. What is not
done after `--cut` seconds is counted as far as it came. All of it takes half an hour; `--brief` saves half
of that, where no bound of ours rests on a figure: it is cut after 20 s, and who by its rate at one count
would take more than five seconds at the next is not measured there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import report, table
from benchmarks.neighbours import ours
from benchmarks.neighbours.environments import NotInstalled, prepare
from benchmarks.neighbours.measuring import NotReady, Servers, measure, servers
from benchmarks.neighbours.outcomes import BRIEF_SECONDS, Outcome, is_judged, middle, ratios, row, table_rows
from benchmarks.neighbours.roster import ROSTER, Neighbour

INSTALLING = 3  # environments at a time
REPEAT = 3  # where a bound of ours rests on it
FAST_SECONDS = 20.0  # and a run takes no longer
BRIEF_CUT_SECONDS = 20.0  # where none does, with `--brief`


class Measured:
    """What was found so far."""

    def __init__(self, counts: Sequence[int], cut: float, brief: bool) -> None:
        self.counts, self.cut, self.brief = counts, cut, brief
        self.rows: list[dict[str, object]] = []
        self.missing: dict[str, str] = {}

    def ours(self, way: ours.Ours) -> None:
        """Triggerbeat, used in one way."""
        self.each_count(way.name, way.title, (), lambda count, cut: ours.measure(way, count, cut))

    def neighbour(self, neighbour: Neighbour, environment: Path, place: Servers) -> None:
        """One of them."""
        self.each_count(
            neighbour.name,
            neighbour.title,
            neighbour.packages,
            lambda count, cut: measure(neighbour, environment, place, count, cut),
        )

    def each_count(
        self, name: str, title: str, packages: Sequence[str], run: Callable[[int, float], Outcome]
    ) -> None:
        """Measure at one count after the other; a failure ends these, but not the others."""
        rate = float("inf")
        for count in self.counts:
            brief = self.brief and not is_judged(name, count)
            cut = min(self.cut, BRIEF_CUT_SECONDS) if brief else self.cut
            if brief and rate * BRIEF_SECONDS < count:
                continue
            try:
                outcomes = repeated(name, run, count, cut)
            except (AssertionError, NotReady) as failure:
                self.give_up(name, f"failed at {count:,}: {one_line(failure)}")
                return
            self.rows.append(row(name, title, outcomes, packages=list(packages)))
            one = middle(outcomes)
            rate = one.rate
            print(f"{title}, {count:,}: {one.done:,} in {one.seconds:.3f} s", flush=True)

    def give_up(self, name: str, reason: str) -> None:
        """This one is left out from here on; the others go on."""
        self.missing[name] = reason
        print(f"{name}: {reason}", flush=True)


def repeated(name: str, run: Callable[[int, float], Outcome], count: int, cut: float) -> list[Outcome]:
    """Some runs where the median matters and does not cost much, else one."""
    outcomes = [run(count, cut)]
    fast = outcomes[0].seconds <= FAST_SECONDS and not outcomes[0].cut
    while fast and is_judged(name, count) and len(outcomes) < REPEAT:
        outcomes.append(run(count, cut))
    return outcomes


def one_line(failure: Exception) -> str:
    """The end of what a process said is what counts."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(failure).__name__


def installed(names: Sequence[str], found: Measured) -> list[tuple[Neighbour, Path]]:
    """The chosen neighbours with their environments, made side by side; one line for each that cannot be."""
    chosen = [neighbour for neighbour in ROSTER if neighbour.name in names]
    one_for_each_program = {neighbour.program: neighbour for neighbour in chosen}
    with ThreadPoolExecutor(INSTALLING) as threads:
        made = {
            program: threads.submit(prepare, neighbour) for program, neighbour in one_for_each_program.items()
        }
    ready = []
    for neighbour in chosen:
        try:
            ready.append((neighbour, made[neighbour.program].result()))
        except NotInstalled as reason:
            found.give_up(neighbour.name, f"cannot be installed: {reason}")
    return ready


def run_all(names: Sequence[str], found: Measured) -> None:
    """Measure, and print the tables and the JSON line."""
    ready = installed(names, found)
    for way in ours.WAYS:
        if way.name in names:
            found.ours(way)
    prefix = "triggerbeat-neighbours-"
    with tempfile.TemporaryDirectory(prefix=prefix) as directory, servers(Path(directory)) as place:
        durability = place.durability()
        for neighbour, environment in ready:
            found.neighbour(neighbour, environment, place)
    figures = {
        "counts": list(found.counts),
        "cut_seconds": found.cut,
        "brief_cut_seconds": BRIEF_CUT_SECONDS if found.brief else None,
        "rows": found.rows,
        "missing": found.missing,
        "ratios": ratios(found.rows),
    }
    report("neighbours", figures, durability)
    print_tables(found)


def print_tables(found: Measured) -> None:
    """Events a second, and how many times as fast ours is."""
    headers = ["due at one instant", *(f"{count:,}" for count in found.counts)]
    rows = table_rows(found.rows, found.missing, found.counts)
    table(f"No-ops a second, cut at {found.cut:g} s", headers, rows)
    bounds = [
        [f"{one['ours']}, {one['count']:,}, against {one['against']}", one["ratio"], one["must_reach"]]
        for one in ratios(found.rows)
        if one["ratio"] is not None
    ]
    if bounds:
        table("How many times as fast", ["bound", "times", "must reach"], bounds)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    every = [*(way.name for way in ours.WAYS), *(neighbour.name for neighbour in ROSTER)]
    parser = argparse.ArgumentParser(prog="benchmarks.neighbours", description="ours beside the neighbours")
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--cut", type=float, default=60.0, help="seconds after which a run is cut")
    parser.add_argument("--brief", action="store_true", help="leave out what is slow and not judged")
    parser.add_argument("--only", default=",".join(every), help=f"some of {', '.join(every)}")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := set(names) - set(every):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    counts = sorted(int(count) for count in options.counts.split(","))
    run_all(names, Measured(counts, options.cut, options.brief))


if __name__ == "__main__":
    main()
