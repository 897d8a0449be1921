"""The views of all that is read."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from flask import Response

from models.database import Database
from models.states import EventState, Status, TriggerState
from triggers.api.requests import Query
from triggers.definition import warnings_for
from triggers.settings import Settings
from triggers.store import reads
from triggers.store.views import View

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.datastructures import Headers

# Made once, and without looking for circles: what is answered was read from JSON.
encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Endpoint:
    """What the views work with."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.database = database
        self.warnings = partial(warnings_for, allow_private=settings.allow_private_targets)

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


class Answer(Response):
    """An answer whose headers are complete. Werkzeug would read the Location to make a URI of it."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """As they are."""
        return self.headers


def answer(status: int, body: View, location: str | None = None) -> Response:
    """A JSON answer. The location is in ASCII."""
    response = Answer(encode(body) + "\n", status, content_type="application/json")
    if location is not None:
        response.headers["Location"] = location
    return response
