"""The tick on both databases: planned once, dispatched after the commit, taken back when nobody finished."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from models import Attempt, Base, Event, Node, Trigger, TriggerChange
from models.base import new_id
from models.database import Database
from tests.servers import PostgreSQL, wait_until
from triggers import deliver, manage, planning, tick
from triggers.definition import parse_trigger
from triggers.settings import Settings
from triggers.store import lifecycle, plan
from triggers.store.delivery import Job
from triggers.targets import Outcome
from triggers.tick import GRACE, LONGEST_GRACE, Hint, Queues, Tick, grace

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SETTINGS = Settings(allow_private_targets=True)
TZDATA = "2026a"
LOG = {"type": "log", "message": "m"}
HTTP = {"type": "http", "url": "http://127.0.0.1:9/"}
FAILED = Outcome(False, error={"type": "HTTPError", "message": "503"})
SUCCEEDED = Outcome(True, result={"status": 200})


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def every(number: int, **bounds: Any) -> dict[str, Any]:
    """An interval whose occurrences are noon, noon + number, ..."""
    return {"type": "interval", "every_seconds": number, "start_time": NOON.isoformat(), **bounds}


def once(offset: float = 0) -> dict[str, Any]:
    """A schedule of one instant."""
    return {"type": "once", "at": (NOON + seconds(offset)).isoformat()}


class World:
    """A database whose clock is set by hand, and the steps of an event's life, each in its transaction.

    A `live` one has the real clock; then `now` means nothing.
    """

    def __init__(self, url: str, live: bool = False) -> None:
        self.url = url
        self.live = live
        self.now = NOON
        self.sent: list[Hint] = []
        self.broker_is_up = True
        self.queues = Queues()
        self._databases: list[Database] = []
        self.database = self.connect()

    def connect(self) -> Database:
        """A database as another process has it: with connections, and on SQLite a writer, of its own."""
        self._databases.append(Database(self.url, clock=None if self.live else lambda _: self.now))
        return self._databases[-1]

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def dispatch(self, hints: Sequence[Hint]) -> bool:
        """A broker that remembers what was dispatched, if it is up."""
        if self.broker_is_up:
            self.sent += hints
        return self.broker_is_up

    # What users and workers do

    def create(self, name: str = "t", schedule: Any = None, target: Any = None, **parts: Any) -> str:
        """A trigger, by default one that logs every ten seconds. Its id."""
        given = {"name": name, "schedule": schedule or every(10), "target": target or LOG} | parts
        with self.database.write() as connection:
            document = parse_trigger(given, SETTINGS, self.database.now(connection))
            return manage.create(connection, document, self.database.now).id

    def fire(self, name: str = "t") -> str:
        with self.database.write() as connection:
            return manage.fire(connection, name, self.database.now).event_id

    def delete(self, name: str = "t") -> None:
        with self.database.write() as connection:
            manage.delete(connection, name, self.database.now)

    def tick(self, horizon: float = 90, batch: int = tick.BATCH) -> Tick:
        return tick.execute_scheduled_triggers(
            self.database, self.dispatch, seconds(horizon), TZDATA, batch, lambda: self.queues
        )

    def start(self, *ids: str, kind: str = "http") -> list[Job]:
        """What a worker does with a hint: the attempts that it won."""
        with self.database.write() as connection:
            ready = deliver.prepare(connection, ids or self.ids(), kind, self.now)
            return deliver.start(connection, ready.jobs, self.now)

    def finish(self, outcome: Outcome, *jobs: Job) -> deliver.Finish:
        with self.database.write() as connection:
            ended = [deliver.Finished(job, outcome) for job in jobs]
            return deliver.finish(connection, ended, self.now, TZDATA, lambda: 0.0)

    # What is there

    def rows(self, model: type[Base], *order: Any) -> list[Any]:
        table = model.__table__
        assert isinstance(table, Table)
        with self.database.read() as connection:
            return list(connection.execute(select(table).order_by(*(order or table.primary_key))).all())

    def events(self) -> list[Any]:
        return self.rows(Event, Event.scheduled_for, Event.id)

    def ids(self) -> list[str]:
        return [event.id for event in self.events()]

    def event(self) -> Any:
        """The only one."""
        (found,) = self.events()
        return found

    def trigger(self, name: str = "t") -> Any:
        (found,) = [row for row in self.rows(Trigger) if row.name == name]
        return found

    def changes(self) -> list[str]:
        return [row.change for row in self.rows(TriggerChange)]

    def offsets(self) -> list[float]:
        return [(event.scheduled_for - NOON).total_seconds() for event in self.events()]

    def change(self, model: type[Base], **values: Any) -> None:
        """Change all rows of a table behind the product's back."""
        with self.database.write() as connection:
            unguard(connection)
            connection.execute(update(model).values(**values))


