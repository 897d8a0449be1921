"""The only reader of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from dotenv import dotenv_values
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from triggers.errors import ConfigurationError

BROKER_SCHEMES = ("redis", "rediss", "amqp", "amqps")
# Those that Celery knows by name, without what comes after a `+`.
BACKEND_SCHEMES = (
    *("redis", "rediss", "sentinel", "rpc", "db", "database", "cache", "file", "disabled", "mongodb"),
    *("elasticsearch", "cassandra", "couchbase", "couchdb", "cosmosdbsql", "riak", "consul", "dynamodb"),
    *("azureblockblob", "arangodb", "s3", "gs"),
)
CERTIFICATE_RULES = ("CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "optional", "none")
DATABASE_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg", "postgres")
MEMORY = ("", ":memory:", "file::memory:")  # SQLite's names for a database that is no file
HIGHEST_PORT = 65_535
HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
LONGEST_HOST = 253
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
OURS = "celery"  # the queue of ticks and deliveries
BACKLOG = ".backlog"  # ends the name of the queue beside each, of what lets the others go first
PLANNING_MARGIN_SECONDS = 30  # of the horizon over the tick: a tick may be late by this much


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set, with the defaults. Durations are seconds."""

    database_url: str = "sqlite:///triggerbeat.db"
    celery_broker_url: str = "redis://localhost:6379/0"
    celery_queue_type: str = "classic"
    celery_queues: tuple[str, ...] = ("tasks",)
    celery_result_backend: str | None = None
    admin_token: str | None = None
    tick_seconds: int = 60
    horizon_seconds: int = 90
    event_active_seconds: int = 7_200
    event_archived_seconds: int = 172_800
    event_failed_seconds: int = 2_592_000
    task_modules: tuple[str, ...] = ("examples.tasks",)
    allowed_tasks: tuple[str, ...] = ("examples.tasks.*",)
    allow_private_targets: bool = False
    host: str = "127.0.0.1"
    port: int = 5000
    log_format: str = "text"
    log_level: str = "INFO"
    broker_is_default: bool = True  # CELERY_BROKER_URL is unset: `up` may embed one

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment and, under it, `.env` in the working directory.

        Raises ConfigurationError, whose message is one line that names the variable, the value and
        what is allowed. An empty value counts as unset.
        """
        default = cls()
        values = read_environment() if environment is None else environment
        values = {name: value.strip() for name, value in values.items() if value.strip()}
        tick = seconds(values, "TICK_SECONDS", default.tick_seconds, 1, 3_600)
        settings = cls(
            database_url=choice(values, "DATABASE_URL", default.database_url, database_url),
            celery_broker_url=choice(values, "CELERY_BROKER_URL", default.celery_broker_url, broker_url),
            celery_queue_type=choice(
                values, "CELERY_QUEUE_TYPE", default.celery_queue_type, among("classic", "quorum")
            ),
            celery_queues=words(values, "CELERY_QUEUES", default.celery_queues),
            celery_result_backend=choice(values, "CELERY_RESULT_BACKEND", "", result_backend) or None,
            admin_token=choice(values, "ADMIN_TOKEN", "", token) or None,
            tick_seconds=tick,
            horizon_seconds=seconds(values, "HORIZON_SECONDS", tick + PLANNING_MARGIN_SECONDS, 1, 86_400),
            event_active_seconds=seconds(values, "EVENT_ACTIVE_SECONDS", default.event_active_seconds),
            event_archived_seconds=seconds(values, "EVENT_ARCHIVED_SECONDS", default.event_archived_seconds),
            event_failed_seconds=seconds(values, "EVENT_FAILED_SECONDS", default.event_failed_seconds),
            task_modules=words(values, "TASK_MODULES", default.task_modules, module_name),
            allowed_tasks=words(values, "ALLOWED_TASKS", default.allowed_tasks, task_pattern),
            allow_private_targets=choice(values, "ALLOW_PRIVATE_TARGETS", "false", truth) == "true",
            host=choice(values, "HOST", default.host, host),
            port=seconds(values, "PORT", default.port, 0, HIGHEST_PORT, f"a port from 0 to {HIGHEST_PORT}"),
            log_format=choice(values, "LOG_FORMAT", default.log_format, among("text", "json")),
            log_level=choice(values, "LOG_LEVEL", default.log_level, level),
            broker_is_default="CELERY_BROKER_URL" not in values,
        )
        return settings.checked()

    def checked(self) -> Settings:
        """Itself, when the settings fit each other."""
        if self.horizon_seconds < self.tick_seconds:
            raise wrong(
                "HORIZON_SECONDS",
                str(self.horizon_seconds),
                f"at least TICK_SECONDS ({self.tick_seconds}), or events between two ticks start late",
            )
        if self.event_archived_seconds < self.event_active_seconds:
            raise wrong(
                "EVENT_ARCHIVED_SECONDS",
                str(self.event_archived_seconds),
                f"at least EVENT_ACTIVE_SECONDS ({self.event_active_seconds})",
            )
        if ours := [name for name in self.celery_queues if name == OURS or name.endswith(BACKLOG)]:
            raise wrong(
                "CELERY_QUEUES",
                ",".join(self.celery_queues),
                f"queues other than {ours[0]}, which is ours",
            )
        if self.celery_queue_type == "quorum" and not self.celery_broker_url.startswith("amqp"):
            raise wrong("CELERY_QUEUE_TYPE", "quorum", "classic, unless CELERY_BROKER_URL is RabbitMQ's")
        return self


def with_backlogs(queues: Iterable[str]) -> list[str]:
    """The names of these queues, and of the backlogs beside them."""
    return [name + end for name in queues for end in ("", BACKLOG)]


def task_allowed(task: str, allowed: tuple[str, ...]) -> bool:
    """Whether a task's name is one of `allowed`: exact names, or beginnings that end in `*`."""
    return any(task.startswith(rule[:-1]) if rule.endswith("*") else task == rule for rule in allowed)


