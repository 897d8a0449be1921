"""Attempts whose process died: judged by its parent, unless they ended all the same."""

from __future__ import annotations

from typing import Any

import pytest

from models import Attempt
from tests.integration import test_tick
from tests.integration.test_tick import SUCCEEDED, TZDATA, World, once, seconds
from tests.servers import wait_until
from triggers.recorder import Recorder
from triggers.tick import Hint

reused_postgres_url = test_tick.reused_postgres_url
emptied_postgres_url = test_tick.emptied_postgres_url
world = test_tick.world

TASK = {"type": "celery", "task": "examples.tasks.add", "args": [1, 2]}


@pytest.fixture
def recorder(world: World) -> Recorder:
    return Recorder(world.database, world.dispatch, TZDATA)


def running(world: World, **parts: Any) -> str:
    """An event whose first attempt runs, with an hour to go. Its id."""
    world.create(schedule=once(), target=TASK, policy={"timeout_seconds": 3600}, **parts)
    world.tick()
    (job,) = world.start(kind="celery")
    world.sent.clear()
    world.now += seconds(1)
    return job.id


def test_an_attempt_whose_process_died_is_lost_at_once_and_tried_again(
    world: World, recorder: Recorder
) -> None:
    event_id = running(world, retry={"max_attempts": 2, "min_backoff_seconds": 5})
    recorder.lost(event_id, 1)
    wait_until(lambda: world.sent, 10, "the retry is dispatched")
    event = world.event()
    assert (event.status, event.attempt) == ("pending", 1)
    assert world.sent == [Hint(event_id, event.due_at, "celery", "t")]
    (attempt,) = world.rows(Attempt)
    assert (attempt.attempt, attempt.outcome, attempt.error["type"]) == (1, "lost", "WorkerLost")


def test_the_last_attempt_that_is_lost_fails_the_event(world: World, recorder: Recorder) -> None:
    recorder.lost(running(world, retry={"max_attempts": 1}), 1)
    wait_until(lambda: world.event().status == "failed", 10, "the event is judged")
    assert world.event().reason == "lost"


@pytest.mark.parametrize("attempt", [0, 2])
def test_word_of_another_attempt_changes_nothing(world: World, recorder: Recorder, attempt: int) -> None:
    event_id = running(world)
    before = world.event()
    recorder._judge_lost(event_id, attempt)
    assert world.event() == before
    assert world.sent == []


def test_what_had_ended_before_its_process_died_stays_so(world: World, recorder: Recorder) -> None:
    world.create(schedule=once(), target=TASK)
    world.tick()
    (job,) = world.start(kind="celery")
    world.finish(SUCCEEDED, job)
    recorder._judge_lost(job.id, 1)
    assert world.event().status == "succeeded"
    assert world.rows(Attempt) == []
