"""The views that create: one trigger, or up to a thousand.

The steps of both:
1. Read the body strictly and judge it, without the lock that only one writer has.
2. In a transaction: look whether the Idempotency-Key was answered before; read the clock; store.
3. After the commit: a hint when something is due before the next tick; then compute what is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from flask import Response
from sqlalchemy import Connection

from models.base import ids_from
from models.database import Database
from triggers import manage
from triggers.api import hints
from triggers.api.endpoint import answer
from triggers.api.intake import Intake
from triggers.api.problems import problem
from triggers.api.requests import MAX_BULK_BYTES, Query, idempotency_key, json_body
from triggers.definition import TriggerDocument, digest, parse_trigger, parse_triggers, warnings_for
from triggers.errors import Conflict, InvalidDocument, NameInUse, NotFound, Problem
from triggers.manage import Created, Idempotency
from triggers.settings import Settings
from triggers.store import reads
from triggers.store.views import View, new_trigger_view

MOST_IN_BULK = 1_000


@dataclass(frozen=True, slots=True)
class Stored:
    """What a transaction did: the new triggers, or the views of those that were created before."""

    now: datetime
    created: list[Created]
    known: list[View] | None = None


class Creation:
    """What the views work with."""

    def __init__(self, settings: Settings, database: Database, hint: Callable[[], None]) -> None:
        self.settings = settings
        self.database = database
        self.hint = hint
        self.horizon = timedelta(seconds=settings.horizon_seconds)
        self.warnings = partial(warnings_for, allow_private=settings.allow_private_targets)
        self.intake = Intake(database, self.settled)

    def create_trigger(self) -> Response:
        """201 with what was stored; 200 for a dry run, and for a create that was answered before."""
        dry_run = Query("dry_run").flag("dry_run")
        key = idempotency_key()
        body = json_body()
        if dry_run or key is not None:
            stored = self.store([body], self.judged_one, remembered(key, body), dry_run)
        else:
            (document,) = self.judged_one([body])
            now, created = self.intake.create(body, document)
            stored = Stored(now, [created])
        views = self.views(stored, dry_run)
        if dry_run or stored.known:
            return answer(200, views[0])
        return answer(201, views[0], f"/triggers/{views[0]['id']}")

    def create_triggers(self) -> Response:
        """The same for an array of triggers: all of them, as a page, or none."""
        dry_run = Query("dry_run").flag("dry_run")
        key = idempotency_key()
        bodies = array(json_body(MAX_BULK_BYTES))
        try:
            stored = self.store(bodies, self.judged, remembered(key, bodies), dry_run)
        except NameInUse as error:
            return names_in_use(bodies, error)
        page = {"items": self.views(stored, dry_run), "next_cursor": None}
        return answer(200 if dry_run or stored.known else 201, page)

    # The steps

    def judged_one(self, bodies: Sequence[Any]) -> list[TriggerDocument]:
        """The one trigger, or InvalidDocument."""
        return [parse_trigger(bodies[0], self.settings, self.database.about_now())]

    def judged(self, bodies: Sequence[Any]) -> list[TriggerDocument]:
        """All triggers, or InvalidDocument with what is wrong in all of them."""
        return parse_triggers(bodies, self.settings, self.database.about_now())

    def settled(self, body: Any, document: TriggerDocument, now: datetime) -> TriggerDocument:
        """The trigger as it is stored at `now`, which is what `at: now` means."""
        asked = body["schedule"].get("at") == "now"
        return parse_trigger(body, self.settings, now) if asked else document

    def store(
        self,
        bodies: Sequence[Any],
        judge: Callable[[Sequence[Any]], list[TriggerDocument]],
        idempotency: Idempotency | None,
        dry_run: bool,
    ) -> Stored:
        """Create the triggers in a transaction of their own, or do as if.

        With a key the recall comes before the judgement: what was created may be past by now.
        """
        refusal, documents = None, []
        try:
            documents = judge(bodies)
        except InvalidDocument as error:
            if idempotency is None or dry_run:
                raise
            refusal = error
        with self.database.write() as connection:
            now = self.database.now(connection)
            if idempotency is not None and not dry_run:
                known = manage.recall(connection, idempotency, now)
                if known is not None:
                    return Stored(now, [], self.recalled(connection, known, len(bodies), now))
            if refusal is not None:
                raise refusal
            settled = [self.settled(*pair, now) for pair in zip(bodies, documents, strict=True)]
            rehearsal = connection.begin_nested() if dry_run else None
            created = manage.create_all(connection, settled, now, None if dry_run else idempotency)
            if rehearsal is not None:
                rehearsal.rollback()
            return Stored(now, created)

    def recalled(self, connection: Connection, first_id: str, count: int, now: datetime) -> list[View]:
        """The triggers that an earlier request with the same key and body created."""
        try:
            return reads.describe_triggers(connection, ids_from(first_id, count), now, self.warnings)
        except NotFound:
            which = "the trigger" if count == 1 else "a trigger"
            raise Conflict(f"{which} created with this Idempotency-Key has been deleted") from None

    def views(self, stored: Stored, dry_run: bool) -> list[View]:
        """What is answered; before that is computed, the hint."""
        if stored.known is not None:
            return stored.known
        first = min((one.next_at for one in stored.created if one.next_at is not None), default=None)
        if not dry_run and first is not None and first <= stored.now + self.horizon:
            hints.give(self.hint)
        return [new_trigger_view(one.row, stored.now, self.warnings) for one in stored.created]


def remembered(key: str | None, body: Any) -> Idempotency | None:
    """What the create is remembered by."""
    return None if key is None else Idempotency(key, digest(body))


def array(body: Any) -> list[Any]:
    """The triggers of a bulk create. Raises InvalidDocument."""
    if not isinstance(body, list):
        raise InvalidDocument([Problem("", "must be a JSON array of triggers")])
    if not body:
        raise InvalidDocument([Problem("", "is empty: there is nothing to create")])
    if len(body) > MOST_IN_BULK:
        raise InvalidDocument([Problem("", f"has {len(body):,} triggers; {MOST_IN_BULK:,} are allowed")])
    return body


def names_in_use(bodies: Sequence[Any], error: NameInUse) -> Response:
    """409 with a pointer to each name that another trigger has."""
    taken = set(error.names)
    found = [
        Problem(f"/{index}/name", f"the name {body['name']} is in use")
        for index, body in enumerate(bodies)
        if body["name"] in taken
    ]
    return problem(409, str(error), found)
