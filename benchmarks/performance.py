"""Writes the figures of a run into docs/performance.md, and redraws its plots.

    python -m benchmarks.performance [PRINTED]

`make bench` leaves the JSON lines of its measures in benchmarks/results.json; what stands between the
markers of the document, and the plots, are made from them and from nothing else. A figure that is missing
there is called not measured. PRINTED is a file with what a measure printed: that takes the place of what the
results have of this measure.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bounds import Judged, Line, figure, judged
from benchmarks.neighbours.outcomes import BRIEF_SECONDS, CELERY, LOG, shown, table_rows
from benchmarks.svg import Bar, bars

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
DOCUMENT = ROOT / "docs" / "performance.md"
PLOTS = "plots"
NOTHING = "Not measured yet: `make bench` fills this in."


@dataclass(frozen=True)
class Columns:
    """Which figures of a measure's JSON lines make its table."""

    benchmark: str
    columns: tuple[tuple[str, tuple[str, ...]], ...]


TABLES = (
    Columns("burst", (
        ("database", ("database",)), ("events", ("count",)), ("events/s", ("events_per_second",)),
        ("seconds", ("seconds",)), ("the tick alone, s", ("tick_seconds",)),
        ("bulk load, s", ("floor_seconds",)), ("times bulk load", ("times_floor",)),
    )),
    Columns("celery_tasks", (
        ("database", ("database",)), ("workers", ("workers",)), ("events", ("count",)),
        ("events/s", ("events_per_second",)), ("plain Celery/s", ("plain_messages_per_second",)),
        ("plain, queued before/s", ("plain_messages_per_second_queued_before",)),
    )),
    Columns("http_deliveries", (
        ("database", ("database",)), ("deliveries", ("count",)), ("deliveries/s", ("deliveries_per_second",)),
        ("aiohttp alone/s", ("aiohttp_per_second",)), ("share", ("share",)),
    )),
    Columns("idle_tick", (
        ("database", ("database",)), ("stored", ("stored",)), ("median ms", ("median_ms",)),
        ("worst ms", ("worst_ms",)), ("times the first", ("times_first",)),
        ("one-row transaction ms", ("one_row_transaction_ms",)),
    )),
    Columns("lateness", (
        ("database", ("database",)), ("case", ("case",)), ("starts", ("starts",)), ("p50 ms", ("p50_ms",)),
        ("p99 ms", ("p99_ms",)), ("max ms", ("max_ms",)), ("early", ("early",)),
        ("a sleep's p99 ms", ("sleep_p99_ms",)),
        ("the disk's worst ms", ("disk_max_ms",)),
    )),
    Columns("create", (
        ("database", ("database",)), ("one by one/s", ("one_by_one", "per_second")),
        ("in bulk/s", ("in_bulk", "per_second")), ("bulk load/s", ("floor_per_second",)),
    )),
    Columns("isolation", (
        ("database", ("database",)), ("beside", ("case",)), ("starts", ("starts",)), ("p50 ms", ("p50_ms",)),
        ("p99 ms", ("p99_ms",)), ("max ms", ("max_ms",)), ("not started", ("never",)),
        ("created beside it, p50 ms", ("created_p50_ms",)), ("max ms", ("created_max_ms",)),
    )),
)  # fmt: skip


def blocks(lines: Sequence[Line], failed: Mapping[str, str]) -> dict[str, str]:
    """What stands between the markers, by their names."""
    found = {"conditions": conditions(lines), "bounds": bounds(judged(lines)), "missing": missing(failed)}
    for one in TABLES:
        found[one.benchmark] = figures(one, lines)
    found["memory"] = memory(lines)
    found["neighbours"] = neighbours(lines)
    return found


