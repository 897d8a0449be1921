"""The transitions of a delivery on both databases: starts, finishes, retries, failures, misfires, overlap."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy import event as sqlalchemy_event

from models import Attempt, Event, Trigger, TriggerChange
from models.database import Database
from tests.integration import test_tick
from tests.integration.test_tick import (
    FAILED,
    HTTP,
    LOG,
    NOON,
    SUCCEEDED,
    TZDATA,
    World,
    at_once,
    every,
    once,
    seconds,
    sent_ids,
)
from tests.servers import wait_until
from triggers import deliver, manage
from triggers.store import delivery, lifecycle
from triggers.store.delivery import Job
from triggers.store.plan import GRACE
from triggers.targets import Outcome

reused_postgres_url = test_tick.reused_postgres_url
emptied_postgres_url = test_tick.emptied_postgres_url
world = test_tick.world
postgres_world = test_tick.postgres_world

INSTANT = timedelta(microseconds=1)
GONE = Outcome(False, error={"type": "HTTPError", "message": "410"}, gone=True)


def planned(world: World, horizon: float = 90, **parts: Any) -> list[str]:
    """A trigger `t` with its events planned, and the events' ids, oldest first."""
    world.create(**({"schedule": once(), "target": HTTP} | parts))
    world.tick(horizon)
    return world.ids()


def statuses(world: World) -> list[str]:
    return [event.status for event in world.events()]


def fates(world: World) -> list[tuple[str, str | None]]:
    return [(event.status, event.reason) for event in world.events()]


# -------------------------------------------------------------------------------------------- start


def test_a_start_is_on_record(world: World) -> None:
    planned(world, policy={"timeout_seconds": 20})
    world.now += seconds(0.25)
    (job,) = world.start()
    event = world.event()
    assert (event.status, event.attempt, event.lease_until) == (
        "running",
        1,
        world.now + seconds(20) + deliver.LEASE_MARGIN,
    )
    assert event.started_at == event.attempt_started_at == job.attempt_started_at == world.now
    assert (job.attempt, job.name, job.target["url"]) == (1, "t", HTTP["url"])
    assert event.recheck_at is not None


def test_nothing_starts_before_it_is_due(world: World) -> None:
    planned(world, schedule=once(20))
    world.now = NOON + seconds(20) - INSTANT
    assert world.start() == []
    with world.database.write() as connection:  # nor does the statement itself believe its caller
        assert delivery.start(connection, world.ids(), world.now, world.now) == {}
        assert delivery.complete(connection, world.ids(), world.now) == {}
    world.now += INSTANT
    assert len(world.start()) == 1


def test_what_is_early_is_given_back_with_its_instant(world: World) -> None:
    (event_id,) = planned(world, schedule=once(20))
    with world.database.write() as connection:
        ready = deliver.prepare(connection, [event_id], "http", world.now)
    assert (ready.jobs, ready.early) == ([], [(event_id, NOON + seconds(20))])


def test_a_jittered_event_starts_at_its_own_instant(world: World) -> None:
    planned(world, schedule=once() | {"jitter_seconds": 60})
    due = world.event().fire_at
    assert NOON < due <= NOON + seconds(60)
    world.now = due - INSTANT
    assert world.start() == []
    world.now = due
    assert len(world.start()) == 1


def test_what_was_started_cannot_be_started_again(world: World) -> None:
    planned(world)
    assert len(world.start()) == 1
    assert world.start() == []
    assert world.event().attempt == 1


@pytest.mark.parametrize("outcome", [SUCCEEDED, GONE])
def test_what_has_ended_cannot_be_started(world: World, outcome: Outcome) -> None:
    planned(world)
    world.finish(outcome, *world.start())
    assert world.start() == []


def test_an_event_is_started_only_as_the_kind_that_its_target_is(world: World) -> None:
    planned(world)
    for kind in ("log", "celery"):
        assert world.start(kind=kind) == []
    assert statuses(world) == ["pending"]


def test_ids_that_are_unknown_or_doubled_do_no_harm(world: World) -> None:
    (event_id,) = planned(world)
    nobody = "00000000-0000-0000-0000-000000000000"
    assert [job.id for job in world.start(nobody, event_id, event_id)] == [event_id]


def test_an_event_of_a_deleted_trigger_is_not_started(world: World) -> None:
    (event_id,) = planned(world)
    world.delete()
    assert world.start(event_id) == []


def test_one_of_many_competitors_wins_a_start(world: World) -> None:
    ids = planned(world, schedule=every(1), horizon=19)
    world.now += seconds(20)
    competitors = [world.connect() for _ in range(5)]

    def compete(database: Database) -> list[str]:
        with database.write() as connection:
            ready = deliver.prepare(connection, ids, "http", world.now)
            return [job.id for job in deliver.start(connection, ready.jobs, world.now)]

    won = at_once(*(lambda database=database: compete(database) for database in competitors))
    assert sorted(id_ for one in won for id_ in one) == sorted(ids)
    assert {event.attempt for event in world.events()} == {1}


