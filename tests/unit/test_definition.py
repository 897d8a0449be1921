"""The document of a trigger: strict JSON, bounds, defaults, and what is pointed at."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers.definition import (
    TriggerDocument,
    check_payload,
    digest,
    load_json,
    parse_trigger,
    pointer,
    unstorable,
    warnings_for,
)
from triggers.errors import InvalidDocument, NotJson
from triggers.settings import Settings

NOW = datetime(2026, 11, 20, 12, 0, 0, 500_000, tzinfo=UTC)
CRON = {"type": "cron", "cron": "0 9 * * 1-5"}
LOG = {"type": "log", "message": "m"}
HTTP = {"type": "http", "url": "https://hooks.example.org/x"}
CELERY = {"type": "celery", "task": "examples.tasks.add"}


def parse(settings: Settings | None = None, **parts: Any) -> TriggerDocument:
    return parse_trigger({"name": "t", "schedule": CRON, "target": LOG} | parts, settings or Settings(), NOW)


def refused(settings: Settings | None = None, **parts: Any) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        parse(settings, **parts)
    return [problem.pointer for problem in caught.value.problems]


# --------------------------------------------------------------------------------------- strict JSON


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\xef\xbb\xbf1", b'{"a":1,"a":1}', b'[{"a":{"b":1,"b":2}}]', b"NaN", b"[-Infinity]",
     b"[" * 65 + b"]" * 65, b"[" * 65_000, b"01", b"+1", b".5", b'"\n"', b"[1,]", b"\xed\xa0\x80",
     '"a" \u00a0'.encode()],
)  # fmt: skip
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(NotJson):
        load_json(data)


def test_what_is_json_is_read() -> None:
    assert load_json(b"[" * 64 + b"]" * 64)
    assert load_json(b'{"a": ["[[[[", "\\"{", 1, 1.5, true, null]}') == {
        "a": ["[[[[", '"{', 1, 1.5, True, None]
    }
    assert load_json(b'"' + b"[" * 60_000 + b'"') == "[" * 60_000


@pytest.mark.parametrize("string", [b'"[{[{"', b'"]}]}"', b'"\\"[[["', b'"\\\\"'])
def test_only_brackets_outside_of_strings_are_levels(string: bytes) -> None:
    deepest = b"[" * 63 + b"[" + b",".join([string] * 40) + b"]" + b"]" * 63
    assert load_json(deepest)
    with pytest.raises(NotJson, match="64 levels"):
        load_json(b"[" + deepest + b"]")


@pytest.mark.parametrize(
    "data", [b'"' + b'\\"' * 30_000, b"1" * 65_000, b'{"a":' * 10_000, b'["' * 30_000, b'"\\' * 30_000]
)
def test_a_hostile_text_is_read_in_no_time(data: bytes) -> None:
    started = time.perf_counter()
    try:
        found = unstorable(load_json(data))
    except NotJson:
        found = []
    assert time.perf_counter() - started < 0.5
    assert [problem.pointer for problem in found] in ([], [""])


SCALARS = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
)
VALUES = st.recursive(
    SCALARS, lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside), max_leaves=20
)


@given(VALUES)
def test_every_json_value_is_read_as_json_does(value: Any) -> None:
    read = load_json(json.dumps(value).encode())
    assert read == value
    keys_are_storable = all("\0" not in text for text in keys(value))
    assert (unstorable(read) == []) == keys_are_storable
    assert digest(read) == digest(value)


def keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for member in value.values() for key in keys(member))]
    return [key for member in value for key in keys(member)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("\0", [""]),
        (["a", "\ud800"], ["/1"]),
        ({"a/b": {"~": "\udfff"}}, ["/a~1b/~0"]),
        ({"\0": 1, "b": "\0"}, ["/\0", "/b"]),
        ({"\ud800": 1}, ["/\N{REPLACEMENT CHARACTER}"]),
        ([2**63, -(2**63) - 1, float("inf"), float("nan")], ["/0", "/1", "/2", "/3"]),
        ([2**63 - 1, -(2**63), 1e308, True, None, "é😀"], []),
        ({"at": date(2026, 1, 1)}, ["/at"]),
        ({1: "x"}, ["/1"]),
        ((1,), [""]),
    ],
)
def test_what_cannot_be_stored_is_pointed_at(value: Any, where: list[str]) -> None:
    assert [problem.pointer for problem in unstorable(value)] == where


def test_a_value_that_contains_itself_ends() -> None:
    value: list[Any] = []
    value += [value, value]
    assert [problem.pointer for problem in unstorable(value)] == [""]
    assert pointer("a", 0, "b/c") == "/a/0/b~1c"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a":1,"b":2}', b'{"b":2.0,"a":1e0}', True),
        (b"1", b"true", False),
        (b"0", b"false", False),
        (b"[1,2]", b"[2,1]", False),
        (b'"1"', b"1", False),
        (b'"\\u00e9"', '"é"'.encode(), True),
        (b"0", b"-0.0", True),
        (b"100", b"1E2", True),
        (b"null", b"{}", False),
        (b"1.5", b"1.50", True),
    ],
)
def test_digests_compare_as_json_does(one: bytes, other: bytes, same: bool) -> None:
    assert (digest(load_json(one)) == digest(load_json(other))) is same


# ------------------------------------------------------------------------------------------- defaults


def test_the_smallest_document_gets_every_default() -> None:
    assert parse().stored() == {
        "name": "t",
        "description": "",
        "tags": [],
        "schedule": CRON
        | {"timezone": "UTC", "start_time": None, "end_time": None, "max_runs": None, "jitter_seconds": 0},
        "target_type": "log",
        "target": LOG,
        "secret": None,
        "policy": {
            "misfire": "fire_once",
            "misfire_grace_seconds": 60,
            "catchup_window_seconds": 86_400,
            "overlap": "allow",
            "timeout_seconds": 30,
            "pause_after_failures": None,
        },
        "retry": {"max_attempts": 3, "min_backoff_seconds": 5, "max_backoff_seconds": 3_600},
    }
    assert parse(target=HTTP).stored()["target"] == HTTP | {"method": "POST", "headers": {}, "body": None}


def test_the_first_queue_is_the_default() -> None:
    settings = Settings(celery_queues=("slow", "fast"))
    assert parse(settings, target=CELERY).stored()["target"]["queue"] == "slow"
    assert parse(settings, target=CELERY | {"queue": "fast"}).stored()["target"]["queue"] == "fast"
    assert refused(settings, target=CELERY | {"queue": "tasks"}) == ["/target/queue"]


def test_now_is_resolved_and_the_secret_kept_apart() -> None:
    assert (
        parse(schedule={"type": "once", "at": "now"}).stored()["schedule"]["at"]
        == "2026-11-20T12:00:00.500000Z"
    )
    stored = parse(target=HTTP | {"secret": "s" * 24}).stored()
    assert stored["secret"] == "s" * 24
    assert "secret" not in stored["target"]
    assert "s" * 24 not in repr(parse(target=HTTP | {"secret": "s" * 24}))


def test_placeholders_pass_through_and_unknown_ones_are_warned_of() -> None:
    body = {"a": ["{{scheduled_for}}", "{{nope}}"]}
    stored = parse(target=HTTP | {"body": body}).stored()
    assert stored["target"]["body"] == body
    (warning,) = warnings_for(stored["schedule"], stored["target"], stored["retry"], NOW)
    assert warning.startswith("{{nope}}")


def test_a_wait_that_is_cut_short_is_warned_of() -> None:
    stored = parse(retry={"min_backoff_seconds": 7200}).stored()
    (warning,) = warnings_for(stored["schedule"], stored["target"], stored["retry"], NOW)
    assert "max_backoff_seconds" in warning


def test_a_local_name_is_taken_and_warned_of_unless_private_targets_are_allowed() -> None:
    stored = parse(target=HTTP | {"url": "http://localhost:8000/"}).stored()
    given = (stored["schedule"], stored["target"], stored["retry"], NOW)
    (warning,) = warnings_for(*given)
    assert "localhost" in warning
    assert warnings_for(*given, allow_private=True) == []


def test_a_short_secret_is_taken_and_warned_of() -> None:
    stored = parse(target=HTTP | {"secret": "short"}).stored()
    given = (stored["schedule"], stored["target"], stored["retry"], NOW)
    (warning,) = warnings_for(*given, stored["secret"])
    assert "24 bytes" in warning


# --------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("part", "field", "low", "high"),
    [
        ("retry", "max_attempts", 1, 100),
        ("retry", "min_backoff_seconds", 1, 86_400),
        ("retry", "max_backoff_seconds", 1, 86_400),
        ("policy", "timeout_seconds", 1, 3_600),
        ("policy", "misfire_grace_seconds", 1, 86_400),
        ("policy", "catchup_window_seconds", 0, 31_536_000),
        ("policy", "pause_after_failures", 1, 1_000_000),
        ("schedule", "jitter_seconds", 0, 3_600),
        ("schedule", "max_runs", 1, 1_000_000_000),
        ("schedule", "every_seconds", 1, 315_360_000),
    ],
)
def test_bounds_are_inclusive(part: str, field: str, low: int, high: int) -> None:
    base = {"type": "interval", "every_seconds": 5} if part == "schedule" else {}
    for value in (low, high, float(high)):
        stored = parse(None, **{part: base | {field: value}}).stored()[part][field]
        assert (stored, type(stored)) == (value, int)
    for wrong in (low - 1, high + 1, True, str(low), low + 0.5, [low], 1e300):
        assert refused(None, **{part: base | {field: wrong}}) == [f"/{part}/{field}"]


@pytest.mark.parametrize("name", ["a", "A.b_c-d", "0", "x" * 100, "0194e8a0-0000-7000-8000-00000000000"])
def test_names(name: str) -> None:
    assert parse(name=name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", ".a", "a b", "a\n", "é", "x" * 101, "a/b", None, 1, "0194e8a0-0000-7000-8000-00000000000F"],
)
def test_what_is_no_name(name: Any) -> None:
    assert refused(name=name) == ["/name"]


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ({"tags": ["x"] * 21}, ["/tags"]),
        ({"tags": [""]}, ["/tags/0"]),
        ({"tags": "x"}, ["/tags"]),
        ({"tags": None}, ["/tags"]),
        ({"description": "x" * 10_001}, ["/description"]),
        ({"description": None}, ["/description"]),
        ({"policy": []}, ["/policy"]),
        ({"policy": {"misfire": None}}, ["/policy/misfire"]),
        ({"extra": 1, "name": 1}, ["/name", "/extra"]),
        ({"target": LOG | {"url": "x"}}, ["/target/url"]),
        ({"target": {"type": "http"}}, ["/target/url"]),
        ({"target": {"type": "smtp"}}, ["/target/type"]),
        ({"target": {"url": "x"}}, ["/target/type"]),
        ({"target": "log"}, ["/target"]),
        ({"target": HTTP | {"method": "post"}}, ["/target/method"]),
        ({"target": HTTP | {"headers": {"a/b": 1}}}, ["/target/headers/a~1b"]),
        (
            {"target": HTTP | {"headers": {"a/b": "x", "Host": "x", "X": "x", "x": "x"}}},
            ["/target/headers/a~1b", "/target/headers/Host", "/target/headers/x"],
        ),
        ({"target": HTTP | {"headers": {"X": "a" * 8192}}}, ["/target/headers"]),
        ({"target": HTTP | {"headers": {f"X-{n}": "" for n in range(51)}}}, ["/target/headers"]),
        ({"target": HTTP | {"url": ""}}, ["/target/url"]),
        ({"target": HTTP | {"headers": None}}, ["/target/headers"]),
        (
            {"target": HTTP | {"url": "http://127.0.0.1", "secret": "whsec_"}},
            ["/target/url", "/target/secret"],
        ),
        ({"target": HTTP | {"has_secret": True}}, ["/target/has_secret"]),
        ({"target": CELERY | {"args": {}}}, ["/target/args"]),
        ({"target": CELERY | {"kwargs": []}}, ["/target/kwargs"]),
        ({"target": CELERY | {"task": "examples.tasksx"}}, ["/target/task"]),
        ({"schedule": {"type": "manual", "max_runs": 1}}, ["/schedule/max_runs"]),
        ({"schedule": {"type": "manual", "end_time": "2027-01-01T00:00:00Z"}}, ["/schedule/end_time"]),
        ({"schedule": {"type": "manual", "jitter_seconds": None}}, ["/schedule/jitter_seconds"]),
        ({"schedule": {"type": "manual", "jitter_seconds": False}}, ["/schedule/jitter_seconds"]),
        ({"schedule": {"type": "manual", "timezone": "UTC"}}, ["/schedule/timezone"]),
        ({"schedule": {"type": "interval", "every_seconds": 5, "timezone": "UTC"}}, ["/schedule/timezone"]),
        ({"schedule": {"type": "interval"}}, ["/schedule/every_seconds"]),
        ({"schedule": {"type": "cron", "cron": 5}}, ["/schedule/cron"]),
        ({"schedule": CRON | {"cron": "5/15 * * * *"}}, ["/schedule/cron"]),
        ({"schedule": CRON | {"timezone": "Mars"}}, ["/schedule/timezone"]),
        ({"schedule": CRON | {"start_time": "2026-01-01"}}, ["/schedule/start_time"]),
        ({"schedule": CRON | {"end_time": "2026-11-20T11:00:00Z"}}, ["/schedule/end_time"]),
        ({"schedule": {"type": "once", "at": "2026-11-20T11:59:00Z"}}, ["/schedule/at"]),
        ({"schedule": {"type": "once", "at": "soon"}}, ["/schedule/at"]),
    ],
)
def test_what_is_wrong_is_pointed_at(parts: dict[str, Any], where: list[str]) -> None:
    assert refused(**parts) == where


def test_a_manual_schedule_may_spell_out_that_it_has_no_bounds() -> None:
    bounds = {"start_time": None, "end_time": None, "max_runs": None, "jitter_seconds": 0.0}
    assert parse(schedule={"type": "manual"} | bounds).stored()["schedule"] == {"type": "manual"}
    with pytest.raises(InvalidDocument, match="no occurrences"):
        parse(schedule={"type": "manual", "max_runs": 1})


def test_an_expression_that_spells_out_every_value_is_taken() -> None:
    everything = (range(60), range(24), range(1, 32), range(1, 13), range(7))
    cron = " ".join(",".join(map(str, values)) for values in everything)
    assert parse(schedule={"type": "cron", "cron": cron}).schedule.model_dump()["cron"] == cron


def test_an_instant_within_the_grace_is_taken() -> None:
    at = {"type": "once", "at": "2026-11-20T11:59:00Z"}
    assert parse(schedule=at, policy={"misfire_grace_seconds": 61})
    assert parse(schedule={"type": "once", "at": "2026-11-20T12:59:30+01:00"})
    assert parse(schedule=CRON | {"end_time": "2026-11-23T09:00:00Z"})


def test_private_targets_are_allowed_by_setting() -> None:
    assert parse(Settings(allow_private_targets=True), target=HTTP | {"url": "http://127.0.0.1:8000/"})


@pytest.mark.parametrize("document", [None, [], "x", 1, True])
def test_a_document_is_an_object(document: Any) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_trigger(document, Settings(), NOW)
    assert [problem.pointer for problem in caught.value.problems] == [""]


def test_an_unchanged_schedule_need_not_fire_again() -> None:
    stored = parse(schedule={"type": "once", "at": "now"}).stored()["schedule"]
    later = NOW.replace(year=2027)
    document = {"name": "t", "schedule": stored, "target": LOG}
    with pytest.raises(InvalidDocument):
        parse_trigger(document, Settings(), later)
    assert parse_trigger(document, Settings(), later, current=stored).stored()["schedule"] == stored


@pytest.mark.parametrize(
    ("target_type", "payload", "taken"),
    [
        ("http", [1], True),
        ("http", "\0", False),
        ("celery", {"a": 1}, True),
        ("celery", [1], False),
        ("log", "x", False),
    ],
)
def test_payloads(target_type: str, payload: Any, taken: bool) -> None:
    if taken:
        check_payload(target_type, payload)
        return
    with pytest.raises(InvalidDocument):
        check_payload(target_type, payload)
