"""The public face of time: next occurrences, intervals, once, bounds, jitter, notes and warnings."""

from __future__ import annotations

import gc
import json
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triggers.errors import InvalidSchedule
from triggers.rules import OnceRule
from triggers.schedule import (
    Run,
    explain,
    fire_at,
    forget_schedules,
    next_occurrences,
    parse,
    parse_cached,
    resolve,
    warnings,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "occurrences.json"
BERLIN = "Europe/Berlin"
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
Json = dict[str, Any]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(text: str, timezone: str = "UTC", **more: object) -> Json:
    return {"type": "cron", "cron": text, "timezone": timezone, **more}


def interval(seconds: object, **more: object) -> Json:
    return {"type": "interval", "every_seconds": seconds, **more}


def once(at: object, **more: object) -> Json:
    return {"type": "once", "at": at, **more}


# --------------------------------------------------------------------------------- next_occurrences


def test_occurrences_are_in_utc_whatever_the_question_was_in() -> None:
    asked = datetime(2026, 11, 20, 13, tzinfo=ZoneInfo(BERLIN))
    found = next_occurrences(cron("0 9 * * *", BERLIN), asked, 2)
    assert found == [utc("2026-11-21 08:00"), utc("2026-11-22 08:00")]
    assert all(instant.tzinfo is UTC for instant in found)


def test_manual_has_no_occurrences() -> None:
    assert next_occurrences({"type": "manual"}, NOW, 5) == []
    assert parse({"type": "manual"}, None).run(NOW, NOW + DAY, 5) is None


def test_max_runs_and_jitter_do_not_count_here() -> None:
    found = next_occurrences(cron("* * * * *", max_runs=1, jitter_seconds=3600), NOW, 3)
    assert found == [NOW + timedelta(minutes=n) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "schedule", [cron("* * * * *"), interval(60), once("2027-01-01T00:00:00Z"), {"type": "manual"}]
)
def test_a_naive_instant_is_the_callers_mistake(schedule: Json) -> None:
    with pytest.raises(ValueError, match="aware"):
        next_occurrences(schedule, datetime(2026, 1, 1), 1)
    with pytest.raises(ValueError, match="aware"):
        resolve(schedule, datetime(2026, 1, 1))


def test_counts() -> None:
    assert next_occurrences(cron("* * * * *"), NOW, 0) == []
    with pytest.raises(ValueError, match="negative"):
        next_occurrences(cron("* * * * *"), NOW, -1)
    with pytest.raises(InvalidSchedule):
        next_occurrences(cron("x"), NOW, 0)


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"], ids=lambda case: case["about"])
def test_golden(case: Json) -> None:
    found = next_occurrences(
        case["schedule"], datetime.fromisoformat(case["after"]), len(case["occurrences"])
    )
    assert [instant.isoformat().replace("+00:00", "Z") for instant in found] == case["occurrences"]


def worked_examples() -> list[tuple[str, str, str]]:
    """The rows of the two nights in docs/time.md: the night, the schedule, the instants."""
    night, rows = "", []
    for line in (Path(__file__).parents[2] / "docs" / "time.md").read_text().splitlines():
        if line.startswith("#"):
            night = line.removeprefix("### ").partition(":")[0]
        elif (
            night in ("Spring", "Autumn") and line.count("|") == 4 and "---" not in line and "UTC" not in line
        ):
            _, schedule, _, instants, _ = (cell.strip() for cell in line.split("|"))
            rows.append((night, schedule, instants))
    return rows


@pytest.mark.parametrize(("night", "text", "instants"), worked_examples())
def test_the_worked_examples_of_the_documentation(night: str, text: str, instants: str) -> None:
    since, until = (
        (utc("2026-03-28 23:00"), utc("2026-03-29 03:00")) if night == "Spring"
        else (utc("2026-10-24 22:00"), utc("2026-10-25 04:00"))
    )  # fmt: skip
    if text.startswith("interval"):
        schedule = interval(3_600, start_time=f"{since:%Y-%m-%d}T22:15:00Z")
    elif text.startswith("once"):
        schedule = once(text.split("`")[1], timezone=BERLIN)
    else:
        schedule = cron(text.strip("`"), BERLIN)
    found = [instant for instant in next_occurrences(schedule, since - SECOND, 20) if instant < until]
    assert [f"{instant:%H:%M}Z" for instant in found] == instants.replace("-", "").split()


def test_the_documentation_has_its_examples() -> None:
    assert len(worked_examples()) == 19


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ({}, "type"),
        ({"type": None}, "type"),
        ({"type": "Cron"}, "type"),
        ({"type": ["cron"]}, "type"),
        ({"type": "cron"}, "cron"),
        (cron("* * * * *", colour="red"), "colour"),
        (cron("* * * * *", every_seconds=5), "every_seconds"),
        (cron("* * * * *", at="now"), "at"),
        ({"type": "manual", "max_runs": 1}, "max_runs"),
        ({"type": "manual", "jitter_seconds": None}, "jitter_seconds"),
        ({"type": "manual", "jitter_seconds": False}, "jitter_seconds"),
        ({"type": "manual", "start_time": "2027-01-01T00:00:00Z"}, "start_time"),
        ({"type": "manual", "timezone": "UTC"}, "timezone"),
        (interval(60, timezone="UTC"), "timezone"),
        ({"type": "cron", "cron": 5}, "cron"),
        ({"type": "cron", "cron": None}, "cron"),
        ({"type": "cron", "cron": "* * * * *", "timezone": None}, "timezone"),
        ({"type": "cron", "cron": "* * * * *", "timezone": 1}, "timezone"),
        (cron("* * * * *", "Mars/Olympus"), "timezone"),
        (cron("0 0 30 2 *"), "cron"),
        (cron("* * * * *", max_runs=0), "max_runs"),
        (cron("* * * * *", max_runs=1_000_000_001), "max_runs"),
        (cron("* * * * *", max_runs=True), "max_runs"),
        (cron("* * * * *", max_runs=1.0), "max_runs"),
        (cron("* * * * *", max_runs="1"), "max_runs"),
        (cron("* * * * *", jitter_seconds=-1), "jitter_seconds"),
        (cron("* * * * *", jitter_seconds=3601), "jitter_seconds"),
        (cron("* * * * *", jitter_seconds=None), "jitter_seconds"),
        (cron("* * * * *", jitter_seconds=False), "jitter_seconds"),
        (cron("* * * * *", start_time=5), "start_time"),
        (cron("* * * * *", start_time="2026-01-01"), "start_time"),
        (cron("* * * * *", start_time="2026-01-01T00:00:00"), "start_time"),
        (cron("* * * * *", start_time="now"), "start_time"),
        (cron("* * * * *", end_time=""), "end_time"),
        (cron("* * * * *", start_time="2026-01-02T00:00:00Z", end_time="2026-01-01T00:00:00Z"), "end_time"),
        (cron("0 0 1 6 *", start_time="2026-01-02T00:00:00Z", end_time="2026-05-01T00:00:00Z"), "end_time"),
        (cron("0 0 1 1 *", start_time="9999-12-01T00:00:00Z"), "start_time"),
        (interval(0), "every_seconds"),
        (interval(-5), "every_seconds"),
        (interval(315_360_001), "every_seconds"),
        (interval(10**5_000), "every_seconds"),
        (interval(60.0), "every_seconds"),
        (interval(float("nan")), "every_seconds"),
        (interval("60"), "every_seconds"),
        (interval(True), "every_seconds"),
        (interval(None), "every_seconds"),
        ({"type": "interval"}, "every_seconds"),
        ({"type": "once"}, "at"),
        (once("now"), "at"),
        (once("Now"), "at"),
        (once(1_700_000_000), "at"),
        (once(None), "at"),
        (once("2026-01-01T00:00:00Z", end_time="2025-01-01T00:00:00Z"), "end_time"),
        (once("2026-01-01T00:00:00Z", start_time="2026-01-01T00:00:01Z"), "start_time"),
        (once("2011-12-30T12:00:00", timezone="Pacific/Apia"), "at"),
        (once("2026-01-01T00:00:00", timezone="posix/UTC"), "timezone"),
    ],
)
def test_a_malformed_schedule_names_the_field(schedule: Json, field: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        next_occurrences(schedule, NOW, 1)
    assert refused.value.field == field
    assert 0 < len(str(refused.value)) < 300


@pytest.mark.parametrize("schedule", [None, [], "cron", 5, [("type", "cron")]])
def test_what_is_no_object_is_refused(schedule: Any) -> None:
    with pytest.raises(InvalidSchedule, match="JSON object"):
        parse(schedule, None)


@pytest.mark.parametrize(
    "text",
    ["2026-01-01", "2026-01-01 00:00:00Z", "2026-01-01T00:00Z", "2026-01-01T00:00", "20260101T000000Z",
     "2026-1-1T0:0:0Z", "2026-13-01T00:00:00Z", "2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z",
     "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z", "2026-01-01T00:00:00+0100", "2026-01-01T00:00:00+01",
     "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+01:60", "2026-01-01T00:00:00.Z",
     "2026-01-01T00:00:00,5Z",
     "2026-01-01T00:00:00ZZ", "2026-01-01T00:00:00 Z", " 2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n",
     "0000-01-01T00:00:00Z", "-2026-01-01T00:00:00Z", "12026-01-01T00:00:00Z", "9999-12-31T23:59:59-00:01",
     "0001-01-01T00:00:00+00:01", "2026-W01-1T00:00:00Z", "2026-001T00:00:00Z", "tomorrow", "", "Z",
     "2026-01-01T00:00:00Europe/Berlin", "2026-01-01T00:00:00Z[Europe/Berlin]", "٢٠٢٦-01-01T00:00:00Z",
     "2026-01-01T00:00:00Z" * 1_000, "1767225600", "2026-01-01T00:00:00−01:00"],  # noqa: RUF001
)  # fmt: skip
def test_what_is_no_rfc_3339_time_is_refused(text: str) -> None:
    for schedule, field in ((once(text), "at"), (interval(60, start_time=text), "start_time")):
        with pytest.raises(InvalidSchedule) as refused:
            parse(schedule, None)
        assert refused.value.field == field
        assert len(str(refused.value)) < 200


def test_a_leap_second_is_refused_with_a_reason() -> None:
    with pytest.raises(InvalidSchedule, match="leap seconds are not counted"):
        parse(once("2016-12-31T23:59:60Z"), None)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-01T00:00:00Z", utc("2026-01-01")),
        ("2026-01-01t00:00:00z", utc("2026-01-01")),
        ("2026-01-01T01:30:00+01:30", utc("2026-01-01")),
        ("2025-12-31T19:00:00-05:00", utc("2026-01-01")),
        ("2026-01-01T00:00:00-00:00", utc("2026-01-01")),
        ("2026-01-01T00:00:00.5Z", utc("2026-01-01") + timedelta(milliseconds=500)),
        ("2026-01-01T00:00:00.123456789Z", utc("2026-01-01") + timedelta(microseconds=123_456)),
        ("2024-02-29T23:59:59Z", utc("2024-02-29 23:59:59")),
        ("9999-12-31T23:59:59Z", utc("9999-12-31 23:59:59")),
    ],
)
def test_rfc_3339_times_are_read(text: str, instant: datetime) -> None:
    assert next_occurrences(once(text), utc("1970-01-01"), 5) == [instant]


