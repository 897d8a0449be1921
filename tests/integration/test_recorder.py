"""Users' tasks on record: the short way of the plain ones, and the long way of what is to be judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

import models.database
from models import Event, Trigger
from models.base import new_id
from models.database import Database, one_row, postgres_clock
from tests.integration import test_tick
from tests.integration.test_tick import NOON, TZDATA, World, once, seconds
from tests.servers import wait_until
from triggers import deliver
from triggers.deliver import Finished
from triggers.recorder import Recorder, begin, begin_after_a_look, begin_at_once
from triggers.store.delivery import Job
from triggers.targets import Outcome

reused_postgres_url = test_tick.reused_postgres_url
emptied_postgres_url = test_tick.emptied_postgres_url
world = test_tick.world
postgres_world = test_tick.postgres_world

ADD = "examples.tasks.add"
TASK = {"type": "celery", "task": ADD, "args": [1, 2], "kwargs": {}}
DONE = Outcome(True, result=3)


def planned(world: World, **parts: Any) -> str:
    """An event of a user's task that is due now."""
    world.create(**({"schedule": once(), "target": TASK} | parts))
    world.tick()
    return str(world.event().id)


@pytest.fixture
def recorder(world: World) -> Iterator[Recorder]:
    made = Recorder(world.database, world.dispatch, TZDATA)
    yield made
    made.close(5)


# -------------------------------------------------------------------------------------------- begin


@pytest.mark.parametrize(
    ("misfire", "after", "attempt"),
    [
        ("fire_once", 0.25, 0),
        ("fire_once", 3600, 0),  # nothing newer is due
        ("fire_all", 0.25, 0),
        ("fire_all", 3600, 0),
        ("fire_once", 3600, 1),
        ("skip", 3600, 1),
    ],
)
def test_both_ways_begin_the_same_attempt(
    postgres_world: World, misfire: str, after: float, attempt: int
) -> None:
    world = postgres_world
    policy = {"timeout_seconds": 20, "misfire": misfire, "catchup_window_seconds": 3600}
    event_id = planned(world, policy=policy, target=TASK | {"kwargs": {"x": [1]}})
    world.now += seconds(after)

    def attempt_by(way: Callable[[Database, str, str], Job | None]) -> tuple[Any, dict[str, Any]]:
        world.change(
            Event,
            **{"status": "pending", "attempt": attempt},
            **dict.fromkeys(("started_at", "attempt_started_at", "lease_until"), NOON if attempt else None),
        )
        job = way(world.database, event_id, ADD)
        assert job is not None
        return world.event(), asdict(job)

    assert attempt_by(begin_at_once) == attempt_by(begin_after_a_look)
    assert world.event().lease_until == world.now + seconds(20) + deliver.LEASE_MARGIN


def late(world: World) -> None:
    world.now += seconds(61)


