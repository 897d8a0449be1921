"""The little of SVG that our pictures need, as text. Coordinates are pixels, from the upper left corner."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

FONT = "font-family='Helvetica, Arial, sans-serif'"


def document(width: float, height: float, parts: Iterable[str]) -> str:
    """A picture on white, whatever is behind it."""
    size = f"width='{width:.0f}' height='{height:.0f}' viewBox='0 0 {width:.0f} {height:.0f}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT} font-size='12' fill='#222'>"
    return "\n".join([head, rectangle(0, 0, width, height, "#fff"), *parts, "</svg>", ""])


def rectangle(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{fill}'/>"


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dashes: str = "") -> str:
    dashed = f" stroke-dasharray='{dashes}'" if dashes else ""
    ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
    return f"<line {ends} stroke='{colour}' stroke-width='{width:g}'{dashed}/>"


def text(x: float, y: float, words: str, anchor: str = "start", turned: float = 0, more: str = "") -> str:
    """Words whose base line is at `y`; `turned` by degrees clockwise around their beginning."""
    rotate = f" transform='rotate({turned:g} {x:.1f} {y:.1f})'" if turned else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'{rotate} {more}>{escape(words)}</text>"


def ticks(places: Iterable[tuple[float, float]], height: float, colour: str, width: float = 1) -> str:
    """Upright strokes downwards from each place, all in one element."""
    path = "".join(f"M{x:.1f} {y:.1f}v{height:g}" for x, y in places)
    return f"<path d='{path}' stroke='{colour}' stroke-width='{width:g}' fill='none'/>" if path else ""


def polyline(places: Iterable[tuple[float, float]], colour: str, width: float = 1.5) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f"<polyline points='{points}' stroke='{colour}' stroke-width='{width:g}' fill='none'/>"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
