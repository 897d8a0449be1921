"""What becomes of an attempt: the decision, and the wait before the next one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_config.task import seconds_of
from models.states import Reason, Status
from triggers.retry import SPREAD, Decision, decide, decide_lost, wait_seconds
from triggers.targets import Outcome

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SUCCEEDED = Outcome(True, result={"status": 200})
FAILED = Outcome(False, error={"type": "HTTPError", "message": "503"})
GONE = Outcome(False, error={"type": "HTTPError", "message": "410"}, gone=True)
ALMOST_ONE = 1 - 2**-53


def retry(attempts: int = 3, least: int = 5, most: int = 3600) -> dict[str, int]:
    return {"max_attempts": attempts, "min_backoff_seconds": least, "max_backoff_seconds": most}


def asking(seconds: float) -> Outcome:
    """A failure whose target asked for a wait."""
    return Outcome(False, error=FAILED.error, retry_after=seconds)


def waited(outcome: Outcome, attempt: int = 1, chance: float = 0.0, **given_: int) -> float:
    """The seconds until the next attempt."""
    made = decide(outcome, attempt, retry(**given_), NOW, chance)
    assert made.status == Status.PENDING
    assert made.due_at is not None
    return (made.due_at - NOW).total_seconds()


# ----------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize("attempt", [1, 3, 100])
def test_a_success_is_final_whichever_attempt_it_was(attempt: int) -> None:
    assert decide(SUCCEEDED, attempt, retry(), NOW, 0.5) == Decision(Status.SUCCEEDED)


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_failure_is_tried_again_while_attempts_are_left(attempt: int) -> None:
    made = decide(FAILED, attempt, retry(attempts=3), NOW, 0.5)
    assert (made.status, made.reason) == (Status.PENDING, None)
    assert made.due_at is not None
    assert made.due_at > NOW


@pytest.mark.parametrize("attempt", [3, 4, 7])
def test_a_failure_is_final_when_the_attempts_are_spent(attempt: int) -> None:
    assert decide(FAILED, attempt, retry(attempts=3), NOW, 0.5) == Decision(Status.FAILED, Reason.ATTEMPTS)


def test_a_single_attempt_is_never_repeated() -> None:
    assert decide(asking(7), 1, retry(attempts=1), NOW, 0.5) == Decision(Status.FAILED, Reason.ATTEMPTS)


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_target_that_is_gone_fails_the_event_at_once(attempt: int) -> None:
    assert decide(GONE, attempt, retry(), NOW, 0.5) == Decision(Status.FAILED, Reason.GONE)


def test_a_lost_attempt_counts_and_waits_like_any_other() -> None:
    lost = decide_lost(2, retry(attempts=3), NOW, 0.25)
    assert lost == decide(FAILED, 2, retry(attempts=3), NOW, 0.25)
    assert lost.status == Status.PENDING


def test_the_last_attempt_that_is_lost_fails_the_event_as_lost() -> None:
    assert decide_lost(3, retry(attempts=3), NOW, 0.5) == Decision(Status.FAILED, Reason.LOST)


# --------------------------------------------------------------------------------------------- waits


def test_waits_double_from_the_smallest() -> None:
    assert [waited(FAILED, n, attempts=9) for n in range(1, 6)] == [5, 10, 20, 40, 80]


def test_waits_grow_up_to_the_largest_and_stay_there() -> None:
    waits = [waited(FAILED, n, attempts=9, least=100, most=500) for n in range(1, 7)]
    assert waits == [100, 200, 400, 500, 500, 500]


@pytest.mark.parametrize("attempt", [60, 99, 1_000_000])
def test_no_number_of_attempts_overflows(attempt: int) -> None:
    assert wait_seconds(attempt, retry(attempts=100, most=86_400), ALMOST_ONE) == 86_400


def test_a_wait_is_spread_by_up_to_a_quarter_and_never_shortened() -> None:
    assert waited(FAILED, 2, chance=0.0) == 10
    assert waited(FAILED, 2, chance=0.5) == pytest.approx(10 * (1 + SPREAD / 2))
    assert waited(FAILED, 2, chance=ALMOST_ONE) == pytest.approx(12.5)


def test_the_spread_does_not_exceed_the_largest_wait() -> None:
    assert waited(FAILED, chance=ALMOST_ONE, least=10, most=11) == 11


def test_the_smallest_wait_wins_over_a_largest_that_is_smaller() -> None:
    assert waited(FAILED, 3, attempts=9, least=60, most=10) == 60


# --------------------------------------------------------------------------------------- Retry-After


def test_the_wait_that_the_target_asked_for_is_obeyed() -> None:
    assert waited(asking(120)) == 120
    assert waited(asking(120.5)) == 120.5


def test_the_target_cannot_shorten_the_wait() -> None:
    assert waited(asking(1), 3, attempts=9) == 20
    assert waited(asking(0)) == 5


def test_the_target_is_obeyed_up_to_the_largest_wait() -> None:
    assert waited(asking(86_400), most=600) == 600
    assert waited(asking(float("inf")), most=600) == 600


# ---------------------------------------------------------------------------------------- properties

SECONDS = st.integers(1, 86_400)


@given(
    attempt=st.integers(1, 100),
    least=SECONDS,
    most=SECONDS,
    chance=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 1e9),
)
def test_every_wait_is_within_its_bounds(
    attempt: int, least: int, most: int, chance: float, asked: float | None
) -> None:
    wait = wait_seconds(attempt, retry(100, least, most), chance, asked)
    assert least <= wait <= max(least, most)
    if asked is not None:
        assert wait >= min(asked, max(least, most))


@given(attempt=st.integers(1, 99), least=SECONDS, most=SECONDS, chance=st.floats(0, 1, exclude_max=True))
def test_waits_never_shrink_from_one_attempt_to_the_next(
    attempt: int, least: int, most: int, chance: float
) -> None:
    rule = retry(100, least, most)
    assert wait_seconds(attempt, rule, chance) <= wait_seconds(attempt + 1, rule, chance)


@given(attempt=st.integers(1, 100), least=SECONDS, most=SECONDS, chance=st.floats(0, 1, exclude_max=True))
def test_the_next_attempt_is_due_after_exactly_that_wait(
    attempt: int, least: int, most: int, chance: float
) -> None:
    rule = retry(101, least, most)
    made = decide(FAILED, attempt, rule, NOW, chance)
    assert made.due_at == NOW + timedelta(seconds=wait_seconds(attempt, rule, chance))


@pytest.mark.parametrize(
    ("countdown", "seconds"),
    [
        (None, None),
        (3, 3.0),
        ("10", 10.0),
        (Decimal("0.5"), 0.5),
        (timedelta(minutes=1), 60.0),
        ("ten", None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        ([1], None),
    ],
)
def test_a_countdown_that_is_none_leaves_it_to_the_policy(countdown: Any, seconds: float | None) -> None:
    assert seconds_of(countdown) == seconds