# ------------------------------------------------------------------------------------------ intervals


def test_an_interval_is_anchored_at_the_question_or_at_its_start() -> None:
    assert next_occurrences(interval(90), NOW, 2) == [NOW + 90 * SECOND, NOW + 180 * SECOND]
    anchored = interval(3600, start_time="2026-11-20T00:20:00Z")
    assert next_occurrences(anchored, NOW, 2) == [utc("2026-11-20 12:20"), utc("2026-11-20 13:20")]
    future = interval(3600, start_time="2030-01-01T00:00:00Z")
    assert next_occurrences(future, NOW, 2) == [utc("2030-01-01"), utc("2030-01-01 01:00")]
    far_past = interval(7, start_time="0001-01-01T00:00:00Z")
    (first,) = next_occurrences(far_past, NOW, 1)
    assert (first - utc("0001-01-01")) % (7 * SECOND) == timedelta(0)
    assert timedelta(0) < first - NOW <= 7 * SECOND


def test_both_bounds_are_inclusive() -> None:
    schedule = parse(interval(10, start_time="2026-01-01T00:00:00Z", end_time="2026-01-01T00:00:30Z"), None)
    start, end = utc("2026-01-01"), utc("2026-01-01 00:00:30")
    assert schedule.after(start - SECOND) == start
    assert schedule.after(start - DAY) == start
    assert schedule.after(start) == start + 10 * SECOND
    assert schedule.after(end - SECOND) == end
    assert schedule.after(end) is None
    assert schedule.run(start - DAY, end + DAY, 100) == Run(start, end, 4)
    assert schedule.run(start, end, 100) == Run(start + 10 * SECOND, end, 3)
    assert schedule.run(start - DAY, start - SECOND, 100) is None
    assert schedule.run(end, end + DAY, 100) is None


