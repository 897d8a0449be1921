"""What one noisy neighbour does to everybody else's starts, with a real beat and a real worker.

    python -m benchmarks.isolation [--seconds 30] [--triggers 100] [--cases alone,hanging]
        [--databases postgresql,sqlite]

Everybody else: triggers of target `log`, and as many that call a host of their own which answers at once;
each fires every ten seconds, at an instant of its own. Late is `started_at` less `fire_at`. Beat ticks every
ten seconds, so that planning goes on all the time. Meanwhile somebody creates a trigger each second that is
due at once, of one or the other target; what counts there is the time from before it is stored to its start.
The neighbour, once all of that is under way:

    alone     nobody
    catch-up  one trigger that has missed 100,000 occurrences and makes up for all of them (`fire_all`)
    backlog   one trigger with 100,000 events, all due now, target `log`
    calls     one trigger with 100,000 events, all due now, that calls a host which answers at once
    hanging   1,000 triggers due now whose ten hosts never answer
    hosts     the same, each with a host of its own
    tasks     one trigger with 100,000 events of a user's task, all due now; everybody else has tasks in place
              of calls
"""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, update

from benchmarks import stored
from benchmarks.harness import DATABASES, TICK, Site, now, report, site, sleep_until, table
from benchmarks.http_deliveries import start_sink
from benchmarks.lateness import part
from models import Trigger
from models.base import new_ids

EVERY_SECONDS = 10
TICK_SECONDS = 10
SETTLING = timedelta(seconds=12)  # from the start of beat until everybody's rhythm is there
OCCURRENCES = 100_000
HANGING = 1_000
HOSTS = 10
MUST_STAY_UNDER_MS = 100.0

EVENT_COLUMNS = (
    "id", "trigger_id", "source", "status", "state", "attempt", "dispatches", "coalesced",
    "scheduled_for", "fire_at", "due_at", "created_at", "recheck_at",
)  # fmt: skip

STARTS = """
SELECT e.fire_at, e.started_at FROM events e JOIN triggers t ON t.id = e.trigger_id
WHERE t.name LIKE :mark AND e.fire_at >= :since AND e.fire_at < :until
"""
NEIGHBOUR = """
SELECT e.status, count(*) AS events FROM events e JOIN triggers t ON t.id = e.trigger_id
WHERE t.name LIKE :mark GROUP BY e.status
"""


def catch_up(place: Site, port: int) -> str:
    """One trigger that has missed 100,000 occurrences."""
    first = now() - timedelta(seconds=OCCURRENCES)
    stored.insert_triggers(place, 1, stored.LOG, first, every_seconds=1)
    policy = {"misfire": "fire_all", "misfire_grace_seconds": 1, "catchup_window_seconds": 31_536_000}
    with place.database.write() as connection:
        wanted = Trigger.name.like(mark(first))
        known = connection.execute(select(Trigger.policy).where(wanted)).scalar_one()
        connection.execute(update(Trigger).where(wanted).values(policy=known | policy))
    return mark(first)


def backlog(place: Site, port: int) -> str:
    """One trigger with 100,000 events that are due."""
    return with_events(place, stored.LOG)


def calls(place: Site, port: int) -> str:
    """The same, each of them a call that is answered at once."""
    return with_events(place, {"type": "http", "url": f"http://127.0.3.1:{port}/"})


def with_events(place: Site, target: dict[str, Any]) -> str:
    """A trigger with 100,000 events as a backfill leaves them, all due and not sent yet."""
    at = now()
    later = at + timedelta(days=1)
    stored.insert_triggers(place, 1, target, later)
    with place.database.read() as connection:
        owner = connection.execute(select(Trigger.id).where(Trigger.name.like(mark(later)))).scalar_one()
    form = stored.form_of_instants(place)
    rows = []
    for number, id_ in enumerate(new_ids(at, OCCURRENCES)):
        instant = form(at - timedelta(seconds=OCCURRENCES - number))
        rows.append((id_, owner, "backfill", "pending", "active", 0, 0, 1, instant, instant, *[form(at)] * 3))
    stored.load(place, "events", EVENT_COLUMNS, rows)
    return mark(later)


