"""Run the faults: `python -m tests.faults [--seed S] [--minutes M] [--jobs N] [--only NAME ...]
[--lane NAME ...]`.

Prints a row for each fault and, last, one line of JSON. That and a picture of each lane are left in a
directory of the run's own. Exit status 1 when anything was lost, doubled or invented, or a bound was not
kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults.beside import Plan, beside
from tests.faults.catalogue import ALL, FAULTS
from tests.faults.nemesis import Outcome

RESULTS = Path("results")
JOBS = 2  # lanes at the same time


def main() -> int:
    arguments = parse()
    if arguments.list:
        for fault in FAULTS.values():
            print(f"{fault.name:<27} {fault.bound_seconds:>4.0f} s  {fault.doc}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or what is mounted would stay behind
    directory = Path(tempfile.mkdtemp(prefix="triggerbeat-faults-"))
    os.environ["TMPDIR"] = str(directory)  # billiard leaves a directory there in each lane's process
    results = arguments.results or RESULTS / f"faults-{arguments.seed}"
    results.mkdir(parents=True, exist_ok=True)
    print(f"seed {arguments.seed}, logs in {directory}, pictures in {results}", flush=True)
    heading()
    lanes = [lane for lane in ALL if lane in (arguments.lane or ALL)]
    share = 60 * arguments.minutes * min(arguments.jobs, len(lanes)) / len(lanes)
    plans = [
        Plan(lane, arguments.only, arguments.seed, directory / lane, share, results / f"{lane}.svg")
        for lane in lanes
    ]
    reports = beside(plans, arguments.jobs)
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    failed = [outcome for outcome in outcomes if outcome.verdict != "ok"]
    broken = sum(report.broken for report in reports)
    ok = not failed and not broken
    print(f"{faults_of(outcomes)}, {len(failed)} verdicts not ok, {broken} lanes broken off")
    for report in reports:
        if report.left_out:
            print(f"no time for, on {report.lane}: {', '.join(report.left_out)}")
    document = {"seed": arguments.seed, "ok": ok, "faults": [one.document() for one in outcomes]}
    (results / "results.json").write_text(json.dumps(document) + "\n")
    print(json.dumps(document))
    if ok and not arguments.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if ok else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real processes under faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=55, help="for all lanes together (default: 55)")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"lanes at the same time (default: {JOBS})")
    parser.add_argument("--only", nargs="+", choices=sorted(FAULTS), default=[], metavar="NAME")
    parser.add_argument("--lane", nargs="+", choices=ALL, default=[], metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--list", action="store_true", help="name the faults and end")
    parser.add_argument("--results", type=Path, help="where pictures go (default: results/faults-SEED)")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run in which all was well")
    return parser.parse_args()


def faults_of(outcomes: Sequence[Outcome]) -> str:
    """How many, and what was checked."""
    runs = sum(outcome.times > 0 for outcome in outcomes)
    times = sum(outcome.times for outcome in outcomes)
    whole = [outcome for outcome in outcomes if outcome.fault == "whole-run"]
    occurrences, deliveries = (
        sum(getattr(one, name) for one in whole) for name in ("occurrences", "deliveries")
    )
    return f"{times} faults in {runs} runs, {occurrences:,} occurrences, {deliveries:,} deliveries"


def heading() -> None:
    print(
        f"{'fault':<27}{'lane':<21}{'took':>6}{'recovery':>9}{'bound':>6}{'checked':>8}{'arrived':>8}"
        f"{'again':>6}{'creates':>8}{'p99':>8}  verdict",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
