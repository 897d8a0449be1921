"""Anybody may leave a message in a queue: what Celery or its pool would die of is turned away at the door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed

LONGEST_SECONDS = 10 * 365 * 86_400  # of a time limit
DEEPEST = 100  # levels of what is handed to the pool; a trigger has at most 64


def guarded(handle: Callable[..., Any]) -> Callable[..., Any]:
    """What a strategy does with a message: a malformed one is reported and rejected. Celery would die of it,
    worker after worker.
    """

    def handler(message: Any, *arguments: Any, **options: Any) -> Any:
        try:
            check_headers(message.headers)
            check_depth([message.headers, message.payload])
            return handle(message, *arguments, **options)
        except (InvalidTaskError, ContentDisallowed):
            raise
        except Exception as error:
            raise InvalidTaskError(f"malformed message: {type(error).__name__}: {error}") from error

    return handler


def check_headers(headers: Mapping[str, Any]) -> None:
    """Raise for headers that Celery takes apart when the task's turn has come, in the worker's loop."""
    limits = headers.get("timelimit") or [None, None]
    if not isinstance(limits, list) or len(limits) != 2:
        raise ValueError("timelimit is a list of two")
    check_time_limits(limits)
    for name, kind in (("stamped_headers", list), ("stamps", dict)):
        if not isinstance(headers.get(name) or kind(), kind):
            raise TypeError(f"{name} is a {kind.__name__}")


def check_time_limits(limits: Iterable[Any]) -> None:
    """Raise for what is no number of seconds: it would end the thread that counts them."""
    for limit in limits:
        if limit is not None and not (isinstance(limit, int | float) and 0 <= limit <= LONGEST_SECONDS):
            raise ValueError(f"time limits are numbers from 0 to {LONGEST_SECONDS:,}")


def check_depth(value: Any) -> None:
    """Raise for what is nested too deep to be handed to another process."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in inside(outer)]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} levels deep")


def inside(value: Any) -> Iterable[Any]:
    """What a JSON value holds."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
