"""The endpoint from outside: what each request is answered, on both databases."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from flask.testing import FlaskClient
from sqlalchemy import insert, text
from werkzeug.test import TestResponse

from models import Node
from models.database import Database
from triggers import manage
from triggers.api import create_app
from triggers.settings import Settings

TOKEN = "a-token"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
ROOT = Path(__file__).parents[2]
BODY = {"name": "t", "schedule": {"type": "interval", "every_seconds": 60}, "target": {"type": "log"}}


class Api:
    """The endpoint, and what it was asked to hint."""

    def __init__(self, url: str, **more: Any) -> None:
        self.hints = 0
        self.settings = Settings(database_url=url, admin_token=TOKEN, **more)
        self.app = create_app(self.settings, self.hint)
        self.database: Database = self.app.extensions["database"]

    def hint(self) -> None:
        self.hints += 1

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.client.get(path, headers=AUTHORIZATION, **more)

    def post(self, body: Any, path: str = "/triggers", **headers: str) -> TestResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = AUTHORIZATION | {name.replace("_", "-"): value for name, value in headers.items()}
        given.setdefault("Content-Type", "application/json")
        return self.client.post(path, data=data, headers=given)

    def count(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(text("SELECT count(*) FROM triggers")).scalar_one())


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    made = Api(database_url)
    yield made
    made.database.close()


@pytest.fixture
def one(sqlite_url: str) -> Iterator[Api]:
    """The endpoint where the kind of database makes no difference."""
    made = Api(sqlite_url)
    yield made
    made.database.close()


def pointers(response: TestResponse) -> list[str]:
    assert response.content_type == "application/problem+json"
    body = response.get_json(force=True)
    assert body["status"] == response.status_code
    return [error["pointer"] for error in body["errors"]]


# ------------------------------------------------------------------------------------------- create


def test_create_answers_what_was_stored(api: Api) -> None:
    response = api.post(BODY)
    assert response.status_code == 201
    stored = response.get_json()
    assert response.headers["Location"] == f"/triggers/{stored['id']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert stored["state"] == "active"
    assert stored["next_fire_at"] == stored["next_occurrences"][0]
    assert len(stored["next_occurrences"]) == 5
    assert stored["warnings"] == []
    assert stored["policy"] == {
        "misfire": "fire_once",
        "misfire_grace_seconds": 60,
        "catchup_window_seconds": 86400,
        "overlap": "allow",
        "timeout_seconds": 30,
        "pause_after_failures": None,
    }
    assert stored["retry"] == {"max_attempts": 3, "min_backoff_seconds": 5, "max_backoff_seconds": 3600}
    for ref in (stored["id"], stored["id"].upper(), "t"):
        assert api.get(f"/triggers/{ref}").get_json() == stored


def test_every_default_is_read_back_and_the_secret_is_not(api: Api) -> None:
    target = {"type": "http", "url": "https://hooks.example.org/x", "secret": "whsec_" + "MDEy" * 8}
    read = api.post(BODY | {"target": target}).get_json()
    assert read["target"] == {
        "type": "http",
        "method": "POST",
        "url": "https://hooks.example.org/x",
        "headers": {},
        "body": None,
        "has_secret": True,
    }
    celery = {"type": "celery", "task": "examples.tasks.add"}
    read = api.post(BODY | {"name": "c", "target": celery}).get_json()
    assert read["target"] == celery | {"args": [], "kwargs": {}, "queue": "tasks"}
    assert (read["description"], read["tags"], read["consecutive_failures"]) == ("", [], 0)
    cron = {"type": "cron", "cron": "@daily"}
    assert api.post(BODY | {"name": "d", "schedule": cron}).get_json()["schedule"] == cron | {
        "timezone": "UTC",
        "start_time": None,
        "end_time": None,
        "max_runs": None,
        "jitter_seconds": 0,
    }
    for page in (api.get("/triggers").text, api.get("/triggers/t").text):
        assert "MDEy" not in page


def test_a_dry_run_answers_the_same_and_stores_nothing(api: Api) -> None:
    response = api.post(BODY, "/triggers?dry_run=true", Idempotency_Key="k")
    assert response.status_code == 200
    assert len(response.get_json()["next_occurrences"]) == 5
    assert api.count() == 0
    assert api.hints == 0
    assert api.post(BODY, "/triggers?dry_run=false").status_code == 201
    assert api.post(BODY, "/triggers?dry_run=true").status_code == 409


def test_what_is_due_before_the_next_tick_is_hinted_after_the_commit(api: Api) -> None:
    api.post(BODY | {"schedule": {"type": "once", "at": "now"}})
    assert api.hints == 1
    api.post(BODY | {"name": "u", "schedule": {"type": "manual"}})
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    api.post(BODY | {"name": "v", "schedule": {"type": "once", "at": later}})
    api.post(BODY)
    assert api.hints == 1


def test_a_hint_that_fails_does_not_fail_the_request(one: Api) -> None:
    def broken() -> None:
        raise RuntimeError("the broker is gone")

    app = create_app(one.settings, broken)
    body = json.dumps(BODY | {"schedule": {"type": "once", "at": "now"}})
    response = app.test_client().post(
        "/triggers", data=body, headers=AUTHORIZATION, content_type="application/json"
    )
    assert response.status_code == 201


def test_a_name_in_use_is_a_conflict(api: Api) -> None:
    assert api.post(BODY).status_code == 201
    response = api.post(BODY)
    assert response.status_code == 409
    assert pointers(response) == ["/name"]
    assert api.count() == 1


def test_warnings_name_what_was_probably_not_meant(api: Api) -> None:
    read = api.post(BODY | {"target": {"type": "log", "message": "{{schedule_for}}"}}).get_json()
    assert "{{schedule_for}}" in read["warnings"][0]
    assert api.get("/triggers/t").get_json()["warnings"] == read["warnings"]


def test_what_is_odd_about_secret_and_host_is_warned_of_on_every_read(api: Api) -> None:
    target = {"type": "http", "url": "http://localhost/x", "secret": "hidden"}
    read = api.post(BODY | {"target": target}).get_json()
    assert ["localhost" in text for text in read["warnings"]] == [True, False]
    assert "24 bytes" in read["warnings"][1]
    assert api.get("/triggers/t").get_json() == read
    assert "hidden" not in api.get("/triggers/t").text


@pytest.mark.parametrize("ago", [0.0, 20.0])
def test_what_is_due_already_is_not_said_to_be_over(api: Api, ago: float) -> None:
    at = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat() if ago else "now"
    read = api.post(BODY | {"schedule": {"type": "once", "at": at}}).get_json()
    assert len(read["next_occurrences"]) == 1
    assert read["warnings"] == []
    assert api.get("/triggers/t").get_json()["warnings"] == []
    with api.database.write() as connection:
        connection.execute(text("UPDATE triggers SET next_at = NULL"))
    assert api.get("/triggers/t").get_json()["warnings"] == ["nothing is left to fire"]


def test_a_manual_trigger_reads_back_as_it_is_stored(api: Api) -> None:
    bounds = {"start_time": None, "end_time": None, "max_runs": None, "jitter_seconds": 0}
    read = api.post(BODY | {"schedule": {"type": "manual"} | bounds}).get_json()
    assert read["schedule"] == {"type": "manual"}
    assert api.get("/triggers/t").get_json() == read


@pytest.mark.parametrize("path", ["/triggers", "/triggers?dry_run=true"])
def test_an_invalid_body_is_refused_without_the_lock(api: Api, path: str) -> None:
    other = Database(str(api.settings.database_url))
    begun = time.monotonic()
    with other.write() as connection:
        if other.is_postgres:
            connection.execute(text("LOCK TABLE triggers IN ACCESS EXCLUSIVE MODE"))
        answer = api.post(BODY | {"schedule": {"type": "cron", "cron": "61 * * * *"}}, path)
    other.close()
    assert (answer.status_code, pointers(answer)) == (422, ["/schedule/cron"])
    assert time.monotonic() - begun < 3


# -------------------------------------------------------------------------------------- idempotency


def test_the_same_key_and_body_give_the_same_trigger(api: Api) -> None:
    first = api.post(BODY, Idempotency_Key="k")
    respelled = b'{"target":{"type":"log"},"schedule":{"every_seconds":6.0e1,"type":"interval"},"name":"t"}'
    again = api.post(respelled, Idempotency_Key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.get_json() == first.get_json()
    other = api.post(BODY | {"tags": ["x"]}, Idempotency_Key="k")
    assert other.status_code == 409
    assert api.count() == 1


def test_a_key_recalls_what_would_no_longer_be_valid(api: Api) -> None:
    at = (datetime.now(UTC) - timedelta(seconds=59.5)).isoformat()
    body = BODY | {"schedule": {"type": "once", "at": at}}
    first = api.post(body, Idempotency_Key="k")
    assert first.status_code == 201
    with api.database.write() as connection:
        connection.execute(text("UPDATE idempotency_keys SET body_digest = body_digest"))
    threading.Event().wait(0.6)  # until the instant lies further back than its grace
    assert api.post(body).status_code == 422
    assert api.post(body, Idempotency_Key="k").status_code == 200


def test_a_key_whose_trigger_was_deleted_is_a_conflict(api: Api) -> None:
    api.post(BODY, Idempotency_Key="k")
    with api.database.write() as connection:
        manage.delete(connection, "t", api.database.now)
    assert api.post(BODY, Idempotency_Key="k").status_code == 409
    assert api.post(BODY).status_code == 201


def test_many_at_once_with_one_key_create_one_trigger(api: Api) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api.post(BODY, Idempotency_Key="k"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.get_json()["id"] for answer in answers}) == 1
    assert api.count() == 1


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
def test_a_malformed_key_is_refused(one: Api, key: str) -> None:
    assert pointers(one.post(BODY, Idempotency_Key=key)) == ["/Idempotency-Key"]
    assert one.count() == 0


# ------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"name": "a", "name": "a"}',
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b"[" * 100 + b"]" * 100,
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"'a'",
        b"{} {}",
        b'"\x01"',
    ],
)
def test_what_is_not_json_to_us_is_a_bad_request(one: Api, data: bytes) -> None:
    response = one.post(data)
    assert response.status_code == 400
    assert pointers(response) == [""]


@pytest.mark.parametrize(
    ("part", "pointer"),
    [
        ({"name": "\0"}, "/name"),
        ({"description": "\ud800"}, "/description"),
        ({"target": {"type": "http", "url": "https://a.example", "body": {"a/b~c": ["\0"]}}},
         "/target/body/a~1b~0c/0"),
        ({"target": {"type": "http", "url": "https://a.example", "body": {"\0": 1}}}, "/target/body/\0"),
        ({"target": {"type": "http", "url": "https://a.example", "body": 2**63}}, "/target/body"),
        ({"schedule": {"type": "interval", "every_seconds": 2**70}}, "/schedule/every_seconds"),
        ({"schedule": {"type": "cron", "cron": "61 * * * *"}}, "/schedule/cron"),
        ({"schedule": {"type": "cron", "cron": "0 0 30 2 *"}}, "/schedule/cron"),
        ({"schedule": {"type": "cron", "cron": "* * * * *", "timezone": "Nowhere"}}, "/schedule/timezone"),
        ({"schedule": {"type": "cron", "cron": "* * * * *", "max_runs": 0}}, "/schedule/max_runs"),
        ({"schedule": {"type": "once", "at": "2001-01-01T00:00:00Z"}}, "/schedule/at"),
        ({"schedule": {"type": "weekly"}}, "/schedule/type"),
        ({"schedule": {}}, "/schedule/type"),
        ({"schedule": None}, "/schedule"),
        ({"target": {"type": "http", "url": "http://127.0.0.1/"}}, "/target/url"),
        ({"target": {"type": "http", "url": "https://a.example", "headers": {"Host": "x"}}},
         "/target/headers/Host"),
        ({"target": {"type": "http", "url": "https://a.example", "secret": ""}}, "/target/secret"),
        ({"target": {"type": "http", "url": "https://a.example", "secret": "x" * 257}}, "/target/secret"),
        ({"schedule": {"type": "manual", "max_runs": 1}}, "/schedule/max_runs"),
        ({"target": {"type": "celery", "task": "os.system"}}, "/target/task"),
        ({"target": {"type": "celery", "task": "examples.tasks.add", "queue": "celery"}}, "/target/queue"),
        ({"policy": {"timeout_seconds": 3601}}, "/policy/timeout_seconds"),
        ({"policy": {"overlap": "ALLOW"}}, "/policy/overlap"),
        ({"retry": {"max_attempts": True}}, "/retry/max_attempts"),
        ({"retry": {"max_attempts": 1.5}}, "/retry/max_attempts"),
        ({"tags": ["a", "a"]}, "/tags"),
        ({"tags": ["x" * 51]}, "/tags/0"),
        ({"name": "0194e8a0-0000-7000-8000-000000000000"}, "/name"),
        ({"name": "a/b"}, "/name"),
        ({"name": "x" * 101}, "/name"),
        ({"Name": "x"}, "/Name"),
        ({"policy": {"x~/": 1}}, "/policy/x~0~1"),
    ],
)  # fmt: skip
def test_what_breaks_the_rules_is_pointed_at(one: Api, part: dict[str, Any], pointer: str) -> None:
    response = one.post(BODY | part)
    assert response.status_code == 422
    assert pointers(response) == [pointer]
    assert one.count() == 0
    assert one.hints == 0


def test_numbers_out_of_range_and_missing_members_are_pointed_at(one: Api) -> None:
    response = one.post(b'{"name": 1e999, "x": ' + b"9" * 5000 + b"}")
    assert (response.status_code, pointers(response)) == (422, ["/name", "/x"])
    assert pointers(one.post({})) == ["/name", "/schedule", "/target"]
    assert pointers(one.post([])) == [""]


class Unreadable(BytesIO):
    """A body whose chunks a server cannot read."""

    def readinto(self, _: Any) -> int:
        raise RuntimeError("Invalid chunk size: b'ZZ'")


@pytest.mark.parametrize(
    ("stream", "environ"),
    [
        (Unreadable(), {"HTTP_TRANSFER_ENCODING": "chunked"}),
        (BytesIO(json.dumps(BODY).encode()), {"CONTENT_LENGTH": "5000"}),
        (BytesIO(), {"CONTENT_LENGTH": "1"}),
    ],
)
def test_a_body_that_does_not_come_whole_is_a_bad_request(
    one: Api, stream: BytesIO, environ: dict[str, Any]
) -> None:
    response = one.client.post(
        "/triggers",
        headers=AUTHORIZATION | {"Content-Type": "application/json"},
        input_stream=stream,
        environ_overrides={"wsgi.input_terminated": True} | environ,
    )
    assert (response.status_code, pointers(response)) == (400, [""])
    assert one.count() == 0


def test_a_body_may_have_64_kib_and_not_more(one: Api) -> None:
    small = json.dumps(BODY).encode()
    assert one.post(small.ljust(65_536)).status_code == 201
    assert one.post(small.ljust(65_537)).status_code == 413
    chunked = one.client.post(
        "/triggers",
        headers=AUTHORIZATION | {"Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        input_stream=BytesIO(small.ljust(65_537)),
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert chunked.status_code == 413
    assert pointers(chunked) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/problem+json"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json; version=1"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_only_json_in_utf_8_is_taken(one: Api, headers: dict[str, str]) -> None:
    response = one.post(BODY, **headers)
    assert (response.status_code, pointers(response)) == (415, [])


@pytest.mark.parametrize("content_type", ["Application/JSON", 'application/json;charset="UTF-8"'])
def test_json_may_be_spelled_out(one: Api, content_type: str) -> None:
    assert one.post(BODY, Content_Type=content_type).status_code == 201


# -------------------------------------------------------------------------------- token, paths, query


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"],
)
@pytest.mark.parametrize("path", ["/triggers", "/openapi.json", "/none", "/events/x"])
def test_every_path_needs_the_token(one: Api, header: str | None, path: str) -> None:
    response = one.client.get(path, headers={} if header is None else {"Authorization": header})
    assert (response.status_code, pointers(response)) == (401, [])
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="triggerbeat"'


def test_the_probes_need_no_token_and_the_scheme_has_no_case(one: Api) -> None:
    assert one.client.get("/healthz").get_json() == {"status": "ok"}
    assert one.client.get("/readyz").get_json() == {"status": "ok"}
    assert one.client.get("/triggers", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    "path",
    ["/triggers", "/triggers/t", "/triggers/t/events", "/events", "/events/x", "/healthz", "/openapi.json"],
)
def test_other_methods_are_not_allowed(one: Api, method: str, path: str) -> None:
    response = one.client.open(path, method=method, headers=AUTHORIZATION)
    assert (response.status_code, pointers(response)) == (405, [])
    assert "GET" in response.headers["Allow"]
    assert "`Allow`" in response.get_json(force=True)["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/triggers/",
        "/triggers/none",
        "/triggers/%00",
        "/triggers/%ff",
        "/triggers/none/events",
        "/triggers/t/none",
        "/triggers//events",
        "/events/none",
        "/events/0194e8a0-0000-7000-8000-000000000000",
        "/triggers/0194e8a0-0000-7000-8000-000000000000",
    ],
)
def test_what_is_not_there_is_not_found(api: Api, path: str) -> None:
    response = api.get(path)
    assert (response.status_code, pointers(response)) == (404, [])


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/triggers?x=1", "/x"),
        ("/triggers?limit=0", "/limit"),
        ("/triggers?limit=501", "/limit"),
        ("/triggers?limit=", "/limit"),
        ("/triggers?limit=%C2%B2", "/limit"),
        ("/triggers?limit=99999999999999999999", "/limit"),
        ("/triggers?limit=1&limit=2", "/limit"),
        ("/triggers?state=archived", "/state"),
        ("/triggers?tag=%00", "/tag"),
        ("/triggers?tag=%ff", "/tag"),
        ("/triggers?limit=1&%ff=1", "/\N{REPLACEMENT CHARACTER}"),
        ("/triggers?cursor=x", "/cursor"),
        ("/triggers?cursor=%F0%9F%98%80", "/cursor"),
        ("/triggers?cursor=W10", "/cursor"),
        ("/events?status=done", "/status"),
        ("/events?state=paused", "/state"),
        ("/events?since=yesterday", "/since"),
        ("/events?since=2026-11-20T00:00:00", "/since"),
        ("/events?until=0001-01-01T00:00:00%2B23:00", "/until"),
        ("/events?tag=x", "/tag"),
        ("/events?cursor=WyIyMDI2LTExLTIwVDAwOjAwOjAwWiJd", "/cursor"),
        ("/triggers/t?limit=1", "/limit"),
        ("/events/x?x~/y=", "/x~0~1y"),
        ("/openapi.json?x", "/x"),
    ],
)
def test_a_wrong_query_is_pointed_at(one: Api, path: str, pointer: str) -> None:
    one.post(BODY)
    response = one.get(path)
    assert (response.status_code, pointers(response)) == (422, [pointer])


def test_bytes_in_the_query_that_are_not_utf_8_are_refused(one: Api) -> None:
    raw = b"tag=\xff".decode("latin-1")  # as a server puts it into the environment
    response = one.client.get("/triggers", headers=AUTHORIZATION, environ_overrides={"QUERY_STRING": raw})
    assert (response.status_code, pointers(response)) == (422, ["/tag"])


def test_no_path_is_told_in_our_own_words(one: Api) -> None:
    assert one.get("/none").get_json(force=True)["detail"] == "there is nothing at this path"


def test_head_answers_like_get(one: Api) -> None:
    response = one.client.head("/triggers", headers=AUTHORIZATION)
    assert (response.status_code, response.data) == (200, b"")


# ------------------------------------------------------------------------------------ pages and events


def test_pages_of_triggers_end(api: Api) -> None:
    for name in "abcde":
        tags = ["x"] if name in "ace" else []
        api.post(BODY | {"name": name, "tags": tags})
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = api.get(f"/triggers?limit=2{cursor and '&cursor=' + cursor}").get_json()
        seen += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == list("abcde")
    tagged = api.get("/triggers?tag=x&state=active").get_json()
    assert [item["name"] for item in tagged["items"]] == ["a", "c", "e"]
    assert tagged["next_cursor"] is None
    assert api.get("/triggers?state=paused").get_json()["items"] == []


def test_events_are_answered(api: Api) -> None:
    api.post(BODY | {"schedule": {"type": "manual"}})
    with api.database.write() as connection:
        fired = manage.fire(connection, "t", api.database.now)
    read = api.get(f"/events/{fired.event_id}").get_json()
    assert read["attempts"] == []
    assert (read["trigger_name"], read["source"], read["status"]) == ("t", "manual", "pending")
    del read["attempts"]
    at = read["scheduled_for"]
    for path in (
        "/events",
        "/triggers/t/events",
        "/events?status=pending&state=active",
        f"/events?since={at}",
        f"/events?since={at.replace('Z', '+00:00')}",
    ):
        assert api.get(path).get_json() == {"items": [read], "next_cursor": None}, path
    for path in ("/events?status=failed", f"/events?until={at}"):
        assert api.get(path).get_json()["items"] == [], path
    assert api.get("/triggers/t").get_json()["next_fire_at"] == at


def test_the_events_of_a_deleted_trigger_are_there_by_its_id(api: Api) -> None:
    trigger_id = api.post(BODY | {"schedule": {"type": "manual"}}).get_json()["id"]
    with api.database.write() as connection:
        fired = manage.fire(connection, "t", api.database.now)
        manage.delete(connection, "t", api.database.now)
    page = api.get(f"/triggers/{trigger_id.upper()}/events").get_json()
    assert [item["id"] for item in page["items"]] == [fired.event_id]
    for path in ("/triggers/t/events", f"/triggers/{trigger_id}", "/triggers/t"):
        assert api.get(path).status_code == 404, path


# -------------------------------------------------------------------------------------------- health


def test_ready_until_three_ticks_are_missing(api: Api) -> None:
    def tick(ago: float) -> None:
        with api.database.write() as connection:
            at = api.database.now(connection) - timedelta(seconds=ago)
            connection.execute(text("DELETE FROM nodes"))
            connection.execute(
                insert(Node).values(
                    name="n", last_tick_at=at, took_seconds=0, planned=0, clock_skew_seconds=0, tzdata="x"
                )
            )

    tick(170)
    assert api.client.get("/readyz").status_code == 200
    tick(190)
    response = api.client.get("/readyz")
    assert response.status_code == 503
    assert "no tick" in response.get_json(force=True)["detail"]
    assert int(response.headers["Retry-After"]) > 0
    assert api.client.get("/healthz").status_code == 200


def test_without_any_tick_the_endpoints_own_life_counts(one: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    assert one.client.get("/readyz").status_code == 200
    monkeypatch.setattr("triggers.api.health.time.monotonic", lambda: started + 200)
    assert one.client.get("/readyz").status_code == 503


def test_not_ready_without_migrations(empty_database_url: str) -> None:
    api = Api(empty_database_url)
    response = api.client.get("/readyz")
    assert response.status_code == 503
    assert "migrat" in response.get_json(force=True)["detail"]
    for answer in (api.get("/triggers"), api.post(BODY)):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
    api.database.close()


def test_a_database_that_is_away_is_unavailable(private_postgres: Any) -> None:
    from models.database import migrate

    url = private_postgres.url(private_postgres.create_database())
    migrate(url)
    api = Api(url)
    assert api.post(BODY).status_code == 201
    private_postgres.stop()
    for answer in (api.get("/triggers"), api.post(BODY | {"name": "u"}), api.client.get("/readyz")):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert answer.content_type == "application/problem+json"
    assert api.client.get("/healthz").status_code == 200
    private_postgres.start()
    assert api.get("/triggers/t").status_code == 200
    assert api.get("/triggers/u").status_code == 404
    api.database.close()


def test_a_pool_without_a_free_connection_is_unavailable(one: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise sqlalchemy.exc.TimeoutError("QueuePool limit")

    monkeypatch.setattr(one.database, "read", full)
    for path in ("/triggers", "/readyz"):
        assert one.get(path).status_code == 503


@pytest.mark.slow
def test_a_lock_that_is_not_had_is_unavailable(api: Api) -> None:
    other = Database(str(api.settings.database_url))
    with other.write() as connection:
        if other.is_postgres:
            connection.execute(text("LOCK TABLE triggers IN ACCESS EXCLUSIVE MODE"))
        answer = api.post(BODY)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    other.close()
    assert api.count() == 0


# --------------------------------------------------------------------------------------------- start


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({}, "ADMIN_TOKEN"),
        ({"TICK_SECONDS": "x", "ADMIN_TOKEN": "t"}, "TICK_SECONDS"),
        ({"DATABASE_URL": "sqlite:///t.db?timeout=soon", "ADMIN_TOKEN": "t"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://localhost/t?plugin=none", "ADMIN_TOKEN": "t"}, "DATABASE_URL"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    tmp_path: Path, environment: dict[str, str], word: str
) -> None:
    command = [sys.executable, "-m", "flask", "--app", "triggers.api", "run", "--port", "0"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""} | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 3
    (line,) = ended.stderr.strip().splitlines()
    assert word in line


def test_the_openapi_document_says_the_limits(one: Api) -> None:
    schemas = one.get("/openapi.json").get_json()["components"]["schemas"]
    (name,) = [name for name in schemas if name.startswith("HttpTarget") and not name.endswith("Answer")]
    target = schemas[name]["properties"]
    assert target["url"]["maxLength"] == 2048
    assert target["headers"]["maxProperties"] == 50
    assert target["headers"]["additionalProperties"]["maxLength"] == 8192
    assert target["secret"]["anyOf"][0]["maxLength"] == 3509
    (given,) = [schemas[name] for name in schemas if name.startswith("TriggerDocument")]
    assert given["properties"]["tags"]["maxItems"] == 20
    assert given["properties"]["tags"]["items"]["maxLength"] == 50


def test_the_openapi_document_says_3_1(one: Api) -> None:
    document = one.get("/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/triggers",
        "/triggers:bulk",
        "/triggers/{ref}",
        "/triggers/{ref}/events",
        "/events",
        "/events/{event_id}",
        "/openapi.json",
        "/healthz",
        "/readyz",
    }
