"""The account of deleted events, and how far an audit must look to hold it against what is there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from triggers.audit.records import Purged, Span, Subject
from triggers.audit.timeline import INSTANT


@dataclass(slots=True)
class Stretch:
    """A stretch [first, last] in which events of a trigger were purged, which stood for `occurrences`.

    `gaps` are its occurrences without an event, `inside` those of them that lie in the audited span.
    """

    first: datetime
    last: datetime
    occurrences: int
    gaps: int = 0
    inside: int = 0


def stretches(purged: Iterable[Purged]) -> list[Stretch]:
    """The account by stretches: its months, put together where a run of occurrences reaches over."""
    found: list[Stretch] = []
    months: dict[object, Stretch] = {}
    for line in purged:
        known = months.setdefault(line.month, Stretch(line.first, line.last, 0))
        known.first, known.last = min(known.first, line.first), max(known.last, line.last)
        known.occurrences += line.occurrences
    for one in sorted(months.values(), key=lambda stretch: stretch.first):
        if found and one.first <= found[-1].last:
            found[-1].last = max(found[-1].last, one.last)
            found[-1].occurrences += one.occurrences
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
    return since, max([span.until, *(one.last + INSTANT for one in found)])
