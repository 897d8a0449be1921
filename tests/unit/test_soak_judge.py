"""The judge of `make soak`: what is level passes, a leak does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.soak.judge import Sample, level

HOUR = 3_600


def ok(value: Callable[[float], float], allowance: float = 8) -> bool:
    """Whether what was sampled each 10 s for an hour is level."""
    return level([Sample(at, value(at)) for at in range(0, HOUR, 10)], HOUR, allowance).ok


def test_what_is_flat_passes() -> None:
    assert ok(lambda at: 100)
    assert ok(lambda at: 0, allowance=0)
    assert ok(lambda at: 100 + at % 7)


def test_a_leak_fails() -> None:
    assert not ok(lambda at: 100 + at / 60)  # 1 MB a minute: 30 from quarter to quarter, 10 + 8 are allowed
    assert not ok(lambda at: 5 + at / 100)
    assert not ok(lambda at: at / HOUR, allowance=0)


def test_a_leak_that_begins_late_fails() -> None:
    assert not ok(lambda at: 100 + max(0, at - 1_800) / 30)


def test_a_sawtooth_passes_and_one_whose_feet_rise_does_not() -> None:
    assert ok(lambda at: 100 + at % 300)
    assert not ok(lambda at: 100 + at % 300 + at / 30)


def test_growth_in_the_warm_up_and_a_single_peak_pass() -> None:
    assert ok(lambda at: min(at, 900))
    assert ok(lambda at: 5_000 if at == 3_000 else 100)


def test_what_shrinks_passes() -> None:
    assert ok(lambda at: 500 - at / 10)


def test_both_the_share_and_the_allowance_count() -> None:
    def step(at: float) -> float:
        return 100 if at < 1_800 else 118

    assert ok(step, allowance=8)
    assert not ok(step, allowance=7.9)


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="samples in a quarter"):
        level([Sample(at, 1) for at in range(0, 120, 10)], 120, 0)