def test_the_bounds_of_a_cron_schedule_are_inclusive_too() -> None:
    one = cron("0 * * * *", start_time="2026-01-01T01:00:00Z", end_time="2026-01-01T03:00:00Z")
    assert next_occurrences(one, utc("2025-01-01"), 9) == [
        utc(f"2026-01-01 0{hour}:00") for hour in (1, 2, 3)
    ]
    same = cron("0 * * * *", start_time="2026-01-01T01:00:00Z", end_time="2026-01-01T01:00:00Z")
    assert next_occurrences(same, utc("2025-01-01"), 9) == [utc("2026-01-01 01:00")]
    odd = cron("0 * * * *", start_time="2026-01-01T01:00:00.000001Z", end_time="2026-01-01T02:59:59.999999Z")
    assert next_occurrences(odd, utc("2025-01-01"), 9) == [utc("2026-01-01 02:00")]


def test_a_run_of_30_million_is_arithmetic() -> None:
    schedule = parse(interval(1), utc("2026-01-01"))
    begun = time.process_time()
    run = schedule.run(utc("2026-01-01"), utc("2026-12-31"), 30_000_000)
    assert run == Run(utc("2026-01-01") + SECOND, utc("2026-01-01") + 30_000_000 * SECOND, 30_000_000)
    assert time.process_time() - begun < 0.005


