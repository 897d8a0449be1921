"""A sample of the long comparison (`python -m tests.oracle`): the engine against Debian's main loop."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests import oracle
from triggers import zones

OCCURRENCES = 200_000
SEED = 20_261_120
HOURS = 3  # on each side of a change
YEARS = ("Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Gaza", "Pacific/Apia")


@pytest.mark.slow
def test_near_every_change_of_the_tz_database_the_engine_agrees() -> None:
    # Given every change from 1970 to 2050, those that many zones make together once
    together = {(change.at, change.before, change.after): change for change in oracle.all_changes()}
    changes = list(together.values())
    # When expressions aimed at each of them are compared
    agreed, visited, wrong = oracle.sample(changes, OCCURRENCES, SEED, HOURS, expressions_each=2)
    # Then none differs, none was left out, and none is so near to another that probing could miss both
    assert wrong == []
    near = [b.at - a.at for a, b in pairwise(oracle.all_changes()) if a.zone == b.zone]
    assert min(near) > 2 * zones._PROBED
    assert visited >= len(changes) > 6_000
    assert agreed >= OCCURRENCES


@pytest.mark.parametrize("zone", YEARS)
def test_over_a_whole_year_the_engine_agrees(zone: str) -> None:
    chance = random.Random(zone)
    start = oracle.FIRST + (2011 - 1970) * 365 * oracle.DAY
    stop = start + 370 * oracle.DAY
    minutes = list(oracle.walk(zone, start, stop))
    for _ in range(3):
        change = oracle.Change(zone, chance.randrange(start, stop), 0, 0)
        (text,) = oracle.expressions(change, chance, 1)
        assert oracle.engine(text, zone, start, stop) == oracle.expected(oracle.read(text), minutes), text


def test_the_oracle_knows_the_two_nights_of_berlin() -> None:
    """The oracle itself, against instants worked out by hand."""
    spring, autumn = 1_774_746_000, 1_792_890_000  # 2026-03-29T01:00Z, 2026-10-25T01:00Z
    near_spring = list(oracle.walk("Europe/Berlin", spring - 14_400, spring + 14_400))
    near_autumn = list(oracle.walk("Europe/Berlin", autumn - 14_400, autumn + 14_400))
    assert oracle.expected(oracle.read("30 2 * * *"), near_spring) == [spring]
    assert oracle.expected(oracle.read("*/30 2 * * *"), near_spring) == []
    assert oracle.expected(oracle.read("30 2 * * *"), near_autumn) == [autumn - 1_800]
    assert oracle.expected(oracle.read("*/30 2 * * *"), near_autumn) == [
        autumn - 3_600, autumn - 1_800, autumn, autumn + 1_800]  # fmt: skip
