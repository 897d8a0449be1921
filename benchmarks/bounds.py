"""What has to be reached, and whether a run of all measures reached it. Pure: from JSON lines to rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.neighbours.outcomes import MUST

Line = Mapping[str, Any]
Path = tuple[str, ...]


@dataclass(frozen=True)
class Bound:
    """A figure of a measure, at `path` in those of its JSON lines that are as `where` says."""

    what: str  # names of the line's own figures are filled in
    benchmark: str
    path: Path
    must: float
    moonshot: float | None = None
    unit: str = ""
    at_most: bool = False
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """A bound, and what was found; None when that was not measured."""

    bound: Bound
    what: str
    found: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is reached."""
        if self.found is None:
            return None
        return self.found <= self.bound.must if self.bound.at_most else self.found >= self.bound.must


LATE = "starts, {triggers:,} occurrences spread over a minute, {case}, {database}"
SECONDS, INSTANTS = {"case": "seconds"}, {"case": "instants"}
CREATE = "create over HTTP {way}, {database}"
MEMORY = "resident memory of {process}, {database}"
IDLE = "idle tick, {stored:,} stored, {database}"
UNMEASURED_MEMORY = (
    ("beat", 90),
    ("a worker child at rest", 120),
    ("the process that ticks 100,000 due", 250),
)
MILLION_STORED = 1_000_000
BURST_MUST = {"postgresql": 15_000, "sqlite": 40_000}  # a second; PostgreSQL's stands in ratios below

BOUNDS = (
    Bound("{count:,} `log` events at once, against COPY of the same rows", "burst", ("times_floor",),
          20, 10, "times as long", True, {"database": "postgresql"}),
    Bound("{count:,} `log` events at once, SQLite", "burst", ("events_per_second",),
          BURST_MUST["sqlite"], 100_000, "a second", where={"database": "sqlite"}),
    Bound("{count:,} HTTP deliveries at once, against aiohttp alone, {database}",
          "http_deliveries", ("share",), 0.4, 0.6, "of its rate"),
    Bound(IDLE, "idle_tick", ("median_ms",), 5, 1, "ms", True),
    Bound(f"{IDLE}, against the first", "idle_tick", ("times_first",), 3, None, "times as long", True),
    Bound(f"{LATE}, half of them", "lateness", ("p50_ms",), 10, None, "ms", True, SECONDS),
    Bound(f"{LATE}, 99 of 100", "lateness", ("p99_ms",), 40, 10, "ms", True, SECONDS),
    Bound(f"{LATE}, half of them", "lateness", ("p50_ms",), 20, None, "ms", True, INSTANTS),
    Bound(f"{LATE}, 99 of 100", "lateness", ("p99_ms",), 60, 20, "ms", True, INSTANTS),
    Bound(f"{LATE}, early", "lateness", ("early",), 0, None, "starts", True, SECONDS),
    Bound(f"{LATE}, early", "lateness", ("early",), 0, None, "starts", True, INSTANTS),
    *(Bound("starts, {case} a second, each at an instant of its own, {database}, 99 of 100", "lateness",
            ("p99_ms",), 100, None, "ms", True, {"case": rate}) for rate in ("1", "100", "1000")),
    Bound(CREATE.replace("{way}", "in bulk"), "create", ("in_bulk", "per_second"), 8_000, 20_000, "a second"),
    Bound(CREATE.replace("{way}", "one by one"), "create", ("one_by_one", "per_second"),
          1_000, 2_000, "a second"),
    Bound("everybody else's starts beside a noisy trigger ({case}), 99 of 100, {database}", "isolation",
          ("p99_ms",), 100, None, "ms", True),
    Bound("the latest start of what is created beside one ({case}), due at once, {database}", "isolation",
          ("created_max_ms",), 1_000, None, "ms", True),
)  # fmt: skip


def judged(lines: Sequence[Line]) -> list[Judged]:
    """Every bound: against the neighbours, of the measures, of memory."""
    found = [*against_neighbours(lines)]
    for bound in BOUNDS:
        its = [line for line in lines if is_of(bound, line)]
        found += [Judged(bound, filled(bound.what, line), figure(line, bound.path)) for line in its]
        found += [] if its else [Judged(bound, without_names(filled_case(bound.what, bound.where)), None)]
    return [*found, *of_memory(lines)]


def against_neighbours(lines: Sequence[Line]) -> Iterator[Judged]:
    """How many times as fast ours is, from the line of `benchmarks.neighbours`."""
    measured: dict[tuple[str, int, str], float | None] = {
        (one["ours"], one["count"], one["against"]): one["ratio"]
        for line in lines
        if line["benchmark"] == "neighbours"
        for one in line["ratios"]
    }
    for must in MUST:
        target = must.ours.removeprefix("triggerbeat-")
        what = f"{must.count:,} `{target}` events at once, PostgreSQL, against {must.against}"
        bound = Bound(what, "neighbours", (), must.times, must.moonshot, "times as fast")
        yield Judged(bound, what, measured.get((must.ours, must.count, must.against)))


def of_memory(lines: Sequence[Line]) -> Iterator[Judged]:
    """The processes that have a bound, which their line names itself."""
    its = [line for line in lines if line["benchmark"] == "memory"]
    for line in its:
        for process, one in line["processes"].items():
            if one["must_stay_under_mb"] is not None:
                what = MEMORY.format(process=process, database=line["database"])
                bound = Bound(what, "memory", (), one["must_stay_under_mb"], None, "MB", True)
                # What is shared counts in part at rest; a burst's peak is only known with all of it.
                yield Judged(bound, what, one["peak_rss_mb" if "burst" in process else "rss_mb"])
    for process, most in () if its else UNMEASURED_MEMORY:
        what = MEMORY.partition(",")[0].format(process=process)
        yield Judged(Bound(what, "memory", (), most, None, "MB", True), what, None)


def is_of(bound: Bound, line: Line) -> bool:
    """Whether a line has this bound's figure. An idle tick counts where a million and more are stored."""
    if line["benchmark"] != bound.benchmark or line.get("stored", MILLION_STORED) < MILLION_STORED:
        return False
    if line.get("case") == "alone":
        return False  # the quiet case beside which the noisy ones are seen
    return all(line.get(name) == value for name, value in bound.where.items())


def figure(line: Line, path: Path) -> float | None:
    """What stands at a path of a line; None when nothing does."""
    found: Any = line
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return None if found is None else float(found)


def filled(what: str, line: Line) -> str:
    """The line's own names and numbers put in."""
    return filled_case(what, line).format_map(line)


def filled_case(what: str, line: Line) -> str:
    """The name of the case put in, in words."""
    case = line.get("case")
    words = {"seconds": "whole seconds", "instants": "instants of their own"}
    return what.replace("{case}", words.get(case, str(case))) if case else what


def without_names(what: str) -> str:
    """What is left when nothing was measured that could be put in."""
    for name in (
        "{count:,} ",
        ", {database}",
        "{triggers:,} ",
        ", {case}",
        " ({case})",
        ", {stored:,} stored",
    ):
        what = what.replace(name, "")
    return what
