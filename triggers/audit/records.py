"""What the audit is given, and what it answers. Plain values: no I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

MOST_FINDINGS = 100  # that are told; all are counted


class Kind(StrEnum):
    """What a finding counts as. Any of them makes the audit say no."""

    MISSING = "missing"
    DUPLICATE = "duplicate"
    UNEXPECTED = "unexpected"
    OVERDUE = "overdue"


class Code(StrEnum):
    """Why: the reason of a finding, or of an occurrence that did not run."""

    # missing
    MISSING = "missing"  # planned, by the trigger's own cursor, and no event has it
    PURGE_SHORT = "purge_short"  # in a stretch of purged events that stand for fewer than have no event
    # duplicate
    DOUBLED = "doubled"  # two planned events for one instant
    COVERED_TWICE = "covered_twice"  # a run of occurrences reaches into what another event has
    # unexpected: no occurrence explains the event
    BEFORE_CREATION = "before_creation"
    BEFORE_START_TIME = "before_start_time"
    AFTER_END_TIME = "after_end_time"
    BEYOND_MAX_RUNS = "beyond_max_runs"
    PAUSED = "paused"
    SET_ASIDE = "set_aside"
    DELETED = "deleted"
    MANUAL = "manual"
    OTHER_SCHEDULE = "other_schedule"
    CLOCK_CHANGE = "clock_change"
    NOT_IN_SCHEDULE = "not_in_schedule"
    # unexpected: the record contradicts itself
    COALESCED_COUNT = "coalesced_count"
    COALESCED_FROM = "coalesced_from"
    JITTER = "jitter"
    IMPOSSIBLE = "impossible"
    NO_REASON = "no_reason"
    NO_DELIVERY = "no_delivery"
    STARTED_EARLY = "started_early"
    FINISHED_EARLY = "finished_early"
    IN_THE_FUTURE = "in_the_future"
    ARCHIVED_EARLY = "archived_early"
    ATTEMPTS_INCOMPLETE = "attempts_incomplete"
    ATTEMPTS_OVERLAP = "attempts_overlap"
    PURGE_SURPLUS = "purge_surplus"
    PURGE_OTHER = "purge_other"
    LOG_BROKEN = "log_broken"
    NOT_ON_RECORD = "not_on_record"
    UNREADABLE = "unreadable"
    NO_TRIGGER = "no_trigger"
    # overdue
    NOT_PLANNED = "not_planned"
    NOT_STARTED = "not_started"
    LEASE_OVER = "lease_over"
    # did not run, and that is in order (beside the reasons of skipped and cancelled events)
    COALESCED = "coalesced"


class Change(NamedTuple):
    """A line of a trigger's log of changes: from `effective_at` on, exclusive, this is what it plans by."""

    change: str
    effective_at: datetime
    state: str
    schedule: str  # JSON
    anchor: datetime
    policy: str  # JSON
    tzdata: str
    planned_count: int = 0  # towards max_runs, when it took effect


class Purged(NamedTuple):
    """A line of the account of deleted events: of a month and a fate.

    `planned` is the number of planned events, `instants` the sum of theirs (`models.account`).
    """

    month: date
    status: str
    occurrences: int
    planned: int
    instants: int
    first: datetime
    last: datetime


class Attempted(NamedTuple):
    """An attempt that did not succeed."""

    attempt: int
    started_at: datetime
    finished_at: datetime


class Recorded(NamedTuple):
    """An event."""

    id: str
    trigger_id: str
    scheduled_for: datetime
    fire_at: datetime
    due_at: datetime
    source: str
    status: str
    state: str
    reason: str | None
    attempt: int
    coalesced: int
    coalesced_from: datetime | None
    recheck_at: datetime | None
    lease_until: datetime | None
    started_at: datetime | None
    attempt_started_at: datetime | None
    finished_at: datetime | None
    attempts: Sequence[Attempted] = ()


class Subject(NamedTuple):
    """A trigger as it stands, its log of changes, oldest first, and the account of its deleted events."""

    id: str
    name: str
    state: str
    schedule: str  # JSON
    anchor: datetime
    policy: str  # JSON
    planned_until: datetime
    deleted: bool
    changes: Sequence[Change]
    purged: Sequence[Purged] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """What is audited, [since, until), and by which measures.

    `patience`: how late a tick or a start may be. `archive_after`: how long after its end an event is
    archived. `tzdata`: the version that computes now; `others`: further ones that nodes said they use.
    """

    since: datetime
    until: datetime
    now: datetime
    patience: timedelta
    archive_after: timedelta
    tzdata: str
    others: frozenset[str] = frozenset()


class Finding(NamedTuple):
    """Something that is wrong: with an event, or with `occurrences` that have none."""

    kind: Kind
    code: Code
    trigger_id: str
    trigger: str
    scheduled_for: datetime | None
    text: str
    event: str | None = None
    occurrences: int = 1


class Note(NamedTuple):
    """Why occurrences did not run, though nothing is wrong."""

    code: str
    since: datetime
    until: datetime
    occurrences: int
    text: str
    event: str | None = None


@dataclass(slots=True)
class Report:
    """The answer of an audit, added up over triggers.

    Occurrences: expected = recorded + purged + missing + those overdue that no tick has planned. Events:
    unfinished, duplicate, unexpected, and the other overdue ones. `notes` are kept when `explain` is set.
    """

    explain: bool = False
    triggers: int = 0
    expected: int = 0
    recorded: int = 0
    unfinished: int = 0
    purged: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    did_not_run: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0
    notes: list[Note] = field(default_factory=list)

    def add(self, finding: Finding, counts: int | None = None) -> None:
        """Tell a finding. It counts as its occurrences, unless `counts` says otherwise."""
        self.counts[finding.kind] += finding.occurrences if counts is None else counts
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)
        else:
            self.left_out += 1

    def idle(self, note: Note) -> None:
        """Count occurrences that did not run, in order."""
        self.did_not_run[str(note.code)] += note.occurrences
        if self.explain and len(self.notes) < MOST_FINDINGS:
            self.notes.append(note)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, duplicate, unexpected or overdue."""
        return not any(self.counts.values())

    def document(self) -> dict[str, Any]:
        """The counts, by their public names."""
        return {
            "expected": self.expected,
            "recorded": self.recorded,
            "missing": self.counts[Kind.MISSING],
            "duplicate": self.counts[Kind.DUPLICATE],
            "unexpected": self.counts[Kind.UNEXPECTED],
            "overdue": self.counts[Kind.OVERDUE],
            "unfinished": self.unfinished,
            "purged": self.purged,
        }
