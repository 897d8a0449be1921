"""What a fault is, and the list of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triggers.deliver import LEASE_MARGIN

if TYPE_CHECKING:
    from tests.faults.lane import Lane

TICK_SECONDS = 5
HORIZON_SECONDS = 15
TIMEOUT_SECONDS = 5
LEASE_SECONDS = TIMEOUT_SECONDS + LEASE_MARGIN.total_seconds()
MIN_BACKOFF_SECONDS = 1
# How long after the end of a fault everything that was due has been done, and what is due starts on time.
AFTER_OUTAGE = TICK_SECONDS + 15.0
AFTER_DEATH = LEASE_SECONDS + TICK_SECONDS + 2 * MIN_BACKOFF_SECONDS  # a lost attempt waits for its next
AFTER_STEP = 2.0 * TICK_SECONDS

ALL = ("sqlite-valkey", "sqlite-rabbitmq", "postgresql-valkey", "postgresql-rabbitmq")
Run = Callable[["Lane"], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`run` does it, and returns when it is over.

    `bound_seconds`: how long recovery may take. `deaths`: processes die in mid-attempt, or are taken for
    dead, so a second attempt may arrive; otherwise each event arrives at most once. `create_ms`: 99 of 100
    creates at the endpoint take no longer meanwhile. `times`: how often it strikes, in one run.
    """

    name: str
    doc: str
    run: Run
    bound_seconds: float
    lanes: tuple[str, ...]
    deaths: bool
    create_ms: float | None
    times: int


FAULTS: dict[str, Fault] = {}


def fault(
    bound_seconds: float,
    *,
    on: str = "",
    deaths: bool = False,
    create_ms: float | None = None,
    times: int = 1,
) -> Callable[[Run], Run]:
    """List a function, for the lanes with `on` in their name. Its docstring says what it does."""

    def enlist(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        doc = " ".join((run.__doc__ or "").split())
        lanes = tuple(lane for lane in ALL if on in lane)
        FAULTS[name] = Fault(name, doc, run, bound_seconds, lanes, deaths, create_ms, times)
        return run

    return enlist
