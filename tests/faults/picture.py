"""The picture of a run: every target in time, green and red, under the faults. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests import svg


class Fate(StrEnum):
    """What a mark says of its occurrence."""

    KEPT = "as promised"
    POLICY = "skipped or cancelled as ordered"
    LATE = "more than 1 s late, or again"
    WRONG = "a violation"


COLOURS = {Fate.KEPT: "#2e9e4f", Fate.POLICY: "#b9b9b9", Fate.LATE: "#f0a30a", Fate.WRONG: "#e00000"}
FAULT, RECOVERING, WITHIN, BEYOND = "#f3d3d8", "#e3e9f7", "#1f4fbf", "#e00000"
LEFT, RIGHT, ROW, STROKE = 130, 150, 15, 12  # pixels
HEAD, LABELS, FOOT = 62, 118, 48
NARROWEST, WIDEST, PIXELS_A_SECOND = 800, 4_000, 2.0
NAMED_ALIKE = re.compile(r"-\d+s?(-\d+)?$")  # http-2s, fresh-7, bad-123-4
GRID = (10, 30, 60, 120, 300, 600)  # seconds between two lines of it
LINES = 14  # at most


@dataclass(frozen=True, slots=True)
class Mark:
    """An occurrence, at `at` seconds: where it started, or where it should have."""

    trigger: str
    at: float
    fate: Fate


@dataclass(frozen=True, slots=True)
class Bar:
    """A fault, from `began` to `ended`; at `recovered` all was well again (None: never), in time or not."""

    name: str
    began: float
    ended: float
    recovered: float | None
    in_time: bool


def row_of(trigger: str) -> str:
    """The row that a trigger shares with those of its kind."""
    return NAMED_ALIKE.sub("", trigger)


def draw(title: str, seconds: float, marks: Sequence[Mark], bars: Sequence[Bar]) -> str:
    """The picture of a run that took so long, as SVG."""
    rows = sorted({row_of(mark.trigger) for mark in marks})
    plot = min(WIDEST, max(NARROWEST, PIXELS_A_SECOND * seconds))
    scale = plot / seconds
    top, bottom = HEAD + LABELS, HEAD + LABELS + ROW * len(rows)
    parts = [
        svg.text(12, 22, title, more="font-size='16' font-weight='bold'"),
        *legend(Counter(mark.fate for mark in marks)),
        *(part for bar in bars for part in shade(bar, scale, top, bottom)),
        *axis(seconds, scale, top, bottom),
        *(
            svg.text(LEFT - 8, top + ROW * number + 11, row, "end")
            for number, row in enumerate(rows)
        ),
        *strokes(marks, rows, scale, top),
    ]  # fmt: skip
    return svg.document(LEFT + plot + RIGHT, bottom + FOOT, parts)


def legend(counts: Counter[Fate]) -> Iterator[str]:
    """What the colours mean, and how many there are of each."""
    x = 12.0
    for fate, colour in COLOURS.items():
        words = f"{counts[fate]:,} {fate}"
        yield svg.rectangle(x, 35, 4, STROKE, colour)
        yield svg.text(x + 9, 45, words)
        x += 9 + 5.7 * len(words) + 18
    for colour, words in ((FAULT, "the fault"), (RECOVERING, "until all was well again")):
        yield svg.rectangle(x, 35, 14, STROKE, colour)
        yield svg.text(x + 19, 45, words)
        x += 19 + 5.7 * len(words) + 18


def shade(bar: Bar, scale: float, top: float, bottom: float) -> Iterator[str]:
    """A fault behind the rows, with its name above them, and the recovery that came after it."""
    x, end = LEFT + bar.began * scale, LEFT + bar.ended * scale
    yield svg.rectangle(x, top, max(2, end - x), bottom - top, FAULT)
    words = f"{bar.name}, never recovered"
    if bar.recovered is not None:
        well = LEFT + bar.recovered * scale
        yield svg.rectangle(end, top, well - end, bottom - top, RECOVERING)
        yield svg.line(well, top, well, bottom, WITHIN if bar.in_time else BEYOND, dashes="3 2")
        words = f"{bar.name} {bar.ended - bar.began:.0f} s, back in {bar.recovered - bar.ended:.1f} s"
    colour = "" if bar.in_time else f"fill='{BEYOND}'"
    yield svg.text((x + max(x + 2, end)) / 2 + 3, top - 5, words, turned=-33, more=f"font-size='11' {colour}")


def axis(seconds: float, scale: float, top: float, bottom: float) -> Iterator[str]:
    """Time, in minutes and seconds since the run began."""
    step = next((step for step in GRID if seconds / step <= LINES), GRID[-1])
    for at in range(0, int(seconds) + 1, step):
        x = LEFT + at * scale
        yield svg.line(x, top, x, bottom + 4, "#d0d0d0", 0.5)
        yield svg.text(x, bottom + 18, svg.clock(at), "middle")
    yield svg.text(
        LEFT + seconds * scale / 2, bottom + 38, "minutes and seconds since the run began", "middle"
    )


def strokes(marks: Iterable[Mark], rows: Sequence[str], scale: float, top: float) -> Iterator[str]:
    """The marks, one stroke for all that fall on a pixel of a row; what is worse is on top, and wider."""
    number = {row: at for at, row in enumerate(rows)}
    places: defaultdict[Fate, set[tuple[float, float]]] = defaultdict(set)
    for mark in marks:
        x = round(2 * (LEFT + mark.at * scale)) / 2
        places[mark.fate].add((x, top + ROW * number[row_of(mark.trigger)] + 1.5))
    for fate, colour in COLOURS.items():
        yield svg.ticks(sorted(places[fate]), STROKE, colour, 3 if fate is Fate.WRONG else 0.9)
