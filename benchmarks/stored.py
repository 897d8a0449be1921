"""Many triggers at once, straight into the table: what is measured begins when they are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from benchmarks.harness import Site, now
from models.base import instant_text, new_id
from triggers.definition import parse_trigger
from triggers.settings import Settings

YEAR_SECONDS = 365 * 86_400
SCHEDULES = 100  # distinct ones among the triggers: not each computes the same next instant
LOG = {"type": "log", "message": ""}
NOOP = {"type": "celery", "task": "benchmarks.tasks.noop"}
SETTINGS = Settings(allowed_tasks=("benchmarks.tasks.*",), allow_private_targets=True)


def insert_triggers(
    site: Site,
    count: int,
    target: Mapping[str, Any],
    first: datetime,
    *,
    apart: timedelta = timedelta(0),
    every_seconds: int = YEAR_SECONDS,
) -> None:
    """Store `count` intervals; number n fires first at `first` + n * `apart`, then every `every_seconds`.

    Those of a year are of a hundred lengths, each a second longer than the one before.
    """
    load(site, "triggers", COLUMNS, trigger_rows(site, count, target, first, apart, every_seconds))


def load(site: Site, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Put rows into a table: by COPY on PostgreSQL, by one `executemany` on SQLite."""
    names = ", ".join(columns)
    with site.unhurried() as driver:
        if site.kind == "postgresql":
            with driver.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            driver.execute("BEGIN")
            marks = ", ".join("?" * len(columns))
            driver.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
        driver.commit()


def form_of_instants(site: Site) -> Callable[[datetime], datetime | str]:
    """What makes an instant what `load` takes for it."""
    return (lambda instant: instant) if site.kind == "postgresql" else instant_text


COLUMNS = (
    "name", "description", "tags", "schedule", "target_type", "target", "secret", "policy", "retry",
    "id", "anchor", "state", "version", "planned_until", "next_at", "planned_count", "consecutive_failures",
    "created_at", "updated_at", "exhausted",
)  # fmt: skip


def trigger_rows(
    site: Site, count: int, target: Mapping[str, Any], first: datetime, apart: timedelta, every_seconds: int
) -> Iterator[tuple[Any, ...]]:
    """The rows, as `COLUMNS`."""
    at = now()
    lengths = SCHEDULES if every_seconds == YEAR_SECONDS else 1
    definitions = [definition(at, target, every_seconds + longer) for longer in range(lengths)]
    form = form_of_instants(site)
    created = form(at)
    for number in range(count):
        due = first + number * apart
        before = form(min(at, due - timedelta(microseconds=1)))
        instants = (form(due), "active", 1, before, form(due))
        name = f"benchmark-{first:%H%M%S.%f}-{number}"
        created_one_by_one = new_id(at - timedelta(milliseconds=count - number))  # ids grow, as they do
        yield (
            name,
            *definitions[number % lengths],
            created_one_by_one,
            *instants,
            0,
            0,
            created,
            created,
            False,
        )


def definition(at: datetime, target: Mapping[str, Any], every_seconds: int) -> list[Any]:
    """The columns of a definition but the name, as the endpoint makes them of a document."""
    document = {
        "name": "any",
        "schedule": {"type": "interval", "every_seconds": every_seconds},
        "target": target,
    }
    values = parse_trigger(document, SETTINGS, at).stored()
    assert tuple(values) == COLUMNS[: len(values)]
    return [json.dumps(value) if isinstance(value, dict | list) else value for value in values.values()][1:]