@pytest.mark.parametrize("every", [1, 59, 315_360_000])
def test_intervals_reach_the_end_of_time_and_stop(every: int) -> None:
    schedule = parse(interval(every, start_time="9999-12-31T23:59:58Z"), None)
    assert schedule.after(datetime.max.replace(tzinfo=UTC)) is None
    run = schedule.run(NOW, datetime.max.replace(tzinfo=UTC), 100)
    assert run is not None
    assert run.count == (2 if every == 1 else 1)


@settings(deadline=None)
@given(
    st.one_of(
        st.integers(1, 400_000).map(interval),
        st.sampled_from(["* * * * *", "*/7 3 * * *", "30 2 * * *", "0 0 29 2 *"]).map(
            lambda text: cron(text, BERLIN)
        ),
        st.just(once("2026-03-29T02:30:00", timezone=BERLIN)),
    ),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 600_000),
    st.integers(1, 30),
    st.integers(-100_000, 100_000),
    st.integers(0, 200_000),
)
def test_a_run_is_what_asking_again_and_again_gives(
    schedule: Json, after: datetime, seconds: int, at_most: int, start: int, length: int
) -> None:
    begin = after + start * SECOND
    bounds = {"start_time": begin.isoformat(), "end_time": (begin + length * SECOND).isoformat()}
    try:
        understood = parse(schedule | bounds, None)
    except InvalidSchedule:  # nothing within the bounds
        return
    found: list[datetime] = []
    instant, until = after, after + seconds * SECOND
    while (
        len(found) < at_most and (following := understood.after(instant)) is not None and following <= until
    ):
        assert max(instant + timedelta(microseconds=1), begin) <= following <= begin + length * SECOND
        found.append(following)
        instant = following
    assert understood.run(after, until, at_most) == (Run(found[0], found[-1], len(found)) if found else None)


