"""The statements of an update of the tz database: whose plan was made by rules that changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from models import ZoneRules
from models.base import Id, Instant
from models.states import PLANNED, Change, one_of
from triggers.store import bulk, lifecycle

NOBODY = "00000000-0000-0000-0000-000000000000"  # before all ids
CHANGES_LOOKED_AT = 10_000  # the latest ones, in search of a writer with older rules


class Adopted(NamedTuple):
    """The rules of a zone by which plans were made last."""

    zone: str
    digest: str
    tzdata: str
    adopted_at: datetime
    checked_at: datetime
    moved: int | None
    examples: Any


def adopted(connection: Connection) -> dict[str, Adopted]:
    """What is on record, by zone."""
    columns = [getattr(ZoneRules, name) for name in Adopted._fields]
    rows = [Adopted(*row) for row in connection.execute(select(*columns))]
    return {row.zone: row for row in rows}


def begin(connection: Connection, digests: Mapping[str, str], tzdata: str, now: datetime) -> None:
    """Record zones that were not known before; another process may do so at the same time."""
    rows = [
        {"zone": zone, "digest": digest, "tzdata": tzdata, "adopted_at": now, "checked_at": now}
        for zone, digest in digests.items()
    ]
    dialect = postgresql if bulk.is_postgres(connection) else sqlite
    if rows:
        connection.execute(dialect.insert(ZoneRules).on_conflict_do_nothing(), rows)


def adopt(connection: Connection, zone: str, **values: Any) -> None:
    """Change what is on record of a zone."""
    connection.execute(update(ZoneRules).where(ZoneRules.zone == zone).values(**values))


OLDER_WRITERS = f"""
SELECT EXISTS (SELECT 1 FROM nodes WHERE last_tick_at > :since AND tzdata < :tzdata)
    OR EXISTS (SELECT 1 FROM (SELECT effective_at, tzdata FROM trigger_changes
                              ORDER BY id DESC LIMIT {CHANGES_LOOKED_AT}) AS latest
               WHERE effective_at > :since AND tzdata < :tzdata)
"""


def older_writers(connection: Connection, tzdata: str, since: datetime) -> bool:
    """Whether somebody planned by an older release since then: releases sort as texts do."""
    parameters = bulk.instants(connection, {"tzdata": tzdata, "since": since})
    return bool(connection.execute(text(OLDER_WRITERS), parameters).scalar_one())


class Dependent(NamedTuple):
    """A trigger whose plan depends on the rules of a zone."""

    id: str
    name: str
    zone: str
    schedule: str  # JSON
    anchor: datetime
    planned_until: datetime
    next_at: datetime | None
    planned_count: int


WINDOW = "SELECT id FROM triggers WHERE id > :after ORDER BY id LIMIT 1 OFFSET :most"
DEPENDENT = """
SELECT id, name, {zone} AS zone, {schedule} AS schedule, anchor, planned_until, next_at, planned_count
FROM triggers WHERE {which} AND state = 'active' AND deleted_at IS NULL
  AND (next_at IS NOT NULL OR exhausted) AND {zone} {among}
"""


def dependent(
    connection: Connection, zones: Iterable[str], after: str, most: int
) -> tuple[list[Dependent], str | None]:
    """Of `most` triggers with ids beyond `after` those that plan in one of these zones, and the id to go on
    after; None when there are no more.
    """
    window = text(WINDOW).bindparams(bindparam("after", type_=Id)).columns(id=Id)
    end = connection.execute(window, {"after": after, "most": most - 1}).scalar()
    limits = {"after": after} | ({"end": end} if end else {})
    which = "id > :after" + (" AND id <= :end" if end else "")
    return _dependent(connection, zones, which, limits, [bindparam(name, type_=Id) for name in limits]), end


def locked(connection: Connection, zones: Iterable[str], ids: Sequence[str]) -> list[Dependent]:
    """Of these triggers, locked now, those that still plan in one of these zones."""
    lifecycle.lock(connection, ids)
    which = f"id {bulk.among(connection)}"
    return _dependent(connection, zones, which, {"ids": bulk.ids(connection, ids)}, [])


def _dependent(
    connection: Connection, zones: Iterable[str], which: str, limits: dict[str, Any], typed: list[Any]
) -> list[Dependent]:
    postgres = bulk.is_postgres(connection)
    statement = DEPENDENT.format(
        zone="schedule->>'timezone'" if postgres else "json_extract(schedule, '$.timezone')",
        schedule="CAST(schedule AS text)" if postgres else "schedule",
        which=which,
        among="= ANY(:zones)" if postgres else "IN (SELECT value FROM json_each(:zones))",
    )
    found = connection.execute(
        text(statement)
        .bindparams(*typed)
        .columns(id=Id, anchor=Instant, planned_until=Instant, next_at=Instant),
        limits | {"zones": list(zones) if postgres else json.dumps(list(zones))},
    )
    return [Dependent(*row) for row in found]


AHEAD = f"""
SELECT trigger_id, scheduled_for FROM events
WHERE trigger_id {{ids}} AND scheduled_for > :now AND {one_of("source", PLANNED)}
"""


def ahead(connection: Connection, ids: Sequence[str], now: datetime) -> dict[str, set[datetime]]:
    """The instants for which these triggers have events already."""
    found: dict[str, set[datetime]] = {}
    if ids:
        statement = bulk.typed(connection, AHEAD, trigger_id=Id, scheduled_for=Instant)
        parameters = bulk.instants(connection, {"now": now}) | {"ids": bulk.ids(connection, ids)}
        for row in connection.execute(statement, parameters):
            found.setdefault(row.trigger_id, set()).add(row.scheduled_for)
    return found


DROP = f"""
DELETE FROM events
WHERE trigger_id {{ids}} AND recheck_at IS NOT NULL AND status = 'pending' AND attempt = 0
  AND {one_of("source", PLANNED)} AND scheduled_for > :now
RETURNING trigger_id, coalesced
"""


def drop_planned(connection: Connection, ids: Sequence[str], now: datetime) -> Counter[str]:
    """Remove what is planned for later than `now` and never started; how many occurrences of each."""
    statement = bulk.typed(connection, DROP, trigger_id=Id, coalesced=None)
    parameters = bulk.instants(connection, {"now": now}) | {"ids": bulk.ids(connection, ids)}
    gone: Counter[str] = Counter()
    for row in connection.execute(statement, parameters):
        gone[row.trigger_id] += row.coalesced
    return gone


MOVE_COLUMNS = ("id", "next_at", "planned_count", "exhausted", "detail")
MOVE = """
UPDATE triggers SET planned_until = :now, next_at = r.next_at, planned_count = r.planned_count,
       exhausted = r.exhausted, updated_at = :now
FROM {rows} WHERE triggers.id = r.id
"""
RECORD = f"""
INSERT INTO trigger_changes (trigger_id, change, effective_at, state, schedule, anchor, policy,
                             planned_count, tzdata, detail)
SELECT t.id, '{Change.REPLANNED}', :now, t.state, t.schedule, t.anchor, t.policy, t.planned_count,
       :tzdata, r.detail
FROM {{rows}} JOIN triggers t ON t.id = r.id
"""


def move(connection: Connection, rows: Sequence[Sequence[Any]], now: datetime, tzdata: str) -> None:
    """Let these triggers plan anew from `now` on, and put it on record; rows are as `MOVE_COLUMNS`."""
    if rows:
        bulk.run(connection, MOVE, MOVE_COLUMNS, rows, now=now)
        bulk.run(connection, RECORD, MOVE_COLUMNS, rows, now=now, tzdata=tzdata)
