"""The account of deleted events, and how far an audit must look to hold it against what is there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from models.account import MODULUS
from triggers.audit.records import Purged, Span, Subject
from triggers.audit.timeline import behind


@dataclass(slots=True)
class Stretch:
    """A stretch [first, last] in which events of a trigger were purged, which stood for `occurrences`.

    `gaps` are its occurrences without an event, `inside` those of them that lie in the audited span. Where
    each purged event stood for one occurrence, `instants` is the sum of theirs, and `sum` that of the gaps.
    """

    first: datetime
    last: datetime
    occurrences: int = 0
    planned: int = 0
    instants: int = 0
    gaps: int = 0
    inside: int = 0
    sum: int = 0

    def add(self, other: Stretch | Purged) -> None:
        """Take in another part of the account."""
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.occurrences += other.occurrences
        self.planned += other.planned
        self.instants += other.instants

    @property
    def summed(self) -> bool:
        """Whether the sums can be compared."""
        return self.planned == self.occurrences

    @property
    def off(self) -> int:
        """By how much the gaps' sum is more than the account's, in microseconds."""
        return (self.sum - self.instants) % MODULUS


def stretches(purged: Iterable[Purged]) -> list[Stretch]:
    """The account by stretches: its months, put together where a run of occurrences reaches over."""
    found: list[Stretch] = []
    months: dict[object, Stretch] = {}
    for line in purged:
        months.setdefault(line.month, Stretch(line.first, line.last)).add(line)
    for one in sorted(months.values(), key=lambda stretch: stretch.first):
        if found and one.first <= found[-1].last:
            found[-1].add(one)
        else:
            found.append(one)
    return [one for one in found if one.occurrences]


def touched(subject: Subject, span: Span) -> list[Stretch]:
    """The stretches with purged events that the span reaches into."""
    return [one for one in stretches(subject.purged) if one.first < span.until and one.last >= span.since]


def reach(subject: Subject, span: Span) -> tuple[datetime, datetime]:
    """The events that the check needs: `scheduled_for` from the first instant, up to the last, exclusive.

    More than the span where events were purged: that account is by stretches, and is held against whole ones.
    """
    found = touched(subject, span)
    since = min([span.since, *(one.first for one in found)])
    return since, max([span.until, *(behind(one.last) for one in found)])
