"""Creating, editing, pausing, resuming, deleting and firing triggers, on both databases."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from models import Event, Trigger, TriggerChange
from models.database import Database
from triggers import manage, tick
from triggers.definition import parse_trigger
from triggers.errors import Conflict, InvalidDocument, NotFound
from triggers.manage import Changed, Created, Idempotency
from triggers.settings import Settings
from triggers.store import delivery
from triggers.tick import Hint

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EVERY_10_S = {"type": "interval", "every_seconds": 10}
SETTINGS = Settings()


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class House:
    """A database with a clock that is set by hand, and the operations on it, each in its transaction."""

    def __init__(self, url: str) -> None:
        self.now = NOON
        self.sent: list[Hint] = []
        self.database = Database(url, clock=lambda _: self.now)

    def document(self, name: str = "t", **parts: Any) -> Any:
        given = {"name": name, "schedule": EVERY_10_S, "target": {"type": "log", "message": "m"}} | parts
        return parse_trigger(given, SETTINGS, self.now)

    def create(self, name: str = "t", **parts: Any) -> Created:
        with self.database.write() as connection:
            return manage.create(connection, self.document(name, **parts), self.database.now)

    def edit(self, ref: str = "t", **parts: Any) -> Changed:
        with self.database.write() as connection:
            document = self.document(**({"name": ref} | parts))
            return manage.edit(connection, ref, document, self.database.now)

    def do(self, operation: Any, ref: str = "t", **more: Any) -> Any:
        with self.database.write() as connection:
            return operation(connection, ref, self.database.now, **more)

    def tick(self, horizon: float = 90) -> None:
        tick.execute_scheduled_triggers(self.database, self.dispatch, seconds(horizon), "2026f")

    def dispatch(self, hints: Sequence[Hint]) -> bool:
        self.sent += hints
        return True

    def start(self) -> list[datetime]:
        """Start what is due, as a worker does. The instants that it was planned for."""
        with self.database.write() as connection:
            ids = connection.execute(select(Event.id).where(Event.fire_at <= self.now)).scalars().all()
            won = delivery.start(connection, ids, self.now, self.now + seconds(30))
            chosen = select(Event.scheduled_for).where(Event.id.in_(won)).order_by(Event.scheduled_for)
            return list(connection.execute(chosen).scalars())

    def row(self, name: str = "t") -> Any:
        with self.database.read() as connection:
            found = select(Trigger.__table__).where(Trigger.name == name).order_by(Trigger.id.desc())
            return connection.execute(found).first()

    def events(self, status: str | None = None) -> list[Any]:
        with self.database.read() as connection:
            found = connection.execute(select(Event.__table__).order_by(Event.scheduled_for, Event.id)).all()
        return [event for event in found if status in (None, event.status)]

    def offsets(self, status: str | None = None) -> list[float]:
        """The instants of the events, in seconds after noon."""
        return [(event.scheduled_for - NOON).total_seconds() for event in self.events(status)]

    def changes(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(TriggerChange.__table__).order_by(TriggerChange.id)).all())


@pytest.fixture
def house(database_url: str) -> Iterator[House]:
    made = House(database_url)
    yield made
    made.database.close()


# ------------------------------------------------------------------------------------------- create


def test_create_plans_from_its_instant_on_and_is_on_record(house: House) -> None:
    house.now = NOON + seconds(0.25)
    created = house.create()
    row = house.row()
    assert (row.id, row.name, row.state, row.planned_count) == (created.id, "t", "active", 0)
    assert row.anchor == row.next_at == created.next_at == NOON + seconds(1)
    assert row.planned_until == house.now - timedelta(microseconds=1)
    (change,) = house.changes()
    assert (change.change, change.effective_at, change.planned_count) == ("created", row.planned_until, 0)
    assert change.tzdata
    house.tick(30)
    assert house.offsets() == [1, 11, 21]


def test_the_instant_of_creation_itself_is_planned(house: House) -> None:
    house.create(schedule={"type": "cron", "cron": "* * * * *"})
    house.tick(60)
    assert house.offsets() == [0, 60]


@pytest.mark.parametrize("at", ["now", "2026-11-20T11:59:30Z"])
def test_an_instant_within_the_grace_is_planned_at_once(house: House, at: str) -> None:
    document = house.document(schedule={"type": "once", "at": at})
    house.now += seconds(0.5)  # between reading the document and storing it
    with house.database.write() as connection:
        created = manage.create(connection, document, house.now)
    assert created.next_at is not None
    assert created.next_at <= NOON
    house.tick()
    (event,) = house.events()
    assert event.status == "pending"
    assert event.scheduled_for == created.next_at
    assert house.row().exhausted


def test_a_manual_trigger_plans_nothing_and_is_not_exhausted(house: House) -> None:
    house.create(schedule={"type": "manual"})
    row = house.row()
    assert (row.next_at, row.exhausted, row.state) == (None, False, "active")


def test_a_name_is_unique_until_its_trigger_is_deleted(house: House) -> None:
    house.create("a")
    with pytest.raises(Conflict, match="in use"):
        house.create("a")
    house.create("b")
    with pytest.raises(Conflict, match="in use"):
        house.edit("b", name="a")
    assert house.row("b") is not None
    house.do(manage.delete, "a")
    house.edit("b", name="a")
    house.create("b")


def test_max_runs_counts_what_is_planned(house: House) -> None:
    house.create(schedule=EVERY_10_S | {"max_runs": 3})
    house.tick()
    assert house.offsets() == [0, 10, 20]
    assert house.row().exhausted


# ---------------------------------------------------------------------------------------- idempotency


def test_an_idempotency_key_gives_the_same_trigger_for_a_day(house: House) -> None:
    key = Idempotency("k", "digest")
    with house.database.write() as connection:
        assert manage.recall(connection, key, house.now) is None
        created = manage.create(connection, house.document(), house.now, key)
    house.now += timedelta(hours=23)
    with house.database.write() as connection:
        assert manage.recall(connection, key, house.now) == created.id
        with pytest.raises(Conflict, match="another body"):
            manage.recall(connection, Idempotency("k", "other"), house.now)
        assert manage.recall(connection, Idempotency("other", "digest"), house.now) is None
    house.now += timedelta(hours=1)
    with house.database.write() as connection:
        assert manage.recall(connection, key, house.now) is None


def test_two_creates_with_one_key_at_once_make_one_trigger(house: House) -> None:
    key = Idempotency("k", "digest")
    both = threading.Barrier(2)
    ids: list[str] = []

    def create() -> None:
        both.wait(10)
        with house.database.write() as connection:
            known = manage.recall(connection, key, house.now)
            ids.append(known or manage.create(connection, house.document(), house.now, key).id)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ids) == 2
    assert ids[0] == ids[1]


# --------------------------------------------------------------------------------------------- pause


def test_pause_removes_what_is_planned_for_later_and_resume_plans_anew(house: House) -> None:
    house.create(schedule=EVERY_10_S | {"max_runs": 10})
    house.tick()
    house.now += seconds(15)
    assert house.start() == [NOON, NOON + seconds(10)]
    changed = house.do(manage.pause)
    assert (changed.state, changed.next_at, changed.changed) == ("paused", None, True)
    assert house.offsets() == [0, 10]
    row = house.row()
    assert (row.planned_count, row.planned_until, row.exhausted) == (2, house.now, False)
    house.tick()
    assert house.offsets() == [0, 10]

    house.now += seconds(20)
    assert house.do(manage.resume).next_at == NOON + seconds(40)
    house.tick()
    assert house.offsets() == [0, 10, 40, 50, 60, 70, 80, 90, 100, 110]
    assert [change.change for change in house.changes()] == ["created", "paused", "resumed"]
    assert [change.planned_count for change in house.changes()] == [0, 2, 2]
    assert house.changes()[1].effective_at == NOON + seconds(15)


def test_pause_cancels_what_is_due_and_never_started(house: House) -> None:
    house.create()
    house.tick()
    house.now += seconds(15)
    house.do(manage.pause)
    assert house.offsets("cancelled") == house.offsets() == [0, 10]
    assert {event.reason for event in house.events()} == {"paused"}
    assert house.row().planned_count == 2


def test_pause_accounts_for_what_no_tick_has_seen(house: House) -> None:
    house.create()
    house.now += seconds(35)
    house.do(manage.pause)
    (event,) = house.events()
    assert (event.status, event.reason, event.coalesced) == ("cancelled", "paused", 4)
    assert (event.coalesced_from, event.scheduled_for) == (NOON, NOON + seconds(30))
    assert house.row().planned_count == 4


def test_pause_leaves_running_retrying_and_manual_events_alone(house: House) -> None:
    house.create()
    house.tick(0)
    house.start()
    house.do(manage.fire)
    with house.database.write() as connection:
        connection.execute(text("UPDATE events SET status = 'pending' WHERE status = 'running'"))
    house.tick()
    house.do(manage.pause)
    assert sorted((event.source, event.status) for event in house.events()) == [
        ("manual", "pending"),
        ("schedule", "pending"),
    ]


def test_pausing_twice_and_resuming_twice_change_nothing(house: House) -> None:
    house.create()
    assert not house.do(manage.resume).changed
    house.do(manage.pause)
    before = house.row()
    house.now += seconds(5)
    assert not house.do(manage.pause).changed
    assert house.row() == before
    assert len(house.changes()) == 2


def test_a_completed_trigger_is_neither_paused_nor_resumed(house: House) -> None:
    house.create(schedule={"type": "once", "at": "now"})
    house.tick()
    house.now += seconds(1)
    with house.database.write() as connection:
        connection.execute(text("DELETE FROM events"))
    house.tick()
    assert house.row().state == "completed"
    with pytest.raises(Conflict, match="completed"):
        house.do(manage.pause)
    with pytest.raises(Conflict, match="nothing left"):
        house.do(manage.resume)
    assert house.edit(schedule=EVERY_10_S).state == "active"
    house.tick(0)
    assert len(house.events()) == 0
    house.now += seconds(10)
    house.tick(0)
    assert house.offsets() == [11]  # the instant of the edit itself is not planned


def test_resume_ends_the_row_of_failures_and_clears_the_error(house: House) -> None:
    house.create()
    house.do(manage.pause)
    with house.database.write() as connection:
        connection.execute(text("UPDATE triggers SET consecutive_failures = 5, schedule_error = 'x'"))
    house.do(manage.resume)
    assert (house.row().consecutive_failures, house.row().schedule_error) == (0, None)


def test_the_clock_is_read_after_the_lock_was_had(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as connection:
        now = database.now(connection)
        document = parse_trigger(
            {"name": "t", "schedule": EVERY_10_S, "target": {"type": "log"}}, SETTINGS, now
        )
        manage.create(connection, document, now)
    held, asked = threading.Event(), threading.Event()
    released: list[datetime] = []

    def hold() -> None:
        with database.write() as connection:
            connection.execute(text("SELECT 1 FROM triggers FOR NO KEY UPDATE"))
            held.set()
            asked.wait(10)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not connection.execute(text(waits)).scalar_one():
                connection.execute(text("SELECT pg_stat_clear_snapshot()"))
            released.append(database.now(connection))

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    with database.write() as connection:
        asked.set()
        manage.pause(connection, "t", database.now)
        row = connection.execute(select(Trigger.__table__)).one()
    holder.join(10)
    database.close()
    assert row.planned_until >= released[0]


# ---------------------------------------------------------------------------------------------- edit


def test_an_edit_of_tags_text_target_and_retry_changes_no_firing(house: House) -> None:
    house.create(schedule=EVERY_10_S | {"max_runs": 20})
    house.tick()
    before = house.row()
    house.now += seconds(15)
    changed = house.edit(
        schedule=EVERY_10_S | {"max_runs": 20},
        description="new",
        tags=["x"],
        target={"type": "log", "message": "n"},
        retry={"max_attempts": 1},
    )
    assert changed.changed
    row = house.row()
    plan = ("planned_until", "next_at", "planned_count", "anchor", "exhausted", "state")
    assert [getattr(row, name) for name in plan] == [getattr(before, name) for name in plan]
    assert house.offsets("pending") == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert (row.tags, row.target["message"], row.version) == (["x"], "n", 2)
    assert house.changes()[-1].planned_count == 2  # up to the edit; the plan ran ahead of it


def test_an_edit_that_says_the_same_changes_nothing(house: House) -> None:
    house.create()
    before = house.row()
    house.now += seconds(5)
    assert not house.edit().changed
    assert house.row() == before


def test_another_policy_keeps_anchor_and_count_and_plans_anew(house: House) -> None:
    house.now += seconds(3.5)
    house.create(schedule=EVERY_10_S | {"max_runs": 5})
    house.tick()
    house.now += seconds(15)
    house.start()
    house.edit(schedule=EVERY_10_S | {"max_runs": 5}, policy={"misfire": "skip"})
    assert house.offsets() == [4, 14]
    assert house.row().planned_count == 2
    house.tick()
    assert house.offsets() == [4, 14, 24, 34, 44]


def test_another_schedule_starts_anew(house: House) -> None:
    house.create(schedule=EVERY_10_S | {"max_runs": 3})
    house.tick()
    house.now += seconds(15.5)
    house.start()
    house.edit(schedule={"type": "interval", "every_seconds": 7, "max_runs": 2})
    row = house.row()
    assert (row.anchor, row.planned_count, row.planned_until) == (NOON + seconds(16), 0, house.now)
    house.tick()
    assert house.offsets() == [0, 10, 16, 23]


def test_an_edit_keeps_what_is_due_and_plans_what_no_tick_has_seen(house: House) -> None:
    house.create()
    house.tick(0)
    house.now += seconds(25)
    house.edit(schedule={"type": "cron", "cron": "0 0 1 1 *"})
    assert house.offsets("pending") == [0, 10, 20]
    house.tick()
    assert house.offsets() == [0, 10, 20]


HTTP = {"type": "http", "url": "https://hooks.example.org/"}


def test_what_was_sent_for_another_kind_of_target_is_sent_again(house: House) -> None:
    """A worker that holds it as a log event would find none of that kind, and leave it."""
    house.create()
    house.tick()
    house.sent.clear()
    house.now += seconds(5)
    manual = house.do(manage.fire).event_id
    changed = house.edit(target=HTTP)
    assert changed.next_at == house.now, "there is something to do for a tick, and so for a hint"
    house.tick()
    assert {hint.kind for hint in house.sent} == {"http"}
    waiting = [event for event in house.events("pending") if event.recheck_at]
    assert {hint.event_id for hint in house.sent} == {event.id for event in waiting}
    assert manual in {hint.event_id for hint in house.sent}
    house.sent.clear()
    house.tick()
    assert house.sent == [], "once"


def test_what_stays_of_one_kind_is_not_sent_again(house: House) -> None:
    house.create(target=HTTP)
    house.tick()
    house.sent.clear()
    changed = house.edit(target=HTTP | {"url": "https://other.example.org/"})
    assert changed.next_at == NOON + seconds(100), "the first that is not planned"
    house.tick()
    assert house.sent == []


@pytest.mark.parametrize("target", [HTTP, {"type": "log", "message": "m"}])
def test_what_another_schedule_finds_due_and_unseen_is_sent_at_once(
    house: House, target: dict[str, Any]
) -> None:
    """One occurrence was planned and sent, two are due and were never planned."""
    house.create()
    house.tick(0)
    house.sent.clear()
    house.now += seconds(25)
    changed = house.edit(schedule={"type": "cron", "cron": "0 0 1 1 *"}, target=target)
    assert changed.next_at == house.now
    house.tick()
    sent = {hint.event_id for hint in house.sent}
    assert {event.id for event in house.events("pending")[1:]} <= sent
    assert len({hint.kind for hint in house.sent}) == 1


def test_an_edit_to_now_fires_at_once(house: House) -> None:
    house.create()
    house.tick()
    document = house.document(schedule={"type": "once", "at": "now"})
    house.now += seconds(0.001)
    with house.database.write() as connection:
        manage.edit(connection, "t", document, house.now)
    house.tick()
    assert house.offsets() == [0]
    assert house.row().exhausted


def test_an_edited_paused_trigger_stays_paused(house: House) -> None:
    house.create()
    house.do(manage.pause)
    assert house.edit(schedule={"type": "cron", "cron": "* * * * *"}).state == "paused"
    assert house.row().next_at is None
    assert house.do(manage.resume).next_at == NOON + seconds(60)


def test_an_unchanged_schedule_that_is_over_may_be_edited(house: House) -> None:
    schedule = {"type": "once", "at": "2026-11-20T12:00:00Z"}
    house.create(schedule=schedule)
    house.now += timedelta(days=1)
    given = {"name": "t", "schedule": schedule, "target": {"type": "log"}, "tags": ["x"]}
    with pytest.raises(InvalidDocument):
        parse_trigger(given, SETTINGS, house.now)
    document = parse_trigger(given, SETTINGS, house.now, current=house.row().schedule)
    with house.database.write() as connection:
        manage.edit(connection, "t", document, house.now)
    assert house.row().tags == ["x"]


# -------------------------------------------------------------------------------------- delete, fire


def test_delete_ends_what_waits_and_leaves_what_runs(house: House) -> None:
    created = house.create(target={"type": "http", "url": "https://a.example", "secret": "s" * 24})
    house.tick(0)
    house.start()
    house.tick(20)
    house.now += seconds(15)
    house.do(manage.fire)
    house.do(manage.delete, created.id)
    events = [(event.source, event.status, event.reason) for event in house.events()]
    assert events == [
        ("schedule", "running", None),
        ("schedule", "cancelled", "deleted"),
        ("manual", "cancelled", "deleted"),
    ]
    row = house.row()
    assert (row.deleted_at, row.next_at, row.secret) == (house.now, None, None)
    assert house.changes()[-1].change == "deleted"
    for operation in (manage.pause, manage.resume, manage.delete, manage.fire):
        with pytest.raises(NotFound):
            house.do(operation)


def test_fire_works_in_every_state(house: House) -> None:
    house.now += seconds(0.5)
    house.create(target={"type": "celery", "task": "examples.tasks.add"})
    house.do(manage.pause)
    fired = house.do(manage.fire, payload={"x": 1})
    (event,) = house.events()
    assert (event.id, event.source, event.status, event.payload) == (
        fired.event_id,
        "manual",
        "pending",
        {"x": 1},
    )
    assert event.scheduled_for == event.fire_at == event.due_at == event.recheck_at == house.now
    assert event.misfire_at is None
    with pytest.raises(InvalidDocument):
        house.do(manage.fire, payload=[1])


@pytest.mark.parametrize("ref", ["", "none", "\0", "x" * 101, "0194e8a0-0000-7000-8000-000000000000", "é"])
def test_what_names_no_trigger_is_not_found(house: House, ref: str) -> None:
    with pytest.raises(NotFound):
        house.do(manage.pause, ref)


# ----------------------------------------------------------------------------------------------- log


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the operations said, without ids, which no test knows before."""
    return [
        re.sub(r" event=\S+", " event=", record.getMessage())
        for record in caplog.records
        if record.name == "triggerbeat.trigger"
    ]