def unguard(connection: Connection) -> None:
    """Let this transaction (on SQLite: everybody from now on) do what the database refuses."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL session_replication_role = 'replica'"))
    else:
        connection.execute(text("DROP TRIGGER IF EXISTS trigger_changes_keep_update"))
        connection.execute(text("DROP TRIGGER IF EXISTS trigger_changes_keep_delete"))


@pytest.fixture(scope="session")
def reused_postgres_url(postgres: PostgreSQL, postgres_template: str) -> str:
    """A database that many tests use one after another: emptying it takes a tenth of making one."""
    return postgres.url(postgres.create_database(template=postgres_template))


@pytest.fixture
def emptied_postgres_url(reused_postgres_url: str) -> Iterator[str]:
    yield reused_postgres_url
    database = Database(reused_postgres_url)
    with database.write() as connection:
        unguard(connection)
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(delete(table))
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    fixture = {"sqlite": "sqlite_url", "postgresql": "emptied_postgres_url"}[request.param]
    made = World(request.getfixturevalue(fixture))
    yield made
    made.close()


@pytest.fixture
def postgres_world(emptied_postgres_url: str) -> Iterator[World]:
    """For what only PostgreSQL has: rows locked by one while others go on."""
    made = World(emptied_postgres_url)
    yield made
    made.close()


def sent_ids(hints: Sequence[Hint]) -> list[str]:
    return sorted(hint.event_id for hint in hints)


# ------------------------------------------------------------------------------------- plan once


def test_one_event_for_each_occurrence_up_to_the_horizon(world: World) -> None:
    world.create()
    made = world.tick(horizon=30)
    assert world.offsets() == [0, 10, 20, 30]
    assert (made.planned, made.skipped, made.dispatched, made.taken_back) == (4, 0, 4, 0)
    assert {(e.status, e.state, e.attempt, e.source) for e in world.events()} == {
        ("pending", "active", 0, "schedule")
    }
    assert [e.recheck_at for e in world.events()] == [e.fire_at + GRACE for e in world.events()]
    row = world.trigger()
    assert (row.planned_until, row.next_at) == (NOON + seconds(30), NOON + seconds(40))
    assert row.planned_count == 4


def test_the_hint_names_event_instant_kind_and_trigger(world: World) -> None:
    world.create("report", once(20), HTTP)
    world.tick()
    assert world.sent == [Hint(world.event().id, NOON + seconds(20), "http", "report")]


def test_a_second_tick_plans_nothing(world: World) -> None:
    world.create()
    world.tick(horizon=30)
    before = world.events()
    made = world.tick(horizon=30)
    assert (made.planned, made.dispatched) == (0, 0)
    assert world.events() == before


def test_the_next_tick_goes_on_where_the_last_one_ended(world: World) -> None:
    world.create()
    world.tick(horizon=30)
    world.now += seconds(10)
    assert world.tick(horizon=30).planned == 1
    assert world.offsets() == [0, 10, 20, 30, 40]


def test_a_clock_that_steps_back_plans_nothing_twice(world: World) -> None:
    world.create()
    world.tick(horizon=30)
    cursor = world.trigger().planned_until
    world.now -= seconds(25)
    assert world.tick(horizon=30).planned == 0
    assert world.trigger().planned_until == cursor
    world.now += seconds(35)
    world.tick(horizon=30)
    assert world.offsets() == [0, 10, 20, 30, 40]


def test_an_occurrence_that_has_its_event_keeps_it(world: World) -> None:
    """Although the cursor says that it has none, as after a trigger's row came from a backup."""
    world.create()
    world.tick(horizon=30)
    before = world.events()
    world.change(Trigger, planned_until=NOON - seconds(1), next_at=NOON)
    world.tick(horizon=30)
    assert world.events() == before
    assert world.trigger().next_at == NOON + seconds(40)


def test_a_tick_with_an_older_clock_never_moves_the_cursor_back(world: World) -> None:
    """Two nodes whose clocks differ share one plan."""
    world.create(schedule=every(3600))
    world.tick(horizon=0)
    ahead = world.trigger()
    world.now -= seconds(300)
    world.tick(horizon=0)
    assert world.trigger() == ahead


@pytest.mark.parametrize("triggers", [1, 8])
def test_cursors_never_move_back_alone_or_together(world: World, triggers: int) -> None:
    for number in range(triggers):
        world.create(f"t{number}", every(3600))
    with world.database.write() as connection:
        (claimed,) = plan.claim(connection, world.now, 100, set(), wait=False)
    older = planning.plan(claimed.first, world.now, world.now)
    world.tick()
    ahead = what_is_planned(world)
    with world.database.write() as connection:
        plan.advance(connection, [(older, claimed)])
    assert what_is_planned(world) == ahead


def test_paused_completed_deleted_and_manual_triggers_are_not_planned(world: World) -> None:
    world.create("manual", {"type": "manual"})
    world.create("deleted")
    world.delete("deleted")
    world.create("paused")
    with world.database.write() as connection:
        manage.pause(connection, "paused", world.now)
    world.now += seconds(600)
    assert world.tick().planned == 0
    assert world.sent == []


# --------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("triggers", [0, 1, 3, 4, 5, 8])
def test_batches_end_where_they_should(world: World, triggers: int) -> None:
    """Fewer than a batch, exactly one, one more, two: each trigger is planned, each once."""
    for number in range(triggers):
        world.create(f"t{number}")
    made = world.tick(horizon=10, batch=4)
    assert made.planned == len(world.events()) == 2 * triggers
    assert set(Counter(e.trigger_id for e in world.events()).values()) <= {2}
    assert sent_ids(world.sent) == sorted(world.ids())
    assert all(row.next_at == NOON + seconds(20) for row in world.rows(Trigger))


def test_each_batch_is_a_transaction_of_its_own(world: World) -> None:
    for number in range(5):
        world.create(f"t{number}", once())
    visible: list[int] = []

    def dispatch(hints: Sequence[Hint]) -> bool:
        visible.append(len(world.events()))
        return True

    tick.execute_scheduled_triggers(world.database, dispatch, seconds(90), TZDATA, batch=2)
    assert visible == [2, 4, 5]


def test_a_trigger_with_more_occurrences_than_a_batch_holds_is_planned_to_the_horizon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MOST_PER_BATCH", 5)
    world.create()
    world.tick(horizon=165)
    assert world.offsets() == list(range(0, 166, 10))


def test_fire_all_catches_up_with_a_thousand_a_tick(world: World) -> None:
    world.create(schedule=every(1), policy={"misfire": "fire_all", "catchup_window_seconds": 86_400})
    world.now += seconds(2500)
    counts = []
    for _ in range(3):
        counts.append(world.tick(horizon=30).planned)
    assert counts == [1000, 1000, 531]
    assert world.offsets() == list(range(2531))
    assert Counter(e.source for e in world.events()) == {"catchup": 2440, "schedule": 91}


def test_a_trigger_that_rests_does_not_hold_up_the_others(world: World) -> None:
    world.create("behind", every(1), policy={"misfire": "fire_all", "catchup_window_seconds": 86_400})
    world.now += seconds(5000)
    for number in range(3):
        world.create(f"t{number}", every(5000))
    made = world.tick(horizon=0, batch=2)
    assert made.planned == 1003
    assert made.resting == {world.trigger("behind").id}