# ---------------------------------------------------------------------------------------------- once


@pytest.mark.parametrize(
    ("at", "name", "instant"),
    [
        ("2026-07-01T09:00:00", BERLIN, "2026-07-01 07:00"),
        ("2026-03-29T02:30:00", BERLIN, "2026-03-29 01:00"),  # in the gap: right after it
        ("2026-03-29T02:30:15.5", BERLIN, "2026-03-29 01:00"),
        ("2026-03-29T03:00:00", BERLIN, "2026-03-29 01:00"),
        ("2026-10-25T02:30:00", BERLIN, "2026-10-25 00:30"),  # in the fold: the first
        ("2026-10-25T02:30:15.5", BERLIN, "2026-10-25 00:30:15.500000"),
        ("2026-10-25T03:00:00", BERLIN, "2026-10-25 02:00"),
        ("2026-10-04T02:15:00", "Australia/Lord_Howe", "2026-10-03 15:30"),
        ("2026-03-29T00:30:00", "Asia/Beirut", "2026-03-28 22:00"),
        ("2011-12-31T00:00:00", "Pacific/Apia", "2011-12-30 10:00"),
        ("1993-08-21T12:00:00", "UTC", "1993-08-21 12:00"),
    ],
)
def test_a_local_time_follows_the_rule_of_fixed_jobs(at: str, name: str, instant: str) -> None:
    assert next_occurrences(once(at, timezone=name), utc("1970-01-01"), 5) == [utc(instant)]


def test_once_is_over_when_it_is_over() -> None:
    schedule = parse(once("2026-11-20T12:00:00Z"), None)
    assert schedule.after(NOW - SECOND) == NOW
    assert schedule.after(NOW) is None
    assert schedule.run(NOW - SECOND, NOW, 1) == Run(NOW, NOW, 1)


