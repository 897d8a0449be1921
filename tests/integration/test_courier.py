"""A real courier on both databases, with a sink to deliver to and the clock of the wall."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import Any

import pytest
from sqlalchemy import insert, text, update

import models.database
from models import Attempt, Event, Trigger
from models.base import new_id
from models.database import Database, migrate
from tests.integration import test_tick
from tests.integration.test_tick import LOG, TASK, TZDATA, World, seconds
from tests.servers import PostgreSQL, wait_until
from tests.sink import Received, Sink
from triggers import calls, lanes, manage, tick
from triggers import courier as couriers
from triggers.calls import PER_HOST
from triggers.courier import Courier
from triggers.deliver import LEASE_MARGIN
from triggers.lanes import Batch
from triggers.store import plan
from triggers.store.delivery import Call, Job
from triggers.tick import Hint

reused_postgres_url = test_tick.reused_postgres_url
emptied_postgres_url = test_tick.emptied_postgres_url

MANUAL = {"type": "manual"}
SOON = 0.6  # seconds ahead: time enough to plan and to hand over before the instant


@contextmanager
def running_sink() -> Iterator[Sink]:
    """A sink on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sink")
    thread.start()
    made = Sink()
    asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(10)
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def dismiss(courier: Courier) -> None:
    """Stop, and wait also for statements that nobody waits for any more: they hold connections."""
    courier.stop(0)
    courier._threads.shutdown(wait=True)


