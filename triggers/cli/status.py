"""The operator's commands on the whole: queue, status."""

from __future__ import annotations

from typing import Any

import click

from triggers import queue_view
from triggers.cli.base import NO, Session, command
from triggers.cli.output import Document, brief, note, print_fields, print_table
from triggers.status import instant
from triggers.status import status as status_of
from triggers.store import overview


@command
def queue(session: Session) -> None:
    """Show what waits in the broker and in the database."""
    with session.database() as database, database.read() as connection:
        waiting = overview.unfinished(connection, database.now(connection))
    answer = {
        "broker": queue_view.queues(session.settings, session.broker_url),
        "database": {
            "due_now": waiting["due_now"],
            "ahead": waiting["ahead"],
            "running": waiting["running"],
            "oldest_due": instant(waiting["oldest_due"]),
        },
    }
    session.answer(answer, print_queue)


def print_queue(answer: Document) -> None:
    """The broker's queues, the messages in them, and the numbers of the database."""
    broker = answer["broker"]
    if broker["error"]:
        note(f"the broker {broker['url']} does not answer: {broker['error']}")
    held = broker["held"]
    places: list[tuple[Any, ...]] = [(one["name"], one["waiting"]) for one in broker["queues"]]
    if held is not None:
        places.append(("held by workers", held["count"]))
    elif broker["queues"]:
        places.append(("held by workers", "RabbitMQ does not tell"))
    database = answer["database"]
    places += [
        ("database: due", database["due_now"]),
        ("database: ahead", database["ahead"]),
        ("database: running", database["running"]),
        ("database: oldest due", brief(database["oldest_due"])),
    ]
    print_table(("WHERE", "EVENTS OR MESSAGES"), places)
    found = [(one["name"], message) for one in broker["queues"] for message in one["messages"] or []]
    found += [("held", message) for message in (held or {}).get("messages", [])]
    rows = [(where, *in_cells(message)) for where, message in found]
    if rows:
        click.echo()
        print_table(("WHERE", "TASK", "ETA", "ARGUMENTS", "ID"), rows)


def in_cells(message: Document) -> tuple[Any, ...]:
    """A message as a row of a table."""
    if message["task"] is None:
        return ("not ours", None, message["raw"], None)
    given = [part for part in (message["args"], message["kwargs"]) if part]
    return (message["task"], message["eta"], given[0] if len(given) == 1 else given, message["id"])


@command
def status(session: Session) -> int:
    """Show whether it works: ticks, backlog, lateness. Exit status 1 when ticks have stopped."""
    with session.database() as database, database.read() as connection:
        answer = status_of(connection, database.now(connection), session.settings, session.broker_url)
    session.answer(answer, print_status)
    return 0 if answer["ok"] else NO


def print_status(answer: Document) -> None:
    """The numbers, and the machines that tick."""
    lateness, triggers, broker = answer["lateness"], answer["triggers"], answer["broker"]
    ago = answer["last_tick_seconds_ago"]
    reachable = "reachable" if broker["reachable"] else f"away: {broker['error']}"
    print_fields(
        {
            "last tick": "never" if ago is None else f"{ago:.0f} s ago",
            "backlog": f"{answer['backlog']} due and not started",
            "oldest due": brief(answer["oldest_due"]),
            "running": answer["running"],
            "planned ahead": answer["ahead"],
            "next event": brief(answer["next_event"]),
            "lateness": in_words(lateness),
            "triggers": ", ".join(f"{count} {state}" for state, count in triggers.items()),
            "broker": f"{broker['url']} {reachable}",
            "tz database": zones_in_words(answer["tzdata"]),
        }
    )
    click.echo()
    rows = [
        (
            node["name"],
            f"{node['seconds_ago']:.0f} s ago",
            f"{node['took_seconds']:.3f} s",
            node["planned"],
            f"{node['clock_skew_seconds']:+.3f} s",
        )
        for node in answer["nodes"]
    ]
    print_table(("NODE", "LAST TICK", "TOOK", "PLANNED", "CLOCK"), rows)
    if answer["tzdata"] and answer["tzdata"]["moved"]:
        click.echo()
        moved = [(one["trigger"], one["zone"], brief(one["was"]), brief(one["now"]))
                 for one in answer["tzdata"]["moved"]]  # fmt: skip
        print_table(("MOVED WITH THE TZ DATABASE", "ZONE", "WAS NEXT", "IS NEXT"), moved)
    for warning in answer["warnings"]:
        note(warning)
    if not answer["ok"]:
        note(f"no tick for three intervals of {answer['tick_seconds']} s: are beat and a worker running?")


def zones_in_words(tzdata: Document | None) -> str | None:
    """The tz database by which plans are made."""
    if tzdata is None:
        return None
    told = f"{tzdata['release']} since {brief(tzdata['adopted_at'])}"
    if not tzdata["zones_changed"]:
        return told
    return f"{told}: {tzdata['zones_changed']} zones changed, {tzdata['triggers_moved']} triggers moved"


def in_words(lateness: Document) -> str:
    """The lateness of the last hour."""
    if not lateness["events"]:
        return "no events in the last hour"
    return f"p50 {lateness['p50_ms']} ms, p99 {lateness['p99_ms']} ms of {lateness['events']} events"


COMMANDS = (queue, status)
