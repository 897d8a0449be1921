"""Many triggers in one request, and many requests in one transaction."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from models.database import Database
from tests.integration import test_api
from tests.integration.test_api import BODY, Api, pointers
from tests.servers import wait_until
from triggers import manage
from triggers.api import intake

BULK = "/triggers:bulk"
DRY = BULK + "?dry_run=true"


api = test_api.api
one = test_api.one


def many(*names: str, **parts: Any) -> list[dict[str, Any]]:
    return [BODY | {"name": name} | parts for name in names]


def rows(api: Api, table: str) -> int:
    with api.database.read() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def names(response: TestResponse) -> list[str]:
    return [item["name"] for item in response.get_json()["items"]]


SECRET = "s" * 24
HOOK = {"type": "http", "url": "https://hooks.example.org/x", "secret": SECRET, "body": [2.0, "ü", None]}
MIXED: list[dict[str, Any]] = [
    BODY | {"name": "z", "tags": ["x"], "description": "d"},
    BODY | {"name": "a", "schedule": {"type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}},
    BODY | {"name": "m", "schedule": {"type": "manual"}, "target": HOOK},
    BODY | {"name": "b", "schedule": {"type": "once", "at": "now"}, "policy": {"overlap": "skip"}},
    BODY | {"name": "j", "schedule": {"type": "interval", "every_seconds": 60, "jitter_seconds": 9}},
    BODY | {"name": "l", "schedule": {"type": "interval", "every_seconds": 60, "max_runs": 2}},
]


def test_all_are_created_in_order_and_read_back_as_answered(api: Api) -> None:
    response = api.post(MIXED, BULK)
    assert response.status_code == 201, response.text
    assert "Location" not in response.headers
    page = response.get_json()
    assert page["next_cursor"] is None
    assert names(response) == [body["name"] for body in MIXED]
    for item in page["items"]:
        assert api.get(f"/triggers/{item['id']}").get_json() == item
    assert [item["name"] for item in api.get("/triggers").get_json()["items"]] == names(response)
    assert [len(item["next_occurrences"]) for item in page["items"]] == [5, 5, 0, 1, 5, 2]
    assert "jump over 02:30" in page["items"][1]["warnings"][0]
    assert SECRET not in response.text
    assert api.hints == 1  # for all of them together


def test_each_has_its_change_on_record_as_a_single_create_has(api: Api) -> None:
    assert api.post(MIXED[0] | {"name": "single"}).status_code == 201
    assert api.post(MIXED[:1], BULK).status_code == 201
    with api.database.read() as connection:
        single, bulk = connection.execute(
            text(
                "SELECT c.change, c.state, CAST(c.schedule AS text), CAST(c.policy AS text), c.planned_count,"
                " c.tzdata, c.effective_at = t.planned_until, c.anchor = t.anchor"
                " FROM trigger_changes c JOIN triggers t ON t.id = c.trigger_id ORDER BY c.id"
            )
        ).all()
    assert single == bulk
    assert bulk[0] == "created"
    assert all(bulk[6:])


def test_one_that_is_wrong_keeps_all_out_and_all_that_is_wrong_is_said(api: Api) -> None:
    body: list[Any] = many(*(f"t{n}" for n in range(20)))
    body[17]["schedule"] = {"type": "cron", "cron": "61 * * * *"}
    body[3]["target"] = {"type": "log", "x": 1}
    body[5] = body[5] | {"retry": {"max_attempts": 0}, "name": "?"}
    body[9] = 7
    body[12]["description"] = "\0"
    response = api.post(body, BULK)
    assert response.status_code == 422
    expected = [
        "/3/target/x",
        "/5/name",
        "/5/retry/max_attempts",
        "/9",
        "/12/description",
        "/17/schedule/cron",
    ]
    assert pointers(response) == expected
    assert (rows(api, "triggers"), rows(api, "trigger_changes"), api.hints) == (0, 0, 0)


def test_what_is_said_has_an_end(one: Api) -> None:
    response = one.post([{"x": 1}] * 1000, BULK)
    assert (response.status_code, len(pointers(response))) == (422, 1000)


def test_a_name_that_comes_twice_is_a_mistake_of_the_body(api: Api) -> None:
    api.post(BODY | {"name": "c"})
    response = api.post(many("a", "b", "a", "c", "b", "a"), BULK)
    assert (response.status_code, pointers(response)) == (422, ["/2/name", "/4/name", "/5/name"])
    assert api.count() == 1


@pytest.mark.parametrize("path", [BULK, DRY])
def test_names_in_use_are_a_conflict(api: Api, path: str) -> None:
    for name in ("d", "b"):
        api.post(BODY | {"name": name})
    response = api.post(many("a", "b", "c", "d"), path)
    assert (response.status_code, pointers(response)) == (409, ["/1/name", "/3/name"])
    assert (rows(api, "triggers"), rows(api, "trigger_changes")) == (2, 2)
    with api.database.write() as connection:
        manage.delete(connection, "b", api.database.now)
        manage.delete(connection, "d", api.database.now)
    assert api.post(many("a", "b", "c", "d"), BULK).status_code == 201


@pytest.mark.parametrize("body", [{}, None, "x", 1, BODY, [], many("a") * 1001])
def test_only_an_array_of_1_to_1000_is_taken(one: Api, body: Any) -> None:
    response = one.post(body, BULK)
    assert (response.status_code, pointers(response)) == (422, [""])
    assert one.count() == 0


def test_a_thousand_are_taken(api: Api) -> None:
    response = api.post(many(*(f"t{n}" for n in range(1000)), schedule={"type": "manual"}), BULK)
    assert response.status_code == 201
    assert names(response) == [f"t{n}" for n in range(1000)]
    assert (rows(api, "triggers"), rows(api, "trigger_changes"), api.hints) == (1000, 1000, 0)


def test_a_body_may_have_1_mib_and_not_more(one: Api) -> None:
    filled = [BODY | {"name": f"t{n}", "description": "x" * 9_900} for n in range(100)]
    body = json.dumps(filled).encode()
    room = 1024 * 1024 - len(body)
    assert one.post(body + b" " * room, DRY).status_code == 200
    assert one.post(body + b" " * (room + 1), DRY).status_code == 413
    assert one.post(b" " * (64 * 1024 + 1), "/triggers").status_code == 413


def test_a_thousand_bodies_may_have_many_values(one: Api) -> None:
    """More in all than one document may have."""
    target = {"type": "http", "url": "https://example.org/", "body": [0] * 400}
    assert one.post(many(*(f"t{n}" for n in range(500)), target=target), BULK).status_code == 201


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 400), (b"[", 400), (b"[NaN]", 400), (b'[{"a":1,"a":2}]', 400), (b"[" * 70 + b"]" * 70, 400)],
)
def test_it_is_read_as_strictly_as_one(one: Api, data: bytes, status: int) -> None:
    assert one.post(data, BULK).status_code == status
    assert one.post(many("a"), BULK, Content_Type="text/plain").status_code == 415
    assert one.client.post(BULK, json=many("a")).status_code == 401
    assert one.get(BULK).status_code == 405
    assert pointers(one.post(many("a"), BULK + "?x=1")) == ["/x"]


def test_a_dry_run_answers_the_same_and_stores_nothing(api: Api) -> None:
    response = api.post(MIXED, DRY, Idempotency_Key="k")
    assert (response.status_code, names(response)) == (200, [body["name"] for body in MIXED])
    assert [len(item["next_occurrences"]) for item in response.get_json()["items"]] == [5, 5, 0, 1, 5, 2]
    assert (rows(api, "triggers"), rows(api, "trigger_changes"), rows(api, "idempotency_keys")) == (0, 0, 0)
    assert api.hints == 0


def test_the_same_key_and_body_give_the_same_triggers(api: Api) -> None:
    first = api.post(MIXED, BULK, Idempotency_Key="k")
    again = api.post(MIXED, BULK, Idempotency_Key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.get_json() == first.get_json()
    assert api.post(MIXED[::-1], BULK, Idempotency_Key="k").status_code == 409
    assert api.post(MIXED[0], Idempotency_Key="k").status_code == 409
    assert api.count() == len(MIXED)
    with api.database.write() as connection:
        manage.delete(connection, MIXED[2]["name"], api.database.now)
    assert api.post(MIXED, BULK, Idempotency_Key="k").status_code == 409


def test_many_at_once_with_one_key_create_once(api: Api) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api.post(MIXED, BULK, Idempotency_Key="k"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert api.count() == len(MIXED)


def test_names_are_taken_in_one_order_whatever_that_of_the_array(postgres_url: str) -> None:
    """Two arrays in opposite order would each hold what the other waits for."""
    api = Api(postgres_url)
    assert names(api.post(many("c", "a", "d", "b"), BULK)) == ["c", "a", "d", "b"]
    with api.database.read() as connection:
        stored = connection.execute(text("SELECT name FROM triggers ORDER BY ctid")).scalars().all()
    api.database.close()
    assert stored == ["a", "b", "c", "d"]


# ------------------------------------------------------------------- single creates at the same time


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many creates each transaction had."""
    found: list[int] = []
    together = intake.Intake._store_together

    def counted(self: intake.Intake, batch: Any) -> None:
        found.append(len(batch))
        together(self, batch)

    monkeypatch.setattr(intake.Intake, "_store_together", counted)
    return found


