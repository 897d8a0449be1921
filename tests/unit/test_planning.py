"""Which events a trigger gets: misfire policies at their edges, limits, nothing lost and nothing doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.states import Reason, Source
from triggers import planning
from triggers.errors import InvalidSchedule
from triggers.planning import MOST_CATCH_UP, MOST_PER_BATCH, Plan, Plannable, Planned
from triggers.schedule import parse_cached

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
POLICIES = ("skip", "fire_once", "fire_all")


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def every(number: int = 10, **bounds: Any) -> dict[str, Any]:
    """An interval whose occurrences are noon, noon + number, ..."""
    return {"type": "interval", "every_seconds": number, "start_time": NOON.isoformat(), **bounds}


def trigger(
    schedule: dict[str, Any] | None = None,
    misfire: str = "fire_once",
    grace: int = 60,
    window: int = 86_400,
    planned_until: datetime = NOON - TICK,
    planned_count: int = 0,
) -> Plannable:
    """A trigger as a claim reads it, whose first occurrence after `planned_until` is not planned yet."""
    text = json.dumps(schedule or every())
    policy = {"misfire": misfire, "misfire_grace_seconds": grace, "catchup_window_seconds": window}
    next_at = parse_cached(text, NOON).after(planned_until)
    assert next_at is not None
    return Plannable(
        "018f0000-0000-7000-8000-000000000001", "t", "log", text, json.dumps(policy),
        NOON, planned_until, next_at, planned_count,
    )  # fmt: skip


def plan(given_: Plannable, now: float, ahead: float = 0) -> Plan:
    """Its plan at `now` seconds after noon, up to `ahead` seconds later."""
    at = NOON + seconds(now)
    return planning.plan(given_, at, at + seconds(ahead))


def moved(before: Plannable, made: Plan) -> Plannable:
    """The trigger after its plan was stored."""
    assert made.next_at is not None
    return before._replace(
        planned_until=made.planned_until, next_at=made.next_at, planned_count=made.planned_count
    )


def offset(instant: datetime | None) -> float | None:
    return None if instant is None else (instant - NOON).total_seconds()


def told(events: Sequence[Planned]) -> list[tuple[Any, ...]]:
    """Each event as (instant, source or reason, how many, since when)."""
    return [
        (offset(e.scheduled_for), str(e.skipped or e.source), e.coalesced, offset(e.coalesced_from))
        for e in events
    ]


def on_time(*offsets: float) -> list[tuple[Any, ...]]:
    """An event each, as `told` shows what is not late."""
    return [(n, "schedule", 1, None) for n in offsets]


# --------------------------------------------------------------------------------------- on time


@pytest.mark.parametrize("misfire", POLICIES)
def test_what_is_ahead_gets_an_event_each(misfire: str) -> None:
    made = plan(trigger(misfire=misfire), now=0, ahead=30)
    assert told(made.events) == on_time(0, 10, 20, 30)
    assert (made.planned_until, made.next_at) == (NOON + seconds(30), NOON + seconds(40))
    assert (made.planned_count, made.rests) == (4, False)


def test_the_horizon_is_inclusive_and_the_cursor_exclusive() -> None:
    made = plan(trigger(planned_until=NOON), now=0, ahead=10)
    assert told(made.events) == on_time(10)
    made = plan(trigger(planned_until=NOON), now=0, ahead=9.999999)
    assert made.events == []


def test_the_cursor_moves_to_the_horizon_although_nothing_is_planned() -> None:
    made = plan(trigger(every(3600), planned_until=NOON), now=0, ahead=90)
    assert (made.events, offset(made.planned_until), offset(made.next_at)) == ([], 90, 3600)


def test_the_cursor_never_moves_back_when_the_clock_does() -> None:
    ahead = trigger(planned_until=NOON + seconds(100))
    made = plan(ahead, now=-500, ahead=90)
    assert (made.events, made.planned_until, made.next_at) == ([], ahead.planned_until, ahead.next_at)


def test_the_next_plan_goes_on_where_the_last_one_ended() -> None:
    first = trigger()
    made = plan(first, now=0, ahead=25)
    again = plan(moved(first, made), now=5, ahead=25)
    assert told(again.events) == on_time(30)
    assert again.planned_count == 4


@pytest.mark.parametrize(("misfire", "until"), [("skip", 65), ("fire_once", 65), ("fire_all", None)])
def test_an_event_knows_from_when_on_its_start_is_a_misfire(misfire: str, until: float | None) -> None:
    made = plan(trigger(misfire=misfire, grace=60, planned_until=NOON), now=0, ahead=10)
    (event,) = made.events
    assert (event.fire_at, event.skipped) == (event.scheduled_for, None)
    assert offset(event.misfire_at) == (None if until is None else 70)


# ------------------------------------------------------------------------------- grace and misfires


@pytest.mark.parametrize("misfire", POLICIES)
def test_exactly_at_its_grace_an_occurrence_is_on_time(misfire: str) -> None:
    made = plan(trigger(every(3600), misfire, grace=60), now=60)
    assert told(made.events) == on_time(0)


@pytest.mark.parametrize(
    ("misfire", "fate"), [("skip", "misfire"), ("fire_once", "catchup"), ("fire_all", "catchup")]
)
def test_an_instant_later_it_is_a_misfire(misfire: str, fate: str) -> None:
    made = plan(trigger(every(3600), misfire, grace=60), now=60.000001)
    assert told(made.events) == [(0, fate, 1, None)]


def test_skip_covers_all_misfires_and_fires_what_is_within_its_grace() -> None:
    made = plan(trigger(misfire="skip", grace=25), now=100, ahead=10)
    assert told(made.events) == [
        (70, "misfire", 8, 0),
        *on_time(80, 90, 100, 110),
    ]
    assert made.planned_count == 12


def test_fire_once_fires_the_newest_of_all_that_are_due() -> None:
    made = plan(trigger(misfire="fire_once", grace=25), now=105, ahead=20)
    assert told(made.events) == [
        (100, "catchup", 11, 0),
        (110, "schedule", 1, None),
        (120, "schedule", 1, None),
    ]


def test_the_one_that_fires_for_all_has_its_grace_from_now_on() -> None:
    event = plan(trigger(misfire="fire_once", grace=25), now=105).events[0]
    assert (offset(event.fire_at), offset(event.misfire_at)) == (100, 130)


def test_fire_once_of_a_single_misfire_covers_only_itself() -> None:
    made = plan(trigger(every(3600), "fire_once"), now=1800)
    assert told(made.events) == [(0, "catchup", 1, None)]


def test_fire_once_changes_nothing_while_nothing_is_late() -> None:
    made = plan(trigger(misfire="fire_once", grace=60), now=30)
    assert told(made.events) == on_time(0, 10, 20, 30)


def test_fire_all_fires_each_oldest_first() -> None:
    made = plan(trigger(misfire="fire_all", grace=25), now=55, ahead=5)
    assert told(made.events) == [
        *((n, "catchup", 1, None) for n in (0, 10, 20)),
        *on_time(30, 40, 50, 60),
    ]
    assert not made.rests


# --------------------------------------------------------------------------------- catch-up window


@pytest.mark.parametrize(
    ("misfire", "rest"),
    [
        ("fire_once", [(100, "catchup", 5, 60)]),
        ("fire_all", [*((n, "catchup", 1, None) for n in (60, 70, 80, 90)), (100, "schedule", 1, None)]),
    ],
)
def test_what_is_older_than_the_window_never_fires(misfire: str, rest: list[Any]) -> None:
    made = plan(trigger(misfire=misfire, grace=5, window=40), now=100)
    assert told(made.events) == [(50, "catchup_window", 6, 0), *rest]
    assert made.planned_count == 11


def test_exactly_as_old_as_the_window_it_still_fires() -> None:
    made = plan(trigger(every(3600), "fire_all", window=1800), now=1800)
    assert told(made.events) == [(0, "catchup", 1, None)]
    made = plan(trigger(every(3600), "fire_all", window=1800), now=1800.000001)
    assert told(made.events) == [(0, "catchup_window", 1, None)]


@pytest.mark.parametrize("misfire", ["fire_once", "fire_all"])
def test_without_a_window_no_misfire_fires(misfire: str) -> None:
    made = plan(trigger(misfire=misfire, grace=25, window=0), now=50)
    assert told(made.events) == [
        (20, "catchup_window", 3, 0),
        *((n, "schedule", 1, None) for n in (30, 40, 50)),
    ]


def test_a_window_shorter_than_the_grace_does_not_shorten_it() -> None:
    made = plan(trigger(misfire="fire_once", grace=60, window=5), now=60)
    assert told(made.events) == on_time(*range(0, 61, 10))


def test_under_skip_the_reason_is_the_misfire_however_old() -> None:
    made = plan(trigger(misfire="skip", grace=1, window=5), now=29)
    assert told(made.events) == [(20, "misfire", 3, 0)]


def test_a_long_absence_is_one_event_and_quickly_planned() -> None:
    absent = trigger(every(1), "fire_once", window=3600)
    made = plan(absent, now=10 * 365 * 86_400)
    assert [e.coalesced for e in made.events] == [10 * 365 * 86_400 - 3600, 3601]
    assert made.planned_count == 10 * 365 * 86_400 + 1


# ------------------------------------------------------------------------------- max_runs, end_time


def test_max_runs_ends_the_plan() -> None:
    made = plan(trigger(every(max_runs=3)), now=0, ahead=90)
    assert told(made.events) == on_time(0, 10, 20)
    assert (made.next_at, made.planned_count, offset(made.planned_until)) == (None, 3, 90)


def test_max_runs_counts_what_was_planned_before() -> None:
    made = plan(
        trigger(every(max_runs=5), planned_until=NOON + seconds(25), planned_count=3), now=30, ahead=90
    )
    assert told(made.events) == on_time(30, 40)
    assert (made.next_at, made.planned_count) == (None, 5)


@pytest.mark.parametrize(
    ("misfire", "fates"),
    [
        ("skip", [(30, "misfire", 4, 0)]),
        ("fire_once", [(20, "catchup_window", 3, 0), (30, "catchup", 1, None)]),
        ("fire_all", [(20, "catchup_window", 3, 0), (30, "catchup", 1, None)]),
    ],
)
def test_max_runs_counts_misfires_whatever_becomes_of_them(misfire: str, fates: list[Any]) -> None:
    made = plan(trigger(every(max_runs=4), misfire, grace=5, window=75), now=105, ahead=90)
    assert told(made.events) == fates
    assert (made.next_at, made.planned_count) == (None, 4)


def test_max_runs_may_end_within_the_window() -> None:
    made = plan(trigger(every(max_runs=2), "fire_once", grace=5, window=40), now=100)
    assert told(made.events) == [(10, "catchup_window", 2, 0)]
    assert made.next_at is None


@pytest.mark.parametrize("misfire", POLICIES)
def test_the_end_time_itself_still_belongs_to_the_schedule(misfire: str) -> None:
    bounded = every(end_time=(NOON + seconds(20)).isoformat())
    made = plan(trigger(bounded, misfire), now=0, ahead=90)
    assert told(made.events) == on_time(0, 10, 20)
    assert (made.next_at, offset(made.planned_until)) == (None, 90)


def test_a_schedule_that_ended_during_an_absence_is_caught_up_with() -> None:
    bounded = every(end_time=(NOON + seconds(25)).isoformat())
    made = plan(trigger(bounded, "fire_once"), now=3600, ahead=90)
    assert told(made.events) == [(20, "catchup", 3, 0)]
    assert made.next_at is None


def test_a_schedule_of_one_instant_has_one_event() -> None:
    once = {"type": "once", "at": NOON.isoformat()}
    made = plan(trigger(once), now=-30, ahead=90)
    assert told(made.events) == on_time(0)
    assert made.next_at is None


# ------------------------------------------------------------------------------------------ jitter


def test_an_event_fires_at_its_instant_and_a_part_of_the_jitter() -> None:
    made = plan(trigger(every(100, jitter_seconds=30), grace=60), now=0, ahead=1000)
    parts = [(e.fire_at - e.scheduled_for).total_seconds() for e in made.events]
    assert all(0 <= part <= 30 for part in parts)
    assert len(set(parts)) == len(parts) == 11
    assert all(e.misfire_at == e.fire_at + seconds(60) for e in made.events)


def test_the_part_is_the_same_each_time_it_is_computed() -> None:
    jittered = every(100, jitter_seconds=30)
    whole = plan(trigger(jittered), now=0, ahead=1000).events
    later = plan(trigger(jittered, planned_until=NOON + seconds(450)), now=450, ahead=550).events
    assert whole[5:] == later


def test_grace_counts_from_the_jittered_instant() -> None:
    """What may still be within its grace gets an event of its own, which is judged when it starts."""
    jittered = trigger(every(3600, jitter_seconds=30), "skip", grace=60)
    assert told(plan(jittered, now=90).events) == on_time(0)
    assert told(plan(jittered, now=90.000001).events) == [(0, "misfire", 1, None)]


def test_fire_once_never_covers_what_its_jitter_still_delays() -> None:
    made = plan(trigger(every(10, jitter_seconds=15), "fire_once", grace=5), now=100)
    assert told(made.events)[0] == (80, "catchup", 9, 0)
    assert made.events[0].fire_at <= NOON + seconds(100)
    assert told(made.events)[1:] == on_time(90, 100)


# ------------------------------------------------------------------------------------------ limits


def test_a_batch_plans_so_many_occurrences_and_the_next_goes_on() -> None:
    dense = trigger(every(1))
    made = plan(dense, now=0, ahead=MOST_PER_BATCH + 99)
    assert len(made.events) == MOST_PER_BATCH
    assert made.planned_until == made.events[-1].scheduled_for
    assert offset(made.next_at) == MOST_PER_BATCH
    assert not made.rests
    rest = plan(moved(dense, made), now=0, ahead=MOST_PER_BATCH + 99)
    assert told(rest.events)[0] == (MOST_PER_BATCH, "schedule", 1, None)
    assert len(rest.events) == 100


def test_fire_all_catches_up_with_so_many_a_tick_and_rests() -> None:
    behind = trigger(every(1), "fire_all", grace=60)
    made = plan(behind, now=5000, ahead=90)
    assert told(made.events) == [(n, "catchup", 1, None) for n in range(MOST_CATCH_UP)]
    assert (made.rests, made.planned_until) == (True, made.events[-1].scheduled_for)
    again = plan(moved(behind, made), now=5060, ahead=90)
    assert told(again.events)[0] == (MOST_CATCH_UP, "catchup", 1, None)
    assert again.rests


def test_fire_all_does_not_rest_when_it_has_caught_up_exactly() -> None:
    made = plan(trigger(every(1), "fire_all", grace=1), now=MOST_CATCH_UP + 1)
    assert not made.rests
    assert [str(e.source) for e in made.events].count("catchup") == MOST_CATCH_UP
    assert offset(made.events[-1].scheduled_for) == MOST_CATCH_UP + 1


def test_a_trigger_that_rests_plans_nothing_that_is_newer() -> None:
    """Oldest first: what is due now waits for what was missed."""
    made = plan(trigger(every(1), "fire_all", grace=1), now=MOST_CATCH_UP + 2, ahead=90)
    assert made.rests
    assert all(e.source == Source.CATCHUP for e in made.events)


# --------------------------------------------------------------------------------------- faults


def test_what_the_schedule_raises_is_for_the_caller() -> None:
    broken = trigger()._replace(schedule='{"type": "cron", "cron": "* * * * *", "timezone": "Moon/Base"}')
    with pytest.raises(InvalidSchedule, match="Moon/Base"):
        plan(broken, now=0)


# ------------------------------------------------------------------------------------- the property


CRONS = ["* * * * *", "*/7 * * * *", "5,6,50 * * * *", "0 */2 * * *", "30 12-14 * * 5"]


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    schedule: dict[str, Any] = draw(
        st.one_of(
            st.integers(1, 400).map(every),
            st.sampled_from(
                ["* * * * *", "*/7 * * * *", "5,6,50 * * * *", "0 */2 * * *", "30 12-14 * * 5"]
            ).map(lambda text: {"type": "cron", "cron": text, "timezone": "Europe/Berlin"}),
            st.integers(-100, 2000).map(lambda n: {"type": "once", "at": (NOON + seconds(n)).isoformat()}),
        )
    )
    if schedule["type"] != "once":
        schedule["max_runs"] = draw(st.none() | st.integers(1, 60))
        end = draw(st.none() | st.integers(8000, 20_000))
        schedule["end_time"] = None if end is None else (NOON + seconds(end)).isoformat()
    schedule["jitter_seconds"] = draw(st.sampled_from([0, 0, 1, 30, 500]))
    return schedule


@st.composite
def triggers(draw: st.DrawFn) -> Plannable:
    return trigger(
        draw(schedules()),
        draw(st.sampled_from(POLICIES)),
        grace=draw(st.sampled_from([1, 20, 60, 1000])),
        window=draw(st.sampled_from([0, 10, 300, 86_400])),
        planned_until=NOON - seconds(3600),
    )


WALKS = st.lists(
    st.floats(-600, 4000) | st.just(60.0) | st.just(0.0), min_size=1, max_size=12
)  # steps between ticks; the clock may go back
HORIZONS = st.sampled_from([0.0, 1.0, 90.0, 700.0])


def walk(given_: Plannable, steps: Sequence[float], ahead: float) -> Iterator[tuple[datetime, Plan]]:
    """Tick after tick as `now` moves, with as many plans in each as it takes."""
    now = NOON - seconds(3600)
    at: Plannable = given_
    for step in steps:
        now += seconds(step)
        until = now + seconds(ahead)
        while at.next_at <= until:
            made = planning.plan(at, now, until)
            yield now, made
            if made.next_at is None:
                return
            at = moved(at, made)
            if made.rests:
                break


def occurrences(given_: Plannable, count: int) -> list[datetime]:
    """The first `count` occurrences, one by one."""
    schedule = parse_cached(given_.schedule, given_.anchor)
    found: list[datetime] = []
    instant: datetime | None = given_.planned_until
    while len(found) < count and instant is not None:
        instant = schedule.after(instant)
        if instant is not None:
            found.append(instant)
    return found


@settings(max_examples=300, deadline=None)
@given(given_=triggers(), steps=WALKS, ahead=HORIZONS)
def test_every_occurrence_is_covered_exactly_once_and_in_order(
    given_: Plannable, steps: list[float], ahead: float
) -> None:
    made = list(walk(given_, steps, ahead))
    events = [event for _, one in made for event in one.events]
    expected = occurrences(given_, sum(event.coalesced for event in events))
    position = 0
    for event in events:
        run = expected[position : position + event.coalesced]
        assert len(run) == event.coalesced
        assert run[-1] == event.scheduled_for
        assert event.coalesced_from == (run[0] if event.coalesced > 1 else None)
        position += event.coalesced
    if made:
        check_cursor(given_, made[-1][1], expected)


def check_cursor(given_: Plannable, last: Plan, covered: Sequence[datetime]) -> None:
    """The cursor says exactly which occurrences have their event, and what comes next."""
    schedule = parse_cached(given_.schedule, given_.anchor)
    assert last.planned_count == len(covered)
    if schedule.max_runs is not None and len(covered) == schedule.max_runs:
        assert last.next_at is None
        return
    assert last.next_at == schedule.after(covered[-1])
    assert last.planned_until >= covered[-1]
    assert last.next_at is None or last.planned_until < last.next_at


@settings(max_examples=300, deadline=None)
@given(given_=triggers(), steps=WALKS, ahead=HORIZONS)
def test_every_event_obeys_the_misfire_policy(given_: Plannable, steps: list[float], ahead: float) -> None:
    policy = planning.policy_of(given_.policy)
    jitter = seconds(parse_cached(given_.schedule, given_.anchor).jitter_seconds)
    for now, made in walk(given_, steps, ahead):
        assert sum(e.source == Source.CATCHUP for e in made.events) <= (
            MOST_CATCH_UP if policy.misfire == "fire_all" else 1
        )
        for event in made.events:
            check_fate(event, policy, now, jitter)


def check_fate(event: Planned, policy: planning.Policy, now: datetime, jitter: timedelta) -> None:
    """Skipped only when late, and for the reason that applies; never early; alone unless it covers."""
    assert event.scheduled_for <= event.fire_at <= event.scheduled_for + jitter
    oldest = event.coalesced_from or event.scheduled_for
    if event.skipped is not None or event.source == Source.CATCHUP:
        assert oldest + jitter < now - policy.grace
    if event.skipped == Reason.MISFIRE:
        assert policy.misfire == "skip"
        assert event.scheduled_for + jitter < now - policy.grace
    elif event.skipped == Reason.CATCHUP_WINDOW:
        assert policy.misfire != "skip"
        assert event.scheduled_for < now - policy.window
    elif event.source == Source.CATCHUP:
        assert policy.misfire != "skip"
        assert oldest >= now - policy.window
        assert event.fire_at <= now
        assert policy.misfire == "fire_once" or event.coalesced == 1
    else:
        assert event.coalesced == 1
        assert event.scheduled_for + jitter >= now - policy.grace
