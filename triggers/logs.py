"""Logs of all processes: one line a step for people, the same fields as one JSON object for machines.

Everything goes to standard error, through the root logger: our lines, Celery's, Flask's and gunicorn's.
"""

from __future__ import annotations

import json
import logging
import logging.config
from datetime import UTC, datetime
from typing import Any

from triggers.settings import Settings

# The order of a step's fields. Others follow, as they were given.
ORDER = (
    "trigger",
    "event",
    "scheduled_for",
    "attempt",
    "status",
    "late",
    "took",
    "reason",
    "error",
    "message",
)
CONTINUED = "\n    "  # a line that does not begin with an instant belongs to the one above it

# Libraries that say at INFO what nobody asked.
QUIET = ("alembic", "asyncio", "aiohttp.access")


def configure(settings: Settings, level: int | str | None = None, logfile: str | None = None) -> None:
    """Set up logging for this process. A second call replaces the first.

    `level` (a name or a number of `logging`) wins over LOG_LEVEL, and `logfile` over standard error: a
    process hands on what its own command line says. For Celery, connect it to the signal `setup_logging`.
    """
    logging.config.dictConfig(dictionary(settings, level, logfile))
    logging.captureWarnings(True)


def dictionary(
    settings: Settings, level: int | str | None = None, logfile: str | None = None
) -> dict[str, Any]:
    """The configuration in the form of `logging.config.dictConfig`, which gunicorn takes too."""
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    stream = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    file = {"class": "logging.handlers.WatchedFileHandler", "filename": logfile, "encoding": "utf-8"}
    ours: dict[str, Any] = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": formatter}},
        "handlers": {"ours": {**(file if logfile else stream), "formatter": "ours"}},
        "root": {"level": level or settings.log_level, "handlers": ["ours"]},
        "loggers": {
            # These bring handlers, and lines, of their own form.
            "gunicorn.error": ours,
            "gunicorn.access": ours,
            "werkzeug": ours,
            # Celery's pool: it never propagates, and without a handler it would print bare text.
            "multiprocessing": {"level": "ERROR", "handlers": ["ours"], "propagate": False},
            **{name: {"level": "WARNING"} for name in QUIET},
        },
    }


def step(logger: logging.Logger, verb: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one step of an event's life: `succeeded trigger=nightly event=... attempt=1 took=0.012`.

    Fields that are None are left out. `late` and `took` are seconds. Nothing is formatted, and no field is
    looked at, unless somebody listens at `level`.
    """
    if logger.isEnabledFor(level):
        logger.log(level, Step(verb, fields), stacklevel=2)


class Step:
    """A step's verb and fields, formatted only when a handler asks."""

    __slots__ = ("fields", "verb")

    def __init__(self, verb: str, fields: dict[str, Any]) -> None:
        self.verb = verb
        names = [name for name in ORDER if name in fields]
        names += [name for name in fields if name not in ORDER]
        self.fields = {name: plain(fields[name]) for name in names if fields[name] is not None}

    def __str__(self) -> str:
        return " ".join([self.verb, *(f"{name}={quoted(value)}" for name, value in self.fields.items())])


class TextFormatter(logging.Formatter):
    """For people: `2026-11-20T09:00:00.123Z INFO    succeeded trigger=nightly ...`."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{instant(record.created)} {record.levelname:<7} {record.getMessage()}"
        if details := self.details(record):
            text = f"{text}\n{details}"
        return text if text.isprintable() else CONTINUED.join(map(visible, text.rstrip("\n").split("\n")))

    def details(self, record: logging.LogRecord) -> str:
        """The traceback and the stack that came with the record, if any."""
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)


class JsonFormatter(TextFormatter):
    """For machines: one object a line. A step has its verb as `step` and its fields beside it."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": instant(record.created),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
        }
        if isinstance(record.msg, Step):
            document |= {"step": record.msg.verb, "message": record.msg.verb, **record.msg.fields}
        else:
            document["message"] = record.getMessage()
        if details := self.details(record):
            document["traceback"] = details
        return json.dumps(document, default=str)


def plain(value: Any) -> Any:
    """A field's value as JSON has it: instants in RFC 3339 in UTC, seconds with three decimals."""
    if isinstance(value, float):
        return round(value, 3) + 0.0  # not -0.0
    if isinstance(value, datetime):
        form = "microseconds" if value.microsecond else "seconds"
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=form) + "Z"
    if isinstance(value, bool | int):
        return value
    return str(value)


def quoted(value: Any) -> str:
    """A field's value in a text line: bare when it is one visible word, else as a JSON string."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if text and text.isprintable() and not any(mark in text for mark in ' "=\\'):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def visible(line: str) -> str:
    """The line with whatever could move a terminal's cursor or end a line written as an escape."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


def instant(seconds: float) -> str:
    """A record's time: RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