@pytest.mark.parametrize("at", ["9999-12-31T23:30:00", "0001-01-01T00:30:00"])
@pytest.mark.parametrize("name", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_local_times_at_the_ends_of_time_do_not_crash(at: str, name: str) -> None:
    try:
        explain(once(at, timezone=name), utc("1970-01-01"), 1)
    except InvalidSchedule as refused:
        assert refused.field == "at"  # noqa: PT017  either outcome is right, by the zone


# ------------------------------------------------------------------------------------------- resolve

UNBOUNDED: Json = {"start_time": None, "end_time": None, "max_runs": None, "jitter_seconds": 0}


@pytest.mark.parametrize(
    ("given_", "stored"),
    [
        ({"type": "manual"}, {"type": "manual"}),
        ({"type": "manual", **UNBOUNDED}, {"type": "manual"}),
        ({"type": "cron", "cron": "0 9 * * 1-5"}, cron("0 9 * * 1-5", "UTC", **UNBOUNDED)),
        (
            interval(60, start_time="2026-01-01t01:00:00.250+01:00", end_time="2027-01-01T00:00:00-00:30"),
            interval(
                60,
                start_time="2026-01-01T00:00:00.250000Z",
                end_time="2027-01-01T00:30:00Z",
                max_runs=None,
                jitter_seconds=0,
            ),
        ),
        (once("now"), once("2026-11-20T12:00:00Z", timezone="UTC", **UNBOUNDED)),
        (
            once("2027-01-01T00:00:00+01:00", timezone=BERLIN, jitter_seconds=30, max_runs=1),
            once(
                "2026-12-31T23:00:00Z", timezone=BERLIN, **UNBOUNDED | {"jitter_seconds": 30, "max_runs": 1}
            ),
        ),
        (
            once("2027-03-28T02:30:00", timezone=BERLIN),
            once("2027-03-28T02:30:00", timezone=BERLIN, **UNBOUNDED),
        ),
    ],
)
def test_the_stored_form_says_everything(given_: Json, stored: Json) -> None:
    assert resolve(given_, NOW) == stored
    assert resolve(stored, NOW + DAY) == stored


def test_now_keeps_its_microseconds() -> None:
    now = NOW + timedelta(microseconds=123_456)
    assert next_occurrences(resolve(once("now"), now), NOW, 1) == [now]


def test_resolve_refuses_what_parse_refuses() -> None:
    with pytest.raises(InvalidSchedule):
        resolve(cron("0 0 30 2 *"), NOW)
    with pytest.raises(InvalidSchedule):
        resolve({"type": "cron", "cron": "* * * * *", "at": "now"}, NOW)


# -------------------------------------------------------------------------------------- parse_cached


def test_the_memo_gives_what_parse_gives() -> None:
    text = json.dumps(interval(60))
    one, other = parse_cached(text, NOW), parse_cached(text, NOW + SECOND)
    assert one.after(NOW) == NOW + 60 * SECOND
    assert other.after(NOW) == NOW + SECOND
    assert parse_cached(json.dumps(cron("* * * * *")), NOW) is parse_cached(
        json.dumps(cron("* * * * *")), None
    )
    assert (one.kind, one.max_runs, one.jitter_seconds) == ("interval", None, 0)
    for text in ("", "[]", "null", '{"type": "cron"}', "{"):
        with pytest.raises(InvalidSchedule):
            parse_cached(text, None)


def test_an_interval_without_any_anchor_says_so() -> None:
    schedule = parse(interval(60), None)
    with pytest.raises(ValueError, match="anchor"):
        schedule.after(NOW)


def test_a_tick_over_many_triggers_is_quick() -> None:
    texts = [json.dumps(resolve(cron(f"{n % 60} {n % 24} * * *", BERLIN), NOW)) for n in range(2_000)]
    begun = time.process_time()
    for text in texts:
        parse_cached(text, NOW).after(NOW)
    assert time.process_time() - begun < 0.5  # 100,000 in 2 s is 0.04; the rest is for slow machines


# ------------------------------------------------------------------------------------------- fire_at


def test_jitter_is_the_same_each_time_and_never_early() -> None:
    assert fire_at("t", NOW, 0) == NOW
    for n in range(300):
        due = NOW + n * SECOND
        fires = fire_at("t", due, 30)
        assert due <= fires <= due + 30 * SECOND
        assert fires == fire_at("t", due.astimezone(timezone(timedelta(hours=5))), 30)
    assert fire_at("t", NOW, 30) != fire_at("u", NOW, 30) != fire_at("u", NOW + SECOND, 30)
    # Pinned: another version must not move what is planned.
    assert fire_at("t", NOW, 3600) == utc("2026-11-20 12:50:29.349001")
    with pytest.raises(ValueError, match="aware"):
        fire_at("t", datetime(2026, 1, 1), 30)
    assert fire_at("t", datetime.max.replace(tzinfo=UTC), 3600) == datetime.max.replace(tzinfo=UTC)


def test_jitter_is_spread_evenly() -> None:
    tenths = [0] * 10
    for n in range(10_000):
        tenths[min(9, int((fire_at(f"trigger-{n}", NOW, 10) - NOW) / SECOND))] += 1
    assert min(tenths) > 850
    assert max(tenths) < 1_150


# -------------------------------------------------------------------------------- explain and warnings


FORWARDS = "the clocks changed from +01:00 to +02:00 on 2026-03-29 02:00"
BACKWARDS = "the clocks changed from +02:00 to +01:00 on 2026-10-25 03:00"


def notes(schedule: Json, after: str, count: int) -> list[str]:
    return [note for _, _, note in explain(schedule, utc(after), count)]


def test_explained_occurrences_have_local_time() -> None:
    (one,) = explain(cron("30 2 * * *", BERLIN), utc("2026-07-01 12:00"), 1)
    assert (one.utc, one.local.isoformat(), one.note) == (
        utc("2026-07-02 00:30"), "2026-07-02T02:30:00+02:00", "")  # fmt: skip
    (one,) = explain(interval(60), NOW, 1)
    assert (one.local, one.note) == (NOW + 60 * SECOND, "")


@pytest.mark.parametrize(
    ("schedule", "after", "said"),
    [
        (cron("30 2 * * *", BERLIN), "2026-03-28 12:00",
         [f"moved: the clocks jump over 02:30 on 2026-03-29, so it fires right after; {FORWARDS}", ""]),
        (cron("0,15,30,45 2 * * *", BERLIN), "2026-03-28 12:00",
         ["moved: the clocks jump over 4 times from 02:00 to 02:45 on 2026-03-29, so it fires right after; "
          + FORWARDS]),
        (cron("*/30 1-3 * * *", BERLIN), "2026-03-29 00:10",
         ["", f"dropped: the clocks jumped over 02:00 and 02:30 on 2026-03-29; {FORWARDS}", ""]),
        (cron("30 2 * * *", BERLIN), "2026-10-24 12:00",
         ["02:30 comes twice on 2026-10-25: fires the first time only", BACKWARDS]),
        (cron("30 * * * *", BERLIN), "2026-10-25 00:00",
         ["doubled: 02:30 comes twice on 2026-10-25, this is the first",
          f"doubled: 02:30 comes twice on 2026-10-25, this is the second; {BACKWARDS}", ""]),
        (cron("0 9 1 1 *", BERLIN), "2026-01-02 00:00",
         ["the clocks changed 2 times before, last from +02:00 to +01:00 on 2026-10-25 03:00"]),
        (cron("0 12 * * *", "Pacific/Apia"), "2011-12-29 23:00",
         ["dropped: the clocks jumped over 12:00 on 2011-12-30; "
          "the clocks changed from -10:00 to +14:00 on 2011-12-30 00:00", ""]),
        (once("2026-03-29T02:30:00", timezone=BERLIN), "2026-01-01 00:00",
         ["moved: the clocks in Europe/Berlin jump over 2026-03-29 02:30, so it fires right after"]),
        (once("2026-10-25T02:30:00", timezone=BERLIN), "2026-01-01 00:00",
         ["02:30 comes twice on 2026-10-25: fires the first time only"]),
        (once("2026-10-25T00:30:00Z", timezone=BERLIN), "2026-01-01 00:00", [""]),
    ],
)  # fmt: skip
def test_a_note_says_what_the_clocks_did(schedule: Json, after: str, said: list[str]) -> None:
    found = notes(schedule, after, len(said))
    assert found == said


def test_far_away_occurrences_are_explained_at_once() -> None:
    begun = time.process_time()
    explain(once("9999-12-31T00:00:00Z", timezone=BERLIN), NOW, 1)
    explain(cron("0 0 29 2 *", BERLIN, start_time="9000-01-01T00:00:00Z"), NOW, 1)
    warnings(cron("0 0 29 2 *", BERLIN, start_time="9000-01-01T00:00:00Z"), NOW)
    assert time.process_time() - begun < 0.2


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (cron("0 9 * * 1-5"), None),
        (cron("*/5 * * * *", BERLIN), None),
        (cron("0 0 1 * *"), None),
        (interval(60), None),
        ({"type": "manual"}, None),
        (cron("0 0 13 * 5"), "both day fields are set"),
        (cron("0 0 */2 * 1"), "both must"),
        (cron("0 0 */3 * *"), "starts over on the 1st"),
        (cron("0 0 31 * *"), "not every month has a day 31: February, April, June, September, November"),
        (cron("0 0 30 1,2 *"), "not every month has a day 30: February"),
        (cron("0 0 29 * *"), "February has a day 29 in leap years only"),
        (cron("0 0 25-31 * *"), None),
        (cron("*/7 * * * *"), "60 does not divide by 7, so the last step is 4"),
        (cron("0-59/7 * * * *"), "60 does not divide by 7"),
        (cron("0 */5 * * *"), "24 does not divide by 5"),
        (cron("0 0 1 */5 *"), "12 does not divide by 5"),
        (cron("0 0 * * */2"), "7 does not divide by 2"),
        (cron("*/90 * * * *"), "allows one value only"),
        (cron("*/15 * * * *"), None),
        (cron("* 9 * * *"), "every minute of the hour 9, 60 times; once would be 0 9 * * *"),
        (cron("30 2 * * *", BERLIN), "Berlin jump over 02:30: it will fire right after, at 03:00, once"),
        (cron("30 2 31 3 *", BERLIN), "on 2030-03-31 the clocks in Europe/Berlin jump over 02:30"),
        (cron("*/20 2 * * *", BERLIN), "it will not fire for that"),
        (cron("30 2 * * *", BERLIN), "Berlin show 02:30 twice: it will fire the first time only"),
        (cron("0 12 * * *", "Etc/GMT+5"), "Etc/GMT+5 is 5 h behind UTC"),
        (cron("* * * * *", jitter_seconds=90), "may fire out of order"),
        (cron("0 0 29 2 *"), "the next occurrence is more than a year away: 2028-02-29"),
        (cron("0 0 * * *", end_time="2026-01-01T00:00:00Z"), "nothing is left to fire"),
        (interval(86_400), "keeps to the wall time"),
        (once("2027-03-28T02:30:00", timezone=BERLIN), "does not exist in Europe/Berlin: it will fire"),
        (once("2027-10-31T02:30:00", timezone=BERLIN), "comes twice"),
        (once("2027-01-01T00:00:00"), "it is read as UTC"),
        (once("2020-01-01T00:00:00Z"), "nothing is left to fire"),
    ],
)  # fmt: skip
def test_warnings_say_where_users_err(schedule: Json, said: str | None) -> None:
    found = warnings(schedule, NOW)
    if said is None:
        assert found == []
    else:
        assert any(said in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("bounds", "changes"),
    [
        ({"end_time": "2026-12-01T00:00:00Z"}, []),
        ({"end_time": "2027-03-28T00:59:59Z"}, []),
        ({"end_time": "2027-03-28T01:00:00Z"}, ["2027-03-28"]),
        ({"start_time": "2027-03-28T01:00:00Z"}, ["2027-03-28", "2027-10-31", "2028-03-26"]),
        ({"start_time": "2027-03-28T01:00:01Z"}, ["2027-10-31", "2028-03-26"]),
        ({"start_time": "2030-03-30T00:00:00Z"}, ["2030-03-31", "2030-10-27", "2031-03-30"]),
        ({"start_time": "2027-06-01T00:00:00Z", "end_time": "2027-07-01T00:00:00Z"}, []),
        ({"start_time": "0001-01-01T00:00:00Z"}, ["2027-03-28", "2027-10-31"]),
        ({"start_time": "9999-11-30T00:00:00Z"}, []),
    ],
)
def test_no_warning_of_a_clock_change_that_the_schedule_does_not_see(
    bounds: Json, changes: list[str]
) -> None:
    found = warnings(cron("30 2 * * *", BERLIN, **bounds), utc("2026-11-20 00:00"))
    assert [sentence[3:13] for sentence in found if "the clocks in" in sentence] == changes


