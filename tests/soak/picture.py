"""The picture of a soak: a panel for each kind of measure, a line for each series. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests import svg
from tests.soak.judge import QUARTERS, Sample
from tests.soak.measures import ALLOWANCES, Series, kind_of

COLOURS = ("#1f4fbf", "#e07b00", "#2e9e4f", "#b3202c", "#7a3fb0", "#6b5344", "#d04f9a", "#555555", "#1aa5a5")
WARM_UP = "#f2efe4"
WIDTH, HEIGHT, NAMES, GAP, LEFT, TOP = 470, 130, 190, 62, 64, 70  # pixels of a panel, and around it
COLUMNS = 2
STEPS = 4  # of the scale


def draw(title: str, seconds: float, series: Series) -> str:
    """The picture of a run that took so long, as SVG."""
    kinds = [kind for kind in ALLOWANCES if any(kind_of(name) == kind for name in series)]
    parts = [
        svg.text(12, 24, title, more="font-size='16' font-weight='bold'"),
        svg.rectangle(12, 36, 14, 12, WARM_UP),
        svg.text(32, 46, "the warm-up; a dashed line ends each quarter, the last is held against the second"),
    ]
    for number, kind in enumerate(kinds):
        x = LEFT + (number % COLUMNS) * (WIDTH + NAMES + LEFT)
        y = TOP + 16 + (number // COLUMNS) * (HEIGHT + GAP)
        chosen = {name: series[name] for name in sorted(series) if kind_of(name) == kind}
        parts += panel(kind, chosen, seconds, x, y)
    lines = -(-len(kinds) // COLUMNS)
    return svg.document(
        COLUMNS * (LEFT + WIDTH + NAMES), TOP + 16 + lines * (HEIGHT + GAP), parts
    )  # fmt: skip


def panel(kind: str, series: Series, seconds: float, x: float, y: float) -> Iterator[str]:
    """One kind of measure, from zero to its highest."""
    highest = max((sample.value for samples in series.values() for sample in samples), default=0) or 1
    yield svg.text(x, y - 8, kind, more="font-weight='bold'")
    yield svg.rectangle(x, y, WIDTH / QUARTERS, HEIGHT, WARM_UP)
    for step in range(STEPS + 1):
        at = y + HEIGHT * (1 - step / STEPS)
        yield svg.line(x, at, x + WIDTH, at, "#dddddd", 0.7)
        yield svg.text(x - 6, at + 4, short(highest * step / STEPS), "end", more="font-size='10'")
    for number in range(QUARTERS + 1):
        at = x + WIDTH * number / QUARTERS
        yield svg.line(at, y, at, y + HEIGHT, "#aaaaaa", 0.7, "3 3")
        yield svg.text(
            at, y + HEIGHT + 15, svg.clock(seconds * number / QUARTERS), "middle", more="font-size='10'"
        )
    for number, (name, samples) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        yield svg.polyline(places(samples, seconds, highest, x, y), colour)
        at = y + 10 + 14 * number
        yield svg.rectangle(x + WIDTH + 10, at - 6, 10, 4, colour)
        yield svg.text(x + WIDTH + 25, at, name.partition(": ")[2], more="font-size='11'")


def places(
    samples: Sequence[Sample], seconds: float, highest: float, x: float, y: float
) -> Iterator[tuple[float, float]]:
    """Where the samples lie in a panel."""
    for sample in samples:
        yield x + WIDTH * sample.at / seconds, y + HEIGHT * (1 - sample.value / highest)


def short(value: float) -> str:
    """A number of the scale."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
