"""`update_event_states`: finished events are archived, archived ones deleted, in bounded batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from models.database import Database
from models.states import EventState, Status
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
    kept = (Status.SUCCEEDED, Status.SKIPPED, Status.CANCELLED)

    def archive(connection: Connection, now: datetime, most: int) -> int:
        return store.archive(connection, now - ages.active, most)

    def delete(connection: Connection, now: datetime, most: int) -> int:
        return store.delete(connection, EventState.ARCHIVED, kept, now - ages.archived, most)

    def delete_failed(connection: Connection, now: datetime, most: int) -> int:
        return store.delete(connection, EventState.ARCHIVED, (Status.FAILED,), now - ages.failed, most)

    def forget_keys(connection: Connection, now: datetime, most: int) -> int:
        return store.forget_keys(connection, now - KEY_AGE, most)

    return {
        "archived": until_done(database, archive, batch),
        "deleted": until_done(database, delete, batch) + until_done(database, delete_failed, batch),
        "keys_forgotten": until_done(database, forget_keys, batch),
    }


def until_done(database: Database, work: Batch, batch: int) -> int:
    """Repeat one batch a transaction until there is none."""
    total = 0
    while True:
        with database.write() as connection:
            done = work(connection, database.now(connection), batch)
        total += done
        if done < batch:
            return total