def test_what_equals_a_valid_schedule_is_not_taken_for_it() -> None:
    """In Python 1 equals True and 1.0."""
    valid = {"type": "interval", "every_seconds": 1, "jitter_seconds": 1}
    for wrong in (True, 1.0):
        for field in ("every_seconds", "jitter_seconds"):
            assert len(next_occurrences(valid, datetime(2026, 1, 1, tzinfo=UTC), 1)) == 1
            with pytest.raises(InvalidSchedule):
                next_occurrences(valid | {field: wrong}, datetime(2026, 1, 1, tzinfo=UTC), 1)


def test_of_schedules_that_fire_once_only_a_few_are_remembered() -> None:
    """A worker meets each of them once; by the million they would fill its memory."""
    forget_schedules()
    texts = [json.dumps(once(f"{NOW + timedelta(seconds=n):%Y-%m-%dT%H:%M:%SZ}")) for n in range(3_000)]
    found = [parse_cached(text, None).after(NOW) for text in texts[1:]]
    assert found == [NOW + timedelta(seconds=n) for n in range(1, 3_000)]
    gc.collect()
    assert 0 < sum(isinstance(one, OnceRule) for one in gc.get_objects()) < 1_500
    assert parse_cached(texts[-1], None).rule is parse_cached(texts[-1], None).rule
