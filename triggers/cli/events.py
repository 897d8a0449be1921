"""The operator's commands on events: events, event."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta

import click
from sqlalchemy import Connection

from models.database import Database
from models.states import Status
from triggers.cli.base import Session, command
from triggers.cli.output import (
    Document,
    aligned,
    brief,
    cell,
    note,
    print_fields,
    print_json_line,
    print_table,
)
from triggers.rfc3339 import parse_instant
from triggers.store import overview, reads

MOST = 500  # on one page
USUAL = 50
POLL_SECONDS = 0.5
SHOWN_FIRST = 100  # events, when following begins; those that only wait are left out
MOST_AT_ONCE = 10_000  # events that changed between two looks
OVERLAP = timedelta(seconds=5)
HEADINGS = ("SCHEDULED FOR", "TRIGGER", "STATUS", "ATTEMPT", "LATE", "TOOK", "WHY", "EVENT")
WIDTHS = (24, 24, 9, 7, 8, 8, 20, 36)


@click.argument("trigger", required=False)
@click.option("--status", type=click.Choice([str(status) for status in Status]))
@click.option("--follow", is_flag=True, help="Go on, and show each event whenever its status changes.")
@click.option("--limit", type=click.IntRange(1, MOST), default=USUAL, show_default=True)
@click.option("--cursor", help="Where the page before ended.")
@command
def events(
    session: Session, trigger: str | None, status: str | None, follow: bool, limit: int, cursor: str | None
) -> None:
    """Show the events of a trigger, or of all, newest first."""
    if follow and cursor:
        raise click.UsageError("--follow begins at the newest event: it takes no --cursor")
    with session.database() as database:
        with database.read() as connection:
            trigger_id = reads.get_trigger(connection, trigger)["id"] if trigger else None
        if follow:
            show_as_they_come(session, Follower(database, trigger_id, status))
            return
        with database.read() as connection:
            answer = reads.event_page(
                connection, limit=limit, cursor=cursor, trigger_id=trigger_id, status=status
            )
    session.answer(answer, print_events)


@click.argument("event")
@command
def event(session: Session, event: str) -> None:
    """Show an event, by its id, with all attempts at it."""
    with session.database() as database, database.read() as connection:
        answer = reads.get_event(connection, event)
    session.answer(answer, print_event)


def print_event(found: Document) -> None:
    """The event's fields, then its attempts."""
    print_fields({name: value for name, value in found.items() if name != "attempts"})
    rows = [
        (
            attempt["attempt"],
            brief(attempt["started_at"]),
            None if attempt["duration_ms"] is None else f"{attempt['duration_ms'] / 1000:.3f} s",
            attempt["outcome"],
            attempt["error"] if attempt["error"] is not None else attempt["result"],
        )
        for attempt in found["attempts"]
    ]
    if rows:
        click.echo()
        print_table(("ATTEMPT", "STARTED", "TOOK", "OUTCOME", "WHAT CAME OF IT"), rows)


def print_events(answer: Document) -> None:
    """One line an event."""
    print_table(HEADINGS, [in_cells(event) for event in answer["items"]])
    if answer["next_cursor"]:
        note(f"there are more: --cursor {answer['next_cursor']}")


def in_cells(event: Document) -> tuple[str | None, ...]:
    """An event as a row of a table."""
    late = event["lateness_ms"]
    return (
        brief(event["scheduled_for"]),
        event["trigger_name"],
        event["status"],
        str(event["attempt"]),
        None if late is None else f"{late / 1000:.3f} s",
        took(event),
        why(event),
        event["id"],
    )


def took(event: Document) -> str | None:
    """From the first start to the end."""
    if event["started_at"] is None or event["finished_at"] is None:
        return None
    start, end = (parse_instant(event[name], name) for name in ("started_at", "finished_at"))
    return f"{(end - start).total_seconds():.3f} s"


def why(event: Document) -> str | None:
    """Why an event did not succeed."""
    error = event["error"]
    text = f"{error.get('type')}: {error.get('message')}" if isinstance(error, dict) else None
    return ", ".join(part for part in (event["reason"], text) if part) or None


def show_as_they_come(session: Session, follower: Follower) -> None:
    """Print what happens, until somebody ends it."""
    if not session.as_json:
        click.echo(aligned(HEADINGS, WIDTHS))
    while True:
        for event in follower.news():
            if session.as_json:
                print_json_line(event)
            else:
                click.echo(aligned(map(cell, in_cells(event)), WIDTHS))
        sys.stdout.flush()
        time.sleep(POLL_SECONDS)


class Follower:
    """Events in the order in which they start, wait for a retry, and end; at first the newest few."""

    def __init__(self, database: Database, trigger_id: str | None, status: str | None) -> None:
        self._database = database
        self._trigger_id = trigger_id
        self._status = status
        self._seen: dict[str, tuple[str, int]] = {}
        self._looked_at: datetime | None = None

    def news(self) -> list[Document]:
        """The events that changed since the last call, oldest first."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            if self._looked_at is None:
                found = self._newest(connection)
            else:
                # Who finished an event read the clock before the commit that shows it: look back a little.
                wanted = (self._trigger_id, self._status, MOST_AT_ONCE)
                found = overview.moving_events(connection, self._looked_at - OVERLAP, *wanted)
        self._looked_at = now
        seen = {event["id"]: (event["status"], event["attempt"]) for event in found}
        news = [event for event in found if self._seen.get(event["id"]) != seen[event["id"]]]
        # What is not found any more has ended, and cannot be found again.
        self._seen = seen
        return news

    def _newest(self, connection: Connection) -> list[Document]:
        page = reads.event_page(
            connection, limit=SHOWN_FIRST, trigger_id=self._trigger_id, status=self._status
        )
        untouched = self._status is None
        return [
            event
            for event in reversed(page["items"])
            if not (untouched and event["status"] == Status.PENDING and event["attempt"] == 0)
        ]


COMMANDS = (events, event)
