"""Holds the events of one trigger against the occurrences that its log of changes calls for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from models.account import EPOCH, micros
from models.states import UNFINISHED, Source, Status
from models.states import Change as Made
from triggers.audit.lives import faults
from triggers.audit.purges import Stretch, reach, touched
from triggers.audit.records import (
    MOST_FINDINGS,
    Code,
    Kind,
    Note,
    Recorded,
    Report,
    Span,
    Subject,
)
from triggers.audit.telling import Teller, broken, matches
from triggers.audit.timeline import (
    INSTANT,
    Piece,
    ends_at,
    idle_code,
    in_words,
    plans,
    understood,
)
from triggers.rfc3339 import before, format_utc
from triggers.rules import Run
from triggers.schedule import fire_at

MISSING = "planned, and no event has it"
NOT_PLANNED = "due, and no tick has planned it"
NEVER_RAN = (Status.SKIPPED, Status.CANCELLED)

Beyond = Callable[[], Recorded | None]


def check(
    subject: Subject, events: Iterable[Recorded], span: Span, report: Report, beyond: Beyond | None = None
) -> None:
    """Add one trigger to the report.

    `events` are those of `reach`, ordered by `scheduled_for`. `beyond` gives the first planned event after
    them, which may cover occurrences of the span; it is only asked when some have no event.
    """
    Check(subject, span, report).check(events, beyond)


class Check(Teller):
    """One trigger's audit in the making: a cursor that moves forward over occurrences and events."""

    def __init__(self, subject: Subject, span: Span, report: Report) -> None:
        super().__init__(subject, span, report)
        self.stretches = touched(subject, span)
        since, until = reach(subject, span)
        self.cursor = before(since)  # every occurrence up to here is judged
        self.last = before(until)
        self.latest: Recorded | None = None  # the planned event before
        # What a trigger that plans has not reached yet has no event; all else must have one.
        planning = subject.state == "active" and not subject.deleted
        self.planned_until = subject.planned_until if planning else None

    def check(self, events: Iterable[Recorded], beyond: Beyond | None) -> None:
        """The trigger, its events in order, what is left, and in the end the stretches of purged events."""
        self.report.triggers += 1
        self.on_record()
        for event in events:
            self.take(event)
        if beyond is not None and self.lacks(self.cursor, self.last) and (next_ := beyond()) is not None:
            self.take(next_)
        self.gap(self.cursor, self.last)
        for at, single in self.timeline.singles.items():
            if single.extra and not single.served:
                self.lacking(at)
        for stretch in self.stretches:
            self.settle(stretch)
        self.idle()

    # ------------------------------------------------------------------------------------- the trigger

    def on_record(self) -> None:
        """The trigger must be what its log says, and the log must be readable."""
        for text in broken(self.subject):
            self.wrong(Code.LOG_BROKEN, text)
        if not matches(self.subject):
            self.wrong(Code.NOT_ON_RECORD, "the trigger is not what its log of changes says")
        for piece in self.timeline.pieces:
            if piece.schedule is None and self.clip(piece.after, piece.until) is not None:
                since = format_utc(piece.after)
                self.wrong(Code.UNREADABLE, f"its schedule since {since} cannot be read any more")

    # ---------------------------------------------------------------------------------------- an event

    def take(self, event: Recorded) -> None:
        """Judge what comes before an event, then the event."""
        at = event.scheduled_for
        inside = self.inside_after < at <= self.inside_until
        if inside and event.status in UNFINISHED:
            self.report.unfinished += 1
        kinds: set[Kind] = set()
        if inside:
            for fault in faults(event, self.subject, self.span):
                self.tell(fault.kind, fault.code, event, fault.text, counts=fault.kind not in kinds)
                kinds.add(fault.kind)
        if event.source == Source.MANUAL:
            return
        if event.source == Source.BACKFILL:
            self.backfilled(event)
        elif self.timeline.singles and self.serve(event, inside, kinds):
            return
        elif event.coalesced == 1 and event.coalesced_from is None and self.timeline.after(self.cursor) == at:
            self.cursor = at  # the occurrence that comes next: so it is nearly always
            self.latest = event
            if inside:
                self.has(event, 1, at)
                self.judge_jitter(event, kinds)
        else:
            self.place(event, inside, kinds)

    def serve(self, event: Recorded, inside: bool, kinds: set[Kind]) -> bool:
        """Whether this is the event of a `once` that lies back, which has its place beside all others."""
        single = self.timeline.singles.get(event.scheduled_for)
        if single is None:
            return False
        if event.coalesced > 1:  # a run that ends there serves it, too
            single.served = True
            return False
        if single.served and inside:
            self.tell(Kind.DUPLICATE, Code.DOUBLED, event, "another event has this instant")
        elif inside:
            self.has(event, 1, event.scheduled_for)
            self.judge_jitter(event, kinds)
        single.served = True
        return True

    def place(self, event: Recorded, inside: bool, kinds: set[Kind]) -> None:
        """An event that is not simply the next occurrence: after a gap, a run of them, or a wrong one."""
        at, first = event.scheduled_for, event.coalesced_from or event.scheduled_for
        if self.latest is not None and at <= self.latest.scheduled_for:
            if inside:
                self.tell(Kind.DUPLICATE, Code.DOUBLED, event, f"so is event {self.latest.id}")
            return
        overlaps = self.latest is not None and first <= self.latest.scheduled_for
        self.gap(self.cursor, before(first))
        run = self.timeline.run(before(first), at)
        reaches = self.clip(before(first), at) is not None
        new = self.timeline.run(max(self.cursor, before(first)), at)
        self.cursor = at
        if new is not None and (piece := self.clip(before(new.first), new.last)) is not None:
            covered = self.timeline.run(*piece)
            self.has(event, covered.count if covered else 0, new.first)
        if overlaps and reaches and self.latest is not None:
            text = f"covers occurrences since {format_utc(first)}, of which event {self.latest.id} has some"
            self.tell(Kind.DUPLICATE, Code.COVERED_TWICE, event, text)
        self.latest = event
        if inside:
            self.judge_run(event, run, first, kinds)

    def judge_run(self, event: Recorded, run: Run | None, first: datetime, kinds: set[Kind]) -> None:
        """Whether an event stands for an occurrence, and a run of them for all that it says."""
        if run is None or run.last != event.scheduled_for:
            if (piece := self.timeline.at(event.scheduled_for)) is not None and piece.schedule is None:
                return
            code, text = self.timeline.why_not(event.scheduled_for)
            self.unexpected(event, code, text + self.doubt(event.scheduled_for), kinds)
            return
        self.judge_jitter(event, kinds)
        if run.first != first:
            text = f"runs from {format_utc(first)}, where the first occurrence is {format_utc(run.first)}"
            self.unexpected(event, Code.COALESCED_FROM, text + self.doubt(first), kinds)
        if run.count != event.coalesced:
            text = f"covers {event.coalesced}, but the schedule has {run.count} from {format_utc(first)}"
            self.unexpected(event, Code.COALESCED_COUNT, text + self.doubt(first), kinds)

    def judge_jitter(self, event: Recorded, kinds: set[Kind]) -> None:
        """Whether it fires at its own part of the jitter."""
        at, fires = event.scheduled_for, event.fire_at
        jitters = self.timeline.jitters(at)
        if fires == at and (0 in jitters or (event.attempt == 0 and event.status in NEVER_RAN)):
            return
        if fires not in [fire_at(self.subject.id, at, jitter) for jitter in jitters]:
            text = f"fires at {format_utc(fires)}, which is not its part of the jitter"
            self.unexpected(event, Code.JITTER, text, kinds)

    def backfilled(self, event: Recorded) -> None:
        """An event that an operator asked for serves an occurrence that has no other."""
        if self.timeline.run(before(event.scheduled_for), event.scheduled_for) is None:
            return
        if event.scheduled_for <= self.cursor:
            return
        self.gap(self.cursor, before(event.scheduled_for))
        self.cursor = event.scheduled_for
        if self.inside_after < event.scheduled_for <= self.inside_until:
            self.has(event, 1, event.scheduled_for)

    def has(self, event: Recorded, occurrences: int, first: datetime) -> None:
        """These occurrences of the span belong to this event."""
        self.report.expected += occurrences
        self.report.recorded += occurrences
        if event.status in NEVER_RAN:
            text = f"{event.status}, {event.reason}"
            self.report.idle(Note(str(event.reason), first, event.scheduled_for, occurrences, text, event.id))
        elif event.coalesced > 1 and occurrences > 1:
            text = f"covered by the event of {format_utc(event.scheduled_for)}"
            self.report.idle(
                Note(Code.COALESCED, first, event.scheduled_for, occurrences - 1, text, event.id)
            )

    # ----------------------------------------------------------------------------------------- the gaps

    def lacks(self, after: datetime, until: datetime) -> bool:
        """Whether occurrences in (after, until] must have an event, and none has come for them yet."""
        if self.planned_until is not None:
            until = min(until, self.planned_until)
        return after < until and self.timeline.run(after, until) is not None

    def gap(self, after: datetime, until: datetime) -> None:
        """Judge the occurrences in (after, until], which have no event."""
        for at, single in self.timeline.singles.items():
            if single.served and not single.extra and after < at <= until:  # its event is that of both
                self.gap(after, before(at))
                self.gap(at, until)
                return
        if self.planned_until is not None:  # what is still to come is judged by nobody, until the year 9999
            until = min(until, max(self.planned_until, self.span.now))
        if after >= until or (run := self.timeline.run(after, until)) is None:
            return
        after, until = before(run.first), run.last
        if self.planned_until is not None and until > self.planned_until:
            self.unplanned(max(after, self.planned_until), until)
            until = self.planned_until
        for stretch in self.stretches:
            low, high = max(after, before(stretch.first)), min(until, stretch.last)
            if low >= high:
                continue
            self.missing(after, low)
            stretch.gaps += self.count(low, high)
            if stretch.summed:
                stretch.sum += self.timeline.total(low, high)
            if (piece := self.clip(low, high)) is not None:
                stretch.inside += self.count(*piece)
            after = high
        self.missing(after, until)

    def lacking(self, at: datetime) -> None:
        """Judge a `once` that lies back and has no event."""
        inside = self.clip(before(at), at) is not None
        if self.planned_until is not None and at > self.planned_until:
            if inside and at < self.span.now - self.span.patience:
                self.report.expected += 1
                self.tell(Kind.OVERDUE, Code.NOT_PLANNED, None, NOT_PLANNED, at=at)
            return
        for stretch in self.stretches:
            if stretch.first <= at <= stretch.last:
                stretch.gaps += 1
                stretch.sum += micros(at)
                stretch.inside += inside
                return
        if inside:
            self.report.expected += 1
            self.tell(Kind.MISSING, Code.MISSING, None, MISSING, at=at)

    def missing(self, after: datetime, until: datetime) -> None:
        """Tell that these occurrences have no event: one by one, and the rest of many together."""
        self.lost(after, until, Kind.MISSING, Code.MISSING, MISSING)

    def unplanned(self, after: datetime, until: datetime) -> None:
        """No tick has come to these yet; which is in order while they are near."""
        until = min(until, self.span.now - self.span.patience - INSTANT)
        self.lost(after, until, Kind.OVERDUE, Code.NOT_PLANNED, NOT_PLANNED)

    def lost(self, after: datetime, until: datetime, kind: Kind, code: Code, text: str) -> None:
        """Tell of each occurrence of the span in (after, until], as far as findings are told one by one."""
        piece = self.clip(after, until)
        run = self.timeline.run(*piece) if piece is not None else None
        if run is None:
            return
        self.report.expected += run.count
        text += self.doubt(run.first)
        instant, left = run.first, run.count
        while left and len(self.report.findings) < MOST_FINDINGS:
            self.tell(kind, code, None, text, at=instant)
            left -= 1
            if left:
                following = self.timeline.run(instant, run.last)
                assert following is not None
                instant = following.first
        if left:
            self.report.counts[kind] += left
            self.report.left_out += left

    def settle(self, stretch: Stretch) -> None:
        """Hold the occurrences without event against the account of what was purged there."""
        if (only := self.only_one_missing(stretch)) is not None:
            inside = self.clip(before(only), only) is not None
            self.report.expected += stretch.inside
            self.report.purged += stretch.inside - inside
            if inside:
                text = "it has no event, and is not among those that were purged around it"
                self.tell(Kind.MISSING, Code.MISSING, None, text, at=only)
            return
        short = max(0, stretch.gaps - stretch.occurrences)
        where = f"between {format_utc(stretch.first)} and {format_utc(stretch.last)}"
        missing = min(short, stretch.inside)
        self.report.expected += stretch.inside
        self.report.purged += stretch.inside - missing
        if missing:
            text = (
                f"{stretch.gaps} occurrences {where} have no event, and the purged ones stood for"
                f" {stretch.occurrences}: {short} are missing, which ones cannot be told"
            )
            finding = self.finding(Kind.MISSING, Code.PURGE_SHORT, None, text, None)
            self.report.add(finding._replace(occurrences=missing))
        if stretch.occurrences > stretch.gaps:
            text = f"{stretch.occurrences} occurrences {where} were purged, but {stretch.gaps} have no event"
            self.wrong(Code.PURGE_SURPLUS, text + self.doubt(stretch.first))
        elif stretch.summed and not short and stretch.off:
            text = f"as many occurrences {where} have no event as were purged, but they are not the same"
            self.wrong(Code.PURGE_OTHER, text + self.doubt(stretch.first))

    def only_one_missing(self, stretch: Stretch) -> datetime | None:
        """The one occurrence that has no event and was not purged, when there is one, and sums can tell."""
        if not stretch.summed or stretch.gaps - stretch.occurrences != 1:
            return None
        if not micros(stretch.first) <= stretch.off <= micros(stretch.last):
            return None
        instant = EPOCH + stretch.off * INSTANT
        return instant if self.count(before(instant), instant) else None

    # ------------------------------------------------------------------------------------- in good order

    def idle(self) -> None:
        """Say for how many occurrences the trigger was not there: only for people who ask."""
        if not self.report.explain:
            return
        for index, change in enumerate(self.subject.changes):
            schedule = understood(change)
            if plans(change) or change.change == Made.COMPLETED or schedule is None:
                continue
            until = min(ends_at(self.subject.changes, index), self.span.now)
            piece = self.clip(change.effective_at, until)
            run = Piece(*piece, schedule, change).run(*piece) if piece is not None else None
            if run is not None:
                text = f"the trigger was {in_words(change)} since {format_utc(change.effective_at)}"
                self.report.idle(Note(idle_code(change), run.first, run.last, run.count, text))