def conditions(lines: Sequence[Line]) -> str:
    """The machine, the versions and the durability settings."""
    of = next((line for line in lines if "machine" in line), None)
    if of is None:
        return NOTHING
    machine, dates = of["machine"], sorted(str(line["at"]) for line in lines if "at" in line)
    memory = f"{machine['cores']} cores, {machine['memory_gb']} GB"
    loads = [line["load_average"][0] for line in lines if "load_average" in line]
    said = [
        f"{machine['processor'] or 'processor not named'}, {memory}; {machine['system']}",
        ", ".join(f"{name} {version}" for name, version in of["versions"].items()),
        *sorted({told(line["durability"]) for line in lines if line.get("durability")}),
        f"{dates[0]} to {dates[-1]}; the load average of the minute before the end of each measure was "
        f"{min(loads):.1f} to {max(loads):.1f}, its own load included",
    ]
    return "\n".join(f"- {one}" for one in said)


def told(durability: Mapping[str, str]) -> str:
    """Settings in one line."""
    return ", ".join(f"`{name}` {value}" for name, value in durability.items())


def bounds(found: Sequence[Judged]) -> str:
    """All that must be reached, and a sentence on how much of it is."""
    rows = [
        [
            one.what,
            one.bound.unit,
            "not measured" if one.found is None else number(one.found),
            limit(one.bound.must, one.bound.at_most),
            "" if one.bound.moonshot is None else limit(one.bound.moonshot, one.bound.at_most),
            {True: "yes", False: "**no**", None: ""}[one.met],
        ]
        for one in found
    ]
    measured = [one for one in found if one.met is not None]
    failing = [one.what for one in measured if not one.met]
    sentence = (
        f"Of {len(found)} bounds {len(measured)} were measured, and {len(measured) - len(failing)} met."
    )
    if failing:
        sentence += " Not met: " + "; ".join(failing) + "."
    return f"{markdown(['measure', 'in', 'found', 'must', 'moonshot', 'met'], rows)}\n\n{sentence}"


def limit(value: float, at_most: bool) -> str:
    """A bound as it is read."""
    return f"at most {number(value)}" if at_most else f"{number(value)}"


def figures(one: Columns, lines: Sequence[Line]) -> str:
    """The table of one measure."""
    its = [line for line in lines if line["benchmark"] == one.benchmark]
    if not its:
        return NOTHING
    rows = [[cell(line, path) for _, path in one.columns] for line in its]
    return markdown([header for header, _ in one.columns], rows)


def cell(line: Line, path: tuple[str, ...]) -> str:
    """A name as it is, a number with the digits that mean something."""
    if isinstance(line.get(path[0]), str):
        return str(line[path[0]])
    found = figure(line, path)
    return "" if found is None else number(found)


def memory(lines: Sequence[Line]) -> str:
    """The processes of each line."""
    rows = [
        [
            f"{line['database']}, {process}",
            *(number(one[name]) for name in ("pss_mb", "rss_mb", "peak_rss_mb")),
        ]
        for line in lines
        if line["benchmark"] == "memory"
        for process, one in line["processes"].items()
    ]
    return markdown(["process", "PSS MB", "RSS MB", "peak RSS MB"], rows) if rows else NOTHING


def neighbours(lines: Sequence[Line]) -> str:
    """The table beside the neighbours, the plots, and who is missing."""
    line = next((line for line in lines if line["benchmark"] == "neighbours"), None)
    if line is None:
        return NOTHING
    counts = line["counts"]
    headers = ["due at one instant, done a second", *(f"{count:,}" for count in counts)]
    said = [markdown(headers, table_rows(line["rows"], line["missing"], counts))]
    brief = line.get("brief_cut_seconds")
    sooner = f", or after {brief:g} where no bound rests on it" if brief else ""
    said.append(
        f"`(cut)`: not all had run after {line['cut_seconds']:g} s{sooner}; what had, a second. "
        "`-`: not measured; `make bench` leaves out who by its rate at the one before would take "
        f"more than {BRIEF_SECONDS:g} seconds, unless a bound needs it."
    )
    said += [f"{name}: {reason}" for name, reason in line["missing"].items()]
    said += [f"![{alt}]({PLOTS}/{name})" for name, (alt, _) in plots(lines).items()]
    return "\n\n".join(said)