def late_under(misfire: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.change(Trigger, policy=world.trigger().policy | {"misfire": misfire})
        if misfire == "fire_all":  # as it would have been planned
            world.change(Event, misfire_at=None)
        late(world)

    return change


def older_than_its_window(misfire: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        late_under(misfire)(world)
        world.change(Trigger, policy=world.trigger().policy | {"catchup_window_seconds": 60})

    return change


def not_the_newest(world: World) -> None:
    world.now = world.trigger().planned_until + seconds(1)  # and the next is not planned yet
    world.change(Trigger, next_at=world.now)


def too_early(world: World) -> None:
    world.now -= timedelta(microseconds=1)


def overlaps(world: World) -> None:
    world.change(Trigger, policy=world.trigger().policy | {"overlap": "skip"})


def is_deleted(world: World) -> None:
    world.change(Trigger, deleted_at=world.now, next_at=None)


def calls_another_task(world: World) -> None:
    world.change(Trigger, target=TASK | {"task": "examples.tasks.divide"})


def is_of_another_kind(world: World) -> None:
    world.change(Trigger, target_type="log", target={"type": "log", "message": ""})


def has_begun(world: World) -> None:
    assert begin(world.database, world.event().id, ADD) is not None


@pytest.mark.parametrize(
    "changed",
    [
        late_under("skip"),
        older_than_its_window("fire_once"),
        older_than_its_window("fire_all"),
        not_the_newest,
        too_early,
        overlaps,
        is_deleted,
        calls_another_task,
        is_of_another_kind,
        has_begun,
    ],
)
def test_what_is_to_be_judged_does_not_begin_at_once(
    postgres_world: World, changed: Callable[[World], None]
) -> None:
    event_id = planned(postgres_world)
    changed(postgres_world)
    assert begin_at_once(postgres_world.database, event_id, ADD) is None


def test_of_late_ones_only_the_newest_begins_at_once(postgres_world: World) -> None:
    world = postgres_world
    world.create(schedule=test_tick.every(10, max_runs=2), target=TASK, policy={"misfire_grace_seconds": 1})
    world.tick()
    older, newer = world.ids()
    late(world)
    assert begin_at_once(world.database, older, ADD) is None
    job = begin_at_once(world.database, newer, ADD)
    assert job is not None
    assert begin(world.database, older, ADD) is None  # whatever became of the newer one
    assert [(e.status, e.reason) for e in world.events()] == [("skipped", "misfire"), ("running", None)]


def test_what_catches_up_and_outlives_its_window_on_the_way_here_never_fires(world: World) -> None:
    """Its grace counts from its planning on, so it is not late yet."""
    world.create(schedule=once(), target=TASK, policy={"catchup_window_seconds": 90})
    world.now += seconds(85)
    world.tick()
    event = world.event()
    assert (event.source, event.misfire_at) == ("catchup", world.now + seconds(60))
    world.now = NOON + seconds(90) + timedelta(microseconds=1)
    assert begin_at_once(world.database, event.id, ADD) is None
    assert begin(world.database, event.id, ADD) is None
    assert (world.event().status, world.event().reason) == ("skipped", "catchup_window")


@pytest.mark.parametrize(
    "changed", [too_early, is_deleted, calls_another_task, is_of_another_kind, has_begun]
)
def test_what_may_not_run_does_not_begin(world: World, changed: Callable[[World], None]) -> None:
    event_id = planned(world)
    changed(world)
    before = world.event()
    assert begin(world.database, event_id, ADD) is None
    assert world.event() == before


@pytest.mark.parametrize("changed", [late, overlaps])
def test_what_is_late_or_may_overlap_begins_after_a_look(
    world: World, changed: Callable[[World], None]
) -> None:
    event_id = planned(world)
    changed(world)
    assert begin(world.database, event_id, ADD) is not None


def test_nothing_begins_that_is_unknown(world: World) -> None:
    assert begin(world.database, new_id(NOON), ADD) is None


# ---------------------------------------------------------------------------------------------- end


def test_results_are_recorded(world: World, recorder: Recorder) -> None:
    job = begin(world.database, planned(world, schedule=test_tick.every(3600)), ADD)
    assert job is not None
    world.now += seconds(2)
    recorder.finished(Finished(job, DONE))
    wait_until(lambda: world.events()[0].status == "succeeded", message="the end is on record")
    event = world.events()[0]
    assert (event.result, event.finished_at, event.recheck_at, event.attempt) == (3, world.now, None, 1)


def test_a_late_workers_result_is_refused(world: World, recorder: Recorder) -> None:
    job = begin(world.database, planned(world, schedule=test_tick.every(3600)), ADD)
    assert job is not None
    world.change(Event, attempt=2)  # its lease ran out, and another began
    done = recorder.finish_now(Finished(job, DONE))
    assert done is not None
    assert ([one.job.id for one in done.refused], done.won) == ([job.id], [])
    assert (world.events()[0].status, world.events()[0].result) == ("running", None)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_success_ends_a_row_of_failures(world: World, recorder: Recorder, when: str) -> None:
    event_id = planned(world, schedule=test_tick.every(3600))
    if when == "before":
        world.change(Trigger, consecutive_failures=2)
    job = begin(world.database, event_id, ADD)
    assert job is not None
    if when == "meanwhile":
        world.change(Trigger, consecutive_failures=2)
    assert recorder.finish_now(Finished(job, DONE)) is not None
    wait_until(lambda: world.trigger().consecutive_failures == 0, message="the row of failures ends")


def test_the_last_success_completes_the_trigger(world: World, recorder: Recorder) -> None:
    job = begin(world.database, planned(world), ADD)
    assert job is not None
    assert recorder.finish_now(Finished(job, DONE)) is not None
    wait_until(lambda: world.trigger().state == "completed", message="the trigger is complete")


def test_progress_is_recorded_before_the_end(world: World, recorder: Recorder) -> None:
    job = begin(world.database, planned(world, schedule=test_tick.every(3600)), ADD)
    assert job is not None
    recorder.progressed(job, {"done": 1})
    wait_until(lambda: world.events()[0].progress == {"done": 1}, message="the progress is on record")
    assert recorder.finish_now(Finished(job, DONE)) is not None
    assert world.events()[0].progress == {"done": 1}


# ----------------------------------------------------------------------------- the end before the next


@pytest.fixture
def unhurried(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Its thread does nothing by itself."""
    monkeypatch.setattr(recorder, "_ensure_thread", lambda: None)
    return recorder


def in_a_row(world: World, count: int, schedule: Any = None) -> list[str]:
    """So many events of as many triggers that are due now."""
    for number in range(count):
        world.create(f"t{number}", schedule=schedule or test_tick.every(3600), target=TASK)
    world.tick(horizon=0)
    return world.ids()


def begun(recorder: Recorder, event_id: str) -> Job:
    job = recorder.begin(event_id, ADD)
    assert job is not None
    return job


def fates(world: World) -> dict[str, tuple[str, Any]]:
    return {event.id: (event.status, event.result) for event in world.events()}


@pytest.mark.parametrize("several", [False, True])
def test_before_an_attempt_begins_the_ends_of_those_before_are_on_record(
    world: World, unhurried: Recorder, several: bool
) -> None:
    first, second, third = in_a_row(world, 3)
    jobs = [begun(unhurried, event_id) for event_id in (first, second)]
    unhurried.finished(Finished(jobs[0], DONE))
    if several:
        unhurried.finished(Finished(jobs[1], DONE))
    job = begun(unhurried, third)
    assert fates(world)[first] == ("succeeded", 3)
    assert fates(world)[third] == ("running", None)
    assert (job.id, job.attempt, job.target["task"]) == (third, 1, ADD)
    assert not unhurried._left()


def test_it_is_on_record_although_nothing_begins(world: World, unhurried: Recorder) -> None:
    first, second = in_a_row(world, 2)
    unhurried.finished(Finished(begun(unhurried, first), DONE))
    world.change(Trigger, deleted_at=world.now, next_at=None)
    assert unhurried.begin(second, ADD) is None
    assert fates(world) == {first: ("succeeded", 3), second: ("pending", None)}


def test_a_result_that_comes_late_is_refused_then_too(world: World, unhurried: Recorder) -> None:
    first, second = in_a_row(world, 2)
    job = begun(unhurried, first)
    job.attempt += 1  # or the event's, when its lease ran out: the two differ
    unhurried.finished(Finished(job, DONE))
    begun(unhurried, second)
    assert fates(world) == {first: ("running", None), second: ("running", None)}


def test_a_last_success_completes_its_trigger_soon(world: World, unhurried: Recorder) -> None:
    first, second = in_a_row(world, 2, once())
    unhurried.finished(Finished(begun(unhurried, first), DONE))
    begun(unhurried, second)
    assert fates(world)[first] == ("succeeded", 3)
    assert unhurried._write_waiting()
    done = next(event for event in world.events() if event.id == first)
    states = {row.id: row.state for row in world.rows(Trigger)}
    assert states.pop(done.trigger_id) == "completed"
    assert set(states.values()) == {"active"}
    assert not unhurried._left()


def test_an_end_that_nobody_can_judge_holds_up_no_other(world: World, unhurried: Recorder) -> None:
    """What the user's code asked for is no number; the event is tried again by its policy."""
    first, second = in_a_row(world, 2)
    strange: Any = "ten seconds"
    unhurried.finished(Finished(begun(unhurried, first), Outcome(False, retry_after=strange)))
    begun(unhurried, second)
    assert fates(world) == {first: ("pending", None), second: ("running", None)}
    assert not unhurried._waiting


def test_an_end_that_cannot_be_recorded_yet_holds_up_no_other(
    world: World, unhurried: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = in_a_row(world, 2)
    failed = Outcome(False, error={"type": "ValueError", "message": ""})
    unhurried.finished(Finished(begun(unhurried, first), failed))

    def locked(batch: Any) -> Any:
        raise OperationalError("UPDATE", None, Exception("the trigger's row is locked"))

    with monkeypatch.context() as patched:
        patched.setattr(unhurried, "_write", locked)
        begun(unhurried, second)
    assert fates(world) == {first: ("running", None), second: ("running", None)}
    assert unhurried._write_waiting()
    assert fates(world)[first] == ("pending", None)


def test_what_cannot_be_recorded_before_is_kept_and_nothing_begins(postgres_world: World) -> None:
    world = postgres_world
    recorder = Recorder(world.database, world.dispatch, TZDATA)
    recorder._ensure_thread = lambda: None  # type: ignore[method-assign]
    first, second = in_a_row(world, 2)
    recorder.finished(Finished(begun(recorder, first), DONE))
    other = Database(world.database.url.render_as_string(hide_password=False))
    end_connection(world.database, other)
    other.close()
    with pytest.raises(OperationalError, match="terminating connection"):
        recorder.begin(second, ADD)
    assert fates(world) == {first: ("running", None), second: ("pending", None)}
    begun(recorder, second)
    assert fates(world) == {first: ("succeeded", 3), second: ("running", None)}


# ------------------------------------------------------------------------------------- connections


def test_a_connection_that_died_while_nobody_used_it_is_replaced(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.database, "IDLE_SECONDS", 0)
    database, other = Database(postgres_url), Database(postgres_url)
    try:
        mine = end_connection(database, other)
        with database.read() as connection:
            assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != mine
    finally:
        database.close()
        other.close()


def test_a_connection_that_dies_is_given_up_without_a_word(
    postgres_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a begin nor the clock goes through SQLAlchemy, which would see what happened."""
    database, event_id = postgres_world.database, planned(postgres_world)
    real = Database(database.url.render_as_string(hide_password=False))
    ways: list[Callable[[], object]] = [
        lambda: begin(database, event_id, ADD),
        lambda: clock_of(real.write),
        lambda: clock_of(real.read),
        lambda: clock_of(real.write_once),
    ]
    try:
        for one, other, way in zip((database, real, real, real), (real, *[database] * 3), ways, strict=True):
            end_connection(one, other)
            with pytest.raises(OperationalError, match="terminating connection"):
                way()
            assert way() is not None
    finally:
        real.close()
    assert not [record for record in caplog.records if record.name.startswith("sqlalchemy")]


def test_a_connection_for_single_statements_is_one_for_transactions_afterwards(postgres_url: str) -> None:
    """Inside each statement is committed, also before an error; afterwards none is."""
    database = Database(postgres_url)
    try:
        with database.statement() as connection:
            connection.execute(text("CREATE TABLE made (number int)"))
            mine = one_row(connection, "INSERT INTO made VALUES (1) RETURNING pg_backend_pid()")
            with pytest.raises(DBAPIError, match="division by zero"):
                one_row(connection, "SELECT 1 / 0")
        with database.read() as connection:
            assert one_row(connection, "INSERT INTO made VALUES (2) RETURNING pg_backend_pid()") == mine
            connection.rollback()
        with database.read() as connection:
            assert connection.execute(text("SELECT number FROM made")).scalars().all() == [1]
    finally:
        database.close()


def end_connection(database: Database, other: Database) -> int:
    """As a PostgreSQL that is restarted does with the connection that `database` uses next: that one."""
    with database.read() as connection:
        mine: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with other.statement() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": mine})
    return mine


def clock_of(way: Callable[[], AbstractContextManager[Connection]]) -> datetime:
    """PostgreSQL's clock."""
    with way() as connection:
        return postgres_clock(connection)
