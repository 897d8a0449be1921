"""`triggerbeat up`: broker, schema, endpoint, worker and beat on one machine, in one terminal."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec

from models.database import Database, migrate
from triggers import local_files
from triggers.banner import banner, facts, reachable
from triggers.cli.output import print_json
from triggers.embedded_broker import start_broker
from triggers.errors import ConfigurationError, Conflict
from triggers.settings import Settings
from triggers.supervisor import Child, Output, Supervisor

NAMES = ("broker", "worker", "beat", "api", "up")
ENDPOINT_START_SECONDS = 20.0  # after that the banner is shown anyway
CONNECT_SECONDS = 0.2

DEMO = {
    "name": "demo-heartbeat",
    "description": "Made by `triggerbeat up --demo`; delete it as you like.",
    "schedule": {"type": "interval", "every_seconds": 10},
    "target": {"type": "log", "message": "The heartbeat of {{scheduled_for}}"},
}


def up(settings: Settings, demo: bool = False, as_json: bool = False) -> None:
    """Run everything until SIGINT, SIGTERM or SIGHUP, then end it within 5 s.

    1. Lock the folder beside the database; look whether the endpoint's port is free.
    2. Start the embedded broker, unless CELERY_BROKER_URL names one, and leave its address in a file.
    3. Bring the schema to the newest version; with `demo`, create the demo trigger, once.
    4. Start endpoint, worker and beat together; show where all is as soon as the endpoint answers.
    5. Start again whatever dies.

    With `as_json` standard output gets what the banner says, as one JSON document, and standard error the
    lines of the processes. Raises Conflict when another `up` runs here or the port is taken,
    ConfigurationError when something is missing, and what the database raises.
    """
    folder = local_files.directory(settings)
    with local_files.locked(folder):
        settings = replace(settings, port=endpoint_port(settings))
        given_token = settings.admin_token is not None
        settings = replace(settings, admin_token=settings.admin_token or local_files.admin_token(folder))
        stream = sys.stderr if as_json else sys.stdout
        output = Output(NAMES, stream.isatty() and "NO_COLOR" not in os.environ, stream.fileno())
        supervisor = Supervisor(output)
        supervisor.catch_signals()
        try:
            if settings.broker_is_default:
                settings = replace(settings, celery_broker_url=start_broker(supervisor, folder))
            local_files.write_broker_url(folder, settings.celery_broker_url)
            prepare_database(settings, demo)
            if supervisor.stopping:
                return
            start_processes(supervisor, settings)
            known = facts(settings, folder, given_token)
            announce = partial(print_json, known) if as_json else partial(output.show, banner(known))
            supervisor.run(Once(announce, partial(answers, reachable(settings.host), settings.port)))
            output.say("up", "stopping")
        finally:
            supervisor.stop()
            local_files.forget_broker_url(folder)


def endpoint_port(settings: Settings) -> int:
    """The port to serve on, which is free; 0 stands for any.

    Raises Conflict when it is taken and ConfigurationError when HOST cannot be served at all.
    """
    where = f"HOST={settings.host} PORT={settings.port}"
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            port: int = probe.getsockname()[1]
            return port
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{where} is in use by another program: set PORT to a free port") from None
        raise ConfigurationError(f"{where} cannot be served: {error.strerror or error}") from None


# ---------------------------------------------------------------------------------------- the database


def prepare_database(settings: Settings, demo: bool) -> None:
    """Bring the schema to the newest version, and create the demo trigger if it is wanted and not there."""
    migrate(settings.database_url)
    if demo:
        create_demo(settings)


def create_demo(settings: Settings) -> None:
    """A trigger that fires every 10 s. One that is there stays as its owner left it."""
    from triggers import manage
    from triggers.definition import parse_trigger

    database = Database(settings.database_url)
    try:
        with suppress(Conflict), database.write() as connection:  # Conflict: the name is in use
            document = parse_trigger(DEMO, settings, database.now(connection))
            manage.create(connection, document, database.now)
    finally:
        database.close()


# --------------------------------------------------------------------------------------- the processes


def start_processes(supervisor: Supervisor, settings: Settings) -> None:
    """Start endpoint, worker and beat. The token is the endpoint's alone: the worker runs users' code."""
    common = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "CELERY_BROKER_URL": settings.celery_broker_url,
        "PYTHONUNBUFFERED": "1",
    }
    common.pop("ADMIN_TOKEN", None)
    token = {"ADMIN_TOKEN": settings.admin_token or "", "HOST": settings.host, "PORT": str(settings.port)}
    quiet = ["--quiet"] if settings.log_format == "json" else []  # Celery's banner is no JSON
    celery = [sys.executable, "-m", "celery", *quiet, "-A", "celery_config.celery_worker"]
    level = f"--loglevel={settings.log_level}"
    # Alone, or nearly so: a worker that first asks around for others starts a second later.
    supervisor.start(Child("worker", [*celery, "worker", level, "--without-mingle"], common))
    supervisor.start(Child("api", endpoint_command(settings), {**common, **token}))
    supervisor.start(Child("beat", [*celery, "beat", level], common))


def endpoint_command(settings: Settings) -> list[str]:
    """gunicorn where it is installed, else Flask's own server, one thread a request."""
    if find_spec("gunicorn"):
        configuration = "python:triggers.gunicorn_config"
        return [sys.executable, "-m", "gunicorn", "-c", configuration, "triggers.api:create_app()"]
    address = ["--host", settings.host, "--port", str(settings.port)]
    return [sys.executable, "-m", "flask", "--app", "triggers.api", "run", "--with-threads", *address]


def answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    with suppress(OSError), socket.create_connection((host, port), CONNECT_SECONDS):
        return True
    return False


class Once:
    """Calls `action` once: as soon as `condition` holds, or has not held for too long."""

    def __init__(self, action: Callable[[], None], condition: Callable[[], bool]) -> None:
        self._action: Callable[[], None] | None = action
        self._condition = condition
        self._deadline = time.monotonic() + ENDPOINT_START_SECONDS

    def __call__(self) -> None:
        if self._action and (self._condition() or time.monotonic() > self._deadline):
            self._action()
            self._action = None


def machine_now() -> datetime:
    """This machine's clock, for commands that need no database."""
    return datetime.now(UTC)
