"""An event: the row that records one occurrence and its fate."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, SmallInteger, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Instant, Json
from models.states import PLANNED, EventState, Reason, Source, one_of

# What holds for an event of each status. One expression: several with a list each cost a third of an insert.
UNFINISHED = "finished_at IS NULL AND recheck_at IS NOT NULL AND reason IS NULL AND state = 'active'"
FINISHED = f"finished_at IS NOT NULL AND recheck_at IS NULL AND {one_of('state', EventState)}"
LIFE = f"""CASE status
  WHEN 'pending' THEN {UNFINISHED}
  WHEN 'running' THEN {UNFINISHED} AND attempt > 0 AND lease_until IS NOT NULL AND started_at IS NOT NULL
  WHEN 'succeeded' THEN {FINISHED} AND attempt > 0 AND error IS NULL AND reason IS NULL
  WHEN 'failed' THEN {FINISHED} AND {one_of("reason", Reason)} AND reason IS NOT NULL
  WHEN 'skipped' THEN {FINISHED} AND {one_of("reason", Reason)} AND reason IS NOT NULL
  WHEN 'cancelled' THEN {FINISHED} AND {one_of("reason", Reason)} AND reason IS NOT NULL
  ELSE FALSE END"""


class Event(Base):
    """One row an occurrence, or a run of them.

    `recheck_at` is set exactly while the event is unfinished: the instant at which somebody must look
    at it again. `start` leaves it alone (an update of an indexed column costs an entry in every index);
    whoever finds a running event whose lease has not run out moves `recheck_at` to the lease.
    """

    __tablename__ = "events"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    # No foreign key: PostgreSQL looks each one up, at about the cost of the rest of the insert. Whoever
    # records an event holds its trigger's row, and a trigger stays, because its history has a foreign key.
    trigger_id: Mapped[str] = mapped_column(Id)
    scheduled_for: Mapped[datetime] = mapped_column(Instant)
    fire_at: Mapped[datetime] = mapped_column(Instant)  # scheduled_for + jitter
    due_at: Mapped[datetime] = mapped_column(Instant)  # before this the next attempt may not start
    misfire_at: Mapped[datetime | None] = mapped_column(Instant)  # a first start after this is a misfire
    source: Mapped[str] = mapped_column(String(10))
    status: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = mapped_column(String(10), default=EventState.ACTIVE)
    reason: Mapped[str | None] = mapped_column(String(20))
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    dispatches: Mapped[int] = mapped_column(SmallInteger, default=0)
    coalesced: Mapped[int] = mapped_column(BigInteger, default=1)
    coalesced_from: Mapped[datetime | None] = mapped_column(Instant)
    recheck_at: Mapped[datetime | None] = mapped_column(Instant)
    lease_until: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant)  # of the first attempt
    attempt_started_at: Mapped[datetime | None] = mapped_column(Instant)  # of the latest
    finished_at: Mapped[datetime | None] = mapped_column(Instant)
    payload: Mapped[Any | None] = mapped_column(Json)  # of a manual event: replaces body or kwargs
    result: Mapped[Any | None] = mapped_column(Json)
    error: Mapped[Any | None] = mapped_column(Json)
    progress: Mapped[Any | None] = mapped_column(Json)

    __table_args__ = (
        CheckConstraint(LIFE, name="life"),
        CheckConstraint(one_of("source", Source), name="source"),
        CheckConstraint("fire_at >= scheduled_for AND due_at >= fire_at", name="never_early"),
        CheckConstraint("started_at IS NULL OR started_at >= fire_at", name="started_on_time"),
        CheckConstraint("(started_at IS NULL) = (attempt = 0)", name="attempts"),
        CheckConstraint(
            "coalesced >= 1 AND (coalesced = 1) = (coalesced_from IS NULL)"
            " AND (coalesced_from IS NULL OR coalesced_from < scheduled_for)",
            name="coalesced",
        ),
        Index(
            "uq_events_occurrence",
            "scheduled_for",
            "trigger_id",
            unique=True,
            postgresql_where=text(one_of("source", PLANNED)),
            sqlite_where=text(one_of("source", PLANNED)),
        ),
        Index("ix_events_trigger_id_scheduled_for", "trigger_id", "scheduled_for"),
        Index(
            "ix_events_recheck_at",
            "recheck_at",
            postgresql_where=text("recheck_at IS NOT NULL"),
            sqlite_where=text("recheck_at IS NOT NULL"),
        ),
        # What was sent more than once, for a tick that finds the broker emptied. Next to nothing.
        Index(
            "ix_events_sent_again",
            "recheck_at",
            postgresql_where=text("dispatches > 1"),
            sqlite_where=text("dispatches > 1"),
        ),
        Index(
            "ix_events_unfinished",
            "trigger_id",
            postgresql_where=text("recheck_at IS NOT NULL"),
            sqlite_where=text("recheck_at IS NOT NULL"),
        ),
        # By reason (none: succeeded), not by status: that changes with the start, which is to touch no index.
        Index(
            "ix_events_finished",
            "state",
            "reason",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL"),
            sqlite_where=text("finished_at IS NOT NULL"),
        ),
        # The few that no schedule planned, for the page of all events (the planned have their unique key).
        Index(
            "ix_events_unplanned",
            "scheduled_for",
            postgresql_where=text("source IN ('manual', 'backfill')"),
            sqlite_where=text("source IN ('manual', 'backfill')"),
        ),
        # Room on each page for the start's new version of a row, beside the old one and outside the indexes.
        {"postgresql_with": {"fillfactor": "50"}},
    )


class Attempt(Base):
    """An attempt that did not succeed. The one that did is the event's own row."""

    __tablename__ = "attempts"

    event_id: Mapped[str] = mapped_column(Id, ForeignKey("events.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    started_at: Mapped[datetime] = mapped_column(Instant)
    finished_at: Mapped[datetime] = mapped_column(Instant)
    outcome: Mapped[str] = mapped_column(String(10))
    result: Mapped[Any | None] = mapped_column(Json)
    error: Mapped[Any | None] = mapped_column(Json)

    __table_args__ = (
        CheckConstraint("attempt > 0", name="attempt"),
        CheckConstraint("outcome IN ('failed', 'lost')", name="outcome"),
        CheckConstraint("finished_at >= started_at", name="order"),
    )
