"""Lets faults loose on a lane, one after another, and tells what came of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tests.faults import brokers, databases, others, processes
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.exposure import expose
from tests.faults.judge import Judge, recover
from tests.faults.lane import Lane

__all__ = ["Outcome", "applicable", "brokers", "databases", "others", "processes", "run_lane"]

DEADLINE_SECONDS = 120  # over the bound: to tell slow from never
MARGIN = timedelta(seconds=2)
SHOWN = 5  # of what is late
BUSY = 4  # of the load average for each core: durations say little then


@dataclass(slots=True)
class Outcome:
    """A row of the table. Durations are seconds; `recovery` is None when it never came."""

    fault: str
    lane: str
    seed: int
    times: int
    at: float  # since the lane began
    took: float
    recovery: float | None
    bound: float
    occurrences: int
    events: int
    deliveries: int
    again: int
    doubled: int
    creates: int
    create_p99_ms: float | None
    verdict: str
    wrong: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def applicable(lane: str, only: Sequence[str] = ()) -> list[Fault]:
    """The faults that a lane knows, in the catalogue's order; with `only`, those, in its order."""
    chosen = [FAULTS[name] for name in only] if only else list(FAULTS.values())
    return [fault for fault in chosen if lane in fault.lanes]


def run_lane(
    name: str,
    faults: Iterable[Fault],
    directory: Path,
    seed: int,
    until: float,
    tell: Callable[[Outcome], None],
    picture: Path,
) -> None:
    """Run the faults on a fresh lane, none begun after `until` on the monotonic clock, and draw a picture."""
    with Lane(name, directory, seed) as lane:
        judge = Judge(lane)
        settled = recover(lane, datetime.now(UTC), DEADLINE_SECONDS)
        assert settled.seconds is not None, settled.left
        judge.judge(lane.began, datetime.now(UTC), once=True)
        inflicted: list[Outcome] = []
        try:
            for fault in faults:
                if time.monotonic() > until:
                    break
                if not lane.can(fault.name):
                    continue
                inflicted.append(inflict(lane, judge, fault, seed))
                tell(inflicted[-1])
            tell(whole(lane, judge, seed))
        finally:  # a lane that is broken off is worth a look, too
            with suppress(SQLAlchemyError):
                picture.write_text(expose(lane, judge, inflicted, seed, datetime.now(UTC)))


def inflict(lane: Lane, judge: Judge, fault: Fault, seed: int) -> Outcome:
    """One fault, its recovery, and the judgement."""
    lane.notes = []
    restarts = lane.fleet.restarts
    began, began_at = datetime.now(UTC), time.monotonic()
    fault.run(lane)
    ended, ended_at = datetime.now(UTC), time.monotonic()
    recovery = recover(lane, ended, fault.bound_seconds + DEADLINE_SECONDS)
    told = judge.judge(began - MARGIN, datetime.now(UTC), once=not fault.deaths)
    creates = lane.client.took(began_at, ended_at)
    slow = told.late[:SHOWN]
    if recovery.seconds is None:
        slow.append(f"never recovered: {recovery.left}")
    elif recovery.seconds > fault.bound_seconds:
        slow.append(f"recovered in {recovery.seconds} s")
    if fault.create_ms is not None and (creates.p99_ms is None or creates.p99_ms > fault.create_ms):
        slow.append(f"99 of 100 of {creates.number} creates took {creates.p99_ms} ms")
    if (load := os.getloadavg()[0]) > BUSY * (os.cpu_count() or 1):
        lane.notes.append(f"load average {load:.0f}: the machine is busy with other things")
    if lane.fleet.restarts > restarts:
        lane.notes.append(f"{lane.fleet.restarts - restarts} processes restarted")
    if (up := lane.came_up(ended)) is not None:  # of the recovery, what a busy machine takes for a start
        lane.notes.append(f"workers up after {up:.1f} s")
    return Outcome(
        fault.name, lane.name, seed, fault.times, lane.age(began), round(ended_at - began_at, 1),
        recovery.seconds, fault.bound_seconds,
        told.occurrences, told.events, told.deliveries, told.again, told.doubled, *creates,
        "WRONG" if told.wrong else "slow" if slow else "ok", told.wrong, slow, lane.notes,
    )  # fmt: skip


def whole(lane: Lane, judge: Judge, seed: int) -> Outcome:
    """The whole run once more, from its first trigger to now."""
    told = judge.judge(lane.began, datetime.now(UTC), once=False)
    return Outcome(
        "whole-run", lane.name, seed, 0, 0.0, 0.0, 0.0, 0.0, told.occurrences, len(judge.judged),
        sum(map(len, lane.ledger.arrivals.values())), told.again, 0, 0, None,
        "WRONG" if told.wrong else "slow" if told.late else "ok", told.wrong, told.late[:SHOWN],
    )  # fmt: skip
