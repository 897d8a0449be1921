"""The audit of a database: reads it in one snapshot, trigger by trigger, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

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
            yield Subject._make([*row, changes, purged])
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
                failed.setdefault(event_id, []).append(Attempted(*attempt))
            for event in chunk:
                yield event._replace(attempts=failed[event.id]) if event.id in failed else event

    def _orphan(self, trigger_id: str, row: Sequence[Any]) -> None:
        """What belongs to no trigger: somebody deleted its row, where foreign keys were not heeded."""
        event = row if isinstance(row, Recorded) else None
        at, id_ = (event.scheduled_for, event.id) if event is not None else (None, None)
        text = "the trigger of this record is not there"
        self._report.add(Finding(Kind.UNEXPECTED, Code.NO_TRIGGER, trigger_id, trigger_id, at, text, id_))


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
