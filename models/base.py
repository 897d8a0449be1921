"""Column types and naming shared by all tables."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, MetaData, String, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import DateTime, TypeDecorator

# Names are part of the schema: without them a migration cannot drop a constraint on SQLite.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The root of all rows."""

    metadata = MetaData(naming_convention=NAMING)


class Instant(TypeDecorator[datetime]):
    """An instant in UTC, to the microsecond.

    `timestamptz` on PostgreSQL; on SQLite text of fixed width (`2026-11-20 09:00:00.000000`), which
    sorts as the instants do and which SQLite's own date functions read.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(String(26))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return instant_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            return datetime.fromisoformat(value + "+00:00")
        instant: datetime = value
        return instant if instant.tzinfo is UTC else instant.astimezone(UTC)


def instant_text(value: datetime) -> str:
    """SQLite's form of an aware instant."""
    utc = value if value.tzinfo is UTC else value.astimezone(UTC)
    return utc.isoformat(" ", "microseconds")[:26]  # without its +00:00


# PostgreSQL keeps ids in 16 bytes; SQLite as the text that people read elsewhere.
Id = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")


class Json(TypeDecorator[Any]):
    """A JSON value; Python's None is NULL.

    `json`, not `jsonb`, on PostgreSQL: the text stays as it was written, which is what the planner's memo is
    keyed by. Text on SQLite, whose own JSON columns turn `2.0` into `2` and round large integers.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(self.impl_instance if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return json.dumps(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return json.loads(value) if isinstance(value, str) and dialect.name != "postgresql" else value


LongText = Text


def new_id(now: datetime) -> str:
    """An id that is greater than those this process made before."""
    global _latest
    with _counting:
        _latest = max(int(now.timestamp() * 1_000_000) * QUARTERS, _latest + 1)
        return ids_at(_latest, 1)[0]


def ids_from(first: str, count: int) -> list[str]:
    """Ids in a row: the first one and their number tell all of them (RFC 9562, section 6.2, method 2)."""
    head, tail = first[:24], int(first[24:], 16)
    tail = min(tail, 2**48 - count)  # room for all of them, whatever the random bits were
    return [f"{head}{tail + number:012x}" for number in range(count)]


def new_ids(now: datetime, count: int) -> list[str]:
    """Ids of one instant, in ascending order: so each goes into an index right behind the one before."""
    return sorted(ids_at(int(now.timestamp() * 1_000_000) * QUARTERS, count))


def ids_at(quarters: int, count: int) -> list[str]:
    """UUIDs of version 7 (RFC 9562, section 5.7) of an instant in quarters of a microsecond.

    48 bits are the millisecond, 12 the fraction of it (section 6.2, method 3), 62 are random. Ids that grow
    with time keep the primary key's index warm at its right edge.
    """
    millisecond, fraction = divmod(quarters, 1_000 * QUARTERS)
    time = f"{millisecond & 0xFFFFFFFFFFFF:012x}"
    head = f"{time[:8]}-{time[8:]}-7{fraction:03x}-"
    random = os.urandom(8 * count).hex()
    return [
        f"{head}{VARIANT[random[i]]}{random[i + 1 : i + 4]}-{random[i + 4 : i + 16]}"
        for i in range(0, 16 * count, 16)
    ]


# RFC 9562, section 4.1: the variant's two bits are 10, whatever the random digit was.
VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
QUARTERS = 4  # of a microsecond, so that 12 bits hold a millisecond's
_latest = 0
_counting = threading.Lock()
