"""Whether an event's own record can be true: its status, its instants, its attempts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import eq
from typing import Any, NamedTuple

from models.states import FAILURES, FINAL, UNFINISHED, Change, EventState, Reason, Status
from triggers.audit.records import Code, Kind, Recorded, Span, Subject
from triggers.rfc3339 import format_utc

STATUSES = {str(status) for status in Status}


REASONS: dict[str, tuple[Reason, ...]] = {
    Status.FAILED: FAILURES,
    Status.SKIPPED: (Reason.MISFIRE, Reason.CATCHUP_WINDOW, Reason.OVERLAP),
    Status.CANCELLED: (Reason.PAUSED, Reason.DELETED),
}
PAUSES = (Change.PAUSED, Change.PAUSED_AFTER_FAILURES)


class Fault(NamedTuple):
    """What is wrong with an event."""

    kind: Kind
    code: Code
    text: str


def faults(event: Recorded, subject: Subject, span: Span) -> Iterator[Fault]:
    """All that is wrong with an event, whatever occurrence it stands for."""
    if plain(event, span):
        return
    if found := list(contradictions(event)):  # of what cannot be, nothing more can be said
        yield from found
        return
    yield from times(event, span)
    yield from attempts(event)
    yield from reasons(event, subject)
    yield from lateness(event, subject, span)


def plain(event: Recorded, span: Span) -> bool:
    """Whether nothing can be wrong: the event succeeded at the first attempt. Nearly all do."""
    return (
        event.status == Status.SUCCEEDED
        and event.state == EventState.ACTIVE
        and event.attempt == 1
        and event.recheck_at is None
        and event.reason is None
        and not event.attempts
        and event.started_at is not None
        and event.finished_at is not None
        and event.started_at == event.attempt_started_at
        and event.scheduled_for <= event.fire_at <= event.started_at <= event.finished_at <= span.now
    )


def contradictions(event: Recorded) -> Iterator[Fault]:
    """What no event of its status can be."""
    if event.status not in STATUSES:
        yield impossible(f"there is no status {event.status!a}")
        return
    final = event.status in FINAL
    if final != (event.finished_at is not None):
        yield impossible(f"{event.status}, and {'no end' if final else 'an end'} on record")
    if final != (event.recheck_at is None):
        yield impossible(f"{event.status}, and {'somebody' if final else 'nobody'} is to look at it again")
    if event.state == EventState.ARCHIVED and not final:
        yield impossible(f"{event.status}, and archived")
    known = REASONS.get(event.status, ())
    if bool(known) != (event.reason is not None):
        yield impossible(f"{event.status}, and {'no' if known else 'a'} reason why not")
    elif known and event.reason not in known:
        yield impossible(f"{event.status}, and the reason is {event.reason!a}")
    for begun in (event.started_at, event.attempt_started_at):
        if (begun is None) != (event.attempt == 0):
            yield impossible(f"attempt {event.attempt}, and {'no' if event.attempt else 'a'} start on record")
            break
    if event.status == Status.SKIPPED and event.attempt:
        yield impossible("skipped, although it had started")
    if event.status in (Status.SUCCEEDED, Status.FAILED, Status.RUNNING) and not event.attempt:
        yield Fault(Kind.UNEXPECTED, Code.NO_DELIVERY, f"{event.status} without an attempt")
    if event.status == Status.RUNNING and event.lease_until is None:
        yield impossible("running without a lease")


def impossible(text: str) -> Fault:
    """No step of the product makes such a row."""
    return Fault(Kind.UNEXPECTED, Code.IMPOSSIBLE, text)


def times(event: Recorded, span: Span) -> Iterator[Fault]:
    """What is in the wrong order."""
    if not event.scheduled_for <= event.fire_at <= event.due_at:
        yield Fault(
            Kind.UNEXPECTED, Code.JITTER, f"fires at {told(event.fire_at)}, is due at {told(event.due_at)}"
        )
    begun = event.started_at
    if begun is not None and begun < event.fire_at:
        early = (event.fire_at - begun).total_seconds()
        yield Fault(Kind.UNEXPECTED, Code.STARTED_EARLY, f"started {early:.6f} s before its instant")
    ended = event.finished_at
    if ended is None:
        return
    latest = max((at for at in (begun, event.attempt_started_at) if at is not None), default=None)
    if latest is not None and ended < latest:
        yield Fault(
            Kind.UNEXPECTED, Code.FINISHED_EARLY, f"finished at {told(ended)}, started at {told(latest)}"
        )
    if ended > span.now:
        yield Fault(Kind.UNEXPECTED, Code.IN_THE_FUTURE, f"finished at {told(ended)}, which is yet to come")
    elif event.state == EventState.ARCHIVED and ended > span.now - span.archive_after:
        age = (span.now - ended).total_seconds()
        yield Fault(Kind.UNEXPECTED, Code.ARCHIVED_EARLY, f"archived within {age:.0f} s of its end")


def attempts(event: Recorded) -> Iterator[Fault]:
    """Each attempt that did not succeed leaves a record; one begins after the other ended."""
    numbers = [one.attempt for one in event.attempts]
    latest = event.attempt
    open_ended = event.status in (Status.RUNNING, Status.SUCCEEDED)
    complete = range(1, latest if open_ended else latest + 1)  # no list: somebody may have written any number
    # What ends while it runs may be cancelled without a record of the attempt.
    whole = are(numbers, complete)
    if not whole and not (event.status == Status.CANCELLED and are(numbers, complete[:-1])):
        text = f"attempt {latest}, {event.status}, and failed ones on record: {numbers or 'none'}"
        yield Fault(Kind.UNEXPECTED, Code.ATTEMPTS_INCOMPLETE, text)
    starts = [(one.attempt, one.started_at) for one in event.attempts]
    if event.attempt_started_at is not None and latest not in numbers:
        starts.append((latest, event.attempt_started_at))
    for before, (number, began) in zip(event.attempts, starts[1:], strict=False):
        if began < before.finished_at:
            text = f"attempt {number} began at {told(began)}, before attempt {before.attempt} had ended"
            yield Fault(Kind.UNEXPECTED, Code.ATTEMPTS_OVERLAP, text)
    if starts and event.started_at is not None and starts[0] != (1, event.started_at) and whole:
        text = f"the first attempt began at {told(starts[0][1])}, the event at {told(event.started_at)}"
        yield Fault(Kind.UNEXPECTED, Code.ATTEMPTS_OVERLAP, text)


def reasons(event: Recorded, subject: Subject) -> Iterator[Fault]:
    """Why it did not run: a policy or a change of its trigger's log must have asked for it.

    Any of them, whenever it was in force: which one judged an event that waited for long is not on record.
    """
    policies = [subject.policy, *(change.policy for change in subject.changes)]
    ended = event.finished_at
    match event.reason:
        case Reason.OVERLAP:
            asked = any(policy_of(text).get("overlap") != "allow" for text in policies)
        case Reason.MISFIRE:
            graces = (grace(text) for text in policies if policy_of(text).get("misfire") != "fire_all")
            asked = any(ended is not None and ended - event.fire_at > least for least in graces)
        case Reason.CATCHUP_WINDOW:
            windows = (policy_of(text).get("catchup_window_seconds", 0) for text in policies)
            least = timedelta(seconds=min(windows))
            asked = ended is not None and ended - event.scheduled_for > least
        case Reason.PAUSED:
            asked = any(
                change.change in PAUSES and change.effective_at == ended for change in subject.changes
            )
        case Reason.DELETED:
            asked = any(change.change == Change.DELETED for change in subject.changes)
        case _:
            return
    if not asked:
        text = f"{event.status} at {told(ended)}, {event.reason}: nothing in its trigger's log asked for that"
        yield Fault(Kind.UNEXPECTED, Code.NO_REASON, text)


def grace(policy: str) -> timedelta:
    """From how late on an occurrence is a misfire by a policy."""
    return timedelta(seconds=policy_of(policy).get("misfire_grace_seconds", 0))


@lru_cache(maxsize=1_024)
def policy_of(text: str) -> dict[str, Any]:
    """A policy; an empty one for what is none, which is told of elsewhere."""
    policy = json.loads(text)
    return policy if isinstance(policy, dict) else {}


def are(numbers: Sequence[int], expected: range) -> bool:
    """Whether these are the expected numbers, in order."""
    return len(numbers) == len(expected) and all(map(eq, numbers, expected))


def lateness(event: Recorded, subject: Subject, span: Span) -> Iterator[Fault]:
    """What somebody should have started, or ended, long ago."""
    if event.status not in UNFINISHED:
        return
    if event.status == Status.RUNNING:
        if late(event.lease_until, span):
            yield Fault(
                Kind.OVERDUE, Code.LEASE_OVER, f"running, and its lease ended at {told(event.lease_until)}"
            )
        return
    # What queues behind another waits for as long as that takes; but somebody must look at it.
    queues = event.attempt == 0 and policy_of(subject.policy).get("overlap") == "queue"
    if late(event.recheck_at if queues else event.due_at, span):
        yield Fault(Kind.OVERDUE, Code.NOT_STARTED, f"due at {told(event.due_at)}, and not started")


def told(instant: datetime | None) -> str:
    """An instant in a text."""
    return "no instant" if instant is None else format_utc(instant)


def late(instant: datetime | None, span: Span) -> bool:
    """Whether an instant is longer ago than any tick or start takes."""
    return instant is not None and instant < span.now - span.patience
