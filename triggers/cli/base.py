"""What every command has in common: settings, the database, `--json`, and how an error ends it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

from models.database import (
    LOCK_SECONDS,
    Database,
    in_one_line,
    is_away,
    is_unmigrated,
    schema_is_current,
)
from triggers import local_files, logs, queue_view
from triggers.cli.output import note, print_json
from triggers.errors import ConfigurationError, InvalidDocument, TriggerbeatError
from triggers.settings import Settings, without_password

INTERRUPTED = 130  # as shells have it for Ctrl-C
NO = 1  # the answer is no: refused, not found, not well
USED_WRONGLY = 2
HINT_SECONDS = 2.0  # how long a command waits for the broker to take its hint
HURRY_SECONDS = LOCK_SECONDS + 1  # for the database to answer: somebody sits and waits
CLOSE_SECONDS = 0.1  # and for a connection to close, over which there was nothing to send
SHOWN_PROBLEMS = 5  # of a document, in the one line of an error
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
        self._messenger: Messenger | None = None

    @property
    def broker_url(self) -> str:
        """The broker of CELERY_BROKER_URL, or else of the `up` that runs beside the database."""
        return local_files.broker_url(self.settings)

    @contextmanager
    def database(self, patience: float = HURRY_SECONDS) -> Iterator[Database]:
        """The database, which may take `patience` seconds to answer a statement.

        Raises Refused, which says why, when it is away or not migrated.
        """
        file = local_files.database_file(self.settings)
        if file is not None and not file.exists():  # looking would create it, empty
            raise Refused(f"there is no database {file} yet: run `triggerbeat migrate`, or `triggerbeat up`")
        database = Database(self.settings.database_url, patience=patience)
        try:
            yield database
        except SQLAlchemyError as error:
            raise Refused(why_not(database, self.settings, error)) from error
        finally:
            database.close()

    @contextmanager
    def changing(self) -> Iterator[Database]:
        """The database, for a change that may make something due at once: `hint` is made ready before it."""
        with self.database() as database:
            self._messenger = Messenger(replace(self.settings, celery_broker_url=self.broker_url))
            yield database

    def answer(self, document: Any, for_people: Callable[[Any], None]) -> None:
        """Print the document as JSON, or the way people read it."""
        (print_json if self.as_json else for_people)(document)

    def hint(self, due: datetime | None, now: datetime) -> None:
        """Right after the commit of a change: when something is due before the next tick, ask for one."""
        soon = due is not None and due <= now + timedelta(seconds=self.settings.tick_seconds)
        if soon and self._messenger is not None:
            self._messenger.send()

    def end(self) -> None:
        """The command has answered. That a hint failed is no failure: the next tick finds what is due."""
        if self._messenger is not None and not self._messenger.end():
            note("note: the broker cannot be reached now; the next tick starts what is due")


def command(function: Callable[..., Any]) -> click.Command:
    """Make a command of a function whose first argument is the Session; it gets the option `--json`."""

    @functools.wraps(function)
    def run(as_json: bool, **arguments: Any) -> Any:
        session = Session(as_json)
        try:
            return function(session, **arguments)
        except KeyboardInterrupt:  # else click would print an empty line
            raise click.exceptions.Exit(INTERRUPTED) from None
        finally:
            session.end()

    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return click.command(function.__name__.rstrip("_"))(option(run))


# ------------------------------------------------------------------------------------------ the broker


class Messenger:
    """Asks the workers for a tick right after a commit, over a connection that it made before.

    Imports and connection take half a second, by which all that is due at once would start late. It never
    makes anybody wait for a broker that is away: that is its thread's to do.
    """

    def __init__(self, settings: Settings) -> None:
        from celery import Celery

        from celery_config.broker import options
        from celery_config.dispatch import send_hint

        self._send_hint = send_hint  # imported here: its thread may come to that after the commit
        logging.getLogger("triggerbeat.dispatch").disabled = True  # the command says it in its own way
        self._app = Celery("triggerbeat", set_as_current=False)
        self._app.conf.update(options(settings))
        hurry = HASTY if queue_view.is_redis(settings.celery_broker_url) else ONE_TRY
        self._app.conf.broker_transport_options |= hurry
        _ = self._app.amqp.send_task_message, self._app.connection_for_write().transport  # more imports
        self._wanted = False
        self._taken = False
        self._decided = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hint", daemon=True)
        self._thread.start()

    def send(self) -> None:
        """Ask for a tick; returns at once."""
        self._wanted = True
        self._decided.set()

    def end(self) -> bool:
        """Wait, but not for long, until what was asked for is sent; false when it was not."""
        self._decided.set()
        self._thread.join(HINT_SECONDS if self._wanted else CLOSE_SECONDS)
        return self._taken or not self._wanted

    def _run(self) -> None:
        from kombu import pools

        # Kombu's errors have no common root; one that stays the publish meets again.
        with suppress(Exception), self._app.producer_or_acquire() as producer:
            _ = producer.channel  # connects
        self._decided.wait()
        if self._wanted:
            self._taken = self._send_hint(self._app)
        pools.reset()  # or Python complains of open sockets at its end


# -------------------------------------------------------------------------------------------- errors


def why_not(database: Database, settings: Settings, error: SQLAlchemyError) -> str:
    """What an error of the database means for the operator."""
    where = without_password(settings.database_url)
    if is_away(error) and not is_unmigrated(error):  # asking again would take as long again
        return f"the database {where} does not answer: {in_one_line(error)}"
    try:
        with database.read() as connection:
            if not schema_is_current(connection):
                return f"the schema of {where} is not the newest: run `triggerbeat migrate`"
    except SQLAlchemyError as second:
        return f"the database {where} does not answer: {in_one_line(second)}"
    return f"the database {where} says: {in_one_line(error)}"


def report(error: BaseException) -> int:
    """Print an error the way all commands do, in one line, and return the exit status."""
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        note(f"triggerbeat: error: {error.format_message()}")
        return error.exit_code
    said = problems(error) if isinstance(error, InvalidDocument) else str(error)
    note(f"triggerbeat: error: {said}")
    return USED_WRONGLY if isinstance(error, ConfigurationError) else NO


def problems(error: InvalidDocument) -> str:
    """What is wrong with a document and where, the first few of it. The whole document is nowhere in it."""
    said = [f"{one.pointer}: {one.detail}" if one.pointer else one.detail for one in error.problems]
    shown, more = said[:SHOWN_PROBLEMS], len(said) - SHOWN_PROBLEMS
    return "; ".join([*shown, f"and {more} more"] if more > 0 else shown)
