"""Lanes beside each other, each in a process of its own: its proxies are threads, and Python has one lock."""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from tests.faults.catalogue import Fault
from tests.faults.nemesis import Outcome, applicable, run_lane

SHOWN = 5
LONG = ("broker-freeze-long",)  # only when asked for


@dataclass(frozen=True, slots=True)
class Plan:
    """What a lane is to do."""

    lane: str
    only: list[str]
    seed: int
    directory: Path
    seconds: float
    picture: Path


@dataclass(slots=True)
class Report:
    """What came of it."""

    lane: str
    outcomes: list[Outcome] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    broken: bool = True


def beside(plans: Sequence[Plan], jobs: int) -> list[Report]:
    """Run the lanes, so many at a time; none is left behind, also when this is interrupted."""
    context = get_context("spawn")
    lanes: list[SpawnProcess] = []

    def run(plan: Plan) -> Report:
        receiver, sender = context.Pipe(duplex=False)
        lane = context.Process(target=run_plan, args=(plan, sender))
        lanes.append(lane)
        lane.start()
        sender.close()
        try:
            report: Report = receiver.recv()
        except EOFError:
            report = Report(plan.lane)
        lane.join()
        return report

    with ThreadPoolExecutor(jobs) as threads:
        try:
            return list(threads.map(run, plans))
        except KeyboardInterrupt:
            for lane in lanes:
                lane.terminate()  # the threads wait until it has cleaned up
            raise


def run_plan(plan: Plan, sender: Connection) -> None:
    """Run one lane, and send what came of it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Report(plan.lane)
    until = time.monotonic() + plan.seconds
    tell_this = partial(tell, report.outcomes)
    try:
        faults = rounds(plan.lane, plan.only, plan.seed)
        run_lane(plan.lane, faults, plan.directory, plan.seed, until, tell_this, plan.picture)
        report.broken = False
    except Exception:  # the other lanes have something to say all the same
        traceback.print_exc()
    done = {outcome.fault for outcome in report.outcomes}
    wanted = [fault.name for fault in applicable(plan.lane, plan.only)]
    report.left_out = [name for name in wanted if name not in done and (plan.only or name not in LONG)]
    sender.send(report)


def rounds(lane: str, only: list[str], seed: int) -> Iterator[Fault]:
    """As they were named; or all of them again and again, shuffled by the seed, and a calm first."""
    if only:
        yield from applicable(lane, only)
        return
    faults = [fault for fault in applicable(lane) if fault.name not in LONG]
    chance = random.Random(f"order-{lane}-{seed}")
    chance.shuffle(faults)
    yield from sorted(faults, key=lambda fault: fault.name != "calm")
    while True:
        chance.shuffle(faults)
        yield from faults


def tell(outcomes: list[Outcome], outcome: Outcome) -> None:
    """A row of the table, and what is wrong under it."""
    outcomes.append(outcome)
    recovery = "never" if outcome.recovery is None else f"{outcome.recovery:.1f}"
    create = "" if outcome.create_p99_ms is None else f"{outcome.create_p99_ms:.0f} ms"
    notes = f" ({'; '.join(outcome.notes)})" if outcome.notes else ""
    row = (
        f"{outcome.fault:<27}{outcome.lane:<21}{outcome.took:>6.0f}{recovery:>9}{outcome.bound:>6.0f}"
        f"{outcome.occurrences:>8}{outcome.deliveries:>8}{outcome.again:>6}{outcome.creates:>8}{create:>8}  "
        f"{outcome.verdict}{notes}"
    )
    more = [f"    and {len(outcome.wrong) - SHOWN} more"] if len(outcome.wrong) > SHOWN else []
    lines = [row, *(f"    {line}" for line in [*outcome.slow, *outcome.wrong[:SHOWN]]), *more]
    print("\n".join(lines), flush=True)  # at once: other lanes print as well
