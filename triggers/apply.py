"""`triggerbeat apply`: makes the stored triggers what a file says, by name, all or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from models.database import Database
from triggers import manage
from triggers.definition import TriggerDocument, parse_triggers, pointer
from triggers.errors import Conflict, InvalidDocument, NotFound, Problem
from triggers.logs import unless_undone
from triggers.settings import Settings
from triggers.store import definitions, lifecycle

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """A trigger that is stored already, and what a document would change of it."""

    id: str
    changes: list[Document]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one trigger. `changes` are empty unless it was edited; `id` is None before it exists."""

    action: str  # created, edited, unchanged or deleted
    name: str
    id: str | None
    next_at: datetime | None = None
    changes: list[Document] = field(default_factory=list)

    def document(self) -> Document:
        """As JSON has it."""
        return {"action": self.action, "name": self.name, "id": self.id, "changes": self.changes}


def apply(
    database: Database,
    documents: list[Any],
    settings: Settings,
    *,
    prune: bool = False,
    dry_run: bool = False,
) -> list[Applied]:
    """Create or edit each trigger, and with `prune` delete all others, in one transaction.

    With `dry_run` the transaction is rolled back: what comes back is what would have been done. Raises
    InvalidDocument with all that is wrong in all of them, and Conflict; then nothing was changed.
    """
    if prune and not documents:
        raise InvalidDocument([Problem("/triggers", "is empty: --prune would delete every trigger")])
    parsed = judged(database, documents, settings)
    try:
        return make_so(database, parsed, prune, dry_run)
    except NotFound:  # somebody who had the locks before has deleted one: look again at what there is
        return make_so(database, parsed, prune, dry_run)


def make_so(
    database: Database, parsed: Sequence[TriggerDocument], prune: bool, dry_run: bool
) -> list[Applied]:
    """The transaction. Raises Conflict, and NotFound for what was deleted between a look and a lock."""
    with unless_undone() as forget, database.write() as connection:
        rehearsal = connection.begin_nested() if dry_run else None
        known = compared(connection, parsed)
        others = others_than(connection, parsed) if prune else []
        edited = [one.id for one in known.values() if one.changes]
        # At once, and in one order: two that lock one trigger after the other end up waiting for each other.
        lifecycle.lock(connection, [*edited, *(id_ for id_, _ in others)])
        done = apply_all(database, connection, parsed, known)
        done += delete_all(database, connection, others)
        if rehearsal is not None:
            rehearsal.rollback()
            forget()
            done = [replace(one, id=None) if one.action == "created" else one for one in done]
    return done


def judged(database: Database, documents: list[Any], settings: Settings) -> list[TriggerDocument]:
    """All triggers, read before the transaction, in which others wait. Raises InvalidDocument."""
    names = [str(document.get("name")) for document in documents if isinstance(document, dict)]
    with database.read() as connection:
        now = database.now(connection)
        known = {row.name: row.schedule for row in definitions.triggers_named(connection, names)}
    currents = [
        known.get(str(document.get("name"))) if isinstance(document, dict) else None for document in documents
    ]
    kept = [with_instant_kept(*pair) for pair in zip(documents, currents, strict=True)]
    return parse_triggers(kept, settings, now, currents, pointer("triggers"))


def compared(connection: Connection, documents: Sequence[TriggerDocument]) -> dict[str, Known]:
    """Those that are stored already, by name."""
    rows = definitions.triggers_named(connection, [document.name for document in documents])
    found = {row.name: dict(row._mapping) for row in rows}
    return {
        document.name: Known(row["id"], list(differences(row, document.stored())))
        for document in documents
        if (row := found.get(document.name)) is not None
    }


def others_than(connection: Connection, documents: Sequence[TriggerDocument]) -> list[tuple[str, str]]:
    """Id and name of every trigger, whatever its state, that has none of these names."""
    names = {document.name for document in documents}
    return [(id_, name) for id_, name in definitions.all_names(connection) if name not in names]


def apply_all(
    database: Database,
    connection: Connection,
    documents: Sequence[TriggerDocument],
    known: Mapping[str, Known],
) -> list[Applied]:
    """Create those that are new, all at once, and edit those that differ; in the order of the documents."""
    new = [document for document in documents if document.name not in known]
    created = {one.name: one for one in manage.create_all(connection, new, database.now)}
    return [
        Applied("created", document.name, created[document.name].id, created[document.name].next_at)
        if document.name in created
        else edit(database, connection, document, known[document.name])
        for document in documents
    ]


def delete_all(
    database: Database, connection: Connection, triggers: Sequence[tuple[str, str]]
) -> list[Applied]:
    """Delete these."""
    for id_, _ in triggers:
        manage.delete(connection, id_, database.now)
    return [Applied("deleted", name, id_) for id_, name in triggers]


def triggers_in(file: Any) -> list[Any]:
    """The list under `triggers:`. Raises InvalidDocument."""
    known = file if isinstance(file, dict) else {}
    problems = [Problem(pointer(key), "unknown field") for key in known if key != "triggers"]
    if not isinstance(known.get("triggers"), list):
        problems.append(Problem("/triggers", "must be a list of triggers"))
    if problems:
        raise InvalidDocument(problems)
    return list(known["triggers"])


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


def edit(database: Database, connection: Connection, document: TriggerDocument, known: Known) -> Applied:
    """Make a stored trigger what the document says."""
    if not known.changes:
        return Applied("unchanged", document.name, known.id)
    try:
        edited = manage.edit(connection, known.id, document, database.now)
    except Conflict as error:
        raise Conflict(f"{document.name}: {error}") from None
    return Applied("edited", edited.name, edited.id, edited.next_at, known.changes)


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