class Post:
    """A database with triggers and events, a sink, and couriers that deliver between them."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.world = World(url, live=True)
        stack.callback(self.world.close)
        self.stack = stack
        self.sink = stack.enter_context(running_sink())
        self.handed_back: list[Hint] = []
        self.published: list[Job] = []
        self.courier = self.hire(self.world.connect())

    def hire(self, database: Database) -> Courier:
        """A courier at work."""
        made = Courier(
            database,
            publish=self.publish,
            hand_back=self.hand_back,
            allow_private=True,
            wall_clock=time.time,
            tzdata=TZDATA,
        )
        made.start()
        self.stack.callback(dismiss, made)
        return made

    def publish(self, jobs: Sequence[Job], late: bool) -> None:
        self.published += jobs

    def hand_back(self, hints: Sequence[Hint]) -> bool:
        self.handed_back += hints
        return True

    # Triggers and events

    def target(self, path: str, **parts: Any) -> dict[str, Any]:
        return {"type": "http", "url": self.sink.url(path)} | parts

    def create(self, name: str, target: Any, ahead: float | None = None, **parts: Any) -> None:
        """A trigger that fires once, so many seconds from now, or only when told to."""
        schedule: dict[str, Any] = MANUAL
        if ahead is not None:
            schedule = {"type": "once", "at": (datetime.now(UTC) + seconds(ahead)).isoformat()}
        self.world.create(name, schedule, target, **parts)

    def add(self, name: str, count: int, kind: str = "http") -> list[Hint]:
        """So many manual events of a trigger, due now."""
        now, trigger_id = datetime.now(UTC), self.world.trigger(name).id
        instants = dict.fromkeys(("scheduled_for", "fire_at", "due_at", "created_at"), now)
        fixed = {"trigger_id": trigger_id, "source": "manual", "status": "pending", "state": "active"}
        rows = [{"id": new_id(now), "recheck_at": now, **fixed, **instants} for _ in range(count)]
        with self.world.database.write() as connection:
            connection.execute(insert(Event), rows)
        return [Hint(row["id"], now, kind, name) for row in rows]

    def tick(self) -> None:
        """Plan, and hand what is planned to the courier as a broker would."""
        tick.execute_scheduled_triggers(self.world.database, self.carry, seconds(90), TZDATA)

    def carry(self, hints: Sequence[Hint], by: Courier | None = None, backlog: bool = False) -> bool:
        """Bring hints to a courier, each kind in a message of its own."""
        courier = by or self.courier
        submit = courier.submit_backlog if backlog else courier.submit
        for kind in sorted({hint.kind for hint in hints}):
            message = [hint for hint in hints if hint.kind == kind]
            batch = [(hint.event_id, hint.due_at) for hint in message]
            submit(kind, batch, partial(self.put_back, message))
        return True

    def put_back(self, message: Sequence[Hint], events: Batch) -> bool:
        """Some of a message's events come back."""
        ids = {id_ for id_, _ in events}
        return self.hand_back([hint for hint in message if hint.event_id in ids])

    def carry_backlog(self, hints: Sequence[Hint]) -> bool:
        """The same, as from the backlog's queue."""
        return self.carry(hints, backlog=True)

    # What came of it

    def events(self, name: str) -> list[Any]:
        trigger_id = self.world.trigger(name).id
        return [event for event in self.world.events() if event.trigger_id == trigger_id]

    def counts(self, name: str) -> Counter[str]:
        return Counter(event.status for event in self.events(name))

    def wait_for(self, name: str, deadline: float = 15.0, **expected: int) -> None:
        """Wait until the events of a trigger are so many of each status, and no others."""
        wait_until(
            lambda: self.counts(name) == expected,
            deadline,
            lambda: f"{expected} of {name}, which has {self.counts(name)}",
        )

    def delivered(self) -> Counter[str]:
        """How often each event was delivered."""
        return Counter(request.headers["webhook-id"] for request in self.sink.requests)

    def requests(self, path: str) -> list[Received]:
        return [request for request in self.sink.requests if request.target == path]

    def wait_for_requests(self, path: str, count: int, deadline: float = 15.0) -> None:
        wait_until(
            lambda: len(self.requests(path)) >= count,
            deadline,
            lambda: f"{count} requests for {path}, of which {len(self.requests(path))} came",
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def post(request: pytest.FixtureRequest) -> Iterator[Post]:
    fixture = {"sqlite": "sqlite_url", "postgresql": "emptied_postgres_url"}[request.param]
    with ExitStack() as stack:
        yield Post(request.getfixturevalue(fixture), stack)


@pytest.fixture
def postgres_post(emptied_postgres_url: str) -> Iterator[Post]:
    with ExitStack() as stack:
        yield Post(emptied_postgres_url, stack)


# ----------------------------------------------------------------------------------------- delivery


def test_a_call_is_made_and_its_answer_recorded(post: Post) -> None:
    target = post.target(
        "/status/201", method="PUT", body={"day": "{{scheduled_for}}"}, headers={"X-Env": "prod"}
    )
    post.create("t", target, ahead=SOON)
    post.tick()
    post.wait_for("t", succeeded=1)
    (event,) = post.events("t")
    assert (event.attempt, event.result["status"]) == (1, 201)
    (request,) = post.sink.requests
    assert (request.method, request.headers["x-env"]) == ("PUT", "prod")
    assert request.headers["webhook-id"] == request.headers["idempotency-key"] == event.id
    assert request.headers["triggerbeat-attempt"] == "1"
    instant = event.scheduled_for.isoformat().replace("+00:00", "Z")
    assert request.body == f'{{"day":"{instant}"}}'


def test_a_message_is_logged(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "triggerbeat")
    post.create(
        "t", {"type": "log", "message": "hello from {{trigger_name}}, attempt {{attempt}}"}, ahead=SOON
    )
    post.tick()
    post.wait_for("t", succeeded=1)
    wait_until(lambda: "succeeded trigger=t" in caplog.text, message="the log line of the end")
    said = [record.getMessage() for record in caplog.records if record.name == "triggerbeat.message"]
    assert len(said) == 1
    assert 'message="hello from t, attempt 1"' in said[0]
    steps = [r.getMessage().split()[0] for r in caplog.records if r.name == "triggerbeat.event"]
    assert steps == ["started", "succeeded"]


def test_a_users_task_is_published_to_its_queue_at_its_instant(post: Post) -> None:
    target = {"type": "celery", "task": "examples.tasks.add", "args": [1, 2]}
    post.create("t", target, ahead=SOON)
    post.tick()
    assert post.published == []
    wait_until(lambda: post.published, message="the task is published")
    (job,) = post.published
    assert (job.name, job.target["args"]) == ("t", [1, 2])
    assert datetime.now(UTC) >= job.due_at
    assert post.counts("t") == {"pending": 1}


def test_a_broker_that_is_away_stops_no_later_task(post: Post) -> None:
    def broken(jobs: Sequence[Job], late: bool) -> None:
        post.courier.publish = post.publish
        raise ConnectionError("no broker")

    target = {"type": "celery", "task": "examples.tasks.add", "args": [1, 2]}
    post.courier.publish = broken
    for name in ("a", "b"):
        post.create(name, target)
    post.carry(post.add("a", 1, "celery"))
    wait_until(lambda: post.courier.publish == post.publish, message="the first could not be published")
    post.carry(post.add("b", 1, "celery"))
    wait_until(lambda: [job.name for job in post.published] == ["b"], message="the second is published")
    assert post.counts("a") == {"pending": 1}


# --------------------------------------------------------------------------------------- on time


@pytest.mark.parametrize("kind", ["log", "http"])
def test_events_start_on_their_instant_and_never_before(post: Post, kind: str) -> None:
    for number in range(20):
        target = LOG if kind == "log" else post.target("/status/200")
        post.create(f"t{number}", target, ahead=1.5 + number * 0.037)
    post.tick()
    assert {event.status for event in post.world.events()} == {"pending"}
    wait_until(lambda: {event.status for event in post.world.events()} == {"succeeded"}, message="all")
    late = [(event.started_at - event.due_at).total_seconds() for event in post.world.events()]
    assert min(late) >= 0
    assert median(late) < 0.1
    assert max(late) < 1.0


def test_no_call_arrives_before_its_instant(post: Post) -> None:
    for number in range(10):
        post.create(f"t{number}", post.target("/status/200"), ahead=1 + number * 0.0501)
    post.tick()
    post.wait_for_requests("/status/200", 10)
    due = {event.id: event.due_at.timestamp() for event in post.world.events()}
    assert all(request.time >= due[request.headers["webhook-id"]] for request in post.sink.requests)


@pytest.mark.parametrize("kind", ["log", "http"])
def test_the_databases_clock_decides_when_it_is_time(post: Post, kind: str) -> None:
    """It steps back after the courier measured it: what seems due is early, and waits for its instant."""
    skew = [0.0]
    database = Database(post.world.url, clock=lambda _: datetime.now(UTC) + seconds(skew[0]))
    post.stack.callback(database.close)
    other = post.hire(database)
    target = LOG if kind == "log" else post.target("/status/200")
    post.create("t", target, ahead=SOON)
    tick.execute_scheduled_triggers(
        post.world.database, lambda hints: post.carry(hints, other), seconds(90), TZDATA
    )
    skew[0] = -0.4
    post.wait_for("t", succeeded=1)
    (event,) = post.events("t")
    assert 0 <= (event.started_at - event.due_at).total_seconds() < 1
    assert datetime.now(UTC) >= event.due_at + seconds(0.4)


def test_a_call_is_looked_at_before_its_instant_and_then_only_started(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[str, datetime]] = []
    look = post.courier._look_for_calls

    def watched(ids: Sequence[str]) -> list[Call]:
        looked.extend((id_, datetime.now(UTC)) for id_ in ids if id_ != couriers.NOBODY)
        return look(ids)

    monkeypatch.setattr(post.courier, "_look_for_calls", watched)
    for number in range(5):
        post.create(f"t{number}", post.target("/status/200"), ahead=3 + number * 0.03)
    post.tick()
    wait_until(lambda: {event.status for event in post.world.events()} == {"succeeded"}, message="all")
    due = {event.id: event.due_at for event in post.world.events()}
    assert sorted(id_ for id_, _ in looked) == sorted(due)
    assert all(at < due[id_] for id_, at in looked)
    assert post.courier._foreseen == {}


def test_a_call_that_was_looked_at_is_not_made_when_its_trigger_was_deleted_since(post: Post) -> None:
    post.create("t", post.target("/status/200"), ahead=2.5)
    post.create("other", post.target("/status/200"), ahead=2.6)
    post.tick()
    wait_until(lambda: len(post.courier._foreseen) == 2, message="both are looked at")
    with post.world.database.write() as connection:
        manage.delete(connection, "t", lambda _: datetime.now(UTC))
    post.wait_for("other", succeeded=1)
    assert len(post.requests("/status/200")) == 1
    wait_until(lambda: len(post.courier._calls) == 0, message="nobody holds it any more")


def test_of_calls_of_one_instant_none_stays_behind_when_the_first_is_gone(post: Post) -> None:
    at = (datetime.now(UTC) + seconds(3)).isoformat()
    for name in ("a", "b", "c"):
        post.world.create(name, {"type": "once", "at": at}, post.target("/status/200"))
    post.tick()
    wait_until(lambda: post.courier._held, message="they are held")
    (held,) = [batch for _, _, batch in post.courier._held.values()]
    first = next(event for event in post.world.events() if event.id == held[0][0])
    with post.world.database.write() as connection:
        manage.delete(connection, first.trigger_id, lambda _: datetime.now(UTC))
    wait_until(lambda: len(post.courier._foreseen) == 2, message="the others are looked at")
    wait_until(lambda: len(post.requests("/status/200")) == 2, message="and made")
    assert post.courier._foreseen == {}


# --------------------------------------------------------------------------------------------- many


def test_many_calls_are_made_at_once(post: Post) -> None:
    """More than a statement takes, and more than one host gets at a time."""
    post.create("t", post.target("/slow/0.2"))
    hints = post.add("t", 600)
    began = time.monotonic()
    post.carry(hints)
    post.wait_for("t", 30, succeeded=600)
    assert time.monotonic() - began < 600 * 0.2 / 10
    assert post.delivered() == Counter(hint.event_id for hint in hints)


def test_many_messages_are_logged_at_once(post: Post) -> None:
    post.create("t", LOG)
    post.carry(post.add("t", 2000, "log"))
    post.wait_for("t", 20, succeeded=2000)


def test_messages_that_nobody_reads_complete_their_triggers(post: Post) -> None:
    """Those with nothing left to plan, in one batch with others that go on."""
    ahead = (datetime.now(UTC) + seconds(SOON)).isoformat()
    post.world.create("goes-on", {"type": "interval", "every_seconds": 3600, "start_time": ahead}, LOG)
    for number in range(20):
        post.create(f"last-{number}", LOG, ahead=SOON)
    post.tick()
    wait_until(lambda: "pending" not in {event.status for event in post.world.events()}, message="all ran")
    states = {row.name: row.state for row in post.world.rows(Trigger)}
    assert states.pop("goes-on") == "active"
    wait_until(
        lambda: {row.state for row in post.world.rows(Trigger) if row.name != "goes-on"} == {"completed"},
        message="all others are completed",
    )
    assert post.world.changes().count("completed") == 20


def test_a_thousand_calls_that_hang_delay_no_other_host(post: Post) -> None:
    other = post.stack.enter_context(running_sink())
    post.create("hanging", post.target("/hang"), policy={"timeout_seconds": 600})
    post.create("other", {"type": "http", "url": other.url("/status/200")})
    post.carry(post.add("hanging", 1000))
    post.wait_for_requests("/hang", PER_HOST)
    post.carry(post.add("other", 200))
    post.wait_for("other", 10, succeeded=200)
    assert post.counts("hanging") == {"running": PER_HOST, "pending": 1000 - PER_HOST}
    assert len(post.requests("/hang")) == PER_HOST


def test_calls_that_were_parked_are_made_when_others_end(post: Post) -> None:
    post.create("t", post.target("/slow/0.05"))
    post.carry(post.add("t", 3 * PER_HOST + 1))
    post.wait_for("t", succeeded=3 * PER_HOST + 1)


def test_so_many_calls_are_in_flight_in_all(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "IN_FLIGHT", 7)
    courier = post.hire(post.world.connect())
    hints: list[Hint] = []
    for number in range(3):
        sink = post.stack.enter_context(running_sink())
        post.create(f"t{number}", {"type": "http", "url": sink.url("/slow/0.2")})
        hints += post.add(f"t{number}", 10)
    post.carry(hints, courier)
    running: list[int] = []

    def all_done() -> bool:
        running.append(len(courier._calls.in_flight))
        return {event.status for event in post.world.events()} == {"succeeded"}

    wait_until(all_done, 20, "all calls are made")
    assert 3 < max(running) <= 7 + 2  # seven, and a first one for each of the others


def test_more_hanging_calls_than_may_be_in_flight_hold_up_no_other_host(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "IN_FLIGHT", 5)
    courier = post.hire(post.world.connect())
    other = post.stack.enter_context(running_sink())
    post.create("hanging", post.target("/hang"), policy={"timeout_seconds": 600})
    post.create("other", {"type": "http", "url": other.url("/status/200")})
    post.carry(post.add("hanging", 20), courier)
    post.wait_for_requests("/hang", 5)
    post.carry(post.add("other", 20), courier)
    post.wait_for("other", 10, succeeded=20)


def test_a_slow_target_delays_no_other_finish(post: Post) -> None:
    post.create("slow", post.target("/hang"), policy={"timeout_seconds": 600})
    post.create("quick", post.target("/status/200"))
    hints = [hint for pair in zip(post.add("slow", 20), post.add("quick", 20), strict=True) for hint in pair]
    post.carry(hints)
    post.wait_for("quick", succeeded=20)
    assert post.counts("slow") == {"running": 20}


def test_a_message_is_not_taken_while_enough_is_due_here(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the broker holds it for a worker that has room."""
    monkeypatch.setattr(couriers, "MOST_DUE", 10)
    monkeypatch.setattr(couriers, "ROOM_SECONDS", 20)
    gate, counts = threading.Event(), list[int]()
    write_logs, due_count = post.courier._write_logs, post.courier._due_count

    def counting(kind: str) -> int:
        counts.append(due_count(kind))
        return counts[-1]

    monkeypatch.setattr(post.courier, "_write_logs", lambda ids: gate.wait(20) and write_logs(ids))
    monkeypatch.setattr(post.courier, "_due_count", counting)
    post.create("t", LOG)
    post.carry(post.add("t", 1700, "log"))  # more than is written at once
    wait_until(lambda: 0 < len(post.courier._lanes["log"]) < 1700, message="the rest is due")
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(post.carry_backlog, post.add("t", 300, "log"))
        wait_until(lambda: counts and counts[-1] >= 10, message="the next message has to wait")
        assert not taking.done()
        gate.set()
        taking.result(20)
    post.wait_for("t", 20, succeeded=2000)


def test_all_messages_that_wait_for_room_find_it_one_after_the_other(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = held_up(post, monkeypatch, room_seconds=60)
    messages = [post.add("t", 20, "log") for _ in range(5)] + [post.add("t", 1, "log")]
    with ThreadPoolExecutor(6) as pool:
        taking = [pool.submit(post.carry_backlog, message) for message in messages]
        gate.set()
        for one in taking:
            one.result(20)
    post.wait_for("t", 20, succeeded=1801)


def held_up(post: Post, monkeypatch: pytest.MonkeyPatch, room_seconds: float = 0.05) -> threading.Event:
    """A courier with enough to do, until the gate is opened."""
    monkeypatch.setattr(couriers, "MOST_DUE", 10)
    monkeypatch.setattr(couriers, "ROOM_SECONDS", room_seconds)
    gate, write_logs = threading.Event(), post.courier._write_logs
    monkeypatch.setattr(post.courier, "_write_logs", lambda ids: gate.wait(20) and write_logs(ids))
    post.create("t", LOG)
    post.carry(post.add("t", 1700, "log"))
    wait_until(lambda: 0 < len(post.courier._lanes["log"]) < 1700, message="the rest is due")
    return gate


def test_what_finds_no_room_goes_to_the_end_of_the_backlog(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind what is of another kind, maybe, for which there is room."""
    gate = held_up(post, monkeypatch)
    more = post.add("t", 30, "log")
    post.carry_backlog(more)
    assert sorted(post.handed_back) == sorted(more)
    gate.set()
    post.wait_for("t", 20, succeeded=1700, pending=30)
    post.carry_backlog(more)
    post.wait_for("t", 20, succeeded=1730)


def test_who_waits_for_room_goes_on_when_the_worker_is_to_end(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = held_up(post, monkeypatch, room_seconds=60)
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(post.carry_backlog, post.add("t", 30, "log"))
        post.courier.close()
        taking.result(20)
    assert post.handed_back == []
    gate.set()
    post.wait_for("t", 20, succeeded=1730)


def test_many_that_find_no_room_go_into_the_backlog_at_once(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is to wait behind them: few are taken, and what is due later."""
    gate = held_up(post, monkeypatch, room_seconds=60)
    many, few = post.add("t", 51, "log"), post.add("t", 50, "log")
    later = [hint._replace(due_at=hint.due_at + seconds(60)) for hint in post.add("t", 51, "log")]
    for message in (few, later, many + later[:1]):
        post.carry(message)
    assert sorted(post.handed_back) == sorted(many)
    gate.set()
    post.wait_for("t", 20, succeeded=1750, pending=102)


def test_many_late_tasks_that_wait_for_workers_keep_none_on_time_waiting(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few late ones go as those on time."""
    gate, sent = threading.Event(), list[tuple[int, bool]]()

    def publish(jobs: Sequence[Job], late: bool) -> None:
        sent.append((len(jobs), late))
        assert not late or gate.wait(20)

    monkeypatch.setattr(post.courier, "publish", publish)
    post.create("t", TASK)
    hints = post.add("t", 80, "celery")
    post.carry([hint._replace(due_at=hint.due_at - seconds(60)) for hint in hints])
    wait_until(lambda: sent == [(80, True)], message="the late ones wait")
    post.carry(post.add("t", 3, "celery"))
    wait_until(lambda: (3, False) in sent, message="those on time do not")
    gate.set()
    few = post.add("t", 4, "celery")
    post.carry([hint._replace(due_at=hint.due_at - seconds(60)) for hint in few])
    wait_until(lambda: (4, False) in sent, message="few go as others")


def test_what_the_broker_does_not_take_back_waits_here(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = held_up(post, monkeypatch)
    asked = threading.Event()

    def refuse(hints: Sequence[Hint]) -> bool:
        asked.set()
        return False

    monkeypatch.setattr(post, "hand_back", refuse)
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(post.carry_backlog, post.add("t", 30, "log"))
        assert asked.wait(10)
        assert not taking.done()
        gate.set()
        taking.result(20)
    post.wait_for("t", 20, succeeded=1730)


# ------------------------------------------------------------------------------------------ hints


def test_a_hint_that_comes_again_and_again_delivers_once(post: Post) -> None:
    post.create("t", post.target("/slow/0.3"))
    hints = post.add("t", 5)
    post.carry(hints * 3)
    post.carry(hints)
    post.wait_for_requests("/slow/0.3", 5)
    post.carry(hints)
    post.wait_for("t", succeeded=5)
    post.carry(hints)
    post.create("after", post.target("/status/200"))
    post.carry(post.add("after", 1))
    post.wait_for("after", succeeded=1)
    assert Counter(r.headers["webhook-id"] for r in post.requests("/slow/0.3")) == {
        h.event_id: 1 for h in hints
    }
    assert post.world.rows(Attempt) == []


def test_a_hint_that_two_workers_have_delivers_once(post: Post) -> None:
    others = [post.courier, post.hire(post.world.connect())]
    post.create("t", post.target("/status/200"))
    hints = post.add("t", 100)
    for one in others:
        post.carry(hints, one)
    post.wait_for("t", succeeded=100)
    assert post.delivered() == Counter(hint.event_id for hint in hints)


def test_a_hint_about_nothing_does_no_harm(post: Post) -> None:
    post.create("t", post.target("/status/200"))
    now = datetime.now(UTC)
    post.carry([Hint(new_id(now), now, kind, "") for kind in ("http", "log", "celery")])
    post.carry(post.add("t", 1))
    post.wait_for("t", succeeded=1)
    assert len(post.sink.requests) == 1


# ------------------------------------------------------------------------------------------ retries


def test_a_failed_call_is_made_again_without_a_tick(post: Post) -> None:
    retry = {"max_attempts": 2, "min_backoff_seconds": 1}
    post.create("t", post.target("/status/500"), retry=retry)
    post.carry(post.add("t", 1))
    post.wait_for("t", failed=1)
    (event,) = post.events("t")
    assert (event.reason, event.attempt, event.error["type"]) == ("attempts", 2, event.error["type"])
    first, second = post.sink.requests
    assert (first.headers["triggerbeat-attempt"], second.headers["triggerbeat-attempt"]) == ("1", "2")
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == event.id
    assert second.time - first.time >= 1
    assert [row.attempt for row in post.world.rows(Attempt)] == [1, 2]


def test_the_target_may_ask_for_a_longer_wait(post: Post) -> None:
    retry = {"max_attempts": 2, "min_backoff_seconds": 1, "max_backoff_seconds": 60}
    post.create("t", post.target("/retry-after/2"), retry=retry)
    post.carry(post.add("t", 1))
    post.wait_for("t", failed=1)
    first, second = post.sink.requests
    assert second.time - first.time >= 2


def test_a_target_that_is_gone_is_not_called_again(post: Post) -> None:
    post.create("t", post.target("/gone"))
    post.carry(post.add("t", 1))
    post.wait_for("t", failed=1)
    assert post.events("t")[0].reason == "gone"
    assert len(post.sink.requests) == 1


def test_a_call_that_hangs_ends_with_its_timeout(post: Post) -> None:
    post.create("t", post.target("/hang"), policy={"timeout_seconds": 1}, retry={"max_attempts": 1})
    post.carry(post.add("t", 1))
    post.wait_for("t", failed=1)
    (event,) = post.events("t")
    took = (event.finished_at - event.started_at).total_seconds()
    assert 0.99 <= took < 1 + LEASE_MARGIN.total_seconds()
    assert "1" in event.error["message"]


# ------------------------------------------------------------------------------------------ overlap


def as_planned(post: Post, hints: list[Hint]) -> None:
    """Make these events such as a schedule had planned, a second apart, the last one first."""
    with post.world.database.write() as connection:
        for number, hint in enumerate(hints):
            at = hint.due_at - seconds(number)
            connection.execute(
                Event.__table__.update()  # type: ignore[attr-defined]
                .where(Event.id == hint.event_id)
                .values(source="schedule", scheduled_for=at, fire_at=at, due_at=at)
            )


@pytest.mark.parametrize(
    "kind",
    ["http", "log"],
)
def test_what_is_queued_starts_when_the_other_ends(post: Post, kind: str) -> None:
    target = LOG if kind == "log" else post.target("/slow/0.3")
    post.create("t", target, policy={"overlap": "queue"})
    hints = post.add("t", 2, kind)
    as_planned(post, hints)
    post.carry(hints)
    post.wait_for("t", 3, succeeded=2)
    first, second = post.events("t")
    assert second.started_at >= first.finished_at


# -------------------------------------------------------------------------- the database goes away


def test_results_are_recorded_when_the_database_is_back(
    postgres_post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections die under the courier, again and again, while calls end."""
    post = postgres_post
    monkeypatch.setattr(couriers, "PAUSE_SECONDS", 0.05)
    post.create("t", post.target("/slow/0.3"))
    post.carry(post.add("t", 300))
    post.wait_for_requests("/slow/0.3", 1)
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
    for _ in range(20):
        with post.world.database.read() as connection:
            connection.execute(text(f"{kill} AND pid <> pg_backend_pid()"))
        time.sleep(0.02)  # between two blows, so that something may happen in between
    wait_until(
        lambda: post.counts("t")["succeeded"] == len(post.requests("/slow/0.3")) >= PER_HOST,
        20,
        lambda: f"{post.counts('t')} after {len(post.requests('/slow/0.3'))} calls",
    )
    assert {event.attempt for event in post.events("t") if event.status == "succeeded"} == {1}


def test_a_result_outlives_a_restart_of_the_database(
    private_postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "PAUSE_SECONDS", 0.1)
    migrate(private_postgres.url())
    with ExitStack() as stack:
        post = Post(private_postgres.url(), stack)
        post.create("t", post.target("/slow/0.5"))
        post.carry(post.add("t", 10))
        post.wait_for_requests("/slow/0.5", 10)
        private_postgres.stop()
        wait_until(lambda: len(post.courier._calls.in_flight) == 0, message="the calls end")
        private_postgres.start()
        wait_until(lambda: ended(post) == {"succeeded": 10}, 20, "the results are recorded")
        assert len(post.sink.requests) == 10


def ended(post: Post) -> Counter[str]:
    """The statuses, as soon as the database answers again."""
    try:
        return post.counts("t")
    except Exception:
        return Counter()


def test_a_result_outlives_a_lock_that_is_held_for_too_long(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models.database, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(couriers, "PAUSE_SECONDS", 0.05)
    with ExitStack() as stack:
        post = Post(sqlite_url, stack)
        post.create("t", post.target("/slow/0.3"))
        post.carry(post.add("t", 10))
        post.wait_for_requests("/slow/0.3", 10)
        with post.world.database.write():
            wait_until(lambda: "cannot record" in caplog.text, message="the lock is not had")
        post.wait_for("t", succeeded=10)


# --------------------------------------------------------------------------------------------- stop


def test_a_stop_hands_back_what_is_held_and_lets_calls_end(post: Post) -> None:
    post.create("now", post.target("/slow/0.5"))
    post.create("later", post.target("/status/200"), ahead=60)
    post.create("logged", LOG, ahead=61)
    post.tick()
    post.carry(post.add("now", 3))
    post.wait_for_requests("/slow/0.5", 3)
    post.courier.stop(15)
    assert post.counts("now") == {"succeeded": 3}
    later, logged = post.events("later")[0], post.events("logged")[0]
    assert sorted(post.handed_back) == sorted(
        [Hint(later.id, later.due_at, "http", "later"), Hint(logged.id, logged.due_at, "log", "logged")]
    )
    assert (later.status, logged.status) == ("pending", "pending")


def test_a_stop_hands_back_what_waits_for_a_busy_host(post: Post) -> None:
    post.create("t", post.target("/slow/0.5"))
    hints = post.add("t", PER_HOST + 20)
    post.carry(hints)
    post.wait_for_requests("/slow/0.5", PER_HOST)
    post.courier.stop(15)
    called = {request.headers["webhook-id"] for request in post.sink.requests}
    back = {hint.event_id for hint in post.handed_back}
    assert called | back == {hint.event_id for hint in hints}
    assert {hint.name for hint in post.handed_back} <= {"t"}
    assert called & back == set()
    assert post.counts("t") == {"succeeded": len(called), "pending": len(back)} or not back


def test_a_stop_that_waits_for_a_call_starts_nothing_new(post: Post) -> None:
    """What becomes due meanwhile, as the retry of a call that fails, is handed back at once."""
    retry = {"max_attempts": 2, "min_backoff_seconds": 1, "max_backoff_seconds": 1}
    post.create("slow", post.target("/slow/4"))
    post.create("fails", post.target("/hang"), retry=retry, policy={"timeout_seconds": 1})
    post.carry(post.add("slow", 1) + post.add("fails", 1))
    post.wait_for_requests("/slow/4", 1)
    post.wait_for_requests("/hang", 1)
    stopping = threading.Thread(target=post.courier.stop)
    stopping.start()
    wait_until(lambda: post.handed_back, 10, "the retry is handed back")
    assert post.counts("slow") == {"running": 1}
    (hint,) = post.handed_back
    (event,) = post.events("fails")
    assert hint == Hint(event.id, event.due_at, "http", "fails")
    stopping.join(20)
    assert post.counts("slow") == {"succeeded": 1}
    assert post.counts("fails") == {"pending": 1}
    assert len(post.requests("/hang")) == 1


def test_what_is_released_while_a_stop_waits_is_handed_back(post: Post) -> None:
    """It is due, and the call that it waited for has made room."""
    post.create("t", post.target("/slow/2"), policy={"overlap": "queue"})
    hints = post.add("t", 2)
    as_planned(post, hints)
    post.carry(hints)
    post.wait_for_requests("/slow/2", 1)
    later = datetime.now(UTC) + seconds(60)
    wait_until(lambda: max(e.recheck_at for e in post.events("t")) > later, message="one waits")
    post.courier.stop()
    assert post.counts("t") == {"succeeded": 1, "pending": 1}
    assert [hint.event_id for hint in post.handed_back] == [hints[0].event_id]


def test_a_stop_is_cut_short_when_somebody_is_in_a_hurry(post: Post) -> None:
    post.create("t", post.target("/hang"), policy={"timeout_seconds": 600})
    post.carry(post.add("t", 1))
    post.wait_for_requests("/hang", 1)
    stopping = threading.Thread(target=post.courier.stop)
    stopping.start()
    assert post.counts("t") == {"running": 1}
    post.courier.hurry()
    stopping.join(10)
    assert not stopping.is_alive()
    assert post.counts("t") == {"running": 1}


def test_what_was_handed_back_is_delivered_by_another(post: Post) -> None:
    post.create("t", post.target("/status/200"), ahead=1)
    post.tick()
    post.courier.stop(5)
    other = post.hire(post.world.connect())
    assert len(post.handed_back) == 1
    post.carry(post.handed_back, other)
    post.wait_for("t", succeeded=1)
    (event,) = post.events("t")
    assert event.started_at >= event.due_at


def test_what_a_killed_worker_held_is_taken_over_by_the_next_that_starts(post: Post) -> None:
    """Without a tick: the next one may be a minute away."""
    for kind, target in {"call": post.target("/status/200"), "log": LOG, "task": TASK}.items():
        post.create(kind, target, ahead=2)
    post.create("later", LOG, ahead=60)
    tick.execute_scheduled_triggers(post.world.database, lambda hints: True, seconds(90), TZDATA)
    post.courier.ahead = seconds(30)
    post.courier.take_over()
    for kind in ("call", "log"):
        post.wait_for(kind, succeeded=1)
        (event,) = post.events(kind)
        assert timedelta() <= event.started_at - event.due_at < plan.GRACE
    wait_until(lambda: [job.name for job in post.published] == ["task"], 10)
    assert not post.courier._held, "what lies further ahead stays where it is"


def test_only_what_somebody_may_have_held_is_taken_over(post: Post) -> None:
    """Not what was sent again, what ticks look at anyway, or a task that was published at its instant."""
    for kind, target in {"call": post.target("/status/200"), "task": TASK}.items():
        post.create(kind, target)
        post.add(kind, 4)
    now = datetime.now(UTC)
    with post.world.database.write() as connection:
        for kind in ("call", "task"):
            changes: list[dict[str, Any]] = [
                {"recheck_at": now + seconds(9)},
                {"recheck_at": now + seconds(20), "due_at": now + seconds(10)},
                {"recheck_at": now + seconds(9), "dispatches": 1},
                {"recheck_at": now - seconds(1)},
            ]
            for event, values in zip(post.events(kind), changes, strict=True):
                connection.execute(update(Event).where(Event.id == event.id).values(values))
        first, *ahead = plan.held(connection, now, now + seconds(30), 100)
        assert (first[1] < now, first[2]) == (True, "http")
        assert sorted((due - now, kind) for _, due, kind in ahead) == [
            (seconds(10), "celery"),
            (seconds(10), "http"),
        ]
        assert len(plan.held(connection, now, now + seconds(30), 2)) == 2
        assert plan.held(connection, now, now + seconds(5), 100) == [first]


def test_a_stop_waits_no_longer_than_it_may(post: Post) -> None:
    post.create("t", post.target("/hang"), policy={"timeout_seconds": 600})
    post.carry(post.add("t", 3))
    post.wait_for_requests("/hang", 3)
    began = time.monotonic()
    post.courier.stop(0.3)
    assert time.monotonic() - began < 5
    assert post.counts("t") == {"running": 3}
    assert post.courier._thread is not None
    assert not post.courier._thread.is_alive()


def test_a_second_stop_does_nothing(post: Post) -> None:
    for _ in range(2):
        post.courier.stop(1)
    assert post.handed_back == []


def test_a_broker_that_hangs_does_not_hold_up_a_stop(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "HAND_BACK_SECONDS", 0.2)
    gate = threading.Event()
    post.stack.callback(gate.set)
    post.courier.hand_back = lambda hints: gate.wait(20)
    post.create("t", LOG, ahead=60)
    post.tick()
    wait_until(lambda: post.courier._held, message="the event is held")
    began = time.monotonic()
    post.courier.stop(1)
    assert time.monotonic() - began < 5
    assert post.counts("t") == {"pending": 1}


@pytest.mark.parametrize("beside_others", [True, False])
def test_calls_that_came_late_begin_few_at_a_time_beside_others(post: Post, beside_others: bool) -> None:
    """Else all their answers come at once, and who is on time waits for the loop to have read them."""
    sizes: list[int] = []
    start = post.courier._start

    def noted(ids: Sequence[str]) -> Any:
        sizes.append(len(ids))
        return start(ids)

    post.courier._start = noted  # type: ignore[method-assign]
    post.courier._on_time_at = math.inf if beside_others else -math.inf
    post.create("late", post.target("/status/200"))
    long_ago = datetime.now(UTC) - seconds(60)
    hints = [hint._replace(due_at=long_ago) for hint in post.add("late", 90)]
    with post.world.database.write() as connection:
        connection.execute(update(Event).values(scheduled_for=long_ago, fire_at=long_ago, due_at=long_ago))
    post.carry(hints)
    post.wait_for("late", succeeded=90)
    assert sum(sizes) == 90
    assert (max(sizes) <= couriers.LATE_STARTS) == beside_others


def test_what_came_late_lets_what_is_on_time_go_first() -> None:
    async def taken(late: int, due: int) -> list[tuple[int, int]]:
        lane = lanes.Lane(lambda: None)
        at = datetime.now(UTC)
        lane.put([("late", at)] * late, late=True)
        lane.put([("due", at)] * due)
        batches = []
        while len(lane):
            kinds = [kind for kind, _ in await lane.take()]
            assert kinds == sorted(kinds)
            batches.append((kinds.count("due"), kinds.count("late")))
        return batches

    assert asyncio.run(taken(1200, 0)) == [(0, 500), (0, 500), (0, 200)]
    assert asyncio.run(taken(0, 700)) == [(500, 0), (200, 0)]
    assert asyncio.run(taken(900, 30)) == [(30, 470), (0, 430)]
    assert asyncio.run(taken(900, 1000)) == [(450, 50), (450, 50), (100, 400), (0, 400)]


def test_of_events_that_need_no_look_more_are_taken_at_once() -> None:
    async def taken(*plain: bool) -> list[int]:
        lane = lanes.Lane(lambda: None)
        lane.put([("late", datetime.now(UTC))] * 10_000, late=True)
        sizes = []
        for each in plain:
            sizes.append(len(await lane.take()))
            lane.learn(each)
        return sizes

    assert asyncio.run(taken(True, True, True, True)) == [500, 1_000, 2_000, 2_000]
    assert asyncio.run(taken(True, True, False, False)) == [500, 1_000, 2_000, 500]


@pytest.mark.parametrize(("level", "plain"), [("WARNING", True), ("INFO", False)])
def test_log_events_need_no_look_when_they_leave_no_line(
    post: Post, caplog: pytest.LogCaptureFixture, level: str, plain: bool
) -> None:
    caplog.set_level(level, "triggerbeat")
    post.create("t", LOG, ahead=0)
    post.tick()
    wait_until(lambda: post.counts("t").keys() == {"succeeded"}, message="it succeeded")
    wait_until(
        lambda: (post.courier._lanes["log"].chunk > lanes.CHUNK) is plain, message="what was learnt of it"
    )