def read_environment() -> dict[str, str]:
    """The environment over `.env`."""
    path = Path(".env")
    below = dotenv_values(path) if path.is_file() else {}
    return {**{name: value for name, value in below.items() if value is not None}, **os.environ}


def wrong(name: str, value: str, allowed: str) -> ConfigurationError:
    """The one line that stops a process at its start."""
    return ConfigurationError(f"{name}={value!r} is not allowed: it must be {allowed}")


def seconds(
    values: Mapping[str, str],
    name: str,
    default: int,
    low: int = 1,
    high: int = 315_360_000,
    allowed: str | None = None,
) -> int:
    """A whole number between two bounds."""
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise wrong(name, text, allowed or f"a whole number of seconds from {low} to {high}")
    return int(text)


def words(
    values: Mapping[str, str],
    name: str,
    default: tuple[str, ...],
    judge: Callable[[str], str] = str,
) -> tuple[str, ...]:
    """A list separated by commas, with at least one entry; `judge` as for `choice`, of each entry."""
    text = values.get(name)
    if text is None:
        return default
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found or any(" " in word for word in found):
        raise wrong(name, text, "a list of names separated by commas")
    try:
        return tuple(judge(word) for word in found)
    except ValueError as error:
        raise wrong(name, text, str(error)) from None


def choice(values: Mapping[str, str], name: str, default: str, judge: Callable[[str], str]) -> str:
    """A text that `judge` accepts or replaces; it raises ValueError with what is allowed."""
    text = values.get(name)
    if text is None:
        return default
    try:
        return judge(text)
    except ValueError as error:
        shown = "***" if name == "ADMIN_TOKEN" else without_password(text)
        raise wrong(name, shown, str(error)) from None


def among(*allowed: str) -> Callable[[str], str]:
    """A judge for one of a few words."""

    def judge(text: str) -> str:
        if text not in allowed:
            raise ValueError(" or ".join(allowed))
        return text

    return judge


def truth(text: str) -> str:
    """`true` or `false`, also as 1, 0, yes, no, on, off."""
    lowered = text.lower()
    if lowered in ("true", "1", "yes", "on"):
        return "true"
    if lowered in ("false", "0", "no", "off"):
        return "false"
    raise ValueError("true or false")


def level(text: str) -> str:
    """A level of the logging module, in any case."""
    if text.upper() not in LOG_LEVELS:
        raise ValueError(" or ".join(LOG_LEVELS))
    return text.upper()


def token(text: str) -> str:
    """A bearer token: visible ASCII (RFC 6750, section 2.1, and a little more)."""
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("visible ASCII characters without blanks")
    return text


def module_name(text: str) -> str:
    """A module's name, with the packages it is in."""
    if not all(part.isidentifier() for part in text.split(".")):
        raise ValueError("names of modules separated by commas, such as shop.tasks")
    return text


def task_pattern(text: str) -> str:
    """A task's name, or the beginning of some and a star."""
    if "*" in text[:-1]:
        raise ValueError("names of tasks separated by commas, with a star only at the end, such as shop.*")
    return text


