"""What happened to triggers, and what else outlives an event: the audit stands on these tables."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Date,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    event,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Instant, Json, LongText
from models.states import FINAL, Change, one_of


class TriggerChange(Base):
    """One change of a trigger, for good: from `effective_at` on, exclusive, this is what it plans by."""

    __tablename__ = "trigger_changes"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    trigger_id: Mapped[str] = mapped_column(Id, ForeignKey("triggers.id"))
    change: Mapped[str] = mapped_column(String(30))
    effective_at: Mapped[datetime] = mapped_column(Instant)
    state: Mapped[str] = mapped_column(String(10))
    schedule: Mapped[dict[str, Any]] = mapped_column(Json)
    anchor: Mapped[datetime] = mapped_column(Instant)
    policy: Mapped[dict[str, Any]] = mapped_column(Json)
    planned_count: Mapped[int] = mapped_column(BigInteger)  # towards max_runs, when the change took effect
    tzdata: Mapped[str] = mapped_column(String(20))
    detail: Mapped[str | None] = mapped_column(LongText)

    __table_args__ = (
        CheckConstraint(one_of("change", Change), name="change"),
        Index("ix_trigger_changes_trigger_id", "trigger_id", "id"),
    )


# The database itself keeps it so, from everybody but who drops this on purpose. Nothing purges this table.
REFUSAL = "trigger_changes is append-only: the audit stands on it"
KEEPERS = {
    "sqlite": [
        f"CREATE TRIGGER trigger_changes_keep_{verb.lower()} BEFORE {verb} ON trigger_changes"
        f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION refuse_to_change() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$",
        "CREATE TRIGGER trigger_changes_keep BEFORE UPDATE OR DELETE ON trigger_changes"
        " FOR EACH ROW EXECUTE FUNCTION refuse_to_change()",
        "CREATE TRIGGER trigger_changes_keep_all BEFORE TRUNCATE ON trigger_changes"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change()",
    ],
}
for _dialect, _statements in KEEPERS.items():
    for _statement in _statements:
        _ddl = DDL(_statement).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
        event.listen(TriggerChange.__table__, "after_create", _ddl)


class PurgedEvents(Base):
    """How many occurrences of a trigger, by month (UTC) and fate, stood in events that retention deleted.

    `planned` is how many of the events a schedule planned, `instants` the sum of their `scheduled_for`
    (`models.account`).
    """

    __tablename__ = "purged_events"

    trigger_id: Mapped[str] = mapped_column(Id, ForeignKey("triggers.id"), primary_key=True)
    month: Mapped[date] = mapped_column(Date, primary_key=True)
    status: Mapped[str] = mapped_column(String(10), primary_key=True)
    events: Mapped[int] = mapped_column(BigInteger)
    occurrences: Mapped[int] = mapped_column(BigInteger)  # of planned events, with those they covered
    planned: Mapped[int] = mapped_column(BigInteger)
    instants: Mapped[int] = mapped_column(BigInteger)
    first_scheduled_for: Mapped[datetime] = mapped_column(Instant)
    last_scheduled_for: Mapped[datetime] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint(one_of("status", FINAL), name="status"),
        CheckConstraint(
            "events > 0 AND planned BETWEEN 0 AND events AND occurrences >= planned", name="counts"
        ),
        CheckConstraint("first_scheduled_for <= last_scheduled_for", name="order"),
    )


class Node(Base):
    """A machine that ran a tick: when it last did, and what it saw."""

    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    last_tick_at: Mapped[datetime] = mapped_column(Instant)
    took_seconds: Mapped[float] = mapped_column(Double)
    planned: Mapped[int] = mapped_column(BigInteger)
    clock_skew_seconds: Mapped[float] = mapped_column(Double)
    tzdata: Mapped[str] = mapped_column(String(20))


class ZoneRules(Base):
    """The rules of a zone by which its triggers' plans were made."""

    __tablename__ = "zone_rules"

    zone: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))  # of the zone's file
    tzdata: Mapped[str] = mapped_column(String(20))  # the release that brought them
    adopted_at: Mapped[datetime] = mapped_column(Instant)
    checked_at: Mapped[datetime] = mapped_column(Instant)  # up to here nobody planned by older ones
    moved: Mapped[int | None] = mapped_column(BigInteger)  # triggers; NULL: the rules it began with
    examples: Mapped[Any | None] = mapped_column(Json)  # of what moved: name, next instant before and after


class IdempotencyKey(Base):
    """A create that was answered: the same key and body within a day give the same trigger again."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_digest: Mapped[str] = mapped_column(String(64))
    trigger_id: Mapped[str] = mapped_column(Id, ForeignKey("triggers.id"))
    created_at: Mapped[datetime] = mapped_column(Instant)

    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)
