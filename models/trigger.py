"""A trigger: a standing order made of a schedule, a target and a policy."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Instant, Json, LongText
from models.states import TriggerState, one_of

KINDS = "target_type IN ('http', 'celery', 'log')"


class Trigger(Base):
    """One row a trigger. A deleted one stays, so that its events keep their name and the audit its proof."""

    __tablename__ = "triggers"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str] = mapped_column(LongText, default="")
    tags: Mapped[list[str]] = mapped_column(Json)
    schedule: Mapped[dict[str, Any]] = mapped_column(Json)
    anchor: Mapped[datetime] = mapped_column(Instant)  # of an interval without start_time
    target_type: Mapped[str] = mapped_column(String(10))
    target: Mapped[dict[str, Any]] = mapped_column(Json)
    secret: Mapped[str | None] = mapped_column(LongText)
    policy: Mapped[dict[str, Any]] = mapped_column(Json)
    retry: Mapped[dict[str, Any]] = mapped_column(Json)
    state: Mapped[str] = mapped_column(String(10))
    version: Mapped[int] = mapped_column(Integer, default=1)  # counts edits
    planned_until: Mapped[datetime] = mapped_column(Instant)  # every occurrence up to here has its event
    next_at: Mapped[datetime | None] = mapped_column(Instant)  # the first one after it; NULL: nothing to plan
    planned_count: Mapped[int] = mapped_column(BigInteger, default=0)  # towards max_runs
    consecutive_failures: Mapped[int] = mapped_column(Integer, default=0)
    last_fired_at: Mapped[datetime | None] = mapped_column(Instant)  # of events that were purged since
    schedule_error: Mapped[str | None] = mapped_column(LongText)  # why it was set aside
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint(one_of("state", TriggerState), name="state"),
        CheckConstraint(KINDS, name="target_type"),
        CheckConstraint("planned_count >= 0 AND consecutive_failures >= 0", name="counts"),
        # What does not plan is invisible to the claim.
        CheckConstraint("next_at IS NULL OR (state = 'active' AND deleted_at IS NULL)", name="plans"),
        CheckConstraint("next_at IS NULL OR next_at > planned_until", name="ahead"),
        Index(
            "uq_triggers_name",
            "name",
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
            sqlite_where=text("deleted_at IS NULL"),
        ),
        Index(
            "ix_triggers_next_at",
            "next_at",
            postgresql_where=text("next_at IS NOT NULL"),
            sqlite_where=text("next_at IS NOT NULL"),
        ),
        # Those with nothing left to plan whose last event may still be under way: few at any time.
        Index(
            "ix_triggers_exhausted",
            "id",
            postgresql_where=text("exhausted"),
            sqlite_where=text("exhausted"),
        ),
    )
    exhausted: Mapped[bool] = mapped_column(default=False)  # active, nothing left to plan, not manual
