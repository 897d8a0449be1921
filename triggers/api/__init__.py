"""The admin endpoint: it creates triggers and answers about them. It never edits, fires or deletes.

flask --app triggers.api run
gunicorn 'triggers.api:create_app()'
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from models.database import LOCK_SECONDS, Database, in_one_line
from triggers.api import problems
from triggers.api.creation import Creation
from triggers.api.endpoint import Endpoint
from triggers.api.health import Health
from triggers.api.hints import to_broker
from triggers.api.openapi import document
from triggers.api.requests import MAX_BODY_BYTES, authorize
from triggers.errors import ConfigurationError
from triggers.settings import Settings

BOOT_FAILED = 3  # the exit status at which gunicorn gives up, instead of starting workers for ever

__all__ = ["create_app"]


def create_app(settings: Settings | None = None, hint: Callable[[], None] | None = None) -> Flask:
    """The endpoint as a WSGI application.

    `hint` is called after a commit that makes something due before the next tick; it must return at once.
    Without an ADMIN_TOKEN, or with a wrong setting, the process ends with one line.
    """
    settings, database = prepared(settings)
    app = Flask("triggers.api", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY_BYTES, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.url_map.merge_slashes = False  # `/triggers//t` is nowhere, not a redirect
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider
    app.extensions["database"] = database
    token = settings.admin_token or ""
    app.before_request(lambda: authorize(token))
    app.after_request(problems.never_cached)
    problems.install(app)
    creation = Creation(settings, database, hint or to_broker())
    app.extensions["intake"] = creation.intake
    route(app, creation, Endpoint(settings, database), Health(settings, database))
    return app


def route(app: Flask, creation: Creation, endpoint: Endpoint, health: Health) -> None:
    """Every path there is."""
    app.add_url_rule("/triggers", view_func=creation.create_trigger, methods=["POST"])
    app.add_url_rule("/triggers:bulk", view_func=creation.create_triggers, methods=["POST"])
    app.add_url_rule("/triggers", view_func=endpoint.list_triggers)
    app.add_url_rule("/triggers/<ref>", view_func=endpoint.show_trigger)
    app.add_url_rule("/triggers/<ref>/events", view_func=endpoint.list_trigger_events)
    app.add_url_rule("/events", view_func=endpoint.list_events)
    app.add_url_rule("/events/<event_id>", view_func=endpoint.show_event)
    app.add_url_rule("/openapi.json", "openapi", view_func=document)
    app.add_url_rule("/healthz", view_func=health.healthz)
    app.add_url_rule("/readyz", view_func=health.readyz)


def prepared(settings: Settings | None) -> tuple[Settings, Database]:
    """The settings, from the environment unless given, and the database. Ends the process when they do not
    allow a start.
    """
    try:
        settings = settings or Settings.from_environment()
        if not settings.admin_token:
            raise ConfigurationError("ADMIN_TOKEN is not set: the endpoint does not start without one")
        return settings, opened(settings.database_url)
    except ConfigurationError as error:
        print(f"triggerbeat: {error}", file=sys.stderr)
        raise SystemExit(BOOT_FAILED) from None


def opened(url: str) -> Database:
    """The database, with its driver imported: the first request of each process would wait for that.

    Raises ConfigurationError.
    """
    try:
        database = Database(url, patience=LOCK_SECONDS + 1)  # a lock may take its time
        _ = database.engine
        return database
    except (ImportError, SQLAlchemyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"DATABASE_URL cannot be used: {in_one_line(error)}") from None
