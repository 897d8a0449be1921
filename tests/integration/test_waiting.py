"""What a worker that stops hears of its pool before Celery forgets what has not begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.solo import TaskPool as SoloPool

from celery_config import waiting
from celery_config.waiting import let_begin


class Pool:
    """What `let_begin` uses of Celery's: jobs, the pipes of the processes that have them, who reads."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.readers: dict[int, Any] = {}
        self.pipes: list[tuple[int, int]] = []
        self._pool = AsynPool.__new__(AsynPool)
        self._pool._cache = {}
        self._pool._result_handler = SimpleNamespace(_hub=SimpleNamespace(readers=self.readers))
        self._pool.handle_result_event = self.hear

    def process(self, says: bytes = b"", alive: Callable[[], bool] = lambda: True) -> Any:
        """A process that has written this."""
        reader, writer = os.pipe()
        self.pipes.append((reader, writer))
        os.write(writer, says)
        return SimpleNamespace(outqR_fd=reader, _is_alive=alive)

    def job(self, process: Any, accepted: bool = False) -> Any:
        made = SimpleNamespace(_write_to=process, _accepted=accepted)
        self._pool._cache[len(self._pool._cache)] = made
        return made

    def hear(self, pipe: int) -> None:
        """A message: the process has begun the first of its jobs that it had not."""
        self.heard.append(pipe)
        os.read(pipe, 1)
        waits = (j for j in self._pool._cache.values() if j._write_to and not j._accepted)
        next(job for job in waits if job._write_to.outqR_fd == pipe)._accepted = True


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    for reader, writer in made.pipes:
        os.close(reader)
        os.close(writer)


def test_what_a_process_says_is_heard(pool: Pool) -> None:
    begun, other, never = (pool.job(pool.process(b"a")) for _ in range(3))
    never._write_to = None  # no process has it yet
    pool.job(pool.process(b"a"), accepted=True)  # what this one says is its result, and for Celery
    let_begin(pool)
    assert [begun._accepted, other._accepted, never._accepted] == [True, True, False]
    assert len(pool.heard) == 2


def test_two_jobs_of_one_process_are_heard(pool: Pool) -> None:
    process = pool.process(b"aa")
    jobs = [pool.job(process), pool.job(process)]
    let_begin(pool)
    assert all(job._accepted for job in jobs)


def test_a_process_that_says_nothing_is_not_waited_for(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BEGIN_SECONDS", 0.01)
    pool.job(pool.process())
    let_begin(pool)
    assert pool.heard == []


def test_a_process_that_is_always_readable_is_not_listened_to_for_ever(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BEGIN_SECONDS", 0.01)
    pool.job(pool.process(b"a"))
    pool._pool.handle_result_event = pool.heard.append
    let_begin(pool)
    assert pool.heard


def test_dead_processes_and_half_read_messages_are_left_alone(pool: Pool) -> None:
    pool.job(pool.process(b"a", alive=lambda: False))
    half = pool.process(b"a")
    pool.job(half)
    pool.readers[half.outqR_fd] = ((_ for _ in ()), ())
    let_begin(pool)
    assert pool.heard == []


def test_a_pool_of_another_form_is_no_obstacle(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    pool.job(pool.process(b"a"))
    del pool._pool._result_handler
    let_begin(pool)
    assert "cannot hear what has begun: AttributeError" in caplog.text
    let_begin(SimpleNamespace(_pool=None))
    let_begin(SoloPool(1))
