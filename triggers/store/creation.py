"""The statements that store new triggers, any number at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from models.states import Change
from triggers.store import bulk
from triggers.store.plan import Texts

# One row of `rows`; the columns that begin the same for all are in the statements.
COLUMNS = (
    "id", "name", "description", "tags", "schedule", "target_type", "target", "secret", "policy", "retry",
    "anchor", "state", "planned_until", "next_at", "planned_count", "exhausted", "created_at", "updated_at",
)  # fmt: skip
JSON_COLUMNS = {"tags", "schedule", "target", "policy", "retry"}
KEPT = ("id", "planned_until", "state", "schedule", "anchor", "policy", "planned_count")  # on record

# By name, or two of these that have names in common would each wait for the other.
INSERT_POSTGRES = f"""
WITH created AS (
  INSERT INTO triggers ({", ".join(COLUMNS)}, version, consecutive_failures)
  SELECT r.*, 1, 0 FROM {{rows}} ORDER BY r.name
  ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING
  RETURNING {", ".join(KEPT)}
)
INSERT INTO trigger_changes (trigger_id, effective_at, {", ".join(KEPT[2:])}, change, tzdata)
SELECT created.*, '{Change.CREATED}', :tzdata FROM created ORDER BY created.id
RETURNING trigger_id
"""

TAKEN_SQLITE = (
    "SELECT name FROM triggers WHERE deleted_at IS NULL AND name IN (SELECT value FROM json_each(?))"
)

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
    rows = [tuple(stored(column, trigger[column]) for column in COLUMNS) for trigger in triggers]
    if not rows:
        return set()
    if bulk.is_postgres(connection):
        return set(map(str, bulk.run(connection, INSERT_POSTGRES, COLUMNS, rows, tzdata=tzdata).scalars()))
    names = json.dumps([trigger["name"] for trigger in triggers])
    seen = {name for (name,) in connection.exec_driver_sql(TAKEN_SQLITE, (names,))}
    free = [row for row in rows if row[1] not in seen and not seen.add(row[1])]  # type: ignore[func-returns-value]
    texts = Texts()
    found = [tuple(map(texts.value, row)) for row in free]
    if found:
        places = [COLUMNS.index(column) for column in KEPT]
        connection.exec_driver_sql(INSERT_SQLITE, found)
        records = [(*[row[place] for place in places], tzdata) for row in found]
        connection.exec_driver_sql(RECORD_SQLITE, records)
    return {row[0] for row in free}


def stored(column: str, value: Any) -> Any:
    """A value as both statements take it: JSON as its text."""
    return json.dumps(value) if column in JSON_COLUMNS else value
