"""What an event does: the only outgoing I/O of Triggerbeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt.

    `result` is any JSON value; `error` is `{"type": ..., "message": ...}` or None on success;
    `retry_after` is the wait in seconds that the target asked for; `gone` means that the target
    never wants to hear of this event again (HTTP 410).
    """

    succeeded: bool
    result: Any = None
    error: dict[str, str] | None = None
    retry_after: float | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One attempt at an event, with its placeholders already filled in.

    `body` is any JSON value, and None sends no body; `secret` is as in `targets.signing`, or None;
    `scheduled_for` is aware; `timeout_seconds` bounds the whole attempt, from the lookup of the name to the
    last byte read.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: Any
    secret: str | None = field(repr=False)
    event_id: str
    scheduled_for: datetime
    attempt: int
    timeout_seconds: float