def test_starts_of_different_timeouts_have_leases_of_their_own(world: World) -> None:
    for number in (10, 600):
        world.create(f"t{number}", once(), HTTP, policy={"timeout_seconds": number})
    world.tick()
    assert len(world.start()) == 2
    leases = {event.lease_until - NOON - deliver.LEASE_MARGIN for event in world.events()}
    assert leases == {seconds(10), seconds(600)}


# ------------------------------------------------------------------------------------------- finish


def test_a_success_is_final_and_keeps_its_result(world: World) -> None:
    planned(world)
    jobs = world.start()
    world.now += seconds(1)
    done = world.finish(SUCCEEDED, *jobs)
    event = world.event()
    assert (event.status, event.reason, event.result, event.error) == (
        "succeeded",
        None,
        {"status": 200},
        None,
    )
    assert (event.finished_at, event.recheck_at, event.attempt) == (world.now, None, 1)
    assert world.rows(Attempt) == []
    assert (len(done.won), done.refused, done.again, done.released) == (1, [], [], [])


def test_many_finish_in_one_statement_each_by_its_own_outcome(world: World) -> None:
    planned(world, schedule=every(1), horizon=8)
    world.now += seconds(8)
    jobs = world.start()
    outcomes = [SUCCEEDED, FAILED, GONE] * 3
    with world.database.write() as connection:
        ended = [deliver.Finished(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
        deliver.finish(connection, ended, world.now, TZDATA, lambda: 0.0)
    assert fates(world) == [("succeeded", None), ("pending", None), ("failed", "gone")] * 3
    assert len(world.rows(Attempt)) == 6


def test_results_and_errors_are_kept_as_they_are(world: World) -> None:
    planned(world)
    result = {
        "text": "\N{SNOWMAN} \" ' \\ \n {ids} :now %s $[0]",
        "number": 2**60,
        "nothing": None,
        "half": 0.5,
    }
    world.finish(Outcome(True, result=result), *world.start())
    assert world.event().result == result


@pytest.mark.parametrize("result", [None, False, 0, "", [], {}])
def test_an_empty_result_is_a_result(world: World, result: Any) -> None:
    planned(world)
    world.finish(Outcome(True, result=result), *world.start())
    assert (world.event().status, world.event().result) == ("succeeded", result)


# -------------------------------------------------------------------------------------------- fence


def test_a_stale_attempt_cannot_finish(world: World) -> None:
    planned(world)
    (stale,) = world.start()
    world.now = world.event().lease_until
    world.tick()
    world.now = world.event().due_at
    (current,) = world.start()
    assert (stale.attempt, current.attempt) == (1, 2)
    done = world.finish(SUCCEEDED, stale)
    assert ([one.job.id for one in done.refused], done.won) == ([stale.id], [])
    assert world.event().status == "running"
    done = world.finish(SUCCEEDED, current)
    assert (len(done.won), world.event().status) == (1, "succeeded")


def test_a_result_that_comes_after_the_lease_was_taken_back_is_refused(world: World) -> None:
    planned(world, retry={"max_attempts": 1})
    (job,) = world.start()
    world.now = world.event().lease_until
    world.tick()
    assert len(world.finish(SUCCEEDED, job).refused) == 1
    assert fates(world) == [("failed", "lost")]
    assert world.event().result is None


def test_a_result_that_comes_late_but_before_that_is_taken(world: World) -> None:
    planned(world)
    (job,) = world.start()
    world.now += seconds(3600)
    assert len(world.finish(SUCCEEDED, job).won) == 1


def test_the_same_result_twice_counts_once(world: World) -> None:
    planned(world, retry={"max_attempts": 1})
    jobs = world.start()
    world.finish(FAILED, *jobs)
    assert len(world.finish(FAILED, *jobs).refused) == 1
    assert len(world.rows(Attempt)) == 1
    assert world.trigger().consecutive_failures == 1


def test_one_of_many_competitors_wins_a_finish(world: World) -> None:
    planned(world, schedule=every(1), horizon=9)
    world.now += seconds(10)
    jobs = world.start()
    competitors = [world.connect() for _ in range(4)]

    def compete(database: Database) -> int:
        with database.write() as connection:
            ended = [deliver.Finished(job, FAILED) for job in jobs]
            return len(deliver.finish(connection, ended, world.now, TZDATA, lambda: 0.0).won)

    won = at_once(*(lambda database=database: compete(database) for database in competitors))
    assert sum(won) == len(jobs) == len(world.rows(Attempt)) == 10


def test_progress_is_fenced_like_a_finish(world: World) -> None:
    planned(world)
    (job,) = world.start()

    def progress(attempt: int, value: str) -> bool:
        with world.database.write() as connection:
            return delivery.progress(connection, job.id, attempt, value)

    assert progress(1, '{"done": 10}')
    assert not progress(0, '{"done": 20}')
    assert not progress(2, '{"done": 30}')
    assert world.event().progress == {"done": 10}
    world.finish(SUCCEEDED, job)
    assert not progress(1, '{"done": 40}')
    assert world.event().progress == {"done": 10}


# -------------------------------------------------------------------------------------------- retry


def test_a_failed_attempt_is_tried_again_after_its_backoff(world: World) -> None:
    planned(world, retry={"min_backoff_seconds": 10})
    world.now += seconds(1)
    jobs = world.start()
    world.now += seconds(1)
    done = world.finish(FAILED, *jobs)
    event = world.event()
    assert (event.status, event.reason, event.finished_at, event.attempt) == ("pending", None, None, 1)
    assert event.due_at == world.now + seconds(10)
    assert (event.fire_at, event.started_at) == (NOON, NOON + seconds(1))
    assert event.recheck_at == event.due_at + GRACE
    assert event.error == FAILED.error
    assert [(job.id, due) for job, due in done.again] == [(event.id, event.due_at)]


def test_retry_after_is_obeyed(world: World) -> None:
    planned(world, retry={"min_backoff_seconds": 10, "max_backoff_seconds": 60})
    asked = Outcome(False, error=FAILED.error, retry_after=45)
    world.finish(asked, *world.start())
    assert world.event().due_at == world.now + seconds(45)


def test_retry_after_is_obeyed_up_to_the_longest_wait(world: World) -> None:
    planned(world, retry={"min_backoff_seconds": 10, "max_backoff_seconds": 30})
    asked = Outcome(False, error=FAILED.error, retry_after=86_400)
    world.finish(asked, *world.start())
    assert world.event().due_at == world.now + seconds(30)


def test_a_far_retry_is_left_to_a_tick(world: World) -> None:
    planned(world, retry={"min_backoff_seconds": 600})
    done = world.finish(FAILED, *world.start())
    event = world.event()
    assert done.again == []
    assert event.recheck_at == event.due_at - deliver.LOOK_AHEAD


def test_attempts_are_counted_until_they_are_spent(world: World) -> None:
    planned(world, retry={"max_attempts": 3, "min_backoff_seconds": 10})
    began = []
    for number in (1, 2, 3):
        (job,) = world.start()
        assert job.attempt == number
        began.append(world.now)
        world.now += seconds(2)
        world.finish(FAILED, job)
        world.now = max(world.now, world.event().due_at)
    event = world.event()
    assert (event.status, event.reason, event.attempt) == ("failed", "attempts", 3)
    assert (event.error, event.recheck_at) == (FAILED.error, None)
    assert (event.started_at, event.attempt_started_at) == (began[0], began[2])
    assert [
        (a.attempt, a.outcome, a.started_at, a.finished_at - a.started_at) for a in world.rows(Attempt)
    ] == [(number, "failed", at, seconds(2)) for number, at in enumerate(began, 1)]
    assert [later - earlier for earlier, later in pairwise(began)] == [
        seconds(12),
        seconds(22),
    ]


def test_a_retry_that_succeeds_leaves_no_error_and_a_row_for_what_failed(world: World) -> None:
    planned(world)
    world.finish(FAILED, *world.start())
    world.now = world.event().due_at
    world.finish(SUCCEEDED, *world.start())
    event = world.event()
    assert (event.status, event.error, event.result, event.attempt) == ("succeeded", None, {"status": 200}, 2)
    assert [(row.attempt, row.error) for row in world.rows(Attempt)] == [(1, FAILED.error)]


def test_a_target_that_is_gone_fails_the_event_at_once(world: World) -> None:
    planned(world, retry={"max_attempts": 100})
    world.finish(GONE, *world.start())
    assert fates(world) == [("failed", "gone")]
    assert [row.attempt for row in world.rows(Attempt)] == [1]


def test_a_new_attempt_is_dispatched_with_a_grace_of_its_own(world: World) -> None:
    """What the backlog cost the first attempt must not delay the recovery of the second."""
    planned(world)
    world.change(Event, dispatches=9)
    world.finish(FAILED, *world.start())
    assert world.event().dispatches == 0


# ----------------------------------------------------------------------------- failures in a row


def fail(world: World, *ids: str) -> None:
    world.finish(GONE, *world.start(*ids))


def test_failed_events_in_a_row_are_counted_and_a_success_ends_the_row(world: World) -> None:
    ids = planned(world, schedule=every(10), horizon=40)
    world.now += seconds(40)
    counts = []
    for event_id, outcome in zip(ids, [GONE, GONE, SUCCEEDED, GONE], strict=False):
        world.finish(outcome, *world.start(event_id))
        counts.append(world.trigger().consecutive_failures)
    assert counts == [1, 2, 0, 1]


def test_a_retry_is_no_failed_event(world: World) -> None:
    planned(world)
    world.finish(FAILED, *world.start())
    assert world.trigger().consecutive_failures == 0


def test_several_that_fail_together_are_all_counted(world: World) -> None:
    planned(world, schedule=every(1), horizon=4)
    world.now += seconds(10)
    fail(world)
    assert world.trigger().consecutive_failures == 5


def test_a_success_ends_a_row_that_began_while_it_ran(world: World) -> None:
    first, second = planned(world, schedule=every(10), horizon=10)
    world.now += seconds(10)
    slow = world.start(first)
    fail(world, second)
    world.finish(SUCCEEDED, *slow)
    assert world.trigger().consecutive_failures == 0


def pausing(world: World, failures: int, **parts: Any) -> list[str]:
    """Events every ten seconds from noon to 12:01:30, of a trigger that failures pause."""
    return planned(world, schedule=every(10), policy={"pause_after_failures": failures}, **parts)


def test_too_many_failures_in_a_row_pause_the_trigger(world: World) -> None:
    ids = pausing(world, 2)
    fail(world, ids[0])
    assert world.trigger().state == "active"
    world.now += seconds(10)
    fail(world, ids[1])
    row = world.trigger()
    assert (row.state, row.next_at, row.consecutive_failures) == ("paused", None, 2)
    change = world.rows(TriggerChange)[-1]
    assert (change.change, change.state, change.effective_at) == (
        "paused_after_failures",
        "paused",
        world.now,
    )
    world.now += seconds(600)
    assert world.tick().planned == 0


def test_what_was_planned_for_later_is_gone_with_the_pause(world: World) -> None:
    ids = pausing(world, 1)
    assert len(ids) == 10
    fail(world, ids[0])
    assert fates(world) == [("failed", "gone")]
    assert world.trigger().planned_count == 1
    world.now += seconds(600)
    assert world.start() == []


def test_what_runs_and_what_waits_for_its_retry_outlives_the_pause(world: World) -> None:
    ids = pausing(world, 1)
    world.now += seconds(20)
    (run,) = world.start(ids[0])
    world.finish(FAILED, *world.start(ids[1]))
    fail(world, ids[2])
    assert statuses(world) == ["running", "pending", "failed"]
    world.finish(SUCCEEDED, run)
    world.now = world.events()[1].due_at
    assert len(world.start(ids[1])) == 1


def test_a_manual_event_outlives_the_pause(world: World) -> None:
    ids = pausing(world, 1)
    by_hand = world.fire()
    fail(world, ids[0])
    assert by_hand in world.ids()
    assert len(world.start(by_hand)) == 1


def test_what_was_due_and_not_started_before_the_pause_stays_on_record(world: World) -> None:
    ids = pausing(world, 1)
    world.now += seconds(25)
    fail(world, ids[0])
    assert fates(world) == [("failed", "gone"), ("cancelled", "paused"), ("cancelled", "paused")]
    assert world.trigger().planned_count == 3


def test_what_was_not_planned_yet_before_the_pause_is_put_on_record(world: World) -> None:
    ids = pausing(world, 1, horizon=0)
    (job,) = world.start(ids[0])
    world.now += seconds(45)
    world.finish(GONE, job)
    assert sum(event.coalesced for event in world.events()) == 5


def test_the_count_towards_max_runs_is_that_of_occurrences(world: World) -> None:
    policy = {"pause_after_failures": 1, "misfire_grace_seconds": 5}
    world.create(schedule=every(10), target=HTTP, policy=policy)
    by_hand = world.fire()
    world.now += seconds(95)
    world.tick(horizon=20)
    fail(world, by_hand)
    covered = sum(event.coalesced for event in world.events() if event.source != "manual")
    assert world.trigger().planned_count == covered


def test_a_trigger_is_paused_once_however_many_fail(world: World) -> None:
    ids = pausing(world, 2)
    world.now += seconds(50)
    jobs = world.start(*ids[:5])
    world.finish(GONE, *jobs)
    assert world.changes() == ["created", "paused_after_failures"]
    assert world.trigger().consecutive_failures == 5


def test_after_a_resume_the_row_begins_anew(world: World) -> None:
    ids = pausing(world, 1)
    fail(world, ids[0])
    with world.database.write() as connection:
        manage.resume(connection, "t", world.now)
    assert world.trigger().consecutive_failures == 0
    world.tick()
    assert [e.scheduled_for for e in world.events()][1] == NOON + seconds(10)


def test_those_that_recover_and_those_that_fail_do_not_lock_each_other_out(
    postgres_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch recovers what the other fails, and the other way round."""
    world, failed_again = postgres_world, lifecycle.failed_again
    for name in ("a", "b"):
        world.create(name, every(10), HTTP)
    world.tick(horizon=10)
    world.change(Trigger, consecutive_failures=1)
    world.now += seconds(10)
    jobs = {(job.name, job.scheduled_for == NOON): job for job in world.start()}
    line = threading.Barrier(2)

    def together(connection: Connection, trigger_id: str) -> int:
        with suppress(threading.BrokenBarrierError):  # the other waits for a lock: so much the better
            line.wait(0.5)
        return failed_again(connection, trigger_id)

    def end(database: Database, failing: str, first: bool) -> None:
        ended = [deliver.Finished(jobs[n, first], GONE if n == failing else SUCCEEDED) for n in ("a", "b")]
        with database.write() as connection:
            deliver.finish(connection, ended, world.now, TZDATA, lambda: 0.0)

    monkeypatch.setattr(lifecycle, "failed_again", together)
    one, other = world.connect(), world.connect()
    at_once(lambda: end(one, "a", True), lambda: end(other, "b", False))
    assert Counter(statuses(world)) == {"succeeded": 2, "failed": 2}


# --------------------------------------------------------------------------------------- completion


def test_a_trigger_is_completed_with_its_last_event(world: World) -> None:
    ids = planned(world, schedule=every(10, max_runs=2))
    world.now += seconds(10)
    world.finish(SUCCEEDED, *world.start(ids[0]))
    assert world.trigger().state == "active"
    world.finish(GONE, *world.start(ids[1]))
    assert (world.trigger().state, world.changes()) == ("completed", ["created", "completed"])


def test_a_trigger_is_not_completed_while_its_last_event_waits_for_a_retry(world: World) -> None:
    planned(world)
    world.finish(FAILED, *world.start())
    assert world.trigger().state == "active"
    world.now = world.event().due_at
    world.finish(SUCCEEDED, *world.start())
    assert world.trigger().state == "completed"


def test_two_that_finish_last_at_the_same_time_complete_their_trigger(world: World) -> None:
    """Neither may see the other as final: then the next tick completes it."""
    planned(world, schedule=every(10, max_runs=2))
    world.now += seconds(10)
    jobs = world.start()
    competitors = [world.connect() for _ in jobs]

    def end(database: Database, job: Job) -> None:
        with database.write() as connection:
            deliver.finish(connection, [deliver.Finished(job, SUCCEEDED)], world.now, TZDATA, lambda: 0.0)

    at_once(*(lambda d=d, j=j: end(d, j) for d, j in zip(competitors, jobs, strict=True)))
    world.tick()
    assert (world.trigger().state, world.changes()) == ("completed", ["created", "completed"])


# ----------------------------------------------------------------------------------------- misfires


def test_exactly_at_its_grace_an_event_still_starts(world: World) -> None:
    planned(world, policy={"misfire": "skip", "misfire_grace_seconds": 60})
    world.now += seconds(60)
    assert len(world.start()) == 1


def test_a_first_start_after_its_grace_is_skipped(world: World) -> None:
    planned(world, policy={"misfire": "skip", "misfire_grace_seconds": 60})
    world.now += seconds(60) + INSTANT
    assert world.start() == []
    event = world.event()
    assert (event.status, event.reason, event.finished_at) == ("skipped", "misfire", world.now)
    assert (event.started_at, event.attempt) == (None, 0)


def test_one_that_is_late_makes_no_other_late(world: World) -> None:
    for name, offset in (("late", 0), ("exact", 10)):
        policy = {"misfire": "skip", "misfire_grace_seconds": 60}
        world.create(name, once(offset), HTTP, policy=policy)
    world.tick()
    world.now += seconds(70)
    assert [job.name for job in world.start()] == ["exact"]


def test_under_fire_once_the_newest_of_all_that_are_due_starts(world: World) -> None:
    ids = planned(world, schedule=every(10), policy={"misfire": "fire_once", "misfire_grace_seconds": 15})
    world.now += seconds(45)
    jobs = world.start(*ids[:4])  # the hint of the fifth comes later
    assert [job.id for job in jobs] == [ids[3]]
    assert statuses(world)[:5] == ["skipped", "skipped", "skipped", "running", "pending"]


def test_under_fire_once_a_single_late_event_starts(world: World) -> None:
    planned(world, policy={"misfire": "fire_once", "misfire_grace_seconds": 1})
    world.now += seconds(3600)
    assert len(world.start()) == 1


def test_under_fire_once_an_older_one_gives_way_to_the_newest_in_another_message(world: World) -> None:
    ids = planned(world, horizon=20, schedule=every(10, max_runs=3), policy={"misfire_grace_seconds": 1})
    world.now += seconds(600)
    assert world.start(ids[0]) == []
    assert world.start(ids[1]) == []
    assert [job.id for job in world.start(ids[2])] == [ids[2]]
    assert fates(world)[:2] == [("skipped", "misfire")] * 2


def test_under_fire_once_an_older_one_gives_way_to_a_newer_one_that_ran_or_is_not_planned_yet(
    world: World,
) -> None:
    ids = planned(world, horizon=10, schedule=every(10, max_runs=3), policy={"misfire_grace_seconds": 5})
    world.now += seconds(10)
    assert [job.id for job in world.start(ids[1])] == [ids[1]]
    assert world.start(ids[0]) == []
    world.now += seconds(60)
    assert world.trigger().next_at <= world.now
    assert fates(world)[0] == ("skipped", "misfire")


def test_late_ones_are_judged_together_each_by_its_own_trigger(world: World) -> None:
    executed: list[str] = []
    numbers = []
    for most in (1, 30):
        policy = {"misfire_grace_seconds": 1}
        for n in range(most):
            world.create(f"twice-{most}-{n}", every(10, max_runs=2), HTTP, policy=policy)
            world.create(
                f"once-{most}-{n}", once((world.now - NOON).total_seconds() + 15), HTTP, policy=policy
            )
        world.tick()
        known = [event.id for event in world.events() if event.status == "pending"]
        world.now += seconds(60)
        executed.clear()
        with world.database.write() as connection:
            sqlalchemy_event.listen(
                connection, "before_cursor_execute", lambda *given: executed.append(given[2])
            )
            ready = deliver.prepare(connection, known, "http", world.now)
        assert len(known) == 3 * most
        assert len({job.name for job in ready.jobs}) == len(ready.jobs) == 2 * most
        assert sum(event.reason == "misfire" and event.id in known for event in world.events()) == most
        world.finish(SUCCEEDED, *world.start())
        numbers.append(len(executed))
    assert numbers[0] == numbers[1]


def test_under_fire_all_each_starts_however_late(world: World) -> None:
    ids = planned(
        world, horizon=30, schedule=every(10), policy={"misfire": "fire_all", "misfire_grace_seconds": 1}
    )
    world.now += seconds(3600)
    assert [job.id for job in world.start()] == ids


@pytest.mark.parametrize("misfire", ["fire_once", "fire_all"])
def test_what_has_grown_older_than_the_window_never_fires(world: World, misfire: str) -> None:
    planned(world, policy={"misfire": misfire, "catchup_window_seconds": 3600})
    world.now += seconds(3600) + INSTANT
    assert world.start() == []
    assert fates(world) == [("skipped", "catchup_window")]


def test_a_log_event_that_outlives_its_window_on_the_way_here_is_looked_at(world: World) -> None:
    world.create(schedule=once(), policy={"catchup_window_seconds": 90})
    world.now += seconds(85)
    world.tick()
    assert world.event().source == "catchup"
    world.now = NOON + seconds(90) + INSTANT
    with world.database.write() as connection:
        assert delivery.complete_plain(connection, world.ids(), world.now) == 0
        assert delivery.complete_last(connection, world.ids(), world.now) == []
    world.now = NOON + seconds(89)
    with world.database.write() as connection:
        assert len(delivery.complete_last(connection, world.ids(), world.now)) == 1


def test_a_retry_is_never_a_misfire(world: World) -> None:
    planned(world, policy={"misfire": "skip", "misfire_grace_seconds": 1})
    world.finish(FAILED, *world.start())
    world.now += seconds(3600)
    assert len(world.start()) == 1


def test_a_manual_event_is_never_a_misfire(world: World) -> None:
    world.create(
        schedule={"type": "manual"}, target=HTTP, policy={"misfire": "skip", "misfire_grace_seconds": 1}
    )
    world.fire()
    world.now += seconds(3600)
    assert len(world.start()) == 1


def test_the_event_that_catches_up_has_its_grace_from_its_planning_on(world: World) -> None:
    world.create(schedule=every(10), target=HTTP, policy={"misfire_grace_seconds": 5})
    world.now += seconds(3600)
    world.tick(horizon=0)
    world.now += seconds(5)
    assert len(world.start()) == 1


def test_the_last_occurrence_that_is_skipped_at_its_start_completes_the_trigger(world: World) -> None:
    planned(world, policy={"misfire": "skip", "misfire_grace_seconds": 1})
    world.now += seconds(60)
    assert world.start() == []
    world.tick()
    assert world.trigger().state == "completed"


# ------------------------------------------------------------------------------------ overlap: skip


def overlapping(world: World, overlap: str, horizon: float = 30, **policy: Any) -> list[str]:
    """Four events, every ten seconds from noon."""
    return planned(world, horizon, schedule=every(10), policy={"overlap": overlap} | policy)


def test_by_default_events_overlap(world: World) -> None:
    overlapping(world, "allow")
    world.now += seconds(30)
    assert len(world.start()) == 4


def test_an_event_that_would_overlap_is_skipped(world: World) -> None:
    ids = overlapping(world, "skip")
    (first,) = world.start(ids[0])
    world.now += seconds(10)
    assert world.start(ids[1]) == []
    assert fates(world)[1] == ("skipped", "overlap")
    world.finish(SUCCEEDED, first)
    world.now += seconds(10)
    assert len(world.start(ids[2])) == 1


def test_an_event_is_skipped_while_another_waits_for_its_retry(world: World) -> None:
    ids = overlapping(world, "skip")
    world.finish(FAILED, *world.start(ids[0]))
    world.now += seconds(10)
    assert world.start(ids[1]) == []
    assert fates(world)[1] == ("skipped", "overlap")


def test_a_retry_is_not_held_up_by_what_it_overlaps_with(world: World) -> None:
    ids = overlapping(world, "skip")
    world.finish(FAILED, *world.start(ids[0]))
    by_hand = world.fire()
    assert len(world.start(by_hand)) == 1
    world.now = max(event.due_at for event in world.events() if event.id == ids[0])
    assert [job.attempt for job in world.start(ids[0])] == [2]


def test_of_several_in_one_message_the_oldest_starts(world: World) -> None:
    ids = overlapping(world, "skip")
    world.now += seconds(30)
    assert [job.id for job in world.start(*reversed(ids))] == [ids[0]]
    assert fates(world)[1:] == [("skipped", "overlap")] * 3


def test_a_manual_event_heeds_no_overlap(world: World) -> None:
    ids = overlapping(world, "skip")
    world.start(ids[0])
    assert len(world.start(world.fire())) == 1


def test_a_manual_event_is_heeded_by_others(world: World) -> None:
    ids = overlapping(world, "skip")
    world.start(world.fire())
    assert world.start(ids[0]) == []


def test_triggers_do_not_overlap_with_each_other(world: World) -> None:
    for name in ("a", "b"):
        world.create(name, once(), HTTP, policy={"overlap": "skip"})
    world.tick()
    assert len(world.start()) == 2


def test_of_many_competitors_for_one_trigger_one_starts(world: World) -> None:
    ids = planned(world, 7, schedule=every(1), policy={"overlap": "skip"})
    world.now += seconds(10)
    competitors = [world.connect() for _ in ids]

    def compete(database: Database, event_id: str) -> int:
        with database.write() as connection:
            ready = deliver.prepare(connection, [event_id], "http", world.now)
            return len(deliver.start(connection, ready.jobs, world.now))

    won = at_once(*(lambda d=d, i=i: compete(d, i) for d, i in zip(competitors, ids, strict=True)))
    assert sum(won) == 1
    assert Counter(fates(world)) == {("running", None): 1, ("skipped", "overlap"): 7}


# ----------------------------------------------------------------------------------- overlap: queue


def released(done: deliver.Finish) -> list[str]:
    return [one.event_id for one in done.released]


def test_an_event_that_would_overlap_waits_and_a_newer_one_is_skipped(world: World) -> None:
    ids = overlapping(world, "queue")
    world.start(ids[0])
    for event_id in ids[1:]:
        world.now += seconds(10)
        assert world.start(event_id) == []
    assert fates(world) == [
        ("running", None),
        ("pending", None),
        ("skipped", "overlap"),
        ("skipped", "overlap"),
    ]
    assert world.events()[1].recheck_at == NOON + seconds(10) + deliver.QUEUED


def test_the_log_tells_when_an_event_begins_to_wait_for_another(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ids = overlapping(world, "queue")
    world.start(ids[0])
    world.now += seconds(10)
    world.start(ids[1])
    assert caplog.messages[-1] == (
        f"queued trigger=t event={ids[1]} scheduled_for=2026-11-20T12:00:10Z status=pending late=0.000"
        " reason=overlap"
    )


def test_what_waited_is_released_when_the_other_ends(world: World) -> None:
    ids = overlapping(world, "queue")
    (first,) = world.start(ids[0])
    world.now += seconds(10)
    world.start(ids[1])
    done = world.finish(SUCCEEDED, first)
    assert done.released == [(ids[1], NOON + seconds(10), "http", "t")]
    assert [job.id for job in world.start(*released(done))] == [ids[1]]


def test_what_waited_is_released_also_by_a_failure_but_not_by_a_retry(world: World) -> None:
    ids = overlapping(world, "queue")
    (first,) = world.start(ids[0])
    world.now += seconds(10)
    world.start(ids[1])
    assert world.finish(FAILED, first).released == []
    assert world.start(ids[1]) == []
    assert fates(world)[1] == ("pending", None)
    world.now = max(event.due_at for event in world.events() if event.id == ids[0])
    done = world.finish(GONE, *world.start(ids[0]))
    assert released(done) == [ids[1]]


def test_what_waits_for_another_is_no_misfire(world: World) -> None:
    ids = overlapping(world, "queue", misfire="skip", misfire_grace_seconds=5)
    (first,) = world.start(ids[0])
    world.now += seconds(10)
    world.start(ids[1])
    world.now += seconds(3600)
    done = world.finish(SUCCEEDED, first)
    assert [job.id for job in world.start(*released(done))] == [ids[1]]


def test_of_several_in_one_message_one_starts_and_one_waits(world: World) -> None:
    ids = overlapping(world, "queue")
    world.now += seconds(30)
    jobs = world.start(*reversed(ids))
    assert [job.id for job in jobs] == [ids[0]]
    assert fates(world)[1:] == [("pending", None), ("skipped", "overlap"), ("skipped", "overlap")]
    assert released(world.finish(SUCCEEDED, *jobs)) == [ids[1]]


def test_an_event_whose_elder_was_not_looked_at_yet_waits_for_it(world: World) -> None:
    """The elder's hint was lost, or is in a message that is still to come."""
    ids = overlapping(world, "queue", horizon=10)
    world.now += seconds(10)
    assert world.start(ids[1]) == []
    assert fates(world) == [("pending", None), ("pending", None)]
    done = world.finish(SUCCEEDED, *world.start(ids[0]))
    assert released(done) == [ids[1]]


def test_what_is_due_while_the_other_ends_does_not_wait_in_vain(postgres_world: World) -> None:
    """The end is not committed yet when the next one is looked at, and was before that one was due."""
    world = postgres_world
    ids = overlapping(world, "queue", horizon=10)
    (first,) = world.start(ids[0])
    world.now += seconds(10) - INSTANT
    other = world.connect()
    with ThreadPoolExecutor(1) as pool:
        with other.write() as connection:
            ended = [deliver.Finished(first, SUCCEEDED)]
            deliver.finish(connection, ended, world.now, TZDATA, lambda: 0.0)
            world.now += INSTANT
            starting = pool.submit(world.start, ids[1])
            wait_until(lambda: starting.done() or test_tick.waiting_for_locks(world) == 1)
        started = [job.id for job in starting.result(10)]
    assert started == [ids[1]], "its release may come to a worker that is still looking at it, and be dropped"


def test_what_is_put_off_while_the_other_ends_is_looked_at_soon(postgres_world: World) -> None:
    """It was looked at just before that end, and its release is lost."""
    world = postgres_world
    ids = overlapping(world, "queue", horizon=10)
    (first,) = world.start(ids[0])
    world.now += seconds(10)
    other = world.connect()
    with ThreadPoolExecutor(1) as pool:
        with other.write() as connection:
            assert deliver.prepare(connection, [ids[1]], "http", world.now).jobs == []
            ending = pool.submit(world.finish, SUCCEEDED, first)
            wait_until(lambda: ending.done() or test_tick.waiting_for_locks(world) == 1)
        assert released(ending.result(10)) == [ids[1]]
    assert world.events()[1].recheck_at == world.now + GRACE


def test_with_fire_all_they_run_one_after_another(world: World) -> None:
    ids = overlapping(world, "queue", misfire="fire_all")
    world.now += seconds(30)
    ran = []
    jobs: Sequence[Job] = world.start()
    while jobs:
        assert len(jobs) == 1
        ran.append(jobs[0].id)
        world.now += seconds(60)
        done = world.finish(SUCCEEDED, *jobs)
        jobs = world.start(*released(done)) if done.released else []
    assert ran == ids
    assert statuses(world) == ["succeeded"] * 4


def test_what_waits_is_found_by_a_tick_when_its_release_was_lost(world: World) -> None:
    """Not with the distant recheck of what waits: one tick and a grace after the other ended."""
    ids = overlapping(world, "queue", horizon=10)
    (first,) = world.start(ids[0])
    world.now += seconds(10)
    world.start(ids[1])
    assert released(world.finish(SUCCEEDED, first)) == [ids[1]]
    world.sent.clear()
    world.now += GRACE - INSTANT
    world.tick(horizon=0)
    assert ids[1] not in sent_ids(world.sent)
    world.now += INSTANT
    world.tick(horizon=0)
    assert ids[1] in sent_ids(world.sent)
    assert [job.id for job in world.start(ids[1])] == [ids[1]]


def test_what_waits_is_looked_at_now_and_then_and_goes_on_waiting(world: World) -> None:
    """While the other runs: its end may be the one thing that nobody records."""
    ids = overlapping(world, "queue", horizon=10, timeout_seconds=3600)
    world.start(ids[0])
    world.now += seconds(10)
    world.start(ids[1])
    world.sent.clear()
    world.now += deliver.QUEUED
    world.tick(horizon=0)
    assert ids[1] in sent_ids(world.sent)
    assert world.start(ids[1]) == []
    assert fates(world)[:2] == [("running", None), ("pending", None)]


def test_what_waits_is_released_by_an_attempt_that_was_lost(world: World) -> None:
    ids = planned(world, 10, schedule=every(10), policy={"overlap": "queue"}, retry={"max_attempts": 1})
    world.start(ids[0])
    world.now += seconds(10)
    world.start(ids[1])
    world.sent.clear()
    world.now = world.events()[0].lease_until
    world.tick(horizon=0)
    assert fates(world)[0] == ("failed", "lost")
    assert ids[1] in sent_ids(world.sent)
    assert [job.id for job in world.start(ids[1])] == [ids[1]]


# ---------------------------------------------------------------------------------------------- log


def log(world: World, *ids: str) -> list[str]:
    """Start and finish in one, as log targets do."""
    with world.database.write() as connection:
        ready = deliver.prepare(connection, ids or world.ids(), "log", world.now)
        return list(delivery.complete(connection, [job.id for job in ready.jobs], world.now))


def test_a_log_event_starts_and_finishes_in_one(world: World) -> None:
    ids = planned(world, target=LOG)
    assert log(world) == ids
    event = world.event()
    assert (event.status, event.attempt, event.recheck_at) == ("succeeded", 1, None)
    assert event.started_at == event.attempt_started_at == event.finished_at == world.now
    assert log(world) == []


def test_a_log_event_has_one_winner(world: World) -> None:
    ids = planned(world, 9, schedule=every(1), target=LOG)
    world.now += seconds(10)
    competitors = [world.connect() for _ in range(4)]

    def compete(database: Database) -> list[str]:
        with database.write() as connection:
            return list(delivery.complete(connection, ids, world.now))

    won = at_once(*(lambda database=database: compete(database) for database in competitors))
    assert sorted(id_ for one in won for id_ in one) == sorted(ids)
