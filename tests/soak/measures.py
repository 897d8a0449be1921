"""What is judged, by how much it may rise, and the table of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.soak.judge import Level, Sample, level

# What the last quarter may have above the second, beside a tenth of it.
ALLOWANCES: Mapping[str, float] = {
    "memory MB": 8,
    "open files": 6,
    "connections": 4,
    "threads": 4,
    "database MB": 8,
    "database KB a trigger": 1,
    "dead rows": 20_000,  # until the vacuum comes by, each minute
    "queue": 100,
    "events behind": 50,
}
SHOWN_ONLY = ("database MB: all",)  # triggers and their history are never deleted, so this rises with them
Series = Mapping[str, Sequence[Sample]]


class Row(NamedTuple):
    """A line of the table; what is not `judged` is only shown."""

    name: str
    level: Level
    judged: bool

    @property
    def verdict(self) -> str:
        if not self.judged:
            return "-"
        return "level" if self.level.ok else "RISES"


def judge(series: Series, seconds: float) -> list[Row]:
    """Each series by the rule of `level`."""
    rows = []
    for name in sorted(series, key=order):
        held = level(series[name], seconds, ALLOWANCES[kind_of(name)])
        rows.append(Row(name, held, judged=name not in SHOWN_ONLY))
    return rows


def kind_of(name: str) -> str:
    """What is measured, without whose it is."""
    return name.partition(":")[0]


def order(name: str) -> tuple[int, str]:
    """As the kinds are listed above."""
    return list(ALLOWANCES).index(kind_of(name)), name


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the table."""
    yield f"{'measure':<36}{'2nd quarter':>12}{'last quarter':>14}{'at most':>10}  verdict"
    for row in rows:
        most = f"{row.level.most:.1f}" if row.judged else ""
        yield f"{row.name:<36}{row.level.settled:>12.1f}{row.level.last:>14.1f}{most:>10}  {row.verdict}"
