"""Where the time of a burst goes: a picture of the worker's threads while it plans and delivers 100,000.

    python -m benchmarks.flames [--count 100000] [--database postgresql] [--picture FILE]

The worker of `benchmarks.burst`, looked at 250 times a second by py-spy, which is installed into an
environment of its own. Only stacks with code of ours in them count; waiting for the database counts, too,
waiting for something to do does not.
Beside the table stands what the database's own processes took, which no profile of the worker can see.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path

from benchmarks import stored
from benchmarks.burst import WARM_UP, burst, prepare, run
from benchmarks.harness import DATABASES, ROOT, cpu_seconds, report, site, table
from benchmarks.neighbours.environments import CACHE, install
from benchmarks.svg import opened

PY_SPY = "py-spy==0.4.3"
LOOKS = 250  # a second
OURS = ("triggers/", "models/", "celery_config/")
FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^:)]*)(?::\d+)?\)$")
IDLE = ("threading", "selectors")  # where a thread waits for work
BETWEEN = ("contextlib", "<string>")  # of no interest
WAITING = "waits for the database"
WAITS = {("psycopg/connection.py", "wait"), ("models/database.py", "wait")}
SHOWN = 24  # of the table
WIDTH, HEIGHT, LEAST = 1_000, 18, 0.002  # of a picture, of a row, and of all samples to be drawn

Stack = tuple[str, ...]


def stacks(raw: Iterable[str]) -> Counter[Stack]:
    """Samples by stack, from the first frame of ours on; a library is one frame, however deep it goes."""
    found: Counter[Stack] = Counter()
    for line in raw:
        frames, _, samples = line.rpartition(" ")
        if stack := folded(frames.split(";")):
            found[stack] += int(samples)
    return found


def folded(frames: Iterable[str]) -> Stack:
    """One stack, from what the threads are there for on; nothing, if it has nothing to do."""
    shown: list[str] = []
    for frame in frames:
        match = FRAME.match(frame)
        if match is None:
            continue
        function, file = match["function"], match["file"]
        if any(file.endswith(name) and function.endswith(what) for name, what in WAITS):
            return (*shown, WAITING)
        if file.startswith(OURS if shown else OURS[0]):
            shown.append(f"{function} ({Path(file).name})")
        elif shown and (library := file.partition("/")[0].removesuffix(".py")) not in (shown[-1], *BETWEEN):
            shown.append(library)
    return tuple(shown) if shown and shown[-1] not in IDLE else ()


def inclusive(found: Mapping[Stack, int]) -> Counter[str]:
    """Samples in which a frame was somewhere on the stack."""
    counted: Counter[str] = Counter()
    for stack, samples in found.items():
        for frame in set(stack):
            counted[frame] += samples
    return counted


def flames(title: str, found: Mapping[Stack, int]) -> str:
    """An SVG document: who calls stands below, how wide a frame is says how often it was seen."""
    every = sum(found.values())
    rows = max(map(len, found)) + 1
    boxes = list(frames_of(found, 0, 0))
    height = HEIGHT * rows + 40
    parts = opened(title, WIDTH, height, 11)
    for name, level, first, samples in boxes:
        if samples < LEAST * every:
            continue
        x, width = WIDTH * first / every, WIDTH * samples / every
        y = height - HEIGHT * (level + 1)
        share = f"{name}: {samples / every:.1%}"
        parts.append(
            f'<g><title>{escape(share)}</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.3):.1f}" '
            f'height="{HEIGHT - 1}" fill="{colour(name)}"/>'
        )
        if (letters := int(width / 6.2)) >= 4:
            parts.append(f'<text x="{x + 3:.1f}" y="{y + 13}">{escape(name[:letters])}</text>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def frames_of(found: Mapping[Stack, int], level: int, first: int) -> Iterator[tuple[str, int, int, int]]:
    """Each frame with its level, the samples to its left, and its own; a caller before what it calls."""
    callers: dict[str, Counter[Stack]] = {}
    for stack, samples in found.items():
        if stack:
            callers.setdefault(stack[0], Counter())[stack[1:]] += samples
    for name in sorted(callers):
        samples = callers[name].total()
        yield name, level, first, samples
        yield from frames_of(callers[name], level + 1, first)
        first += samples


def colour(name: str) -> str:
    """Ours, the wait, and libraries."""
    if name == WAITING:
        return "#8fb8de"
    return "#7cc6a4" if name.endswith(".py)") else "#e4d5b7"


@contextmanager
def looked_at(pid: int, directory: Path) -> Iterator[list[str]]:
    """The stacks of a process meanwhile; there when the block has ended."""
    tools = CACHE / "py-spy"
    if not (tools / "bin" / "py-spy").exists():
        install(tools, [PY_SPY])
    raw = directory / "stacks.txt"
    options = ["--pid", str(pid), "--rate", str(LOOKS), "--idle", "--format", "raw"]
    command = [str(tools / "bin" / "py-spy"), "record", *options, "--duration", "600", "--output", str(raw)]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
        try:
            yield lines
        finally:
            spy.send_signal(signal.SIGINT)
            spy.wait(60)
    lines += raw.read_text().splitlines()


def measure(kind: str, count: int, picture: Path) -> None:
    """One burst; prints the JSON line and the table, and draws."""
    with site(kind) as place:
        worker = place.start_worker()
        burst(place, min(WARM_UP, count), stored.LOG)
        due = prepare(place, count, stored.LOG)
        processes = {"worker": worker} | ({"database": place.postgres.process} if place.postgres else {})
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        with looked_at(worker.pid, place.directory) as lines:
            ours = run(place, count, due)
            cpu = {name: cpu_seconds(process) - before[name] for name, process in processes.items()}
        found = stacks(lines)
        assert found, "py-spy saw nothing of ours: may it look into other processes here?"
        us = {name: seconds / count * 1e6 for name, seconds in cpu.items()}
        every = found.total()
        shares = {name: samples / every for name, samples in inclusive(found).most_common(SHOWN)}
        figures = {
            "database": kind,
            "count": count,
            "events_per_second": ours.rate,
            "seconds": ours.last_finish,
        }
        report("flames", figures | {"cpu_us_per_event": us, "shares": shares}, place.durability())
    taken = ", ".join(f"{name} {value:.0f} us" for name, value in us.items())
    title = f"{count:,} `log` events at once, {kind}: {ours.rate:,.0f}/s; processor time an event: {taken}"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(flames(title, found))
    table(
        title, ["frame", "on the stack in % of samples"], [[name, 100 * one] for name, one in shares.items()]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="benchmarks.flames", description="where the time of a burst goes")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--database", choices=DATABASES, default=DATABASES[0])
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "plots" / "burst-flames.svg")
    options = parser.parse_args(arguments)
    measure(options.database, options.count, options.picture)


if __name__ == "__main__":
    main()
