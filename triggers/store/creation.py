"""The statements that store new triggers, any number at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from models.base import instant_text
from models.database import all_rows
from models.states import Change
from triggers.store import bulk

# The columns that are the same for all new triggers are in the statements.
COLUMNS = {
    "id": "uuid",
    "name": "text",
    "description": "text",
    "tags": "json",
    "schedule": "json",
    "target_type": "text",
    "target": "json",
    "secret": "text",
    "policy": "json",
    "retry": "json",
    "anchor": "timestamptz",
    "state": "text",
    "planned_until": "timestamptz",
    "next_at": "timestamptz",
    "planned_count": "bigint",
    "exhausted": "boolean",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
}
# Made once, and without looking for circles: what is stored was read from JSON.
encode = json.JSONEncoder(check_circular=False, default=datetime.isoformat).encode
KEPT = ("id", "planned_until", "state", "schedule", "anchor", "policy", "planned_count")  # on record

# One document, not an array for each column, in which psycopg would quote every quote. By name, or two of
# these that have names in common would each wait for the other.
INSERT_POSTGRES = f"""
WITH created AS (
  INSERT INTO triggers ({", ".join(COLUMNS)}, version, consecutive_failures)
  SELECT r.*, 1, 0
  FROM json_to_recordset(CAST(%(rows)s AS json))
    AS r({", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())})
  ORDER BY r.name
  ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING
  RETURNING {", ".join(KEPT)}
)
INSERT INTO trigger_changes (trigger_id, effective_at, {", ".join(KEPT[2:])}, change, tzdata)
SELECT created.*, '{Change.CREATED}', %(tzdata)s FROM created ORDER BY created.id
RETURNING CAST(trigger_id AS text)
"""

TAKEN_SQLITE = """
SELECT name FROM triggers WHERE deleted_at IS NULL AND name IN (SELECT value FROM json_each(?))
"""

INSERT_SQLITE = f"""
INSERT INTO triggers ({", ".join(COLUMNS)}, version, consecutive_failures)
VALUES ({", ".join("?" * len(COLUMNS))}, 1, 0)
"""

RECORD_SQLITE = f"""
INSERT INTO trigger_changes (trigger_id, effective_at, {", ".join(KEPT[2:])}, change, tzdata)
VALUES ({", ".join("?" * len(KEPT))}, '{Change.CREATED}', ?)
"""


def insert_triggers(connection: Connection, triggers: Sequence[Mapping[str, Any]], tzdata: str) -> set[str]:
    """Store those new triggers whose names are free, and put them on record. The ids of these.

    Of two with one name the first is stored.
    """
    if not triggers:
        return set()
    insert = insert_postgres if bulk.is_postgres(connection) else insert_sqlite
    return insert(connection, triggers, tzdata)


def insert_postgres(connection: Connection, triggers: Sequence[Mapping[str, Any]], tzdata: str) -> set[str]:
    """In one statement."""
    parameters = {"rows": encode(triggers), "tzdata": tzdata}
    return {id_ for (id_,) in all_rows(connection, INSERT_POSTGRES, parameters)}


def insert_sqlite(connection: Connection, triggers: Sequence[Mapping[str, Any]], tzdata: str) -> set[str]:
    """Nobody else writes meanwhile, so what is free stays free."""
    names = json.dumps([trigger["name"] for trigger in triggers])
    taken = {name for (name,) in connection.exec_driver_sql(TAKEN_SQLITE, (names,))}
    rows, records = [], []
    for trigger in triggers:
        if trigger["name"] in taken:
            continue
        taken.add(trigger["name"])
        row = {column: as_sqlite(column, trigger[column]) for column in COLUMNS}
        rows.append(tuple(row.values()))
        records.append((*[row[column] for column in KEPT], tzdata))
    if rows:
        connection.exec_driver_sql(INSERT_SQLITE, rows)
        connection.exec_driver_sql(RECORD_SQLITE, records)
    return {row[0] for row in rows}


def as_sqlite(column: str, value: Any) -> Any:
    """A value in SQLite's form."""
    if COLUMNS[column] == "json":
        return json.dumps(value)
    return instant_text(value) if isinstance(value, datetime) else value
