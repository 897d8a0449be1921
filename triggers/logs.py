"""Logs of all processes: one line a step for people, the same fields as one JSON object for machines.

Everything goes to standard error, through the root logger: our lines, Celery's, Flask's and gunicorn's.
"""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from select import PIPE_BUF
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
ORDERED = frozenset(ORDER)
CONTINUED = "\n    "  # a line that does not begin with an instant belongs to the one above it

# Libraries that say at INFO what nobody asked.
QUIET = ("alembic", "asyncio", "aiohttp.access")

_WORD = re.compile(r"[!#-<>-\[\]-~]+")  # visible ASCII, neither quote, equals sign nor backslash
_thread = threading.local()


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
    stream = {"class": "triggers.logs.StreamHandler", "stream": "ext://sys.stderr"}
    file = {"class": "triggers.logs.FileHandler", "filename": logfile, "encoding": "utf-8"}
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
            # gunicorn has set it to INFO whatever LOG_LEVEL says.
            "gunicorn.access": ours | {"level": level or settings.log_level},
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
        # Not by `log`, which looks for the line of code that called: nobody reads that of a step.
        logger.handle(logger.makeRecord(logger.name, level, "", 0, Step(verb, fields), (), None))


class Step:
    """A step's verb and fields, formatted only when a handler asks."""

    __slots__ = ("_given", "verb")

    def __init__(self, verb: str, fields: dict[str, Any]) -> None:
        self.verb = verb
        self._given = fields

    @property
    def fields(self) -> dict[str, Any]:
        """The fields in their order, without those that are None, as JSON has their values."""
        given = self._given
        names = [name for name in ORDER if name in given]
        names += [name for name in given if name not in ORDERED]
        return {name: plain(given[name]) for name in names if given[name] is not None}

    def __str__(self) -> str:
        return " ".join([self.verb, *[f"{name}={quoted(value)}" for name, value in self.fields.items()]])


@contextmanager
def together() -> Iterator[None]:
    """Write what this thread logs meanwhile at the end, many lines at once.

    After each write a thread waits for its turn to go on, for up to a millisecond where others compute.
    """
    if getattr(_thread, "held", None) is not None:
        yield  # somebody further out writes
        return
    held: dict[Handler, list[str]] = {}
    _thread.held = held
    try:
        yield
    finally:
        del _thread.held
        for handler, lines in held.items():
            handler.write(lines)


@contextmanager
def unless_undone() -> Iterator[Callable[[], None]]:
    """As `together`, for what a transaction does: nothing is written when it raises, or after the call of
    what this yields.
    """
    with together():
        held: dict[Handler, list[str]] = _thread.held
        try:
            yield held.clear
        except BaseException:
            held.clear()
            raise


class Lines(logging.LogRecord):
    """Some lines that are formatted already."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("", logging.NOTSET, "", 0, "\n".join(lines), (), None)


class Handler(logging.Handler):
    """Knows `together`."""

    def emit(self, record: logging.LogRecord) -> None:
        held: dict[Handler, list[str]] | None = getattr(_thread, "held", None)
        if held is None or isinstance(record, Lines):
            super().emit(record)
            return
        try:
            held.setdefault(self, []).append(self.format(record))
        except Exception:
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if isinstance(record, Lines) else super().format(record)

    def write(self, lines: Sequence[str]) -> None:
        """In portions that stay whole in a pipe, which a pool's processes write to as well."""
        portion: list[str] = []
        size = 0
        for line in lines:
            length = 1 + (len(line) if line.isascii() else len(line.encode(errors="replace")))
            if portion and size + length > PIPE_BUF:
                self.handle(Lines(portion))
                portion, size = [], 0
            portion.append(line)
            size += length
        self.handle(Lines(portion))


class StreamHandler(Handler, logging.StreamHandler):  # type: ignore[type-arg]
    """To standard error."""


class FileHandler(Handler, logging.handlers.WatchedFileHandler):
    """To the file of a command's own `--logfile`."""


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
    if isinstance(value, str):
        return str(value)  # also where it is the member of an enumeration
    if isinstance(value, float):
        return round(value, 3) + 0.0  # not -0.0
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, bool | int):
        return value
    return str(value)


@lru_cache(64)
def rfc3339(at: datetime) -> str:
    """An instant in UTC, to the second where it is a whole one."""
    form = "microseconds" if at.microsecond else "seconds"
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=form) + "Z"


def quoted(value: Any) -> str:
    """A field's value in a text line: bare when it is one visible word, else as a JSON string."""
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) or is_word(value) else in_quotes(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def is_word(text: str) -> bool:
    """Whether it is one visible word of any script."""
    return bool(text) and text.isprintable() and not any(mark in text for mark in ' "=\\')


def in_quotes(text: str) -> str:
    """The text as a JSON string, in ASCII when it could move a terminal's cursor."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def visible(line: str) -> str:
    """The line with whatever could move a terminal's cursor or end a line written as an escape."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


def instant(seconds: float) -> str:
    """A record's time: RFC 3339 in UTC, to the millisecond."""
    whole, thousandths = divmod(int(seconds * 1000), 1000)
    return f"{second(whole)}.{thousandths:03d}Z"


@lru_cache(4)
def second(whole: int) -> str:
    """The same without its fraction, which many lines share."""
    return datetime.fromtimestamp(whole, UTC).replace(tzinfo=None).isoformat()