@pytest.mark.parametrize("misfire", ["skip", "fire_once", "fire_all"])
def test_triggers_that_plan_alike_get_what_each_would_alone(world: World, misfire: str) -> None:
    """A batch of many, with plans that they share, leaves the same rows as batches of one."""
    policy = {"misfire": misfire, "misfire_grace_seconds": 5}
    minutely = {"type": "cron", "cron": "* * * * *"}
    for number in range(12):
        world.create(f"interval-{number}", policy=policy)
        world.create(f"anchored-{number}", {"type": "interval", "every_seconds": 20}, policy=policy)
        world.create(f"cron-{number}", minutely, policy=policy)
        world.create(f"limited-{number}", minutely | {"max_runs": 3}, policy=policy)
        world.create(f"jittered-{number}", every(20, jitter_seconds=5), policy=policy)
        world.create(f"once-{number}", once(100), policy=policy)
        if number % 4 == 3:  # anchors, cursors and counts differ from here on
            world.now += seconds(17)
            world.tick(horizon=0)
    created = world.rows(Trigger)
    planned = {event.id for event in world.events()}
    world.now += seconds(144)
    world.tick()
    together = what_is_planned(world)
    assert not [row for row in world.rows(Trigger) if row.schedule_error]
    with world.database.write() as connection:
        connection.execute(delete(Event).where(Event.id.not_in(planned)))
        for row in created:
            cursors = {name: getattr(row, name) for name in CURSORS}
            connection.execute(update(Trigger).where(Trigger.id == row.id).values(**cursors))
    world.tick(batch=1)
    assert together == what_is_planned(world)


CURSORS = ("planned_until", "next_at", "planned_count", "exhausted", "state")


def what_is_planned(world: World) -> tuple[list[Any], list[Any]]:
    """All that a plan sets, but the events' own ids."""
    triggers = [(row.name, *(getattr(row, name) for name in CURSORS)) for row in world.rows(Trigger)]
    names = ("trigger_id", *plan.SHARED)
    return sorted(triggers), sorted(str([getattr(row, name) for name in names]) for row in world.events())


def test_a_hint_names_the_trigger_of_its_event_among_many(world: World) -> None:
    """Events of one instant are stored together, whatever else their triggers differ in."""
    start = (NOON + seconds(10)).isoformat()
    names = {world.create(f"t{n}", every(10 + n % 3, start_time=start)): f"t{n}" for n in range(30)}
    world.tick(horizon=15)
    owners = {event.id: names[event.trigger_id] for event in world.events()}
    assert sorted(owners.values()) == sorted(names.values())
    assert {hint.event_id: hint.name for hint in world.sent} == owners


def test_a_batch_whose_cursors_cannot_be_moved_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the cursors that were moved before the one that could not."""
    world.create("a", once(10))
    world.create("b", every(10))
    before = what_is_planned(world)
    advanced = plan.advanced

    def backwards(made: planning.Plan, first: planning.Plannable) -> tuple[Any, ...]:
        until, next_at, *others = advanced(made, first)
        return until, next_at and until, *others

    monkeypatch.setattr(plan, "advanced", backwards)
    with pytest.raises(IntegrityError):
        world.tick()
    assert what_is_planned(world) == before
    assert not world.sent


# -------------------------------------------------------------------------------------- misfires


def test_misfires_that_are_skipped_are_final_and_not_dispatched(world: World) -> None:
    world.create(policy={"misfire": "skip", "misfire_grace_seconds": 5})
    world.now += seconds(44)
    made = world.tick(horizon=6)
    skipped, *planned = world.events()
    assert (skipped.status, skipped.reason, skipped.finished_at) == ("skipped", "misfire", world.now)
    assert (skipped.scheduled_for, skipped.coalesced) == (NOON + seconds(30), 4)
    assert (skipped.coalesced_from, skipped.recheck_at, skipped.started_at) == (NOON, None, None)
    assert [e.status for e in planned] == ["pending", "pending"]
    assert sent_ids(world.sent) == sorted(e.id for e in planned)
    assert (made.planned, made.skipped, made.dispatched) == (3, 1, 2)


def test_the_event_that_catches_up_is_due_at_once(world: World) -> None:
    world.create(policy={"misfire": "fire_once", "misfire_grace_seconds": 5})
    world.now += seconds(44)
    world.tick(horizon=0)
    event = world.event()
    assert (event.source, event.coalesced, event.coalesced_from) == ("catchup", 5, NOON)
    assert (event.fire_at, event.due_at) == (NOON + seconds(40), NOON + seconds(40))
    assert event.recheck_at == world.now + GRACE
    assert event.misfire_at == world.now + seconds(5)


# -------------------------------------------------------------------------------- two ticks at once


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls on threads that leave the same line together; their results."""
    line = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        line.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_ticks_at_once_record_each_occurrence_once(world: World) -> None:
    for number in range(40):
        world.create(f"t{number}")
    others = [world.connect() for _ in range(4)]

    def one_of_them(database: Database) -> Tick:
        return tick.execute_scheduled_triggers(database, world.dispatch, seconds(90), TZDATA, batch=3)

    made = at_once(*(lambda database=database: one_of_them(database) for database in others))
    assert Counter(Counter(e.trigger_id for e in world.events()).values()) == {10: 40}
    assert sum(one.planned for one in made) == 400
    assert sent_ids(world.sent) == sorted(world.ids())
    assert all(row.planned_count == 10 for row in world.rows(Trigger))


def test_a_start_touches_no_index(postgres_world: World) -> None:
    """PostgreSQL keeps the row's new version beside the old one, since no indexed column changes."""
    world = postgres_world
    world.create(target=HTTP)
    world.tick(horizon=0)
    with world.database.write() as connection:
        ready = deliver.prepare(connection, world.ids(), "http", world.now)
        assert len(deliver.start(connection, ready.jobs, world.now)) == 1
        hot = "SELECT pg_stat_get_xact_tuples_hot_updated(CAST('events' AS regclass))"
        assert connection.execute(text(hot)).scalar_one() == 1


def test_a_tick_with_much_to_do_calls_for_help(world: World) -> None:
    """Who helps leaves what is not a full batch; what it took is not planned again."""
    for number in range(31):
        world.create(f"t{number}", once(number))
    helped: list[Tick] = []

    def help_to_plan() -> None:
        helped.append(tick.help_to_plan(world.database, world.dispatch, seconds(90), TZDATA, batch=10))

    made = tick.execute_scheduled_triggers(
        world.database, world.dispatch, seconds(90), TZDATA, 3, call=help_to_plan
    )
    postgres = world.database.is_postgres  # SQLite has one writer: help would only be in the way
    assert [one.planned for one in helped] == ([28] if postgres else [])
    assert made.planned == (3 if postgres else 31)
    assert world.offsets() == list(range(31))
    assert sorted(sent_ids(world.sent)) == sorted(event.id for event in world.events())


