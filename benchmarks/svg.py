"""Pictures: bars of rates that lie far apart, on a scale where each step is ten times the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, TOP, STEP, BAR = 820, 250, 90, 54, 28, 18
OURS, THEIRS, GRID, INK = "#0b6e4f", "#9aa5b1", "#e4e7eb", "#1f2933"


@dataclass(frozen=True)
class Bar:
    """One of them; `ours` is drawn in colour. `note` follows the figure."""

    label: str
    value: float
    ours: bool = False
    note: str = ""


def bars(title: str, unit: str, shown: Sequence[Bar]) -> str:
    """An SVG document, the longest bar first."""
    ordered = sorted(shown, key=lambda bar: -bar.value)
    lowest = 10.0 ** math.floor(math.log10(max(1e-3, min(bar.value for bar in ordered))))
    decades = max(1, math.ceil(math.log10(max(bar.value for bar in ordered) / lowest)))
    height = TOP + STEP * len(ordered) + 34

    def across(value: float) -> float:
        return (WIDTH - LEFT - RIGHT) * max(0.0, math.log10(max(value, lowest) / lowest)) / decades

    parts = [
        *opened(title, WIDTH, height, 13),
        f'<text x="16" y="42" font-size="12">{escape(unit)}; each line is ten times the one before</text>',
    ]
    for decade in range(decades + 1):
        x = LEFT + across(lowest * 10**decade)
        label = f"{lowest * 10**decade:,g}" if lowest * 10**decade < 1 else f"{lowest * 10**decade:,.0f}"
        parts.append(f'<path d="M{x:.1f} {TOP} V{height - 28}" stroke="{GRID}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - 12}" font-size="11" text-anchor="middle">{label}</text>'
        )
    for number, bar in enumerate(ordered):
        parts += drawn(bar, TOP + STEP * number + (STEP - BAR) / 2, max(1.0, across(bar.value)))
    return "\n".join([*parts, "</svg>", ""])


def opened(title: str, width: int, height: int, font_size: int) -> list[str]:
    """The beginning of an SVG document, with its title above."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="{font_size}" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]


def drawn(bar: Bar, y: float, length: float) -> list[str]:
    """Its name, itself, its figure."""
    figure = f"{bar.value:,.0f}" if bar.value >= 100 else f"{bar.value:.1f}"
    middle, fill = y + BAR - 4, OURS if bar.ours else THEIRS
    return [
        f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LEFT}" y="{y:.1f}" width="{length:.1f}" height="{BAR}" fill="{fill}"/>',
        f'<text x="{LEFT + length + 6:.1f}" y="{middle:.1f}">{escape(f"{figure} {bar.note}".strip())}</text>',
    ]
