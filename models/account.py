"""Sums of instants, as the account of deleted events has them: one that is missing among them has a name."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

MODULUS = 2**61 - 1  # more microseconds than have passed since 1970; two such sums fit a bigint
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def micros(instant: datetime) -> int:
    """An instant in microseconds since 1970."""
    return (instant - EPOCH) // MICROSECOND


def sum_of(instants: Iterable[datetime]) -> int:
    """The sum of instants in microseconds since 1970, modulo `MODULUS`."""
    return sum(map(micros, instants)) % MODULUS
