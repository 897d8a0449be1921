"""The cron engine: its grammar, its refusals, and its nights, worked out by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triggers.cron import WORDS, parse_cron
from triggers.errors import InvalidSchedule
from triggers.rules import CronRule, Run
from triggers.zones import zone

MINUTE = timedelta(minutes=1)


def values(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def refusal(text: str) -> InvalidSchedule | None:
    try:
        parse_cron(text)
    except InvalidSchedule as refused:
        return refused
    return None


def fires(text: str, name: str, after: str, until: str) -> list[str]:
    """The occurrences in (after, until] as UTC texts without the zone."""
    rule, instant, found = CronRule(parse_cron(text), zone(name)), utc(after), []
    while (following := rule.after(instant)) is not None and following <= utc(until):
        assert following > instant
        found.append(following.strftime("%Y-%m-%d %H:%M:%S"))
        instant = following
    return found


# ------------------------------------------------------------------------------------------- grammar


@pytest.mark.parametrize(
    ("text", "minutes", "hours", "days", "months", "weekdays"),
    [
        ("0 9 1 1 1", [0], [9], [1], [1], [1]),
        ("5-5 22-23 30-31 11-12 5-7", [5], [22, 23], [30, 31], [11, 12], [0, 5, 6]),
        ("0-59/20 */8 */10 */5 0-7/7", [0, 20, 40], [0, 8, 16], [1, 11, 21, 31], [1, 6, 11], [0]),
        ("*/90 0-3/9 1 1 0", [0], [0], [1], [1], [0]),
        ("007,7,07 01 01 01 07", [7], [1], [1], [1], [0]),
        ("0 0 1 JAN-mar,Dec SuN,mon-WED", [0], [0], [1], [1, 2, 3, 12], [0, 1, 2, 3]),
        ("1,*/30,2-4/2 0 1 1 fri-sat/2", [0, 1, 2, 4, 30], [0], [1], [1], [5]),
        (" \t0\t9  1 \t1 1 \t", [0], [9], [1], [1], [1]),
        ("0 0 1 1 7,0", [0], [0], [1], [1], [0]),
        ("*/99999999999999999999 0 1 1 0", [0], [0], [1], [1], [0]),
    ],
)
def test_what_a_field_allows(
    text: str, minutes: list[int], hours: list[int], days: list[int], months: list[int], weekdays: list[int]
) -> None:
    cron = parse_cron(text)
    assert values(cron.minutes) == minutes
    assert values(cron.hours) == hours
    assert values(cron.days) == days
    assert values(cron.months) == months
    assert values(cron.weekdays) == weekdays


@pytest.mark.parametrize(
    ("text", "wildcard", "either"),
    [
        ("* * * * *", True, False),
        ("*/5 3 * * *", True, False),
        ("0 */2 * * *", True, False),
        ("*,1 3 * * *", True, False),
        ("1,* 3 * * *", False, False),
        ("0-59 0-23 * * *", False, False),
        ("0 0 13 * 5", False, True),
        ("0 0 */2 * 5", False, False),
        ("0 0 *,1 * 5", False, False),
        ("0 0 1-31 * 0-7", False, True),
        ("0 0 13 * */2", False, False),
        ("@hourly", True, False),
        ("@daily", False, False),
    ],
)
def test_stars_decide_what_kind_of_job_it_is(text: str, wildcard: bool, either: bool) -> None:
    cron = parse_cron(text)
    assert (cron.wildcard, cron.either_day) == (wildcard, either)


def test_words_stand_for_their_expressions() -> None:
    assert set(WORDS) == {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
    for word, text in WORDS.items():
        one, other = parse_cron(word), parse_cron(text)
        assert (one.minutes, one.hours, one.days, one.months, one.weekdays, one.wildcard) == (
            other.minutes, other.hours, other.days, other.months, other.weekdays, other.wildcard)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5-70 * * * *", '"5-70": minute goes to 59'),
        ("5-1/2 * * * *", "must go upwards; in steps through the end it is a list of values"),
        ("1-5-7 * * * *", "minute has a first and a last value, as in 0-59"),
        ("**/5 * * * *", '"*" stands alone in minute, or before a step, as in */5'),
        ("5/15 * * * *", '"5/15": a step needs a range, 5-59/15'),
        ("* mon/2 * * *", "mon belongs to the field day of week, this one is hour"),
        ("* * * * mon/2", '"mon/2": a step needs a range, mon-7/2'),
        ("0 0 9 * * 1-5", 'seconds are not part of cron; probably "0 9 * * 1-5"'),
        ("0 9 * * 1-5 2026", 'years are not part of cron; probably "0 9 * * 1-5"'),
        ("0 0 9 * * ? 2026", "7 fields: seconds are not part of cron, nor are years"),
        ("@reboot", '"@reboot" has no time'),
        ("@Daily", "probably @daily"),
        ("@every 5m", "interval"),
        ("@fortnightly", "there are @annually"),
        ("@daily x", "probably @daily"),
        ("@", '"@" is not known'),
        ("", "an empty expression"),
        (" \t ", "an empty expression"),
        ("* * * *", "4 fields: cron has five"),
        ("*", "1 field: cron has five"),
        ("* * * * * * * *", "8 fields"),
        ("* 24 * * *", '"24": hour goes to 23'),
        ("* * 0 * *", '"0": day of month starts at 1'),
        ("* * * 13 *", '"13": month goes to 12'),
        ("* * * * 8", '"8": day of week goes to 7'),
        ("30-10 * * * *", "through the end it is 30-59,0-10"),
        ("* 22-2 * * *", '"22-2": a range of hour must go upwards; through the end it is 22-23,0-2'),
        ("* * * * fri-sun", "Sunday is also 7: 5-7"),
        ("* * * * sat-mon", "through the end it is sat-6,0-mon"),
        ("*/0 * * * *", '"*/0": the step of minute must be 1 or more'),
        ("*/x * * * *", "the step of minute must be a whole number"),
        ("*/-5 * * * *", "the step of minute must be a whole number"),
        ("/5 * * * *", '"/5": a step needs a range, */5'),
        ("1,,2 * * * *", '"": minute has an empty item'),
        (", * * * *", "minute has an empty item"),
        ("5- * * * *", '"5-": a number is missing in minute'),
        ("-5 * * * *", '"-5": a number is missing in minute'),
        ("1-2-3 * * * *", '"1-2-3": a range of minute has a first and a last value, as in 0-59'),
        ("*-5 * * * *", '"*" stands alone in minute'),
        ("** * * * *", '"*" stands alone in minute, or before a step, as in */5'),
        ("*5 * * * *", '"*" stands alone in minute, or before a step, as in */5'),
        ("0 0 * january *", "month has names of three letters: jan"),
        ("0 0 * * monday", "day of week has names of three letters: mon"),
        ("0 0 ? * *", "Quartz"),
        ("0 0 L * *", "the last day, is not part of cron"),
        ("0 0 15W * *", "the nearest weekday"),
        ("0 0 * * 5#2", "the n-th weekday"),
        ("H * * * *", "Jenkins"),
        ("0~30 * * * *", "OpenBSD"),
        ("1.5 * * * *", "minute is a number"),
        ("+5 * * * *", "minute is a number"),
        ("١ * * * *", r'"\u0661": minute is a number'),  # noqa: RUF001  a digit, but not one of ASCII
        ("² * * * *", "minute is a number"),
        ("0 9 * * 1-5\n", "line break"),
        ("0 9\n* * 1-5", "line break"),
        ("0\xa09 * * 1-5", "4 fields"),
        ("0\x0b9 * * 1 5", r"0\x0b9"),
        ("\x00 * * * *", r'"\x00": minute is a number'),
        ("0-99999999 * * * *", '"0-99999999": minute goes to 59'),
    ],
)
def test_a_malformed_expression_is_told_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        parse_cron(text)
    assert message in str(refused.value)
    assert refused.value.field == "cron"
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 30 2 *", "February has no day 30"),
        ("0 0 31 2,4,6,9,11 *", "never fires"),
        ("0 0 31 4 *", "April has no day 31"),
        ("0 0 30-31 feb */2", "February has no day 30"),
        ("0 0 30 2 *,1", "February has no day 30"),
    ],
)
def test_what_can_never_fire_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidSchedule, match="never fires") as refused:
        parse_cron(text)
    assert message in str(refused.value)


@pytest.mark.parametrize("text", ["0 0 30 2 1", "0 0 29 2 *", "0 0 29 2 */7", "0 0 31 1,2 *", "0 0 30 2 0-7"])
def test_what_fires_seldom_is_not_refused(text: str) -> None:
    assert CronRule(parse_cron(text), zone("UTC")).after(utc("2026-01-01")) is not None


HOSTILE = {
    "10 kB": "x" * 10_000,
    "10 kB of stars": "*" * 10_000,
    "10 kB of blanks": "0 9 * * 1" + " " * 10_000,
    "10 kB of fields": "* " * 5_000,
    "10 kB of ranges": ",".join(["0-59/1"] * 1_400) + " * * * *",
    "as long as allowed": ",".join(["0-59/1", "*/1", "00-059"] * 200) + " * * * *",
    "a million digits": "1" * 1_000_000 + " * * * *",
    "4,000 digits": "1" * 4_000 + " * * * *",
    "a million digits of step": "*/" + "1" * 1_000_000 + " * * * *",
    "200,000 items": ",".join("1" * 200_000) + " * * * *",
    "a step of nothing": "*/0 * * * *",
    "a huge range": "0-99999999 * * * *",
    "never": "0 0 30 2 *",
    "nested": "((((((((" * 100 + " * * * *",
    "slashes": "*" + "/1" * 2_000 + " * * * *",
    "dashes": "1" + "-1" * 2_000 + " * * * *",
    "a word": "@" + "a" * 4_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_judged_within_10_ms(name: str) -> None:
    begun = time.process_time()
    said = refusal(HOSTILE[name])
    assert time.process_time() - begun < 0.010
    assert said is None or len(str(said)) < 300


@given(st.text(alphabet="0123456789*/-,@ \tadefjmnorsuy?#L", max_size=40))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    said = refusal(text)
    if said is None:
        assert parse_cron(text).next_minute(0) is not None
    else:
        assert said.field == "cron"


# ------------------------------------------------------------------------------- days and the calendar


@pytest.mark.parametrize(
    ("text", "after", "until", "expected"),
    [
        ("0 0 13 * 5", "2026-02-01", "2026-02-28", ["06", "13", "20", "27"]),
        ("0 0 14 * 5", "2026-02-01", "2026-02-28", ["06", "13", "14", "20", "27"]),
        ("0 0 */2 * 1", "2026-02-01", "2026-02-28", ["09", "23"]),
        ("0 0 10-15 * */2", "2026-02-01", "2026-02-28", ["10", "12", "14", "15"]),
        ("0 0 31 * *", "2026-02-01", "2026-03-31", ["31"]),
        ("0 0 29 2 *", "2027-01-01", "2028-12-31", ["29"]),
        ("0 0 * * 7", "2026-02-01", "2026-02-28", ["08", "15", "22"]),
        ("0 0 * * 0", "2026-02-01", "2026-02-28", ["08", "15", "22"]),
    ],
)
def test_days(text: str, after: str, until: str, expected: list[str]) -> None:
    assert [found[8:10] for found in fires(text, "UTC", after, until)] == expected


def test_29_february_knows_the_centuries() -> None:
    found = fires("0 0 29 2 *", "UTC", "1895-01-01", "1910-01-01")
    assert found == ["1896-02-29 00:00:00", "1904-02-29 00:00:00", "1908-02-29 00:00:00"]
    assert fires("0 0 29 2 *", "UTC", "1997-01-01", "2001-01-01") == ["2000-02-29 00:00:00"]


def test_after_means_strictly_after() -> None:
    rule = CronRule(parse_cron("0 9 * * *"), zone("UTC"))
    assert rule.after(utc("2026-01-01 08:59:59.999999")) == utc("2026-01-01 09:00")
    assert rule.after(utc("2026-01-01 09:00")) == utc("2026-01-02 09:00")
    assert rule.after(utc("2026-01-01 09:00:00.000001")) == utc("2026-01-02 09:00")


@pytest.mark.parametrize("name", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"])
def test_the_ends_of_time(name: str) -> None:
    for text in ("* * * * *", "0 0 29 2 *", "59 23 31 12 *"):
        rule = CronRule(parse_cron(text), zone(name))
        assert rule.after(datetime.max.replace(tzinfo=UTC)) is None
        late = rule.after(utc("9999-12-30 23:00"))
        assert late is None or late > utc("9999-12-30 23:00")
        early = rule.after(datetime.min.replace(tzinfo=UTC))
        assert early is not None
        run = rule.run(utc("9999-12-01"), datetime.max.replace(tzinfo=UTC), 1_000_000)
        assert run is None or run.last <= datetime.max.replace(tzinfo=UTC)


# ------------------------------------------------------------------------------------- clock changes

BERLIN = "Europe/Berlin"
SPRING = ("2026-03-28 20:00", "2026-03-29 06:00")  # 01:00Z: 02:00 becomes 03:00
AUTUMN = ("2026-10-24 20:00", "2026-10-25 06:00")  # 01:00Z: 03:00 becomes 02:00
NIGHTS: list[tuple[str, str, tuple[str, str], list[str]]] = [
    # A fixed job in the gap fires right after it; one beside the gap is left alone.
    ("30 2 * * *", BERLIN, SPRING, ["29 01:00"]),
    ("59 1 * * *", BERLIN, SPRING, ["29 00:59"]),
    ("0 3 * * *", BERLIN, SPRING, ["29 01:00"]),
    ("0,15,30 2 * * *", BERLIN, SPRING, ["29 01:00"]),
    ("30 2,3 * * *", BERLIN, SPRING, ["29 01:00", "29 01:30"]),
    ("0 2,3 * * *", BERLIN, SPRING, ["29 01:00"]),
    ("30 2 29 3 *", BERLIN, SPRING, ["29 01:00"]),
    ("30 2 * * 0", BERLIN, SPRING, ["29 01:00"]),
    # A wildcard job follows real time: nothing for what was skipped.
    ("*/30 2 * * *", BERLIN, SPRING, []),
    ("*/30 1-3 * * *", BERLIN, SPRING, ["29 00:00", "29 00:30", "29 01:00", "29 01:30"]),
    ("30 */2 * * *", BERLIN, ("2026-03-28 23:59", "2026-03-29 04:00"), ["29 02:30"]),
    ("0-59/30 2 * * *", BERLIN, SPRING, ["29 01:00"]),
    # The fold: fixed in the first pass, wildcard in both.
    ("30 2 * * *", BERLIN, AUTUMN, ["25 00:30"]),
    ("0 2 * * *", BERLIN, AUTUMN, ["25 00:00"]),
    ("0 3 * * *", BERLIN, AUTUMN, ["25 02:00"]),
    ("59 2 * * *", BERLIN, AUTUMN, ["25 00:59"]),
    ("30 1,2,3 * * *", BERLIN, AUTUMN, ["24 23:30", "25 00:30", "25 02:30"]),
    ("*/30 2 * * *", BERLIN, AUTUMN, ["25 00:00", "25 00:30", "25 01:00", "25 01:30"]),
    ("30 */2 * * *", BERLIN, ("2026-10-25 00:00", "2026-10-25 04:00"), ["25 00:30", "25 01:30", "25 03:30"]),
    ("@hourly", BERLIN, ("2026-10-24 23:59", "2026-10-25 02:00"), ["25 00:00", "25 01:00", "25 02:00"]),
    # Half an hour, on Lord Howe Island.
    ("15 2 * * *", "Australia/Lord_Howe", ("2026-10-03 12:00", "2026-10-03 20:00"), ["03 15:30"]),
    ("45 1 * * *", "Australia/Lord_Howe", ("2026-04-04 12:00", "2026-04-04 20:00"), ["04 14:45"]),
    ("*/15 1 * * *", "Australia/Lord_Howe", ("2026-04-04 12:00", "2026-04-04 20:00"),
     ["04 14:00", "04 14:15", "04 14:30", "04 14:45", "04 15:00", "04 15:15"]),
    # At midnight, forwards: the day begins at 01:00.
    ("0 0 * * *", "Asia/Beirut", ("2026-03-28 12:00", "2026-03-29 12:00"), ["28 22:00"]),
    ("30 0 29 3 *", "Asia/Beirut", ("2026-03-28 12:00", "2026-03-29 12:00"), ["28 22:00"]),
    ("0 0 * * *", "America/Santiago", ("2026-09-05 12:00", "2026-09-06 12:00"), ["06 04:00"]),
    # At midnight, backwards: 23:00 comes twice, on the day before.
    ("30 23 * * *", "America/Santiago", ("2026-04-04 12:00", "2026-04-05 12:00"), ["05 02:30"]),
    ("0 0 * * *", "America/Santiago", ("2026-04-04 12:00", "2026-04-05 12:00"), ["05 04:00"]),
    ("*/30 23 4 4 *", "America/Santiago", ("2026-04-04 12:00", "2026-04-05 12:00"),
     ["05 02:00", "05 02:30", "05 03:00", "05 03:30"]),
    # At a minute past midnight, backwards: midnight comes twice, and with it the date goes back.
    ("0 0 * * *", "America/St_Johns", ("2006-10-28 12:00", "2006-10-29 12:00"), ["29 02:30"]),
    ("*/30 0 * * *", "America/St_Johns", ("2006-10-28 12:00", "2006-10-29 12:00"),
     ["29 02:30", "29 03:30", "29 04:00"]),
    # Chatham: 45 minutes past.
    ("0 3 * * *", "Pacific/Chatham", ("2026-09-26 06:00", "2026-09-26 20:00"), ["26 14:00"]),
    ("50 2 * * *", "Pacific/Chatham", ("2026-04-04 06:00", "2026-04-04 20:00"), ["04 13:05"]),
    # Three hours exactly, in Antarctica, are still made up for; a day, in Samoa, is not.
    ("30 3 * * *", "Antarctica/Casey", ("2018-10-06 12:00", "2018-10-07 00:00"), ["06 19:30"]),
    ("30 4 * * *", "Antarctica/Casey", ("2018-10-06 12:00", "2018-10-07 00:00"), ["06 20:00"]),
    ("30 0 * * *", "Antarctica/Casey", ("2018-03-10 08:00", "2018-03-10 22:00"), ["10 13:30"]),
    ("0 12 * * *", "Pacific/Apia", ("2011-12-29 00:00", "2011-12-31 12:00"), ["29 22:00", "30 22:00"]),
    ("0 12 30 12 *", "Pacific/Apia", ("2011-12-29 00:00", "2011-12-31 12:00"), []),
    ("0 0 31 12 *", "Pacific/Apia", ("2011-12-29 00:00", "2011-12-31 12:00"), ["30 10:00"]),
    # Folds whose second pass reaches into the next span that the zone's segments are kept by.
    ("55 2 * * *", "Australia/Adelaide", ("2016-04-02 12:00", "2016-04-03 06:00"), ["02 16:25"]),
    ("55 2 * * *", "Antarctica/Troll", ("2046-10-27 20:00", "2046-10-28 12:00"), ["28 00:55"]),
    # Offsets with seconds: Liberia until 1972, when 00:00:00 became 00:44:30.
    ("0 12 * * *", "Africa/Monrovia", ("1972-01-05 00:00", "1972-01-08 00:00"),
     ["05 12:44:30", "06 12:44:30", "07 12:00"]),
    ("30 0 * * *", "Africa/Monrovia", ("1972-01-06 12:00", "1972-01-07 12:00"), ["07 00:45"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "night", "expected"), NIGHTS)
def test_a_night_on_which_the_clocks_change(
    text: str, name: str, night: tuple[str, str], expected: list[str]
) -> None:
    found = fires(text, name, *night)
    assert [one[8:].removesuffix(":00") if one.endswith(":00") else one[8:] for one in found] == expected


def test_the_question_may_lie_inside_the_repeated_hour() -> None:
    wildcard, fixed = (CronRule(parse_cron(text), zone(BERLIN)) for text in ("*/20 * * * *", "20 2 * * *"))
    assert wildcard.after(utc("2026-10-25 00:50")) == utc("2026-10-25 01:00")
    assert wildcard.after(utc("2026-10-25 01:05")) == utc("2026-10-25 01:20")
    assert fixed.after(utc("2026-10-25 00:10")) == utc("2026-10-25 00:20")
    assert fixed.after(utc("2026-10-25 01:10")) == utc("2026-10-26 01:20")


EXPRESSIONS = [
    "* * * * *",
    "*/7 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "0,30 0-4 * * *",
    "15 */3 * * 1-5",
    "59 23 31 * *",
    "0 0 29 2 *",
    "0 12 13 * 5",
    "*/10 2 */2 3,10 *",
]
NAMES = [
    "UTC",
    BERLIN,
    "Australia/Lord_Howe",
    "America/Santiago",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Asia/Beirut",
    "Antarctica/Casey",
    "Africa/Casablanca",
    "America/St_Johns",
]
INSTANTS = st.integers(0, 2_500_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@settings(deadline=None)
@given(
    st.sampled_from(EXPRESSIONS), st.sampled_from(NAMES), INSTANTS, st.integers(0, 9_000), st.integers(1, 60)
)
@example("*/7 * * * *", BERLIN, utc("2026-10-25"), 300, 60)
@example("30 2 * * *", BERLIN, utc("2026-03-28"), 5_000, 60)
@example("0,30 0-4 * * *", BERLIN, utc("2026-03-29"), 90, 60)
@example("* * * * *", "Pacific/Apia", utc("2011-12-30 09:30"), 60, 50)
def test_a_run_is_its_occurrences_counted(
    text: str, name: str, after: datetime, minutes: int, at_most: int
) -> None:
    rule, until = CronRule(parse_cron(text), zone(name)), after + minutes * MINUTE
    found: list[datetime] = []
    instant = after
    while len(found) < at_most and (following := rule.after(instant)) is not None and following <= until:
        assert following > instant
        found.append(following)
        instant = following
    assert rule.run(after, until, at_most) == (Run(found[0], found[-1], len(found)) if found else None)


def test_a_run_of_a_year_of_minutes_is_counted_by_days() -> None:
    rule = CronRule(parse_cron("* * * * *"), zone(BERLIN))
    begun = time.process_time()
    run = rule.run(utc("2026-01-01") - MINUTE, utc("2026-12-31 23:59"), 10_000_000)
    assert run == Run(utc("2026-01-01"), utc("2026-12-31 23:59"), 525_600)
    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize(
    "name", ["Pacific/Chatham", "Australia/Lord_Howe", "Asia/Beirut", "America/Santiago", "Pacific/Apia"]
)
def test_no_zone_makes_it_loop_or_stand_still(name: str) -> None:
    for text in EXPRESSIONS:
        rule, instant = CronRule(parse_cron(text), zone(name)), utc("2011-12-01")
        for _ in range(200):
            following = rule.after(instant)
            assert following is not None
            assert following > instant
            instant = following


# ---------------------------------------------------------------------------------------------- zones


@pytest.mark.parametrize(
    "name",
    [
        "UTC",
        "Europe/Berlin",
        "America/Argentina/Buenos_Aires",
        "Etc/GMT+5",
        "EST5EDT",
        "America/Port-au-Prince",
        "GB",
        "Etc/GMT-14",
    ],
)
def test_iana_names_are_zones(name: str) -> None:
    assert zone(name).name == name
    assert zone(name) is zone(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "Europe",
        "Europe/",
        "/Europe/Berlin",
        "../etc/passwd",
        "Europe/../Europe/Berlin",
        "/etc/localtime",
        "europe/berlin",
        "EUROPE/BERLIN",
        "Berlin",
        "CEST",
        "+01:00",
        "UTC+1",
        "localtime",
        "posix/Europe/Berlin",
        "right/Europe/Berlin",
        "posixrules",
        "tzdata.zi",
        "zone.tab",
        "leapseconds",
        "__init__.py",
        "Europe/Berlin\x00",
        "Europe/Berlin\n",
        "Européen/Berlin",
        "\ud800",
        "x" * 100_000,
        "a/b/c/d",
        "Europe\\Berlin",
        ".",
        "..",
        "~",
        "C:/x",
        "zones",
        "Europe/__init__",
        "Europe/Berlin/Mitte",
    ],
)
def test_anything_else_is_refused_as_a_schedule(name: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        zone(name)
    assert refused.value.field == "timezone"
    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("Europe/Berln", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
    ],
)
def test_a_near_name_is_suggested(name: str, meant: str) -> None:
    with pytest.raises(InvalidSchedule, match=f"did you mean {meant}"):
        zone(name)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0 29 2 *", "* * * * *"]),
    st.lists(st.tuples(st.integers(0, 400), st.booleans()), min_size=2, max_size=12),
)
def test_what_a_rule_keeps_in_mind_changes_no_answer(text: str, questions: list[tuple[int, bool]]) -> None:
    rule, start = CronRule(parse_cron(text), zone("Europe/Berlin")), utc("2026-03-28T20:00:00.5")
    instant = start
    for quarters, go_on in questions:
        instant = instant if go_on else start + quarters * 15 * MINUTE
        found = rule.after(instant)
        assert found == CronRule(parse_cron(text), zone("Europe/Berlin")).after(instant)
        assert found is not None
        instant = found