def hanging(place: Site, port: int) -> str:
    """1,000 triggers whose targets never answer."""
    due = (now() + timedelta(seconds=2)).replace(microsecond=0)
    for host in range(HOSTS):
        target = {"type": "http", "url": f"http://127.0.2.{host + 1}:{port}/hang"}
        stored.insert_triggers(place, HANGING // HOSTS, target, due + timedelta(microseconds=host))
    return f"benchmark-{due:%H%M%S}%"


def tasks(place: Site, port: int) -> str:
    """One trigger with 100,000 events of a user's task."""
    return with_events(place, stored.NOOP)


def hosts(place: Site, port: int) -> str:
    """1,000 triggers whose targets, each a host of its own, never answer."""
    due = (now() + timedelta(seconds=6)).replace(microsecond=0)
    stored.insert_triggers(place, HANGING, {"type": "http", "url": f"http://127.0.2.1:{port}/hang"}, due)
    with place.database.write() as connection:
        found = connection.execute(select(Trigger.id, Trigger.target).where(Trigger.name.like(mark(due))))
        rows = [
            {
                "of": id_,
                "to": target | {"url": f"http://127.2.{number // 250}.{number % 250 + 1}:{port}/hang"},
            }
            for number, (id_, target) in enumerate(found.all())
        ]
        statement = update(Trigger.__table__).where(Trigger.id == bindparam("of"))  # type: ignore[arg-type]
        connection.execute(statement.values(target=bindparam("to")), rows)
    return mark(due)


def nobody(place: Site, port: int) -> str:
    """Everybody is alone."""
    return "nobody"


CASES = {
    "alone": nobody,
    "catch-up": catch_up,
    "backlog": backlog,
    "calls": calls,
    "hanging": hanging,
    "hosts": hosts,
    "tasks": tasks,
}


def mark(first: datetime) -> str:
    """What the names of triggers begin with that fire first at this instant."""
    return f"benchmark-{first:%H%M%S.%f}-%"


def run(kind: str, case: str, triggers: int, seconds: int) -> dict[str, Any]:
    """One case on a database of its own: everybody else's lateness, and what became of the neighbour."""
    with site(kind) as place:
        port = start_sink(place)
        place.environment |= {"ALLOW_PRIVATE_TARGETS": "true", "TICK_SECONDS": str(TICK_SECONDS)}
        place.start_worker()
        answers = {"type": "http", "url": f"http://127.0.1.1:{port}/"}
        other = stored.NOOP if case == "tasks" else answers
        firsts = everybody_else(place, other, triggers)
        place.settle()
        place.start_celery("beat")
        since = firsts[0] + SETTLING
        sleep_until(since)
        neighbour = CASES[case](place, port)
        since = now()
        place.send_tick()  # as the hint of whoever made this
        until = since + timedelta(seconds=seconds)
        created = create_some(place, [stored.LOG, other], until)
        late = [one for first in firsts for one in lateness(place, mark(first), since, until)]
        soon = [(lateness(place, mark(at), at, until) or [float("inf")])[0] for at in created]
        fates = place.query(NEIGHBOUR, mark=neighbour)
        return {
            "starts": len(late),
            "never": sum(one == float("inf") for one in late),
            "late": sorted(late),
            "created": sorted(soon),
            "neighbour": {row["status"]: row["events"] for row in fates},
            "durability": place.durability(),
        }


def create_some(place: Site, targets: list[dict[str, Any]], until: datetime) -> list[datetime]:
    """A trigger each second that is due at once, with the endpoint's hint; when each was made."""
    made: list[datetime] = []
    while (at := now()) < until:
        stored.insert_triggers(place, 1, targets[len(made) % len(targets)], at)
        place.app.send_task(TICK, kwargs={"hint": True}, queue="celery")
        made.append(at)
        sleep_until(min(until, at + timedelta(seconds=1)))
    return made


def everybody_else(place: Site, other: dict[str, Any], triggers: int) -> list[datetime]:
    """Triggers of target `log`, and as many of another one; their first instants."""
    began = now() + timedelta(seconds=6)
    step = timedelta(seconds=EVERY_SECONDS) / triggers
    firsts = [began, began + step / 2]
    for first, target in zip(firsts, (stored.LOG, other), strict=True):
        stored.insert_triggers(place, triggers, target, first, apart=step, every_seconds=EVERY_SECONDS)
    return firsts


def lateness(place: Site, names: str, since: datetime, until: datetime) -> list[float]:
    """Milliseconds from the instant to the start, infinite where there was none three seconds later."""
    sleep_until(until + timedelta(seconds=3))
    rows = place.query(STARTS, mark=names, since=since, until=until)
    never = float("inf")
    return [
        never
        if row["started_at"] is None
        else (place.instant(row["started_at"]) - place.instant(row["fire_at"])) / timedelta(milliseconds=1)
        for row in rows
    ]


def measure(kind: str, cases: list[str], triggers: int, seconds: int) -> list[list[object]]:
    """All cases; prints a JSON line for each and returns the table's rows."""
    rows: list[list[object]] = []
    for case in cases:
        found = run(kind, case, triggers, seconds)
        late = found["late"]
        expected = 2 * triggers * seconds // EVERY_SECONDS
        figures = {
            "database": kind,
            "case": case,
            "starts": found["starts"],
            "expected": expected,
            "never": found["never"],
            "p50_ms": part(late, 0.5),
            "p99_ms": part(late, 0.99),
            "max_ms": late[-1],
            "must_stay_under_p99_ms": MUST_STAY_UNDER_MS,
            "created": len(found["created"]),
            "created_p50_ms": part(found["created"], 0.5),
            "created_max_ms": found["created"][-1],
            "neighbour": found["neighbour"],
        }
        report("isolation", figures, found["durability"])
        times = [figures["p50_ms"], figures["p99_ms"], MUST_STAY_UNDER_MS, figures["max_ms"]]
        done = ", ".join(f"{events:,} {status}" for status, events in found["neighbour"].items())
        soon = [figures["created_p50_ms"], figures["created_max_ms"]]
        rows.append([f"{kind}, {case}", found["starts"], *times, found["never"], *soon, done])
    return rows


HEADERS = (
    "neighbour", "others' starts", "p50 ms", "p99 ms", "must stay under", "max ms", "not started",
    "created beside it: p50 ms", "max ms", "the neighbour's events",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.isolation", description="starts beside a noisy neighbour"
    )
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--triggers", type=int, default=100)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--databases", default=",".join(DATABASES))
    options = parser.parse_args(arguments)
    rows = []
    for kind in options.databases.split(","):
        rows += measure(kind, options.cases.split(","), options.triggers, options.seconds)
    table("Everybody else's starts beside a noisy neighbour: milliseconds late", HEADERS, rows)


if __name__ == "__main__":
    main()
