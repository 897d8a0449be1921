"""The audit of a database: reads it in one snapshot, trigger by trigger, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Connection

from models.database import Database
from models.states import Status
from triggers.audit.check import check, reach
from triggers.audit.records import Attempted, Change, Purged, Recorded, Report, Span, Subject
from triggers.store import audit as store

DAY = timedelta(days=1)


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

    Of one trigger or of all; of one with the reasons why it did not run. Raises ValueError for a span that
    ends before it begins.
    """
    with database.read() as connection:
        store.snapshot(connection)
        now = database.now(connection)
        end = until or now
        span = Span(since or end - DAY, end, now, patience, archive_after, tzdata, store.versions(connection))
        if span.since > span.until:
            raise ValueError("the span ends before it begins")
        report = Report(explain=trigger_id is not None)
        reader = Reader(connection, span, trigger_id)
        for subject in reader.subjects():
            beyond = partial(reader.beyond, subject)
            check(subject, reader.events(subject), span, report, beyond)
    return span, report


class Reader:
    """Streams that run side by side, each in the order of triggers."""

    def __init__(self, connection: Connection, span: Span, trigger_id: str | None) -> None:
        self._connection = connection
        self._span = span
        self._trigger_id = trigger_id
        self._changes = Groups(store.changes(connection, trigger_id), 0)
        self._purged = Groups(store.purged(connection, trigger_id), 0)
        self._events = Groups(store.events(connection, trigger_id, span.since, span.until), 1)

    def subjects(self) -> Iterator[Subject]:
        """All triggers, each with its log of changes and its account of deleted events."""
        for row in store.subjects(self._connection, self._trigger_id):
            changes = [Change(*line[1:]) for line in self._changes.of(row[0])]
            purged = [Purged(*line[1:]) for line in self._purged.of(row[0])]
            yield Subject._make([*row, changes, purged])

    def events(self, subject: Subject) -> Iterator[Recorded]:
        """The events that the check of a trigger needs, mostly from the stream of all."""
        since, until = reach(subject, self._span)
        found: Iterable[Sequence[Any]] = self._events.of(subject.id)
        if (since, until) != (self._span.since, self._span.until):
            found = store.events(self._connection, subject.id, since, until)
        return self._with_attempts(found)

    def beyond(self, subject: Subject) -> Recorded | None:
        """The first planned event behind them."""
        _, until = reach(subject, self._span)
        row = store.beyond(self._connection, subject.id, until)
        return None if row is None else next(self._with_attempts([row]))

    def _with_attempts(self, rows: Iterable[Sequence[Any]]) -> Iterator[Recorded]:
        """Events with their failed attempts, looked up for a chunk of those that may have any."""
        remaining = iter(rows)
        while chunk := [Recorded(*row) for row in islice(remaining, store.CHUNK)]:
            tried = [event.id for event in chunk if may_have_failed(event)]
            failed: dict[str, list[Attempted]] = {}
            for event_id, *attempt in store.attempts(self._connection, tried) if tried else ():
                failed.setdefault(event_id, []).append(Attempted(*attempt))
            for event in chunk:
                yield event._replace(attempts=failed[event.id]) if event.id in failed else event


def may_have_failed(event: Recorded) -> bool:
    """Whether there may be attempts on record beside the event's own row."""
    return event.attempt > 1 or (event.attempt == 1 and event.status != Status.SUCCEEDED)


class Groups:
    """A stream of rows that is ordered by one of its columns, taken apart by the values of that column."""

    def __init__(self, rows: Iterator[Sequence[Any]], column: int) -> None:
        self._rows = rows
        self._column = column
        self._next = next(rows, None)

    def of(self, value: str) -> Iterator[Sequence[Any]]:
        """The rows of one value. Values are asked for in order; others are passed over."""
        while self._next is not None and self._next[self._column] < value:
            self._next = next(self._rows, None)
        while self._next is not None and self._next[self._column] == value:
            row = self._next
            self._next = next(self._rows, None)
            yield row
