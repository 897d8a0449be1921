"""Run the faults: `python -m tests.faults [--seed S] [--minutes M] [--only NAME ...] [--lane NAME ...]`.

Prints a row for each fault and, last, one line of JSON. That and a picture of each lane are left in a
directory of the run's own. Exit status 1 when anything was lost, doubled or invented, or a bound was not
kept.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

from tests.faults.catalogue import ALL, FAULTS, Fault
from tests.faults.nemesis import Outcome, applicable, run_lane

RESULTS = Path("results")
SHOWN = 5
LONG = ("broker-freeze-long",)  # only when asked for


def main() -> int:
    arguments = parse()
    if arguments.list:
        for fault in FAULTS.values():
            print(f"{fault.name:<27} {fault.bound_seconds:>4.0f} s  {fault.doc}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or what is mounted would stay behind
    directory = Path(tempfile.mkdtemp(prefix="triggerbeat-faults-"))
    results = arguments.results or RESULTS / f"faults-{arguments.seed}"
    results.mkdir(parents=True, exist_ok=True)
    print(f"seed {arguments.seed}, logs in {directory}, pictures in {results}", flush=True)
    heading()
    outcomes: list[Outcome] = []
    left = [lane for lane in ALL if lane in (arguments.lane or ALL)]
    end = time.monotonic() + 60 * arguments.minutes
    planned, broken = 0, 0
    while left:
        lane, share = left[0], (end - time.monotonic()) / len(left)
        faults = order(lane, arguments.only, arguments.seed)
        planned += len(faults)
        until = time.monotonic() + share
        try:
            picture = results / f"{lane}.svg"
            run_lane(lane, faults, directory / lane, arguments.seed, until, partial(tell, outcomes), picture)
        except Exception:  # the other lanes have something to say all the same
            traceback.print_exc()
            broken += 1
        left.pop(0)
    failed = [outcome for outcome in outcomes if outcome.verdict != "ok"]
    done = sum(outcome.fault != "whole-run" for outcome in outcomes)
    ok = not failed and not broken
    print(f"{done} of {planned} faults, {len(failed)} not ok, {broken} lanes broken off")
    document = {"seed": arguments.seed, "ok": ok, "faults": [one.document() for one in outcomes]}
    (results / "results.json").write_text(json.dumps(document) + "\n")
    print(json.dumps(document))
    if ok and not arguments.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if ok else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real processes under faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=56, help="for all lanes together (default: 56)")
    parser.add_argument("--only", nargs="+", choices=sorted(FAULTS), default=[], metavar="NAME")
    parser.add_argument("--lane", nargs="+", choices=ALL, default=[], metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--list", action="store_true", help="name the faults and end")
    parser.add_argument("--results", type=Path, help="where pictures go (default: results/faults-SEED)")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run in which all was well")
    return parser.parse_args()


def order(lane: str, only: list[str], seed: int) -> list[Fault]:
    """As they were named, or shuffled by the seed, the calm first."""
    if only:
        return applicable(lane, only)
    faults = [fault for fault in applicable(lane) if fault.name not in LONG]
    random.Random(f"order-{lane}-{seed}").shuffle(faults)
    return sorted(faults, key=lambda fault: fault.name != "calm")


def heading() -> None:
    print(
        f"{'fault':<27}{'lane':<21}{'took':>6}{'recovery':>9}{'bound':>6}{'checked':>8}{'arrived':>8}"
        f"{'again':>6}{'creates':>8}{'p99':>8}  verdict",
        flush=True,
    )


def tell(outcomes: list[Outcome], outcome: Outcome) -> None:
    """A row of the table, and what is wrong under it."""
    outcomes.append(outcome)
    recovery = "never" if outcome.recovery is None else f"{outcome.recovery:.1f}"
    create = "" if outcome.create_p99_ms is None else f"{outcome.create_p99_ms:.0f} ms"
    notes = f" ({'; '.join(outcome.notes)})" if outcome.notes else ""
    print(
        f"{outcome.fault:<27}{outcome.lane:<21}{outcome.took:>6.0f}{recovery:>9}{outcome.bound:>6.0f}"
        f"{outcome.occurrences:>8}{outcome.deliveries:>8}{outcome.again:>6}{outcome.creates:>8}{create:>8}  "
        f"{outcome.verdict}{notes}"
    )
    for line in [*outcome.slow, *outcome.wrong[:SHOWN]]:
        print(f"    {line}")
    if len(outcome.wrong) > SHOWN:
        print(f"    and {len(outcome.wrong) - SHOWN} more")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
