"""Whether what was measured is level. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

GROWTH = 0.10  # of the median of the second quarter, that of the last may lie above it; beside the allowance
QUARTERS = 4
FEWEST = 4  # samples in a quarter


class Sample(NamedTuple):
    """`at` is seconds since the beginning."""

    at: float
    value: float


@dataclass(frozen=True, slots=True)
class Level:
    """What is held against what. `settled` and `last` are medians; `most` is what `last` may be."""

    settled: float
    last: float
    most: float

    @property
    def ok(self) -> bool:
        return self.last <= self.most


def level(samples: Sequence[Sample], seconds: float, allowance: float) -> Level:
    """Hold the last quarter of a run that took `seconds` against the second; the first is the warm-up.

    Level is what has in the last quarter a median of at most 10 % and `allowance` above that of the second.
    Medians, so that what rises and is cleared away again within a quarter is level. Raises ValueError when
    there are too few samples to tell.
    """
    second, last = (quarter(samples, seconds, number) for number in (1, QUARTERS - 1))
    if min(len(second), len(last)) < FEWEST:
        raise ValueError(f"{len(second)} and {len(last)} samples in a quarter; {FEWEST} are needed")
    settled = median(second)
    return Level(settled, median(last), settled * (1 + GROWTH) + allowance)


def quarter(samples: Sequence[Sample], seconds: float, number: int) -> list[float]:
    """What was measured in a quarter, from 0."""
    low, high = seconds * number / QUARTERS, seconds * (number + 1) / QUARTERS
    return [sample.value for sample in samples if low <= sample.at < high]
