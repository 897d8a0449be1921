"""What becomes of an attempt: final, or another one later. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from models.states import Reason, Status
from triggers.targets import Outcome

SPREAD = 0.25  # of a wait, added at random, so that what failed together does not return together


class Decision(NamedTuple):
    """The status that follows an attempt; `due_at` is the next attempt's instant, if there is one."""

    status: Status
    reason: Reason | None = None
    due_at: datetime | None = None


def decide(
    outcome: Outcome, attempt: int, retry: Mapping[str, int], now: datetime, chance: float
) -> Decision:
    """Judge attempt number `attempt` that ended at `now`; `chance` in [0, 1) spreads the wait."""
    if outcome.succeeded:
        return Decision(Status.SUCCEEDED)
    if outcome.gone:
        return Decision(Status.FAILED, Reason.GONE)
    return again_or(Reason.ATTEMPTS, attempt, retry, now, chance, outcome.retry_after)


def decide_lost(attempt: int, retry: Mapping[str, int], now: datetime, chance: float) -> Decision:
    """Judge an attempt whose worker vanished: it counts."""
    return again_or(Reason.LOST, attempt, retry, now, chance, None)


def again_or(
    reason: Reason,
    attempt: int,
    retry: Mapping[str, int],
    now: datetime,
    chance: float,
    asked: float | None,
) -> Decision:
    """Another attempt after a wait, or failed for `reason` when the attempts are spent."""
    if attempt >= retry["max_attempts"]:
        return Decision(Status.FAILED, reason)
    return Decision(
        Status.PENDING, None, now + timedelta(seconds=wait_seconds(attempt, retry, chance, asked))
    )


def wait_seconds(attempt: int, retry: Mapping[str, int], chance: float, asked: float | None = None) -> float:
    """How long to wait after attempt number `attempt` (1, 2, ...).

    It doubles from `min_backoff_seconds`, with up to a quarter added, up to `max_backoff_seconds`; what
    the target asked for (Retry-After, RFC 9110 section 10.2.3) is obeyed up to the same bound.
    """
    most = float(max(retry["max_backoff_seconds"], retry["min_backoff_seconds"]))
    doubled = min(most, retry["min_backoff_seconds"] * 2.0 ** min(attempt - 1, 40))
    wait = min(most, doubled * (1 + SPREAD * chance))
    return max(wait, min(most, asked)) if asked is not None else wait
