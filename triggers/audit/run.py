"""The audit of a database: reads it in one snapshot, trigger by trigger, a chunk of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection

from models.database import Database
from triggers.audit.check import check
from triggers.audit.purges import reach
from triggers.audit.records import (
    Attempted,
    Change,
    Code,
    Finding,
    Kind,
    Purged,
    Recorded,
    Report,
    Span,
    Subject,
)
from triggers.rfc3339 import BEGINNING
from triggers.store import audit as store

DAY = timedelta(days=1)
INSTANTS = slice(2, 5)  # of an event: those that each has


class BadSpan(ValueError):
    """A span that ends before it begins."""


def audit(
    database: Database,
    since: datetime | None,
    until: datetime | None,
    trigger_id: str | None,
    *,
    patience: timedelta,
    archive_after: timedelta,
    tzdata: str,
) -> tuple[Span, Report]:
    """Hold what is recorded in [since, until) against what should be; by default in the last 24 hours.

    Of one trigger or of all; of one with the reasons why it did not run. Raises BadSpan for one that ends
    before it begins.
    """
    with database.read() as connection:
        store.snapshot(connection)
        now = database.now(connection)
        end = until or now
        begin = since or max(end, BEGINNING + DAY) - DAY
        span = Span(begin, end, now, patience, archive_after, tzdata, store.versions(connection))
        if span.since > span.until:
            raise BadSpan("the span ends before it begins")
        report = Report(explain=trigger_id is not None)
        reader = Reader(connection, span, trigger_id, report)
        for subject in reader.subjects():
            beyond = partial(reader.beyond, subject)
            check(subject, reader.events(subject), span, report, beyond)
    return span, report


class Reader:
    """Streams that run side by side, each in the order of triggers."""

    def __init__(self, connection: Connection, span: Span, trigger_id: str | None, report: Report) -> None:
        self._connection = connection
        self._span = span
        self._trigger_id = trigger_id
        self._report = report
        events = store.events(connection, trigger_id, span.since, span.until)
        self._changes = Groups(store.changes(connection, trigger_id), 0, self._orphan)
        self._purged = Groups(store.purged(connection, trigger_id), 0, self._orphan)
        self._events = Groups(self._recorded(events), 1, self._orphan)

    def subjects(self) -> Iterator[Subject]:
        """All triggers, each with its log of changes and its account of deleted events."""
        for row in store.subjects(self._connection, self._trigger_id):
            changes = [Change(*line[1:]) for line in self._changes.of(row[0])]
            purged = [Purged(*line[1:]) for line in self._purged.of(row[0])]
            subject = Subject._make([*row, changes, purged])
            if (what := unreadable(subject)) is None:
                yield subject
            else:
                self._events.of(subject.id)  # or they would be taken for those of no trigger
                self._report.triggers += 1
                self._unreadable(subject.id, subject.name, what)
        for stream in (self._changes, self._purged, self._events):
            stream.end()

    def events(self, subject: Subject) -> Iterator[Recorded]:
        """The events that the check of a trigger needs, mostly from the stream of all."""
        since, until = reach(subject, self._span)
        from_stream = self._events.of(subject.id)
        if (since, until) == (self._span.since, self._span.until):
            return from_stream
        return self._recorded(store.events(self._connection, subject.id, since, until))

    def beyond(self, subject: Subject) -> Recorded | None:
        """The first planned event behind them."""
        _, until = reach(subject, self._span)
        row = store.beyond(self._connection, subject.id, until)
        return None if row is None else next(self._recorded([row]))

    def _recorded(self, rows: Iterable[Sequence[Any]]) -> Iterator[Recorded]:
        """Events with their failed attempts, which are looked up for a chunk of them."""
        remaining = iter(rows)
        while chunk := [Recorded(*row) for row in islice(remaining, store.CHUNK)]:
            failed: dict[str, list[Attempted]] = {}
            for event_id, *attempt in store.attempts(self._connection, [event.id for event in chunk]):
                if None not in attempt:  # one that cannot be read is missed by its number
                    failed.setdefault(event_id, []).append(Attempted(*attempt))
            for event in chunk:
                if None in cast(Sequence[object], event[INSTANTS]):
                    self._unreadable(event.trigger_id, event.trigger_id, "an instant", event.id)
                    continue
                yield event._replace(attempts=failed[event.id]) if event.id in failed else event

    def _unreadable(self, trigger_id: str, name: str, what: str, event_id: str | None = None) -> None:
        """What somebody wrote into the database that is nothing of ours, and so cannot be judged."""
        text = f"{what} in its record cannot be read"
        self._report.add(Finding(Kind.UNEXPECTED, Code.UNREADABLE, trigger_id, name, None, text, event_id))

    def _orphan(self, trigger_id: str, row: Sequence[Any]) -> None:
        """What belongs to no trigger: somebody deleted its row, where foreign keys were not heeded."""
        event = row if isinstance(row, Recorded) else None
        at, id_ = (event.scheduled_for, event.id) if event is not None else (None, None)
        text = "the trigger of this record is not there"
        self._report.add(Finding(Kind.UNEXPECTED, Code.NO_TRIGGER, trigger_id, trigger_id, at, text, id_))


def unreadable(subject: Subject) -> str | None:
    """What of a trigger, its log of changes or its account cannot be read, if anything."""
    if None in (subject.anchor, subject.planned_until):
        return "an instant of the trigger"
    if any(None in (change.effective_at, change.anchor) for change in subject.changes):
        return "an instant of the log of changes"
    if any(None in (line.month, line.first, line.last) for line in subject.purged):
        return "an instant of the account of deleted events"
    try:
        for text in (subject.schedule, subject.policy):
            json.loads(text)
        for change in subject.changes:
            json.loads(change.schedule)
            json.loads(change.policy)
    except ValueError:
        return "a schedule or a policy"
    return None


Row = TypeVar("Row", bound=Sequence[Any])


class Groups(Generic[Row]):
    """A stream of rows that is ordered by one of its columns, taken apart by the values of that column.

    `orphan` is told of the rows of values that nobody asks for.
    """

    def __init__(self, rows: Iterator[Row], column: int, orphan: Callable[[str, Row], None]) -> None:
        self._rows = rows
        self._column = column
        self._orphan = orphan
        self._asked: str | None = None
        self._next = next(rows, None)

    def of(self, value: str) -> Iterator[Row]:
        """The rows of one value. Values are asked for in order."""
        self._pass_over(value)
        self._asked = value
        return self._taken(value)

    def end(self) -> None:
        """No further value is asked for."""
        self._pass_over(None)

    def _taken(self, value: str) -> Iterator[Row]:
        while self._next is not None and self._next[self._column] == value:
            row = self._next
            self._next = next(self._rows, None)
            yield row

    def _pass_over(self, value: str | None) -> None:
        while self._next is not None and (value is None or self._next[self._column] < value):
            if self._next[self._column] != self._asked:
                self._orphan(self._next[self._column], self._next)
            self._next = next(self._rows, None)
