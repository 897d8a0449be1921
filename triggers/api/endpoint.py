"""The views: what each path does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from flask import Response, jsonify
from sqlalchemy import Connection

from models.database import Database
from models.states import EventState, Status, TriggerState
from triggers import manage
from triggers.api import hints
from triggers.api.problems import NameInUse
from triggers.api.requests import Query, idempotency_key, json_body
from triggers.definition import TriggerDocument, digest, parse_trigger, warnings_for
from triggers.errors import Conflict, NotFound
from triggers.manage import Created, Idempotency
from triggers.settings import Settings
from triggers.store import reads
from triggers.store.views import View


class Endpoint:
    """What the views work with."""

    def __init__(self, settings: Settings, database: Database, hint: Callable[[], None]) -> None:
        self.settings = settings
        self.database = database
        self.hint = hint
        self.horizon = timedelta(seconds=settings.horizon_seconds)
        self.warnings = partial(warnings_for, allow_private=settings.allow_private_targets)

    def create_trigger(self) -> Response:
        """201 with what was stored; 200 for a dry run, and for a create that was answered before."""
        dry_run = Query("dry_run").flag("dry_run")
        key = idempotency_key()
        body = json_body()
        idempotency = Idempotency(key, digest(body)) if key is not None and not dry_run else None
        if idempotency is None:  # with a key the recall comes first: what was created may be past by now
            self.judge(body)
        with self.database.write() as connection:
            now = self.database.now(connection)
            known = manage.recall(connection, idempotency, now) if idempotency else None
            if known is not None:
                return answer(200, self.recalled(connection, known, now))
            view, due = self.store(connection, body, now, idempotency, dry_run)
        if not dry_run and due is not None and due <= now + self.horizon:
            hints.give(self.hint)
        return answer(200, view) if dry_run else answer(201, view, f"/triggers/{view['id']}")

    def judge(self, body: Any) -> None:
        """Refuse an invalid body without the lock that only one writer has. Raises InvalidDocument.

        It is read again under the lock, since `at: now` means the moment of creation.
        """
        with self.database.read() as connection:
            now = self.database.now(connection)
        parse_trigger(body, self.settings, now)

    def store(
        self,
        connection: Connection,
        body: Any,
        now: datetime,
        idempotency: Idempotency | None,
        dry_run: bool,
    ) -> tuple[View, datetime | None]:
        """Create the trigger, or do as if; how it reads, and its first instant."""
        rehearsal = connection.begin_nested() if dry_run else None
        document = parse_trigger(body, self.settings, now)
        created = named(connection, document, now, idempotency)
        view = reads.describe_trigger(connection, created.id, now, self.warnings)
        if rehearsal is not None:
            rehearsal.rollback()
        return view, created.next_at

    def recalled(self, connection: Connection, trigger_id: str, now: datetime) -> View:
        """The trigger that an earlier request with the same key and body created."""
        try:
            return reads.describe_trigger(connection, trigger_id, now, self.warnings)
        except NotFound:
            raise Conflict("the trigger created with this Idempotency-Key has been deleted") from None

    def list_triggers(self) -> Response:
        """A page of triggers."""
        query = Query("limit", "cursor", "tag", "state")
        with self.database.read() as connection:
            page = reads.trigger_page(
                connection,
                limit=query.limit(),
                cursor=query.text("cursor"),
                tag=query.text("tag"),
                state=query.word("state", TriggerState),
            )
        return answer(200, page)

    def show_trigger(self, ref: str) -> Response:
        """One trigger, by id or name."""
        Query()
        with self.database.read() as connection:
            now = self.database.now(connection)
            return answer(200, reads.describe_trigger(connection, ref, now, self.warnings))

    def list_trigger_events(self, ref: str) -> Response:
        """A page of one trigger's events."""
        return self.events(ref)

    def list_events(self) -> Response:
        """A page of all events."""
        return self.events(None)

    def events(self, ref: str | None) -> Response:
        """A page of events, of one trigger or of all."""
        query = Query("limit", "cursor", "status", "state", "since", "until")
        with self.database.read() as connection:
            page = reads.event_page(
                connection,
                limit=query.limit(),
                cursor=query.text("cursor"),
                trigger_id=None if ref is None else reads.owner_of_events(connection, ref),
                status=query.word("status", Status),
                state=query.word("state", EventState),
                since=query.instant("since"),
                until=query.instant("until"),
            )
        return answer(200, page)

    def show_event(self, event_id: str) -> Response:
        """One event, with its attempts."""
        Query()
        with self.database.read() as connection:
            return answer(200, reads.get_event(connection, event_id))


def named(
    connection: Connection, document: TriggerDocument, now: datetime, idempotency: Idempotency | None
) -> Created:
    """Create the trigger. Raises NameInUse, which is all that can be in its way."""
    try:
        return manage.create(connection, document, now, idempotency)
    except Conflict as error:
        raise NameInUse(str(error)) from None


def answer(status: int, body: View, location: str | None = None) -> Response:
    """A JSON answer."""
    response = jsonify(body)
    response.status_code = status
    if location is not None:
        response.headers["Location"] = location
    return response
