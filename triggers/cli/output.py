"""How the commands speak: one JSON document, or aligned tables for people; one line for an error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

Document = dict[str, Any]


def page(items: Sequence[Any], next_cursor: str | None = None) -> Document:
    """The form of every list."""
    return {"items": list(items), "next_cursor": next_cursor}


def note(message: str) -> None:
    """Print one line on standard error: an error, or what is not the answer but good to know."""
    click.echo(printable(" ".join(message.split())), err=True)


def print_json(document: Any) -> None:
    """One JSON document."""
    click.echo(json.dumps(document, indent=2))


def print_json_line(document: Any) -> None:
    """One JSON object on a line of its own, at once."""
    click.echo(json.dumps(document))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns, aligned; an empty cell is a dash."""
    for line in table(headings, rows):
        click.echo(line)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a table."""
    cells = [list(headings), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [aligned(row, widths) for row in cells]


def aligned(cells: Iterable[str], widths: Iterable[int]) -> str:
    """One line of a table."""
    return "  ".join(f"{text:<{width}}" for text, width in zip(cells, widths, strict=True)).rstrip()


def print_fields(document: Document) -> None:
    """One field a line; objects in it as `outer.inner`."""
    pairs = list(flattened(document))
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name:<{width}}  {cell(value)}".rstrip())


def flattened(document: Document, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of nested objects, each with its path."""
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def cell(value: Any) -> str:
    """A value in a table."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool | dict | list):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))


def brief(instant: str | None) -> str | None:
    """An instant of a document for people: RFC 3339, with milliseconds only where there are any."""
    if instant is None or "." not in instant:
        return instant
    seconds, _, fraction = instant.rstrip("Z").partition(".")
    return f"{seconds}Z" if fraction[:3] in ("", "000") else f"{seconds}.{fraction[:3]}Z"


def printable(text: str) -> str:
    """The text without anything that could move a terminal's cursor or forge a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