def plots(lines: Sequence[Line]) -> dict[str, tuple[str, str]]:
    """File names, what each shows in words, and the SVG."""
    rows: Sequence[Mapping[str, Any]] = next(
        (line["rows"] for line in lines if line["benchmark"] == "neighbours"), []
    )
    found = {}
    for name, count, ours, only_celery in (
        ("all-at-once.svg", 100_000, LOG, False),
        ("celery-tasks.svg", 10_000, CELERY, True),
    ):
        its = [row for row in rows if row["count"] == count and is_drawn(row, ours, only_celery)]
        if its:
            alt = f"{count:,} no-ops due at one instant, done a second"
            drawn = [
                Bar(row["title"].replace("`", ""), float(row["per_second"]), row["name"] == ours, note(row))
                for row in its
            ]
            found[name] = (alt, bars(alt, "done a second", drawn))
    return found


def is_drawn(row: Mapping[str, Any], ours: str, only_celery: bool) -> bool:
    """Ours in this way, and the neighbours that run the same."""
    if row["name"].startswith("triggerbeat"):
        return bool(row["name"] == ours)
    return not only_celery or any(package.startswith("celery") for package in row["packages"])


def note(row: Mapping[str, Any]) -> str:
    """Whether it was cut."""
    return "(cut)" if "cut" in shown(row) else ""


def missing(failed: Mapping[str, str]) -> str:
    """Measures that did not come to an end."""
    if not failed:
        return ""
    return "\n".join(f"- `{name}` failed: {reason}" for name, reason in failed.items())


def number(value: float) -> str:
    """As many digits as mean something."""
    if value == int(value) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a bar inside a cell would end it."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def replaced(document: str, found: Mapping[str, str]) -> str:
    """The document with each block between its markers; ValueError when one of the two is missing."""
    names = re.findall(r"<!-- begin:(\S+) -->", document)
    if sorted(names) != sorted(found):
        raise ValueError(f"markers {sorted(names)}, blocks {sorted(found)}")
    for name, block in found.items():
        begin, end = f"<!-- begin:{name} -->", f"<!-- end:{name} -->"
        before, _, rest = document.partition(begin)
        _, closed, after = rest.partition(end)
        if not closed:
            raise ValueError(f"{begin} has no {end}")
        document = f"{before}{begin}\n{block}\n{end}{after}"
    return document


def kept(printed: str, failed: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, Any]:
    """The results after a run: its lines instead of earlier ones of the same measures."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    anew = {line["benchmark"] for line in lines} | set(failed)
    others = [line for line in before.get("lines", []) if line["benchmark"] not in anew]
    ended = {name: reason for name, reason in before.get("failed", {}).items() if name not in anew}
    return {"lines": [*others, *lines], "failed": {**ended, **failed}}


def read(results: Path = RESULTS) -> dict[str, Any]:
    """The results so far; none at first."""
    found: dict[str, Any] = {"lines": [], "failed": {}}
    return {**found, **json.loads(results.read_text())} if results.exists() else found


def keep(found: Mapping[str, Any], results: Path = RESULTS) -> None:
    """Write the results, in lines that a diff can show."""
    results.write_text(json.dumps(found, indent=1) + "\n")


def redraw(results: Path = RESULTS, document: Path = DOCUMENT) -> None:
    """Read the results, and write the document and its plots."""
    found = read(results)
    document.write_text(replaced(document.read_text(), blocks(found["lines"], found["failed"])))
    for name, (_, svg) in plots(found["lines"]).items():
        (document.parent / PLOTS).mkdir(exist_ok=True)
        (document.parent / PLOTS / name).write_text(svg)


def main(arguments: list[str] | None = None) -> None:
    """Take in what a measure printed, if it is given, and draw."""
    parser = argparse.ArgumentParser(prog="benchmarks.performance", description="draw docs/performance.md")
    parser.add_argument("printed", nargs="?", type=Path, help="a file with what a measure printed")
    options = parser.parse_args(arguments)
    if options.printed:
        keep(kept(options.printed.read_text(), {}, read()))
    redraw()


if __name__ == "__main__":
    main()
