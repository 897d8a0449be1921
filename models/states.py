"""The state machine of an event, and the states of a trigger. Its only home.

    status     moved in by                        moved out by
    pending    tick, retry, manual fire           start -> running; misfire or overlap -> skipped;
                                                  pause, edit, delete -> gone
    running    start                              finish -> succeeded, failed, pending (retry);
                                                  tick, when the lease ran out -> pending or failed
    succeeded, failed, skipped, cancelled         final

`state` is the other axis, where the row is kept (`active`, `archived`), and belongs to retention.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What happened to an event."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class EventState(StrEnum):
    """Where an event is kept."""

    ACTIVE = "active"
    ARCHIVED = "archived"


class TriggerState(StrEnum):
    """Whether a trigger plans."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"


class Source(StrEnum):
    """Who asked for an event."""

    SCHEDULE = "schedule"
    CATCHUP = "catchup"
    MANUAL = "manual"
    BACKFILL = "backfill"


class Reason(StrEnum):
    """Why an event ended as it did."""

    ATTEMPTS = "attempts"  # failed: its attempts are spent
    GONE = "gone"  # failed: the target answered 410
    LOST = "lost"  # failed: the last attempt's worker vanished
    MISFIRE = "misfire"  # skipped: noticed later than the grace
    CATCHUP_WINDOW = "catchup_window"  # skipped: older than the catch-up window
    OVERLAP = "overlap"  # skipped: another event of its trigger was under way
    PAUSED = "paused"  # cancelled: due, but not yet started when its trigger was paused
    DELETED = "deleted"  # cancelled: not yet ended when its trigger was deleted


class Change(StrEnum):
    """What was done to a trigger, in the log of changes."""

    CREATED = "created"
    EDITED = "edited"
    PAUSED = "paused"
    RESUMED = "resumed"
    DELETED = "deleted"
    COMPLETED = "completed"
    PAUSED_AFTER_FAILURES = "paused_after_failures"
    REPLANNED = "replanned"  # the rules of its zone changed with the tz database, and its plan with them
    SET_ASIDE = "set_aside"  # its schedule raised: paused, with the error on record


UNFINISHED = (Status.PENDING, Status.RUNNING)
FINAL = (Status.SUCCEEDED, Status.FAILED, Status.SKIPPED, Status.CANCELLED)
FAILURES = (Reason.ATTEMPTS, Reason.GONE, Reason.LOST)
NOT_RUN = tuple(reason for reason in Reason if reason not in FAILURES)  # skipped or cancelled
PLANNED = (Source.SCHEDULE, Source.CATCHUP)


def one_of(column: str, values: type[StrEnum] | tuple[StrEnum, ...]) -> str:
    """The SQL condition that `column` holds one of `values`."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"