def host(text: str) -> str:
    """The name or the address of a host. Whether there is such a host only time can tell."""
    labels = text.removesuffix(".").split(".")
    # A name that ends in a number is an address to whoever looks it up, so it must be a whole one.
    named = all(HOST_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
    if not ((named and len(text) <= LONGEST_HOST) or is_address(text)):
        raise ValueError("a host name or an address, such as localhost, 0.0.0.0 or ::1")
    return text


def is_address(text: str) -> bool:
    """Whether it is an address of IP, version 4 or 6."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def broker_url(text: str) -> str:
    """A URL of Redis or RabbitMQ."""
    scheme, separator, _ = text.partition("://")
    if scheme not in BROKER_SCHEMES or not separator:
        raise ValueError("a URL that begins with redis://, rediss://, amqp:// or amqps://")
    check_server(text)
    return text


def result_backend(text: str) -> str:
    """A URL of what Celery can keep results in; some, such as `rpc`, need no more than their name."""
    scheme = text.partition("://")[0].partition("+")[0]
    if scheme not in BACKEND_SCHEMES:
        raise ValueError(f"a URL that begins with one of Celery's backends: {', '.join(BACKEND_SCHEMES)}")
    if scheme in ("redis", "rediss"):
        check_result_server(text)
    if scheme in ("db", "database"):
        check_result_database(text)
    return text


def check_result_server(text: str) -> None:
    """Raise ValueError for a URL that Celery's backend for Redis does not take."""
    url = check_server(text)
    rule = parse_qs(url.query).get("ssl_cert_reqs", [""])[0]
    if url.scheme == "rediss" and rule not in CERTIFICATE_RULES:
        raise ValueError("a URL with ?ssl_cert_reqs=CERT_REQUIRED, CERT_OPTIONAL or CERT_NONE, for rediss://")


def check_result_database(text: str) -> None:
    """Raise ValueError unless a SQLAlchemy URL, of whatever database, follows the `+`."""
    try:
        make_url(text.partition("+")[2])
    except (ValueError, ArgumentError):
        raise ValueError("db+ and a SQLAlchemy URL, such as db+sqlite:///results.db") from None


def check_server(text: str) -> SplitResult:
    """The parts of a URL of Redis or RabbitMQ. Raises ValueError with what is allowed."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise ValueError(f"a URL whose port is a number from 0 to {HIGHEST_PORT}") from None
    try:
        host(url.hostname or "localhost")
    except ValueError as error:
        raise ValueError(f"a URL whose host is {error}") from None
    number = url.path.strip("/")
    if url.scheme.startswith("redis") and number and not (number.isascii() and number.isdigit()):
        raise ValueError("a URL that ends in the number of a database, such as redis://localhost:6379/0")
    return url


def database_url(text: str) -> str:
    """A SQLAlchemy URL of SQLite or PostgreSQL, with a driver that is ours."""
    scheme, separator, _ = text.partition("://")
    if scheme.partition("+")[0] not in ("sqlite", "postgresql", "postgres") or not separator:
        raise ValueError("a SQLAlchemy URL of SQLite or PostgreSQL, such as postgresql://user@host/name")
    if scheme not in DATABASE_DRIVERS:
        raise ValueError("a URL without a driver, or with ours: sqlite+pysqlite:// or postgresql+psycopg://")
    try:
        url = make_url(text)
    except (ValueError, ArgumentError):
        raise ValueError("a SQLAlchemy URL, such as postgresql://user:password@host:5432/name") from None
    if url.get_backend_name() == "sqlite":
        check_file(url)
    elif url.port is not None and url.port > HIGHEST_PORT:
        raise ValueError(f"a URL whose port is a number from 0 to {HIGHEST_PORT}")
    return text


def check_file(url: URL) -> None:
    """Raise ValueError unless a URL of SQLite is a file's."""
    if url.host or url.username or url.port:
        raise ValueError("a file with three slashes, or four for an absolute path: sqlite:///triggerbeat.db")
    if (url.database or "") in MEMORY or url.query.get("mode") == "memory":
        raise ValueError("a file, such as sqlite:///triggerbeat.db: processes do not share a memory database")


def without_password(url: str) -> str:
    """The URL as it may be shown; of what is no URL nothing that might be a password."""
    url = re.sub(r"([?&]\w*password=)[^&]*", r"\1***", url, flags=re.IGNORECASE)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, separator, login = head.partition("://")
    if not separator:
        return f"***@{tail}"
    return f"{scheme}://{login.partition(':')[0]}:***@{tail}"