def post_behind_a_lock(
    api: Api, bodies: list[dict[str, Any]], until_answered: bool = False
) -> list[TestResponse]:
    """Creates of which the first waits for a lock while the others come."""
    other = Database(str(api.settings.database_url))
    with ThreadPoolExecutor(len(bodies)) as pool:
        with other.write() as connection:
            if other.is_postgres:
                connection.execute(text("LOCK TABLE triggers IN SHARE ROW EXCLUSIVE MODE"))
            found = [pool.submit(api.post, body) for body in bodies]
            gathered = api.app.extensions["intake"]
            wait_until(
                lambda: len(gathered._waiting) == len(bodies) - 1,
                4,
                "all but the first wait for their turn",
            )
            if until_answered:
                wait([*found])
        answers = [one.result() for one in found]
    other.close()
    return answers


def test_creates_that_come_at_the_same_time_share_a_transaction(api: Api, batches: list[int]) -> None:
    api.post(BODY | {"name": "warm"})
    batches.clear()
    bodies = [BODY | {"name": name} for name in ("a", "b", "warm", "c", "c", "d")]
    answers = post_behind_a_lock(api, bodies)
    assert sum(batches) == 6
    assert len(batches) == 2
    assert [answers[n].status_code for n in (0, 1, 2, 5)] == [201, 201, 409, 201]
    assert sorted(answers[n].status_code for n in (3, 4)) == [201, 409]
    assert pointers(answers[2]) == ["/name"]
    assert [answer.get_json()["name"] for answer in answers if answer.status_code == 201] == [
        "a",
        "b",
        "c",
        "d",
    ]
    assert api.count() == 5


def test_a_lock_that_is_not_had_fails_all_who_wait_for_it(api: Api, batches: list[int]) -> None:
    """At once: tried one after the other, each would wait for it anew."""
    api.post(BODY | {"name": "warm"})
    batches.clear()
    found = post_behind_a_lock(api, [BODY | {"name": f"t{n}"} for n in range(4)], until_answered=True)
    assert [answer.status_code for answer in found] == [503] * 4
    assert batches == [1]
    assert api.post(BODY).status_code == 201
    assert api.count() == 2
