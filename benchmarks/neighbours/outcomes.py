"""The pure part: from marks to outcomes, from outcomes to ratios and tables."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BRIEF_SECONDS = 5.0  # with `--brief` who would take longer, by the rate at the count before, is left out


@dataclass(frozen=True)
class Outcome:
    """How many of `count` were done after so many seconds; not all of them when the time was up."""

    count: int
    done: int
    seconds: float

    @property
    def rate(self) -> float:
        """Done a second."""
        return self.done / self.seconds

    @property
    def cut(self) -> bool:
        """Whether the time was up before all were done."""
        return self.done < self.count


@dataclass(frozen=True)
class Must:
    """At `count` due at once, ours must be `times` as fast as the neighbour; `moonshot` times, one day."""

    ours: str
    count: int
    against: str
    times: float
    moonshot: float | None = None


LOG, LOG_AT_INFO, CELERY = "triggerbeat-log", "triggerbeat-log-at-info", "triggerbeat-celery"
MUST = (
    Must(LOG, 100_000, "redbeat", 30),
    Must(LOG, 100_000, "apscheduler", 15),
    Must(LOG, 100_000, "django-celery-beat", 1_000),
    Must(LOG, 100_000, "bullmq", 3),
    Must(LOG, 100_000, "graphile-worker-tuned", 0.5, 1),
    Must(CELERY, 10_000, "redbeat", 1, 3),
    Must(CELERY, 10_000, "django-celery-beat", 6),
)


def numbers_marked(marks: bytes) -> set[int]:
    """The different numbers in a file of marks, four bytes each; one that is half written does not count."""
    numbers = array.array("I", marks[: len(marks) // 4 * 4])
    if sys.byteorder == "big":
        numbers.byteswap()
    return set(numbers)


def middle(outcomes: Sequence[Outcome]) -> Outcome:
    """The median of some runs."""
    return sorted(outcomes, key=lambda one: one.rate)[len(outcomes) // 2]


def is_judged(name: str, count: int) -> bool:
    """Whether a bound of ours rests on this figure, so that it is worth a median."""
    return any(count == must.count and name in (must.against, must.ours) for must in MUST)


def row(name: str, title: str, outcomes: Sequence[Outcome], **more: Any) -> dict[str, Any]:
    """What the JSON line says of one neighbour, or of ours, at one count."""
    one = middle(outcomes)
    return {
        "name": name,
        "title": title,
        "count": one.count,
        "done": one.done,
        "seconds": round(one.seconds, 3),
        "per_second": round(one.rate, 1),
        "cut": one.cut,
        "all_runs": [round(each.rate, 1) for each in outcomes],
        **more,
    }


def ratios(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each bound, how many times as fast ours was; None when one of the two was not measured."""
    rates = {(row["name"], row["count"]): float(row["per_second"]) for row in rows}
    found = []
    for must in MUST:
        ours, theirs = rates.get((must.ours, must.count)), rates.get((must.against, must.count))
        # A neighbour that did nothing at all until the cut is not infinitely slow, but slower than one event.
        ratio = None if ours is None or theirs is None else ours / max(theirs, 1 / 60)
        found.append(
            {
                "ours": must.ours,
                "count": must.count,
                "against": must.against,
                "ratio": None if ratio is None else round(ratio, 3),
                "must_reach": must.times,
                "moonshot": must.moonshot,
                "met": None if ratio is None else ratio >= must.times,
            }
        )
    return found


def table_rows(
    rows: Sequence[Mapping[str, Any]], missing: Mapping[str, str], counts: Sequence[int]
) -> list[list[str]]:
    """Title, then done a second at each count: `9.1 (cut)` when not all were; `-` when not measured."""
    titles = {row["name"]: row["title"] for row in rows}
    cells = {(row["name"], row["count"]): shown(row) for row in rows}
    found = [[titles[name], *(cells.get((name, count), "-") for count in counts)] for name in titles]
    return found + [[name, *("not measured" for _ in counts)] for name in missing if name not in titles]


def shown(row: Mapping[str, Any]) -> str:
    """A rate with as many digits as mean something."""
    rate = float(row["per_second"])
    figure = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
    return f"{figure} (cut)" if row["cut"] else figure
