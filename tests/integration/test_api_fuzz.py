"""No request gets a 5xx, and one that is rejected changes nothing: whatever the OpenAPI document allows, and
what it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks
from sqlalchemy import text

from models.database import Database
from triggers import manage
from triggers.api import create_app
from triggers.settings import Settings

TOKEN = "a-token"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
EXAMPLES = 60
QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == 60,
    suppress_health_check=list(HealthCheck),
)

TABLES = ("triggers", "events", "trigger_changes", "idempotency_keys")
BODY: dict[str, Any] = {
    "name": "t",
    "description": "d",
    "tags": ["x"],
    "schedule": {"type": "cron", "cron": "0 9 * * 1-5", "timezone": "Europe/Berlin", "jitter_seconds": 0},
    "target": {
        "type": "http",
        "method": "POST",
        "url": "https://hooks.example.org/report",
        "headers": {"X-Env": "prod"},
        "body": {"day": "{{scheduled_for}}"},
        "secret": "s" * 24,
    },
    "policy": {"misfire": "fire_once", "overlap": "allow"},
    "retry": {"max_attempts": 3},
}


class Api:
    """The endpoint over a database with one trigger and one event."""

    def __init__(self, url: str) -> None:
        self.app = create_app(Settings(database_url=url, admin_token=TOKEN), lambda: None)
        self.database: Database = self.app.extensions["database"]
        self.client = self.app.test_client()
        stored = self.client.post("/triggers", json=BODY | {"name": "known"}, headers=AUTHORIZATION)
        assert stored.status_code == 201
        with self.database.write() as connection:
            self.event_id = manage.fire(connection, "known", self.database.now).event_id

    def counts(self) -> list[int]:
        with self.database.read() as connection:
            return [connection.execute(text(f"SELECT count(*) FROM {t}")).scalar_one() for t in TABLES]


NEGATIVE = schemathesis.GenerationMode.NEGATIVE
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    made = Api(database_url)
    yield made
    made.database.close()


def test_every_operation_keeps_to_the_document(api: Api) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", api.app, headers=AUTHORIZATION)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(QUICK, max_examples=EXAMPLES // 3)
        @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=NEGATIVE))
        def holds(case: Any) -> None:
            before = api.counts()
            response = case.call(headers=AUTHORIZATION)
            case.validate_response(response, checks=CHECKS)
            if response.status_code >= 400:
                assert api.counts() == before

        holds()


HOSTILE: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 2**63, 1e308, "", "\0", "\ud800", "now", "é" * 300, [], {}, [[]], {"": None},
     "0 0 31 2 *", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "Europe/Berlin", "../../etc/passwd",
     "http://[::1]/", "{{scheduled_for}}", "interval", "once", "manual", "celery", "examples.tasks.add"]
)  # fmt: skip
VALUES = HOSTILE | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    found = [at]
    if isinstance(value, dict):
        for key, member in value.items():
            found += places(member, (*at, key))
    return found


def changed(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """The document with another value in that place."""
    if not at:
        return new
    return value | {at[0]: changed(value.get(at[0], {}), at[1:], new)}


EXTRA = [
    *(("schedule", name) for name in ("at", "every_seconds", "start_time", "end_time", "max_runs")),
    ("target", "task"),
    ("target", "args"),
    ("policy", "x"),
]
PLACES = st.sampled_from(places(BODY) + EXTRA)


def test_no_body_breaks_it(api: Api) -> None:
    @QUICK
    @given(st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=3))
    def holds(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        body: Any = BODY
        for at, new in changes:
            try:
                body = changed(body, at, new)
            except (AttributeError, TypeError):  # an earlier change took the place away
                continue
        rejected_without_a_trace(api, "POST", "/triggers", json.dumps(body).encode())
        many = [BODY | {"name": "u"}, body]
        rejected_without_a_trace(api, "POST", "/triggers:bulk", json.dumps(many).encode())

    holds()


POISON = ["\0", "a\0", "\ud800", 2**64, -(2**64), 1e300, float("inf"), {"\0": 1}, ["\udfff"], {"\ud800": 1}]


def test_no_poison_in_any_place_breaks_it(api: Api) -> None:
    for at in places(BODY) + EXTRA:
        for poison in POISON:
            body = changed(BODY, at, poison)
            rejected_without_a_trace(api, "POST", "/triggers", json.dumps(body).encode())
            rejected_without_a_trace(api, "POST", "/triggers:bulk", json.dumps([body]).encode())


def test_no_poison_in_any_parameter_breaks_it(api: Api) -> None:
    for path in (
        "/triggers",
        "/triggers:bulk",
        "/triggers/known",
        "/triggers/known/events",
        "/events",
        f"/events/{api.event_id}",
    ):
        for name in PARAMETERS:
            for poison in (
                "%00",
                "%FF",
                "%ED%A0%80",
                "",
                "%0A",
                "9" * 400,
                "-1",
                "1e3",
                "%2B",
                "W10",
                "true",
            ):
                rejected_without_a_trace(api, "GET", path, b"", f"{name}={poison}")
                rejected_without_a_trace(api, "POST", path, b"{}", f"{name}={poison}")


def test_no_bytes_break_it(api: Api) -> None:
    text_of_body = json.dumps(BODY).encode()

    @QUICK
    @given(st.integers(0, len(text_of_body)), st.integers(0, 20), st.binary(max_size=20))
    def holds(start: int, length: int, new: bytes) -> None:
        data = text_of_body[:start] + new + text_of_body[start + length :]
        rejected_without_a_trace(api, "POST", "/triggers", data)
        rejected_without_a_trace(api, "POST", "/triggers:bulk", b"[" + data + b"]")

    holds()


PARAMETERS = ["limit", "cursor", "tag", "state", "status", "since", "until", "dry_run", "x"]
HEADERS = [
    "Accept",
    "Authorization",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Host",
    "Idempotency-Key",
    "If-None-Match",
    "Range",
    "Transfer-Encoding",
]
SEGMENTS = st.sampled_from(
    [
        "triggers",
        "events",
        "known",
        "healthz",
        "",
        "..",
        "%00",
        "%ff",
        "%ud800",
        "é",
        "triggers:bulk",
        "a" * 3000,
    ]
) | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=10)
QUERIES = st.dictionaries(
    st.sampled_from(PARAMETERS),
    HOSTILE.map(str) | st.text(st.characters(codec="utf-8"), max_size=30) | st.integers().map(str),
    max_size=3,
)


def test_no_path_or_query_breaks_it(api: Api) -> None:
    @QUICK
    @given(
        st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "BREW"]),
        st.lists(SEGMENTS | st.just(api.event_id), max_size=3),
        QUERIES,
    )
    def holds(method: str, segments: list[str], query: dict[str, str]) -> None:
        given = urlencode(query, errors="replace")
        rejected_without_a_trace(api, method, "/" + "/".join(segments), b"{}", given)

    holds()


def test_no_header_breaks_it(api: Api) -> None:
    @QUICK
    @given(
        st.dictionaries(
            st.sampled_from(HEADERS),
            st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40),
            max_size=3,
        )
    )
    def holds(headers: dict[str, str]) -> None:
        before = api.counts()
        response = api.client.post(
            "/triggers", data=b"{}", headers=AUTHORIZATION | {"Content-Type": "application/json"} | headers
        )
        assert 400 <= response.status_code < 500
        assert response.content_type == "application/problem+json"
        assert api.counts() == before

    holds()


def rejected_without_a_trace(api: Api, method: str, path: str, data: bytes, query: str = "") -> None:
    """A request is done or refused, and when it is refused nothing is different."""
    before = api.counts()
    response = api.client.open(
        "/",
        method=method,
        data=data,
        headers=AUTHORIZATION | {"Content-Type": "application/json"},
        environ_overrides={"PATH_INFO": path.encode().decode("latin-1"), "QUERY_STRING": query},
    )
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert api.counts() == before
        if method != "HEAD":
            assert response.content_type == "application/problem+json"
