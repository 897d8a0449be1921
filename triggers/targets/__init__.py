"""What an event does: the only outgoing I/O of Triggerbeat."""

from __future__ import annotations

from dataclasses import dataclass
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
