"""How the check of a trigger tells what it finds. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from models.states import Change as Made
from triggers.audit.purges import reach
from triggers.audit.records import Code, Finding, Kind, Recorded, Report, Span, Subject
from triggers.audit.timeline import Timeline, same_json, understood, zone_of
from triggers.rfc3339 import before


class Teller:
    """One trigger, its timeline, the audited span, and the report that findings go to."""

    def __init__(self, subject: Subject, span: Span, report: Report) -> None:
        self.subject = subject
        self.span = span
        self.report = report
        self.timeline = Timeline(subject.changes, max(reach(subject, span)[1], span.now))
        self.inside_after = before(span.since)
        self.inside_until = before(span.until)

    def clip(self, after: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """The part of (after, until] that lies in the audited span."""
        after, until = max(after, self.inside_after), min(until, self.inside_until)
        return (after, until) if after < until else None

    def count(self, after: datetime, until: datetime) -> int:
        """How many occurrences lie in (after, until]."""
        run = self.timeline.run(after, until)
        return run.count if run else 0

    def doubt(self, instant: datetime) -> str:
        """What to consider when the rules of a zone have changed since."""
        change = self.timeline.in_force(instant)
        zone = zone_of(understood(change)) if change is not None else None
        others = ({change.tzdata} | self.span.others) - {self.span.tzdata} if change is not None else set()
        if zone is None or not others:
            return ""
        versions = ", ".join(sorted(others))
        return (
            f"; computed with tzdata {self.span.tzdata}, but planned under {versions}, too:"
            f" the rules of {zone} may have changed"
        )

    def unexpected(self, event: Recorded, code: Code, text: str, kinds: set[Kind]) -> None:
        """A finding about an event, which counts once however much is wrong with it."""
        self.tell(Kind.UNEXPECTED, code, event, text, counts=Kind.UNEXPECTED not in kinds)
        kinds.add(Kind.UNEXPECTED)

    def tell(
        self,
        kind: Kind,
        code: Code,
        event: Recorded | None,
        text: str,
        counts: bool = True,
        at: datetime | None = None,
    ) -> None:
        """Report a finding about an event or the occurrence `at`; it is counted unless `counts` is false."""
        self.report.add(self.finding(kind, code, event, text, at), None if counts else 0)

    def finding(
        self, kind: Kind, code: Code, event: Recorded | None, text: str, at: datetime | None
    ) -> Finding:
        """A finding of this trigger."""
        when = event.scheduled_for if event is not None else at
        found = event.id if event is not None else None
        return Finding(kind, code, self.subject.id, self.subject.name, when, text, found)

    def wrong(self, code: Code, text: str) -> None:
        """A finding about the trigger itself."""
        self.tell(Kind.UNEXPECTED, code, None, text)


def broken(subject: Subject) -> Iterator[str]:
    """What no log of changes can be: it begins with a creation, and ends with a deletion, if there is one."""
    changes = subject.changes
    if not changes or changes[0].change != Made.CREATED:
        yield "the log of changes does not begin with its creation"
    if any(change.change == Made.DELETED for change in changes[:-1]):
        yield "the log of changes goes on after a deletion"


def matches(subject: Subject) -> bool:
    """Whether a trigger is what the last line of its log says; one without a log is told of elsewhere."""
    if not subject.changes:
        return True
    last = subject.changes[-1]
    return (
        last.state == subject.state
        and (last.change == Made.DELETED) == subject.deleted
        and last.anchor == subject.anchor
        and same_json(last.schedule, subject.schedule)
        and same_json(last.policy, subject.policy)
    )
