"""`update_event_states`: finished events are archived, archived ones deleted, in bounded batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection

from models.database import Database
from models.states import FAILURES, NOT_RUN
from triggers.store import retention as store

BATCH = 2_000  # events in one transaction
KEY_AGE = timedelta(days=1)  # of an idempotency key


@dataclass(frozen=True, slots=True)
class Ages:
    """How long after `finished_at` an event is archived, deleted, and deleted when it failed."""

    active: timedelta
    archived: timedelta
    failed: timedelta


Batch = Callable[[Connection, datetime, int], int]


def update_event_states(database: Database, ages: Ages, batch: int = BATCH) -> dict[str, int]:
    """Archive and delete until nothing is left to do; what was done, by its name.

    Nothing unfinished is ever touched: only a final event has a `finished_at`.
    """

    def archive(ended: store.Ended) -> int:
        return until_done(database, partial(store.archive, ended=ended), ages.active, batch)

    def delete(ended: store.Ended, age: timedelta) -> int:
        return until_done(database, partial(store.delete, ended=ended), age, batch)

    return {
        "archived": archive(None) + archive(NOT_RUN + FAILURES),
        "deleted": delete(None, ages.archived)
        + delete(NOT_RUN, ages.archived)
        + delete(FAILURES, ages.failed),
        "keys_forgotten": until_done(database, store.forget_keys, KEY_AGE, batch),
    }


def until_done(database: Database, work: Batch, age: timedelta, batch: int) -> int:
    """Repeat one batch a transaction, of what is older than `age`, until there is none."""
    total = 0
    while True:
        with database.write() as connection:
            done = work(connection, database.now(connection) - age, batch)
        total += done
        if done < batch:
            return total
