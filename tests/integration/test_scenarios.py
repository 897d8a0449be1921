"""What users of other schedulers complain about, told as stories, with the time handed in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from models import Event
from tests.integration.test_tick import (  # noqa: F401  fixtures
    LOG,
    NOON,
    SETTINGS,
    World,
    emptied_postgres_url,
    reused_postgres_url,
    seconds,
    world,
)
from triggers import manage, planning
from triggers.definition import parse_trigger
from triggers.schedule import parse

DAY = 86_400
WEEK = 7 * DAY
EVERY_SECOND = {"type": "interval", "every_seconds": 1, "start_time": NOON.isoformat()}
DAILY = {"type": "cron", "cron": "0 9 * * *", "timezone": "UTC"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def do(world: World, operation: Callable[..., Any], name: str = "t") -> Any:  # noqa: F811
    with world.database.write() as connection:
        return operation(connection, name, world.now)


def edit(world: World, name: str = "t", **parts: Any) -> None:  # noqa: F811
    given = {"name": name, "target": LOG} | parts
    with world.database.write() as connection:
        manage.edit(connection, name, parse_trigger(given, SETTINGS, world.now), world.now)


def fired(world: World) -> list[datetime]:  # noqa: F811
    """Whose events are to run, or ran."""
    return [event.scheduled_for for event in world.events() if event.status in ("pending", "succeeded")]


# ----------------------------------------------------------------------------------------- an outage


@pytest.mark.parametrize(("misfire", "ahead"), [("skip", 60), ("fire_once", 0)])
def test_after_a_week_a_trigger_of_one_second_comes_back_with_a_handful_of_rows(
    world: World,  # noqa: F811
    misfire: str,
    ahead: int,
) -> None:
    """Under `skip` those within their grace fire; under `fire_once` the newest, for all that are due."""
    world.create(schedule=EVERY_SECOND, policy={"misfire": misfire})
    world.now += seconds(WEEK)
    world.tick(horizon=0)
    events = world.events()
    assert len(events) <= 1 + ahead + 2
    assert sum(event.coalesced for event in events) == WEEK + 1, "noon and noon count both"
    assert next(e.coalesced_from for e in events if e.coalesced_from) == NOON
    assert world.trigger().planned_count == WEEK + 1
    due = [event for event in events if event.status == "pending"]
    assert len(due) == (61 if misfire == "skip" else 1)
    assert due[-1].scheduled_for == world.now


def test_after_a_week_fire_all_catches_up_in_bounded_batches_oldest_first(world: World) -> None:  # noqa: F811
    window = 3_600
    world.create(schedule=EVERY_SECOND, policy={"misfire": "fire_all", "catchup_window_seconds": window})
    world.now += seconds(WEEK)
    ticks: list[list[Any]] = []
    known: set[str] = set()
    while world.trigger().next_at <= world.now:
        world.tick(horizon=0)
        ticks.append([event for event in world.events() if event.id not in known])
        known |= {event.id for event in ticks[-1]}
    caught_up = [[e for e in events if e.source == "catchup"] for events in ticks]
    assert all(len(events) <= planning.MOST_CATCH_UP for events in caught_up)
    assert len(ticks) == 4, "3,541 that are late, a thousand a tick"
    for earlier, later in pairwise(ticks):
        assert max(e.scheduled_for for e in earlier) < min(e.scheduled_for for e in later)
    events = world.events()
    (older,) = [event for event in events if event.status == "skipped"]
    assert (older.reason, older.coalesced, older.coalesced_from) == (
        "catchup_window", WEEK - window, NOON)  # fmt: skip
    assert sum(event.coalesced for event in events) == WEEK + 1
    assert len(fired(world)) == window + 1


# ------------------------------------------------------------------------------------ plans anew


def test_paused_a_minute_before_and_resumed_in_time_it_fires(world: World) -> None:  # noqa: F811
    world.now = at("2026-11-20T08:58:30")
    world.create(schedule=DAILY)
    world.tick()
    assert fired(world) == [at("2026-11-20T09:00:00")]
    world.now = at("2026-11-20T08:59:00")
    do(world, manage.pause)
    assert fired(world) == []
    world.tick()
    world.now = at("2026-11-20T08:59:10")
    do(world, manage.resume)
    world.tick()
    assert fired(world) == [at("2026-11-20T09:00:00")]


def test_resumed_after_its_instant_it_waits_for_the_next(world: World) -> None:  # noqa: F811
    """Nothing of the past fires, not even what lies within the grace."""
    world.now = at("2026-11-20T08:58:30")
    world.create(schedule=DAILY, policy={"misfire_grace_seconds": 600})
    do(world, manage.pause)
    world.now = at("2026-11-20T09:00:00")
    do(world, manage.resume)
    world.tick()
    assert fired(world) == []
    assert world.trigger().next_at == at("2026-11-21T09:00:00")


def test_resumed_after_a_week_no_misfire_is_made_of_the_pause(world: World) -> None:  # noqa: F811
    world.create(schedule=EVERY_SECOND, policy={"misfire": "fire_all"})
    do(world, manage.pause)
    paused = world.events()
    world.now += seconds(WEEK)
    do(world, manage.resume)
    world.tick(horizon=1)
    assert [event.scheduled_for for event in world.events() if event not in paused] == [
        world.now + seconds(1)]  # fmt: skip


def test_a_yearly_trigger_made_hourly_fires_within_the_hour(world: World) -> None:  # noqa: F811
    world.create(schedule=DAILY | {"cron": "0 0 1 1 *"})
    world.tick()
    world.now += seconds(90)
    edit(world, schedule=DAILY | {"cron": "0 * * * *"})
    world.now += seconds(3_600)
    world.tick()
    assert fired(world) == [NOON + seconds(3_600)]


def test_an_hourly_trigger_made_yearly_leaves_nothing_behind(world: World) -> None:  # noqa: F811
    world.now = NOON - seconds(30)
    world.create(schedule=DAILY | {"cron": "0 * * * *"})
    world.tick()
    assert fired(world) == [NOON]
    edit(world, schedule=DAILY | {"cron": "0 0 1 1 *"})
    world.now += seconds(DAY)
    world.tick()
    assert fired(world) == []


def test_a_changed_tag_changes_no_firing(world: World) -> None:  # noqa: F811
    """Also when it is changed each minute, while occurrences are planned ahead and count."""
    world.create(schedule=EVERY_SECOND | {"max_runs": 150})
    for minute in range(4):
        world.tick()
        edit(world, schedule=EVERY_SECOND | {"max_runs": 150}, tags=[f"minute-{minute}"])
        world.now += seconds(60)
    world.tick()
    assert world.offsets() == list(range(150))


def test_deleted_and_created_again_under_its_name_it_is_another(world: World) -> None:  # noqa: F811
    first = world.create(schedule=EVERY_SECOND)
    world.tick(horizon=10)
    world.now += seconds(5)
    do(world, manage.delete)
    second = world.create(schedule=EVERY_SECOND)
    world.tick(horizon=5)
    of = {id_: [e for e in world.events() if e.trigger_id == id_] for id_ in (first, second)}
    assert [event.status for event in of[first]] == ["cancelled"] * 6, "due, and never started"
    assert [event.scheduled_for for event in of[second]] == [NOON + seconds(n) for n in range(5, 11)]


# ------------------------------------------------------------------------------- a beat of 60 seconds


def test_a_beat_of_a_minute_plans_all_before_it_is_due_also_when_it_is_late(world: World) -> None:  # noqa: F811
    """The horizon is 90 s: a tick that is late by up to 30 s finds nothing that is due already."""
    world.create(schedule={"type": "interval", "every_seconds": 7, "start_time": NOON.isoformat()})
    world.create("cron", schedule=DAILY | {"cron": "* * * * *"})
    world.now = NOON - seconds(1)
    for number in range(8):
        world.now = NOON + seconds(60 * number - 1 + (30 if number % 2 else 0))
        world.tick()
    events = world.events()
    assert len(events) == 78 + 9
    assert all(event.created_at < event.fire_at for event in events)
    assert {(event.source, event.status) for event in events} == {("schedule", "pending")}
    assert {hint.due_at for hint in world.sent} == {event.fire_at for event in events}


# -------------------------------------------------------------------------------- edges of schedules


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 0 31 * *", "2027-01-31T00:00:00", ["2027-03-31", "2027-05-31", "2027-07-31", "2027-08-31"]),
        ("0 0 30 * *", "2027-01-30T00:00:00", ["2027-03-30", "2027-04-30", "2027-05-30", "2027-06-30"]),
        ("0 0 29 2 *", "2027-01-01T00:00:00", ["2028-02-29", "2032-02-29", "2036-02-29", "2040-02-29"]),
    ],
)
def test_month_ends_and_leap_days_over_an_outage(
    world: World,  # noqa: F811
    cron: str,
    after: str,
    expected: list[str],
) -> None:
    world.now = at(after) + seconds(1)
    policy = {"misfire": "fire_all", "catchup_window_seconds": 31_536_000}
    world.create(schedule=DAILY | {"cron": cron}, policy=policy)
    world.now = at(f"{expected[-1]}T12:00:00")
    world.tick()
    events = world.events()
    assert sum(event.coalesced for event in events) == 4
    assert events[0].coalesced_from in (None, at(f"{expected[0]}T00:00:00"))
    assert events[-1].scheduled_for == at(f"{expected[-1]}T00:00:00")


@pytest.mark.parametrize(
    ("start", "after", "expected"),
    [
        ("0001-01-01T00:00:00Z", "2026-11-20T12:00:00", "2026-11-20T12:00:07"),
        ("1970-01-01T00:00:03Z", "2026-11-20T12:00:00", "2026-11-20T12:00:03"),
        ("9999-12-31T23:59:50Z", "2026-11-20T12:00:00", "9999-12-31T23:59:50"),
    ],
)
def test_an_interval_may_begin_long_ago_and_far_ahead(
    world: World,  # noqa: F811
    start: str,
    after: str,
    expected: str,
) -> None:
    schedule = {"type": "interval", "every_seconds": 10, "start_time": start}
    if start.startswith("0001"):
        schedule["every_seconds"] = 13
        first = parse(schedule, None).after(at(after))
        assert first is not None
        expected = first.isoformat()[:19]
        assert (first - at("0001-01-01T00:00:00")).total_seconds() % 13 == 0
    world.now = at(after)
    world.create(schedule=schedule)
    assert world.trigger().next_at == at(expected)
    world.tick(horizon=20)
    assert len(world.events()) == (0 if start.startswith("9999") else 2)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"end_time": "2026-11-20T12:00:30Z"}, [0, 10, 20, 30]),
        ({"end_time": "2026-11-20T12:00:29.999999Z"}, [0, 10, 20]),
        ({"start_time": "2026-11-20T12:00:10Z"}, [10, 20, 30, 40]),
        ({"max_runs": 3}, [0, 10, 20]),
        ({"max_runs": 1}, [0]),
        ({"max_runs": 3, "end_time": "2026-11-20T12:00:10Z"}, [0, 10]),
    ],
)
@pytest.mark.parametrize("tick_every", [1, 10, 40])
def test_bounds_are_exact_at_their_edges(
    world: World,  # noqa: F811
    bounds: dict[str, Any],
    expected: list[int],
    tick_every: int,
) -> None:
    given = {"type": "interval", "every_seconds": 10, "start_time": NOON.isoformat()}
    world.create(schedule=given | bounds)
    for _ in range(0, 41, tick_every):
        world.tick(horizon=40 - (world.now - NOON).total_seconds())
        world.now += seconds(tick_every)
    assert world.offsets() == expected
    exhausted = "max_runs" in bounds or "end_time" in bounds
    assert (world.trigger().next_at is None) == exhausted
    do_all(world)
    assert world.trigger().state == ("completed" if exhausted else "active")


def do_all(world: World) -> None:  # noqa: F811
    """What is planned comes to its end."""
    world.now += seconds(1)
    ended = {"status": "cancelled", "reason": "paused", "finished_at": world.now, "recheck_at": None}
    world.change(Event, **ended)
    world.tick(horizon=-100)
