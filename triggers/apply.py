"""`triggerbeat apply`: makes the stored triggers what a file says, by name, all or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from models.database import Database
from triggers import manage
from triggers.definition import TriggerDocument, parse_triggers, pointer
from triggers.errors import Conflict, InvalidDocument, Problem
from triggers.settings import Settings
from triggers.store import definitions

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one trigger of the file. `changes` are empty unless it was edited."""

    action: str  # created, edited or unchanged
    name: str
    id: str
    next_at: datetime | None
    changes: list[Document]

    def document(self) -> Document:
        """As JSON has it."""
        return {"action": self.action, "name": self.name, "id": self.id, "changes": self.changes}


def apply(database: Database, documents: list[Any], settings: Settings) -> list[Applied]:
    """Create or edit each trigger, in one transaction.

    Raises InvalidDocument with all that is wrong in all of them, and Conflict; then nothing was changed.
    """
    with database.write() as connection:
        now = database.now(connection)
        rows = [stored(connection, document) for document in documents]
        currents = [row and row["schedule"] for row in rows]
        kept = [with_instant_kept(*pair) for pair in zip(documents, currents, strict=True)]
        parsed = parse_triggers(kept, settings, now, currents, pointer("triggers"))
        return [
            apply_one(database, connection, document, row) for document, row in zip(parsed, rows, strict=True)
        ]


def triggers_in(file: Any) -> list[Any]:
    """The list under `triggers:`. Raises InvalidDocument."""
    known = file if isinstance(file, dict) else {}
    problems = [Problem(pointer(key), "unknown field") for key in known if key != "triggers"]
    if not isinstance(known.get("triggers"), list):
        problems.append(Problem("/triggers", "must be a list of triggers"))
    if problems:
        raise InvalidDocument(problems)
    return list(known["triggers"])


def stored(connection: Connection, document: Any) -> dict[str, Any] | None:
    """The trigger of that name, locked, or None. An id is no name."""
    name = document.get("name") if isinstance(document, dict) else None
    if not isinstance(name, str) or definitions.is_id(name):
        return None
    row = definitions.lock_trigger(connection, name)
    return None if row is None else dict(row._mapping)


def with_instant_kept(document: Any, current: Mapping[str, Any] | None) -> Any:
    """The document; `at: now` in a trigger that has had its `now` stays that instant.

    Otherwise each `apply` of the same file would fire it again.
    """
    schedule = document.get("schedule") if isinstance(document, dict) else None
    if not isinstance(schedule, dict) or schedule.get("type") != "once" or schedule.get("at") != "now":
        return document
    if current is None or current["type"] != "once":
        return document
    return {**document, "schedule": {**schedule, "at": current["at"]}}


def apply_one(
    database: Database, connection: Connection, document: TriggerDocument, row: dict[str, Any] | None
) -> Applied:
    """Create or edit one trigger."""
    if row is None:
        created = manage.create(connection, document, database.now)
        return Applied("created", created.name, created.id, created.next_at, [])
    changes = list(differences(row, document.stored()))
    if not changes:
        return Applied("unchanged", row["name"], row["id"], None, [])
    try:
        edited = manage.edit(connection, row["id"], document, database.now)
    except Conflict as error:
        raise Conflict(f"{row['name']}: {error}") from None
    return Applied("edited", edited.name, edited.id, edited.next_at, changes)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Document]:
    """Each field that changes, by JSON pointer. Of a secret only that it does."""
    for column, value in after.items():
        if column == "secret":
            if before[column] != value:
                shown = [None if secret is None else "***" for secret in (before[column], value)]
                yield {"pointer": "/target/secret", "before": shown[0], "after": shown[1]}
        elif column != "target_type":  # it is the target's `type`, too
            yield from differing(pointer(column), before[column], value)


def differing(where: str, before: Any, after: Any) -> Iterator[Document]:
    """The fields in which two JSON values differ; lists are compared whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differing(where + pointer(key), before.get(key), after.get(key))
    elif before != after:
        yield {"pointer": where, "before": before, "after": after}
