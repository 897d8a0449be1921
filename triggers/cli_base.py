"""What every command has in common: settings, the database, `--json`, and how an error ends it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import click
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from models.database import Database, schema_is_current
from triggers import local_files, logs, queue_view
from triggers.cli import INTERRUPTED
from triggers.cli_output import note, print_json
from triggers.errors import ConfigurationError, TriggerbeatError
from triggers.settings import Settings, without_password

NO = 1  # the answer is no: refused, not found, not well
USED_WRONGLY = 2
HINT_SECONDS = 2.0  # how long a command waits for the broker to take its hint
# Left alone, kombu tries for ever to reach a broker that is away.
ONE_TRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
HASTY = {**ONE_TRY, "socket_timeout": HINT_SECONDS, "socket_connect_timeout": HINT_SECONDS}


class Refused(TriggerbeatError):
    """The command was understood, and the answer is no."""


class Session:
    """One run of a command: how it was asked to answer, and what it works with."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.settings = Settings.from_environment()
        logs.configure(self.settings)

    @property
    def broker_url(self) -> str:
        """The broker of CELERY_BROKER_URL, or else of the `up` that runs beside the database."""
        return local_files.broker_url(self.settings)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The database. Raises Refused, which says why, when it is away or not migrated."""
        file = local_files.database_file(self.settings)
        if file is not None and not file.exists():  # looking would create it, empty
            raise Refused(f"there is no database {file} yet: run `triggerbeat migrate`, or `triggerbeat up`")
        database = Database(self.settings.database_url)
        try:
            yield database
        except SQLAlchemyError as error:
            raise Refused(why_not(database, self.settings, error)) from error
        finally:
            database.close()

    def answer(self, document: Any, for_people: Callable[[Any], None]) -> None:
        """Print the document as JSON, or the way people read it."""
        (print_json if self.as_json else for_people)(document)

    def hint(self, due: datetime | None, now: datetime) -> None:
        """After a commit: when something is due before the next tick, ask for one.

        That it fails is no failure: the next tick finds what is due.
        """
        if due is None or due > now + timedelta(seconds=self.settings.tick_seconds):
            return
        if not send_hint(replace(self.settings, celery_broker_url=self.broker_url)):
            note("note: the broker cannot be reached now; the next tick starts what is due")


def command(function: Callable[..., Any]) -> click.Command:
    """Make a command of a function whose first argument is the Session; it gets the option `--json`."""

    @functools.wraps(function)
    def run(as_json: bool, **arguments: Any) -> Any:
        try:
            return function(Session(as_json), **arguments)
        except KeyboardInterrupt:  # else click would print an empty line
            raise click.exceptions.Exit(INTERRUPTED) from None

    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return click.command(function.__name__.rstrip("_"))(option(run))


# ------------------------------------------------------------------------------------------ the broker


def send_hint(settings: Settings, seconds: float = HINT_SECONDS) -> bool:
    """Ask the workers for a tick, and wait up to `seconds`; whether the broker took the message."""
    from celery import Celery
    from kombu import pools

    from celery_config.broker import options
    from celery_config.dispatch import send_hint as send

    logging.getLogger("triggerbeat.dispatch").disabled = True  # the command says it in its own way
    app = Celery("triggerbeat", set_as_current=False)
    app.conf.update(options(settings))
    app.conf.broker_transport_options |= HASTY if queue_view.is_redis(settings.celery_broker_url) else ONE_TRY
    taken: list[bool] = []

    def publish() -> None:
        taken.append(send(app))
        pools.reset()  # or Python complains of open sockets at its end

    thread = threading.Thread(target=publish, name="hint", daemon=True)
    thread.start()
    thread.join(seconds)
    return any(taken)


# -------------------------------------------------------------------------------------------- errors


def why_not(database: Database, settings: Settings, error: SQLAlchemyError) -> str:
    """What an error of the database means for the operator."""
    where = without_password(settings.database_url)
    try:
        with database.read() as connection:
            if not schema_is_current(connection):
                return f"the schema of {where} is not the newest: run `triggerbeat migrate`"
    except SQLAlchemyError as second:
        return f"the database {where} does not answer: {reason(second)}"
    return f"the database {where} says: {reason(error)}"


def reason(error: SQLAlchemyError) -> str:
    """The driver's own message; without the statement and its parameters, which may hold secrets."""
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__


def report(error: BaseException) -> int:
    """Print an error the way all commands do, in one line, and return the exit status."""
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        note(f"triggerbeat: error: {error.format_message()}")
        return error.exit_code
    note(f"triggerbeat: error: {error}")
    return USED_WRONGLY if isinstance(error, ConfigurationError) else NO