def test_a_tick_calls_again_as_long_as_there_is_much_to_do(postgres_world: World) -> None:
    world, calls = postgres_world, 0
    for number in range(25):
        world.create(f"t{number}", once(number))

    def call() -> None:
        nonlocal calls
        calls += 1

    tick.execute_scheduled_triggers(world.database, world.dispatch, seconds(90), TZDATA, 2, call=call)
    assert calls == 3  # after full batches 1, 6 and 11 of 12


def tick_in_a_process(url: str, barrier: Any) -> None:
    """One tick as another process makes it."""
    database = Database(url, clock=lambda _: NOON)
    barrier.wait(20)
    tick.execute_scheduled_triggers(database, lambda hints: True, seconds(90), TZDATA, batch=2)
    database.close()


def test_processes_at_once_record_each_occurrence_once(world: World) -> None:
    for number in range(20):
        world.create(f"t{number}")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=tick_in_a_process, args=(world.url, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert Counter(Counter(e.trigger_id for e in world.events()).values()) == {10: 20}


@contextmanager
def row_locked(world: World, name: str) -> Iterator[Callable[[], None]]:
    """A transaction of another tick that holds a trigger until the given function is called."""
    released, held = threading.Event(), threading.Event()
    database = world.connect()

    def hold() -> None:
        with database.write() as connection:
            connection.execute(
                text("SELECT id FROM triggers WHERE name = :name FOR NO KEY UPDATE"), {"name": name}
            )
            held.set()
            assert released.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        yield released.set
    finally:
        released.set()
        thread.join(20)


def waiting_for_locks(world: World) -> int:
    with world.database.read() as connection:
        waiting = "wait_event_type = 'Lock' AND datname = current_database()"
        query = text(f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}")
        return int(connection.execute(query).scalar_one())


def test_what_another_tick_holds_is_passed_over_and_then_waited_for(postgres_world: World) -> None:
    world = postgres_world
    for name in ("held", "a", "b"):
        world.create(name, once())
    with row_locked(world, "held") as release, ThreadPoolExecutor(1) as pool:
        ticking = pool.submit(world.tick)
        wait_until(lambda: waiting_for_locks(world) == 1, message="the last pass waits for the row")
        assert {e.trigger_id for e in world.events()} == {world.trigger(n).id for n in ("a", "b")}
        assert len(world.sent) == 2
        assert not ticking.done()
        release()
        assert ticking.result(20).planned == 3
    assert sent_ids(world.sent) == sorted(world.ids())


def test_the_last_pass_waits_in_the_order_in_which_others_lock(postgres_world: World) -> None:
    """Else it holds a trigger that a delivery waits for, and waits for another that the delivery holds."""
    world = postgres_world
    first, second = world.create("a", once(20)), world.create("b", once(10))
    assert first < second
    holder, other = world.connect(), world.connect()
    with ThreadPoolExecutor(2) as pool:
        with holder.write() as holding:
            lifecycle.lock(holding, [first])
            with other.write() as connection:
                lifecycle.lock(connection, [second])
                ticking = pool.submit(world.tick)
                wait_until(lambda: waiting_for_locks(world) == 1, message="the last pass waits")
            lifecycle.lock(holding, [second])
        assert ticking.result(20).planned == 2


def test_what_another_tick_planned_meanwhile_is_left_alone(postgres_world: World) -> None:
    """The row that was waited for is read anew: its occurrences have their events."""
    world, released = postgres_world, threading.Event()
    world.create(schedule=once())
    other = world.connect()

    def plan_and_hold() -> None:
        with other.write() as connection:
            (claimed,) = plan.claim(connection, world.now, 1, set(), wait=True)
            made = planning.plan(claimed.first, world.now, world.now)
            events = plan.new_events([(made, claimed)], world.now)
            plan.insert_events(connection, events, world.now, GRACE)
            plan.advance(connection, [(made, claimed)])
            assert released.wait(20)

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(plan_and_hold)
        wait_until(lambda: row_is_locked(world), message="the other tick holds the row")
        ticking = pool.submit(world.tick)
        wait_until(lambda: waiting_for_locks(world) == 1, message="the last pass waits for the row")
        released.set()
        holding.result(20)
        assert ticking.result(20).planned == 0
    assert len(world.events()) == 1


def row_is_locked(world: World) -> bool:
    with world.database.write() as connection:
        query = "SELECT count(*) FROM (SELECT 1 FROM triggers FOR NO KEY UPDATE SKIP LOCKED) AS free"
        return int(connection.execute(text(query)).scalar_one()) == 0


def test_an_uncommitted_event_does_not_hide_its_trigger(postgres_world: World) -> None:
    """A foreign key locks the trigger's row too, but not in a way that a claim minds."""
    world = postgres_world
    trigger_id = world.create(schedule=once())
    with world.connect().write() as connection:
        connection.execute(insert(Event).values(manual_event(trigger_id)))
        with world.database.write() as claiming:
            assert len(plan.claim(claiming, world.now, 10, set(), wait=False)) == 1


def manual_event(trigger_id: str) -> dict[str, Any]:
    """A row of a manual event."""
    return {
        "id": new_id(NOON),
        "trigger_id": trigger_id,
        **dict.fromkeys(("scheduled_for", "fire_at", "due_at", "recheck_at", "created_at"), NOON),
        "source": "manual",
        "status": "pending",
        "state": "active",
    }


# ----------------------------------------------------------------------------------- set aside


def break_schedule(world: World, name: str) -> None:
    """As an update of the tz database may, that drops a zone."""
    broken = {"type": "cron", "cron": "* * * * *", "timezone": "Moon/Base"}
    with world.database.write() as connection:
        connection.execute(update(Trigger).where(Trigger.name == name).values(schedule=broken))


def test_a_trigger_whose_schedule_raises_is_set_aside_and_the_others_go_on(world: World) -> None:
    for name in ("a", "broken", "b"):
        world.create(name, once())
    break_schedule(world, "broken")
    made = world.tick()
    assert made.planned == 2
    assert {e.trigger_id for e in world.events()} == {world.trigger(n).id for n in ("a", "b")}
    row = world.trigger("broken")
    assert (row.state, row.next_at, row.exhausted) == ("paused", None, False)
    assert row.schedule_error.startswith("InvalidSchedule: ")
    assert "Moon/Base" in row.schedule_error
    change = world.rows(TriggerChange)[-1]
    assert (change.trigger_id, change.change, change.state) == (row.id, "set_aside", "paused")
    assert (change.effective_at, change.detail) == (row.planned_until, row.schedule_error)
    assert change.tzdata == TZDATA


def test_a_trigger_that_was_set_aside_is_not_looked_at_again(world: World) -> None:
    world.create()
    break_schedule(world, "t")
    world.tick()
    world.now += seconds(60)
    assert world.tick().planned == 0
    assert world.changes() == ["created", "set_aside"]


def test_what_was_planned_before_it_was_set_aside_goes_on(world: World) -> None:
    world.create(target=HTTP)
    world.tick(horizon=10)
    break_schedule(world, "t")
    world.now += seconds(10)
    world.tick(horizon=10)
    assert len(world.start()) == 2


# ------------------------------------------------------------------------------------ dispatch


def test_events_are_dispatched_only_after_their_commit(world: World) -> None:
    for number in range(5):
        world.create(f"t{number}")
    other = world.connect()
    seen: list[str] = []

    def dispatch(hints: Sequence[Hint]) -> bool:
        with other.write() as connection:  # on SQLite also: no transaction is open that writes
            found = set(connection.execute(select(Event.id)).scalars())
        assert {hint.event_id for hint in hints} <= found
        seen.extend(hint.event_id for hint in hints)
        return True

    tick.execute_scheduled_triggers(world.database, dispatch, seconds(20), TZDATA, batch=2)
    assert sorted(seen) == sorted(world.ids())


def test_what_could_not_be_dispatched_is_found_at_once_by_the_next_tick(world: World) -> None:
    world.create()
    world.broker_is_up = False
    made = world.tick(horizon=30)
    assert (made.planned, made.dispatched) == (4, 0)
    assert all(e.recheck_at == world.now for e in world.events())
    world.broker_is_up = True
    made = world.tick(horizon=30)
    assert (made.planned, made.dispatched, made.taken_back) == (0, 4, 4)
    assert sent_ids(world.sent) == sorted(world.ids())
    assert {hint.due_at for hint in world.sent} == {e.due_at for e in world.events()}
    assert world.tick(horizon=30).taken_back == 0


def test_a_tick_ends_although_the_broker_takes_nothing(world: World) -> None:
    for number in range(5):
        world.create(f"t{number}", once())
    world.broker_is_up = False
    made = world.tick(batch=2)
    assert made.planned == 5
    world.broker_is_up = True
    world.tick(batch=2)
    assert sent_ids(world.sent) == sorted(world.ids())


# ------------------------------------------------------------------------------------- recheck


@pytest.mark.parametrize(
    ("dispatches", "expected"), [(0, 10), (1, 20), (2, 40), (4, 160), (5, 300), (9, 300), (32_000, 300)]
)
def test_the_grace_doubles_with_each_dispatch_up_to_five_minutes(dispatches: int, expected: float) -> None:
    assert grace(dispatches) == seconds(expected)


def test_an_event_that_nobody_started_is_dispatched_again_and_again_ever_more_rarely(world: World) -> None:
    world.create(schedule=once())
    world.tick()
    waits = []
    for _ in range(8):
        recheck = world.event().recheck_at
        waits.append((recheck - world.now).total_seconds())
        world.now = recheck - seconds(0.000001)
        assert world.tick().taken_back == 0
        world.now = recheck
        assert world.tick().taken_back == 1
    assert waits == [10, 10, 20, 40, 80, 160, 300, LONGEST_GRACE.total_seconds()]
    assert world.sent == [Hint(world.event().id, NOON, "log", "t")] * 9
    assert world.event().status == "pending"


def send_again_and_again(world: World, times: int) -> None:
    """Nobody starts what is dispatched, while messages wait in the broker."""
    world.queues = Queues(ours=True, tasks=True)
    for _ in range(times):
        world.now = max(event.recheck_at for event in world.events())
        world.tick()
    world.sent.clear()


EMPTY = Queues(ours=False, tasks=False)
TASK = {"type": "celery", "task": "examples.tasks.add", "args": [1, 2]}


@pytest.mark.parametrize("times", range(10))
@pytest.mark.parametrize("target", [LOG, HTTP, TASK])
def test_when_the_broker_was_emptied_the_next_tick_sends_what_waits(
    world: World, times: int, target: dict[str, Any]
) -> None:
    """However rarely it would be looked at by then: a tick, and the grace of a message that was just sent."""
    world.create(schedule=once(), target=target)
    world.tick()
    send_again_and_again(world, times)
    world.queues = EMPTY
    world.now += GRACE
    world.tick()
    assert sent_ids(world.sent) == world.ids()
    assert world.event().recheck_at <= world.now + 2 * GRACE, "and the count begins anew"


def test_what_was_sent_a_moment_ago_is_not_lost_yet(world: World) -> None:
    """A worker has just taken its message. Hints make ticks several times a second."""
    world.create(schedule=once())
    world.tick()
    send_again_and_again(world, 5)
    world.queues = EMPTY
    for _ in range(10):
        world.now += GRACE / 11
        world.tick()
    assert world.sent == []
    world.now += GRACE / 11
    world.tick()
    assert sent_ids(world.sent) == world.ids()
    for _ in range(10):
        world.now += GRACE / 11
        world.tick()
    assert len(world.sent) == 1


def test_what_is_not_due_yet_is_held_and_not_lost(world: World) -> None:
    """Workers hold it: the queues are empty, as they nearly always are."""
    world.create(schedule=once(), target=HTTP)
    world.tick()
    send_again_and_again(world, 4)
    world.change(Event, due_at=world.now + seconds(60))
    world.queues = EMPTY
    world.now += GRACE
    world.tick(horizon=0)
    assert world.sent == []


def test_while_tasks_wait_in_their_queue_no_other_is_added(world: World) -> None:
    """Our queue is always empty then: its messages went on to the other."""
    world.create("task", once(), TASK)
    world.create("call", once(), HTTP)
    world.tick()
    send_again_and_again(world, 6)
    world.queues = Queues(ours=False, tasks=True)
    world.now += GRACE
    world.tick()
    assert {hint.kind for hint in world.sent} == {"http"}
    world.sent.clear()
    world.queues = Queues(ours=True, tasks=False)
    world.now += GRACE
    world.tick()
    assert "celery" not in {hint.kind for hint in world.sent}, "what waits in ours may be about tasks"


def test_a_backlog_does_not_amplify_itself(world: World) -> None:
    """An hour in which more waits than is done, and a tick a minute: 13 messages, not 60, for each event."""
    for number in range(3):
        world.create(f"t{number}", once(), TASK)
    world.tick()
    world.queues = Queues(ours=False, tasks=True)
    for _ in range(60):
        world.now += seconds(60)
        world.tick()
    assert set(Counter(sent_ids(world.sent)).values()) == {13}


def test_copies_of_tasks_take_no_slots_from_those_that_wait(world: World) -> None:
    """With a copy at each look a backlog of five minutes would be six times as long as what made it."""
    world.create("task", once(), TASK)
    world.create("call", once(), HTTP)
    world.tick()
    world.queues = Queues(ours=True, tasks=True)
    for _ in range(58):
        world.now += seconds(5)
        world.tick()
    assert Counter(hint.kind for hint in world.sent) == {"celery": 2, "http": 6}
    world.sent.clear()
    world.queues = EMPTY
    world.now += seconds(5)
    world.tick()
    assert {hint.kind for hint in world.sent} == {"celery", "http"}, "nothing waits: the message is lost"


def test_what_runs_or_has_ended_is_not_sent_although_the_queues_are_empty(world: World) -> None:
    world.create(schedule=once(), target=HTTP, policy={"timeout_seconds": 3600})
    world.tick()
    send_again_and_again(world, 4)
    (job,) = world.start()
    world.queues = EMPTY
    world.now += seconds(60)
    world.tick()
    assert world.sent == []
    world.finish(SUCCEEDED, job)
    world.now += seconds(60)
    world.tick()
    assert world.sent == []


def test_many_that_are_lost_are_sent_in_batches(world: World) -> None:
    for number in range(7):
        world.create(f"t{number}", once())
    world.tick()
    send_again_and_again(world, 4)
    world.queues = EMPTY
    world.now += GRACE
    world.tick(batch=3)
    assert sent_ids(world.sent) == sorted(world.ids())


def test_what_is_new_goes_before_a_great_deal_that_waits(world: World) -> None:
    """As a hundred thousand calls to a slow host, which are sent again and again."""
    for number in range(7):
        world.create(f"t{number}", once())
    world.tick()
    waiting = set(world.ids())
    world.now += GRACE
    world.create("new", every(10))
    world.sent.clear()
    world.tick(batch=3)
    found = [hint.event_id for hint in world.sent]
    assert found[0] not in waiting
    assert waiting <= set(found)


def test_the_newest_that_wait_go_before_a_great_deal_of_older_ones(world: World) -> None:
    """As what somebody has just fired, whose message was lost."""
    for number in range(12):
        world.create(f"t{number}", once())
    world.tick()
    world.now += GRACE + seconds(1)
    newest = world.fire("t0")
    world.sent.clear()
    world.tick(batch=3)
    assert newest in [hint.event_id for hint in world.sent[:3]]
    assert len({hint.event_id for hint in world.sent}) == len(world.ids())


def test_one_tick_of_a_process_takes_back_what_waits_and_pauses_between_batches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would take turns; the other one does the rest of its work meanwhile."""
    for number in range(13):
        world.create(f"t{number}", once())
    world.tick()
    world.now += GRACE
    pauses: list[int] = []
    others: list[int] = []

    def pause() -> bool:
        if not pauses:
            others.append(world.tick(batch=3).taken_back)
        pauses.append(len(world.sent))
        return True

    world.sent.clear()
    monkeypatch.setattr(tick, "BATCHES_BEFORE_PLANNING", 0)
    made = tick.execute_scheduled_triggers(
        world.database, world.dispatch, seconds(90), TZDATA, 3, pause=pause
    )
    assert others == [3], "the newest of what is left, and no more"
    assert made.taken_back == 10
    assert pauses == [9, 12]


def test_after_each_batch_of_a_great_backlog_others_may_write(world: World) -> None:
    for number in range(10):
        world.create(f"t{number}", once())
    world.tick()
    world.now += GRACE
    rests: list[bool] = []

    def rest() -> bool:
        with other.write():  # the lock of SQLite is free
            rests.append(True)
        return True

    other = world.connect()
    made = tick.execute_scheduled_triggers(world.database, world.dispatch, seconds(90), TZDATA, 3, rest=rest)
    assert made.taken_back == 10
    assert len(rests) == 2, "after a full batch of the oldest; the last is not full"


@pytest.mark.parametrize(("kind", "rests"), [("sqlite", True), ("postgresql", False)])
def test_only_where_there_is_one_writer_a_tick_rests(
    kind: str, rests: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "emptied_postgres_url"}[kind])
    with closing(World(url)) as world:
        for number in range(3):
            world.create(f"t{number}", once())
        world.tick()
        world.now += GRACE
        rested: list[float] = []
        monkeypatch.setattr(tick, "NEWEST", 1)
        monkeypatch.setattr(tick, "SMALL_BATCH", 1)
        monkeypatch.setattr(time, "sleep", rested.append)
        tick.run(world.database, world.dispatch, seconds(90), TZDATA, None)
        assert bool(rested) is rests
        assert set(rested) <= {tick.REST_SECONDS}


def test_of_a_great_backlog_the_rest_comes_after_what_is_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a plan that is thirty seconds ahead would be late. A worker that ends leaves the rest."""
    monkeypatch.setattr(tick, "BATCHES_BEFORE_PLANNING", 1)
    for number in range(10):
        world.create(f"t{number}", once())
    world.tick()
    waiting = set(world.ids())
    world.now += GRACE
    for number in range(5):
        world.create(f"new{number}", once(60))
    world.sent.clear()
    made = tick.execute_scheduled_triggers(
        world.database, world.dispatch, seconds(90), TZDATA, 3, pause=lambda: False
    )
    assert made.planned == 5
    assert made.taken_back == 9, "the newest, a batch, and after planning another"
    old = [hint.event_id in waiting for hint in world.sent]
    assert old == [False] * 3 + [True] * 6 + [False] * 2 + [True] * 3


def test_a_hinted_tick_leaves_what_was_sent_before_to_beats(world: World) -> None:
    """Many may come, and each would send again all that waits for a slow host."""
    world.create(schedule=once())
    world.tick()
    send_again_and_again(world, 4)
    world.now += GRACE

    def look() -> Queues:
        raise AssertionError("asked")

    tick.run(world.database, world.dispatch, seconds(90), TZDATA, None, look=look)


def test_the_broker_is_only_asked_when_there_is_a_doubt(world: World) -> None:
    world.create(schedule=once())
    world.create("other", every(10))

    def look() -> Queues:
        raise AssertionError("asked")

    for _ in range(3):
        world.now += seconds(5)
        tick.execute_scheduled_triggers(world.database, world.dispatch, seconds(90), TZDATA, look=look)


def test_what_waits_for_a_deleted_trigger_is_cancelled_and_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """As what a worker of an older version made pending meanwhile."""
    caplog.set_level("INFO")
    world.create(schedule=once(), target=HTTP)
    world.tick()
    world.change(Trigger, deleted_at=world.now)
    world.now += GRACE
    world.tick()
    event = world.event()
    assert (event.status, event.reason) == ("cancelled", "deleted")
    assert caplog.messages[-1] == (
        f"cancelled trigger=t event={event.id} scheduled_for=2026-11-20T12:00:00Z status=cancelled"
        " reason=deleted"
    )


def test_the_count_of_dispatches_has_room_for_ever(world: World) -> None:
    world.create(schedule=once())
    world.tick()
    world.change(Event, dispatches=32_767)
    world.now += seconds(600)
    assert world.tick().taken_back == 1
    assert world.event().dispatches <= 32_767


def test_taking_back_goes_on_until_nothing_is_left(world: World) -> None:
    for number in range(7):
        world.create(f"t{number}", once())
    world.tick()
    world.sent.clear()
    world.now += seconds(10)
    assert world.tick(batch=3).taken_back == 7
    assert sent_ids(world.sent) == sorted(world.ids())


def test_an_event_that_is_ahead_is_looked_at_after_its_instant(world: World) -> None:
    world.create(schedule=once(80))
    world.tick()
    world.now += seconds(89.9)
    assert world.tick().taken_back == 0
    world.now += seconds(0.1)
    assert world.tick().taken_back == 1


def test_a_manual_event_is_dispatched_by_the_next_tick(world: World) -> None:
    world.create("byhand", {"type": "manual"})
    event_id = world.fire("byhand")
    world.tick()
    assert world.sent == [Hint(event_id, NOON, "log", "byhand")]


# --------------------------------------------------------------------------------------- leases


def running(world: World, **parts: Any) -> Job:
    """An event whose first attempt began at noon."""
    world.create(schedule=once(), target=HTTP, **parts)
    world.tick()
    (job,) = world.start()
    world.sent.clear()
    return job


def test_an_attempt_with_a_live_lease_is_left_alone_until_it_ends(world: World) -> None:
    running(world, policy={"timeout_seconds": 60})
    lease = world.event().lease_until
    assert lease == NOON + seconds(60) + deliver.LEASE_MARGIN
    world.now += seconds(10)
    assert world.tick().taken_back == 1
    event = world.event()
    assert (event.status, event.recheck_at, event.dispatches) == ("running", lease, 0)
    assert world.sent == []
    world.now = lease - seconds(0.000001)
    assert world.tick().taken_back == 0


def test_an_attempt_whose_lease_ran_out_is_lost_and_tried_again(world: World) -> None:
    job = running(world, policy={"timeout_seconds": 60}, retry={"min_backoff_seconds": 5})
    world.now = world.event().lease_until
    world.tick()
    event = world.event()
    assert (event.status, event.reason, event.attempt) == ("pending", None, 1)
    assert seconds(5) <= event.due_at - world.now <= seconds(6.25)
    assert event.recheck_at == event.due_at + GRACE
    assert world.sent == [Hint(event.id, event.due_at, "http", "t")]
    (attempt,) = world.rows(Attempt)
    assert (attempt.event_id, attempt.attempt, attempt.outcome) == (job.id, 1, "lost")
    assert (attempt.started_at, attempt.finished_at) == (NOON, world.now)
    assert attempt.error["type"] == "WorkerLost"


def test_the_retry_of_a_lost_attempt_starts_on_its_instant(world: World) -> None:
    running(world)
    world.now = world.event().lease_until
    world.tick()
    world.now = world.event().due_at - seconds(0.000001)
    assert world.start() == []
    world.now = world.event().due_at
    (job,) = world.start()
    assert (job.attempt, world.event().attempt) == (2, 2)


def test_a_retry_that_is_far_away_is_dispatched_when_it_comes_near(world: World) -> None:
    running(world, retry={"min_backoff_seconds": 3600})
    world.now = world.event().lease_until
    world.tick()
    assert world.sent == []
    event = world.event()
    assert world.now < event.recheck_at < event.due_at
    world.now = event.recheck_at
    world.tick()
    assert world.sent == [Hint(event.id, event.due_at, "http", "t")]
    assert world.event().recheck_at == event.due_at + GRACE


def test_the_last_attempt_that_is_lost_fails_the_event(world: World) -> None:
    running(world, retry={"max_attempts": 1})
    world.now = world.event().lease_until
    world.tick()
    event = world.event()
    assert (event.status, event.reason, event.finished_at) == ("failed", "lost", world.now)
    assert (event.recheck_at, event.error["type"]) == (None, "WorkerLost")
    assert [row.outcome for row in world.rows(Attempt)] == ["lost"]
    assert world.trigger().consecutive_failures == 1
    assert world.sent == []


def test_a_lost_attempt_releases_what_was_queued_behind_it(world: World) -> None:
    world.create(target=HTTP, policy={"overlap": "queue", "timeout_seconds": 30}, retry={"max_attempts": 1})
    world.tick(horizon=10)
    first, second = world.ids()
    assert [job.id for job in world.start(first)] == [first]
    world.now += seconds(10)
    assert world.start(second) == []
    world.now = world.events()[0].lease_until
    world.sent.clear()
    world.tick(horizon=0)
    assert world.events()[0].reason == "lost"
    assert second in sent_ids(world.sent)


def test_lost_attempts_of_many_are_judged_in_one_go(world: World) -> None:
    for number in range(6):
        world.create(f"t{number}", once(), HTTP, retry={"max_attempts": 1 + number % 2})
    world.tick()
    assert len(world.start()) == 6
    world.now += seconds(3600)
    world.tick(batch=4)
    assert Counter((e.status, e.reason) for e in world.events()) == {
        ("failed", "lost"): 3,
        ("pending", None): 3,
    }
    assert len(world.rows(Attempt)) == 6


def test_two_ticks_judge_a_lost_attempt_once(world: World) -> None:
    for number in range(10):
        world.create(f"t{number}", once(), HTTP)
    world.tick()
    world.start()
    world.now += seconds(3600)
    others = [world.connect() for _ in range(3)]
    at_once(
        *(
            lambda database=database: tick.execute_scheduled_triggers(
                database, world.dispatch, seconds(90), TZDATA, 2
            )
            for database in others
        )
    )
    assert [(row.attempt, row.outcome) for row in world.rows(Attempt)] == [(1, "lost")] * 10
    assert all((e.status, e.attempt) == ("pending", 1) for e in world.events())


def test_a_deleted_triggers_retries_are_cancelled(world: World) -> None:
    running(world)
    world.delete()
    assert world.event().status == "running"
    world.sent.clear()
    world.now = world.event().lease_until
    world.tick()
    event = world.event()
    assert (event.status, event.reason, event.finished_at) == ("cancelled", "deleted", world.now)
    assert world.sent == []


def test_a_retry_that_a_delete_did_not_see_is_cancelled_when_it_is_looked_at(world: World) -> None:
    running(world)
    world.now = world.event().lease_until
    world.tick()
    assert world.event().status == "pending"
    world.change(Trigger, deleted_at=world.now, next_at=None, exhausted=False)
    world.sent.clear()
    world.now = world.event().recheck_at
    world.tick()
    assert (world.event().status, world.event().reason) == ("cancelled", "deleted")
    assert world.sent == []


# ----------------------------------------------------------------------------------- completion


def test_an_exhausted_trigger_is_completed_when_its_last_event_is_final(world: World) -> None:
    world.create(schedule=every(10, max_runs=2), target=HTTP)
    world.tick()
    assert (world.trigger().state, world.trigger().exhausted) == ("active", True)
    world.now += seconds(10)
    jobs = world.start()
    world.tick()
    assert world.trigger().state == "active"
    world.change(Event, status="succeeded", finished_at=world.now, recheck_at=None)
    world.tick()
    row = world.trigger()
    assert len(jobs) == 2
    assert (row.state, row.next_at, row.exhausted) == ("completed", None, False)
    change = world.rows(TriggerChange)[-1]
    assert (change.change, change.state, change.effective_at) == ("completed", "completed", world.now)
    assert change.planned_count == 2


def test_a_trigger_whose_occurrences_were_all_skipped_is_completed_at_once(world: World) -> None:
    world.create(schedule=every(10, max_runs=2), policy={"misfire": "skip", "misfire_grace_seconds": 1})
    world.now += seconds(60)
    world.tick()
    assert (world.event().status, world.trigger().state) == ("skipped", "completed")


def test_a_completion_is_not_older_than_what_it_completes(world: World) -> None:
    """A tick may be long; what ends while it goes on ends behind its beginning."""
    world.create("missed", once(0), policy={"misfire": "skip"})
    world.create("sent")
    world.now += seconds(120)

    def slow(hints: Sequence[Hint]) -> bool:
        world.now += seconds(5)
        return True

    tick.execute_scheduled_triggers(world.database, slow, seconds(90), TZDATA)
    (change,) = [row for row in world.rows(TriggerChange) if row.change == "completed"]
    assert change.effective_at == world.trigger("missed").updated_at == world.now
    assert world.now > NOON + seconds(120)


def test_a_completed_trigger_is_completed_once(world: World) -> None:
    world.create(schedule=every(10, max_runs=1), policy={"misfire": "skip", "misfire_grace_seconds": 1})
    world.now += seconds(60)
    for _ in range(3):
        world.tick()
    assert world.changes() == ["created", "completed"]


def test_a_manual_trigger_is_never_completed(world: World) -> None:
    world.create(schedule={"type": "manual"})
    world.tick()
    assert world.trigger().state == "active"


# ---------------------------------------------------------------------------------------- word of it


def test_a_tick_leaves_word_of_itself(world: World) -> None:
    world.create()
    for planned in (10, 0):
        tick.run(world.database, world.dispatch, seconds(90), TZDATA, "node-1")
        (node,) = world.rows(Node)
        assert (node.name, node.last_tick_at, node.planned) == ("node-1", world.now, planned)
        assert node.tzdata == TZDATA
        assert node.took_seconds >= 0


@pytest.mark.parametrize(("off", "warned"), [(0.0, False), (0.9, False), (1.5, True), (-90.0, True)])
def test_a_tick_measures_how_far_its_machines_clock_is_off(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, off: float, warned: bool
) -> None:
    monkeypatch.setattr(tick, "machine_clock", lambda _: world.now + seconds(off))
    with caplog.at_level(logging.INFO):
        tick.run(world.database, world.dispatch, seconds(90), TZDATA, "node-1")
    assert world.rows(Node)[0].clock_skew_seconds == off
    assert f"clock_skew={off:+.3f}" in caplog.text
    assert (f"the clock of this machine (node-1) is {off:+.1f} s off the database's" in caplog.text) == warned


def test_a_tick_that_beat_did_not_send_leaves_none(world: World) -> None:
    world.create()
    assert tick.run(world.database, world.dispatch, seconds(90), TZDATA, None).planned == 10
    assert world.rows(Node) == []


def test_a_hint_plans_as_far_as_beats_last_tick_did(world: World) -> None:
    """Or each trigger that is made would bring a message for every other that fires each second."""
    world.create("old")
    tick.run(world.database, world.dispatch, seconds(90), TZDATA, "node-1")
    world.now += seconds(55)
    world.create("new")
    made = tick.run(world.database, world.dispatch, seconds(90), TZDATA, None)
    assert (made.planned, made.until) == (4, NOON + seconds(90))  # of the new one: 60, 70, 80, 90
    world.now += seconds(6)  # no tick has come: now a hint has to do its work
    made = tick.run(world.database, world.dispatch, seconds(90), TZDATA, None)
    assert (made.planned, made.until) == (2 * 6, world.now + seconds(90))


def test_an_idle_tick_writes_nothing(world: World) -> None:
    world.create(schedule=every(86_400, start_time=(NOON + seconds(3600)).isoformat()))
    before = [world.rows(model) for model in (Trigger, Event, TriggerChange)]
    made = world.tick()
    assert (made.planned, made.taken_back, world.sent) == (0, 0, [])
    assert [world.rows(model) for model in (Trigger, Event, TriggerChange)] == before
    with world.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(Event)).scalar_one() == 0
