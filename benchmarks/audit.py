"""`triggerbeat audit` over a day of events: how much memory it needs, and how long it takes.

    python -m benchmarks.audit [--events 10000000] [--databases postgresql]

The events are those of triggers that fire every ten seconds, recorded in the order of their instants, as by
ticks; one is deleted and one shifted by hand, which the audit must find. The command runs as users run it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta

from sqlalchemy import text

from benchmarks import stored
from benchmarks.harness import DATABASES, ROOT, Site, now, report, site, table
from models.base import instant_text

EVERY_SECONDS = 10
DAY_SECONDS = 86_400
EACH = DAY_SECONDS // EVERY_SECONDS  # events of a trigger
HOURS = 24
MOST_MB = 300

LOG = """
INSERT INTO trigger_changes (trigger_id, change, effective_at, state, schedule, anchor, policy,
                             planned_count, tzdata)
SELECT id, 'created', :before, state, schedule, anchor, policy, 0, 'benchmark' FROM triggers
"""
PLANNED = "UPDATE triggers SET planned_until = :until, next_at = :next"
COLUMNS = """id, trigger_id, scheduled_for, fire_at, due_at, started_at, attempt_started_at, finished_at,
  created_at, source, status, state, attempt, dispatches, coalesced"""
SAME = "'schedule', 'succeeded', 'active', 1, 0, 1"
EVENTS = {
    "postgresql": f"""
INSERT INTO events ({COLUMNS})
SELECT gen_random_uuid(), t.id, at, at, at, at + interval '2 ms', at + interval '2 ms', at + interval '3 ms',
       at - interval '60 s', {SAME}
FROM generate_series(CAST(:first AS timestamptz), CAST(:last AS timestamptz), interval '{EVERY_SECONDS} s') at
CROSS JOIN triggers t ORDER BY at, t.id
""",
    "sqlite": f"""
INSERT INTO events ({COLUMNS})
WITH RECURSIVE series(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n + 1 < :count),
  instants(second) AS (
    SELECT strftime('%Y-%m-%d %H:%M:%S', :first, '+' || (n * {EVERY_SECONDS}) || ' seconds') FROM series)
SELECT lower(printf('%s-%s', substr(hex(randomblob(14)), 1, 8), substr(hex(randomblob(14)), 1, 27))), t.id,
       second || '.000000', second || '.000000', second || '.000000', second || '.002000',
       second || '.002000', second || '.003000', second || '.000000', {SAME}
FROM instants CROSS JOIN triggers t ORDER BY second, t.id
""",
}


def fill(place: Site, triggers: int, first: datetime) -> None:
    """Triggers, their logs of changes, and an event for each occurrence of a day."""
    stored.insert_triggers(place, triggers, stored.LOG, first, every_seconds=EVERY_SECONDS)
    end = first + timedelta(days=1)
    with place.database.write() as connection:
        before = place.bindable(first - timedelta(microseconds=1))
        connection.execute(text(LOG), {"before": before})
        planned = {"until": end, "next": end + timedelta(seconds=EVERY_SECONDS)}
        bound = {name: place.bindable(value) for name, value in planned.items()}
        connection.execute(text(PLANNED), bound)
    for hour in range(HOURS):
        begins = first + timedelta(hours=hour)
        last = begins + timedelta(hours=1) - timedelta(seconds=EVERY_SECONDS)
        instants = {"first": begins, "last": last}
        if place.kind == "sqlite":
            instants = {"first": instant_text(begins)[:19], "count": 3_600 // EVERY_SECONDS}  # type: ignore[dict-item]
        with place.database.write() as connection:
            connection.execute(text(EVENTS[place.kind]), instants)
    place.settle()


def damage(place: Site) -> None:
    """Delete one event, and shift another by a second."""
    columns = ("scheduled_for", "fire_at", "due_at", "started_at", "attempt_started_at", "finished_at")
    rows = place.query("SELECT id, scheduled_for FROM events ORDER BY scheduled_for LIMIT 2")
    moved = place.bindable(place.instant(rows[1]["scheduled_for"]) + timedelta(seconds=1))
    with place.database.write() as connection:
        connection.execute(text("DELETE FROM events WHERE id = :id"), {"id": rows[0]["id"]})
        settings = ", ".join(f"{column} = :moved" for column in columns)
        statement = text(f"UPDATE events SET {settings} WHERE id = :id")
        connection.execute(statement, {"id": rows[1]["id"], "moved": moved})


def run(place: Site, first: datetime) -> tuple[dict[str, int], float, float]:
    """Run the command: its answer, the seconds it took, and its largest resident size in MB."""
    words = ["audit", "--from", first.isoformat(), "--to", (first + timedelta(days=1)).isoformat(), "--json"]
    environment = {**os.environ, "DATABASE_URL": place.database_url}
    output = place.directory / "audit.json"
    began = time.monotonic()
    with output.open("w") as written:
        command = [sys.executable, "-m", "triggers.cli", *words]
        process = subprocess.Popen(command, stdout=written, env=environment, cwd=ROOT)
        _, _, used = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    answer: dict[str, int] = json.loads(output.read_text())
    return answer, took, used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def measure(kind: str, events: int) -> list[object]:
    """A row of the table; prints a line of JSON."""
    triggers = -(-events // EACH)
    first = (now() - timedelta(days=1, seconds=1)).replace(microsecond=0)
    with site(kind) as place:
        fill(place, triggers, first)
        damage(place)
        answer, took, megabytes = run(place, first)
        assert (answer["missing"], answer["unexpected"]) == (2, 1), answer
        assert answer["expected"] == triggers * EACH
        figures = {
            "database": kind,
            "triggers": triggers,
            "events": answer["expected"],
            "seconds": round(took, 1),
            "resident_mb": round(megabytes, 1),
        }
        report("audit", figures, place.durability())
    assert megabytes <= MOST_MB, f"{megabytes:.0f} MB are more than {MOST_MB}"
    return [kind, triggers, answer["expected"], took, megabytes]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--databases", default="postgresql", help=f"of {', '.join(DATABASES)}")
    options = parser.parse_args(arguments)
    rows = [measure(kind, options.events) for kind in options.databases.split(",")]
    table("Audit of a day", ["database", "triggers", "events", "seconds", "resident MB"], rows)


if __name__ == "__main__":
    main()