@pytest.mark.parametrize(("operation", "reason"), [(manage.pause, "paused"), (manage.delete, "deleted")])
def test_what_a_change_takes_out_of_the_plan_is_told(
    house: House, caplog: pytest.LogCaptureFixture, operation: Any, reason: str
) -> None:
    caplog.set_level("INFO")
    house.create()
    house.tick(30)
    house.now += seconds(15)
    house.do(operation)
    assert lines(caplog) == [
        "unplanned trigger=t after=2026-11-20T12:00:15Z occurrences=2",
        f"cancelled trigger=t status=cancelled reason={reason} events=2",
    ]


def test_an_edit_tells_what_it_takes_out_of_the_plan(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    house.create()
    house.tick(30)
    house.edit(policy={"misfire": "skip"})
    assert lines(caplog) == ["unplanned trigger=t after=2026-11-20T12:00:00Z occurrences=3"]


def test_what_no_tick_had_seen_is_told_with_its_event(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    house.create()
    house.now += seconds(25)
    house.do(manage.pause)
    assert lines(caplog) == [
        "cancelled trigger=t event= scheduled_for=2026-11-20T12:00:20Z status=cancelled reason=paused"
        " coalesced=3"
    ]


def test_a_change_that_takes_nothing_away_says_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    house.create(schedule={"type": "manual"})
    house.edit(schedule={"type": "manual"}, description="new")
    house.do(manage.pause)
    house.do(manage.resume)
    house.do(manage.delete)
    assert lines(caplog) == []
