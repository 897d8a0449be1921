"""How long the next occurrence takes, beside cronsim and croniter, in one run.

    python -m benchmarks.next_occurrence

Prints a table (median, 99th percentile and maximum in microseconds over 1,000 pairs of expression
and zone) and one line of JSON. Each pair is asked about an instant of its own, three times, each time
by a new object, and the quickest counts. No answer is remembered.

What is known beforehand differs by line. `next`: the zone; its file is read, and ours has found its
changes near the question. `next, nothing warm`: the zone's file alone, and each question is asked once.
`first use of a zone`: nothing; the question includes reading the zone's file, as it does once in the life
of a process.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import perf_counter_ns
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter
from cronsim import CronSim

from benchmarks.harness import report
from triggers.cron import parse_cron
from triggers.rules import CronRule
from triggers.zones import zone

PAIRS = 1_000
ROUNDS = 3  # of which the quickest counts, or the maximum is that of a busy machine
SEED = 20_261_120
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Asia/Tokyo",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "America/Santiago",
)
MIXED = (
    "* * * * *",
    "*/5 * * * *",
    "*/15 9-17 * * 1-5",
    "0 * * * *",
    "0 9 * * 1-5",
    "30 2 * * *",
    "0 0 * * *",
    "0 0 1 * *",
    "15,45 6,18 * * *",
    "0 22 * * 0",
    "0 12 13 * 5",
    "5 4 * * 7",
    "0 0 1 1 *",
    "10 3 1 */3 *",
    "59 23 31 * *",
)
LEAP_DAY = ("0 0 29 2 *", "30 12 29 2 *", "*/10 6 29 2 *")

Line = tuple[str, str, list[float]]
Ask = Callable[[str, str, datetime], Callable[[], Any]]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; it has no options but `--help`."""
    argparse.ArgumentParser(prog="benchmarks.next_occurrence", description="the next instant").parse_args(
        arguments
    )
    chance = random.Random(SEED)
    instants = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.randrange(4 * 365 * 86_400))
                for _ in range(PAIRS)]  # fmt: skip
    lines: list[Line] = []
    for label, expressions in (("mixed", MIXED), ("29 February", LEAP_DAY)):
        pairs = [(chance.choice(expressions), chance.choice(ZONES), instant) for instant in instants]
        lines += [(f"next, {label}", name, _timed(ask, pairs)) for name, ask in ENGINES.items()]
        lines += [(f"parse, {label}", name, _timed(read, pairs)) for name, read in PARSERS.items()]
    pairs = [(chance.choice(MIXED), chance.choice(ZONES), instant) for instant in instants]
    lines += [("next, nothing warm", name, _cold(ask, pairs)) for name, ask in ENGINES.items()]
    pairs = [(text, name, instant) for text, name, instant in pairs if name != "UTC"]
    lines += [("first use of a zone", name, _first(ask, pairs)) for name, ask in ENGINES.items()]
    _print(lines)


def _timed(prepare: Ask, pairs: list[tuple[str, str, datetime]]) -> list[float]:
    """Microseconds of each question; the zones are loaded by a first round that is not counted."""
    for pair in pairs:
        prepare(*pair)()
    return [min(_once(prepare(*pair)) for _ in range(ROUNDS)) for pair in pairs]


def _cold(prepare: Ask, pairs: list[tuple[str, str, datetime]]) -> list[float]:
    """Microseconds of each question, asked once by an engine that has heard none before."""
    rounds = []
    for _ in range(ROUNDS):
        zone.cache_clear()
        rounds.append([_once(question) for question in [prepare(*pair) for pair in pairs]])
    return [min(times) for times in zip(*rounds, strict=True)]


def _first(ask: Ask, pairs: list[tuple[str, str, datetime]]) -> list[float]:
    """Microseconds of each question together with its preparation, in a process that knows no zone."""
    return [min(_once_unread(ask, pair) for _ in range(ROUNDS)) for pair in pairs]


def _once_unread(ask: Ask, pair: tuple[str, str, datetime]) -> float:
    zone.cache_clear()
    ZoneInfo.clear_cache()
    return _once(lambda: ask(*pair)())


def _once(question: Callable[[], Any]) -> float:
    begun = perf_counter_ns()
    question()
    return (perf_counter_ns() - begun) / 1_000


def _ours(text: str, name: str, instant: datetime) -> Callable[[], Any]:
    rule = CronRule(parse_cron(text), zone(name))
    return lambda: rule.after(instant)


def _cronsim(text: str, name: str, instant: datetime) -> Callable[[], Any]:
    return CronSim(text, instant.astimezone(ZoneInfo(name))).__next__


def _croniter(text: str, name: str, instant: datetime) -> Callable[[], Any]:
    iterator = croniter(text, instant.astimezone(ZoneInfo(name)))
    return lambda: iterator.get_next(datetime)


ENGINES: dict[str, Ask] = {"triggerbeat": _ours, "cronsim": _cronsim, "croniter": _croniter}
PARSERS: dict[str, Ask] = {
    "triggerbeat": lambda text, _name, _instant: lambda: parse_cron(text),
    "cronsim": lambda text, _name, instant: lambda: CronSim(text, instant),
    "croniter": lambda text, _name, instant: lambda: croniter(text, instant),
}


def _print(lines: list[Line]) -> None:
    print(f"{'':<20}{'':<13}{'median':>10}{'p99':>10}{'max':>10}   microseconds, {PAIRS:,} pairs")
    figures = []
    for question, name, times in lines:
        ordered = sorted(times)
        row = (statistics.median(ordered), ordered[len(ordered) * 99 // 100], ordered[-1])
        print(f"{question:<20}{name:<13}" + "".join(f"{value:>10.1f}" for value in row))
        figures.append({"question": question, "engine": name, "median_us": row[0], "p99_us": row[1],
                        "max_us": row[2]})  # fmt: skip
    report("next_occurrence", {"pairs": PAIRS, "lines": figures}, {})  # no database takes part


if __name__ == "__main__":
    main()
