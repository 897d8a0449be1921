"""The Task class of the app: a user's task that was sent for an event wins the event before its code runs."""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import inf
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from celery_config.lost import note
from models.database import in_one_line
from models.states import Status
from triggers.deliver import Finish, Finished
from triggers.outgoing import values_of
from triggers.recorder import Recorder, keepable
from triggers.settings import task_allowed
from triggers.store.delivery import Job
from triggers.targets import Outcome
from triggers.targets.placeholders import render

log = logging.getLogger("triggerbeat.task")


class AttemptTimeout(Exception):
    """The attempt took longer than the trigger's timeout_seconds."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class RetryAsked(Exception):
    """The task asked for another attempt (`self.retry()`)."""

    def __init__(self, reason: BaseException | None, seconds: float | None) -> None:
        super().__init__(str(reason) if reason else "the task asked for a retry")
        self.reason = reason
        self.seconds = seconds


class EventTask(Task):
    """Runs like any Celery task when called by its user; for an event it is gated and recorded.

    0. A task that ALLOWED_TASKS does not name any more, although it did when the trigger was made, fails.
    1. Win the event's conditional start; a loser (doubled, late or stale message) ends as Ignore.
    2. Run the user's code with the arguments of the trigger as it is now, under its timeout.
    3. Record the result, or the exception and what follows from it, fenced by the attempt's number.
    """

    abstract = True
    Strategy = "celery_config.engine:users_strategy"
    Request = "celery_config.lost:EventRequest"
    recorder: Recorder  # set by celery_worker, which wires
    allowed: tuple[str, ...] = ()  # likewise
    running = threading.local()  # .job: the event whose attempt runs on this thread

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.request.get("triggerbeat_event") or self.request.called_directly:
            return super().__call__(*args, **kwargs)
        if not task_allowed(self.name, self.allowed):
            self.recorder.refuse(self.request.id, self.name, "NotAllowed", "ALLOWED_TASKS does not name it")
            raise Ignore("ALLOWED_TASKS does not name this task")
        return self.attempt(self.won())

    def won(self) -> Job:
        """The event of this message, won for an attempt. Raises Ignore when it is not ours to run."""
        try:
            job = self.recorder.begin(self.request.id, self.name)
        except Exception as error:
            log.warning(
                "event=%s cannot start, a tick sends it again: %s", self.request.id, in_one_line(error)
            )
            raise Ignore("the database is away") from None
        if job is None:
            raise Ignore("the event is not pending any more")
        note(job.id, job.attempt)
        return job

    def attempt(self, job: Job) -> Any:
        """One attempt at the event."""
        values = values_of(job)
        args = render(job.target["args"], values)
        kwargs = render(job.target["kwargs"] if job.payload is None else job.payload, values)
        self.running.job = job
        end = time.monotonic() + job.policy["timeout_seconds"]
        try:
            with time_limit(job.policy["timeout_seconds"]):
                result = self.run(*args, **kwargs)
        except (Ignore, Reject) as error:
            self.recorder.finished(
                Finished(job, Outcome(not isinstance(error, Reject), error=failure(error)))
            )
            raise
        except BaseException as error:
            # A task that swallowed its timeout is ended by the pool: SIGTERM, and SIGKILL 0.1 s later.
            killed = isinstance(error, SystemExit) and time.monotonic() > end
            after = self.failed(job, AttemptTimeout() if killed else error)
            if killed or after is error:
                raise
            raise after from error
        finally:
            self.running.job = None
        self.recorder.finished(Finished(job, Outcome(True, result=keepable(result))))
        return result

    def failed(self, job: Job, error: BaseException) -> Any:
        """Record an exception; what Celery is to make of it: a retry, or the failure itself."""
        asked = error if isinstance(error, RetryAsked) else None
        reason = asked.reason if asked is not None and asked.reason is not None else error
        outcome = Outcome(False, error=failure(reason), retry_after=asked.seconds if asked else None)
        due = due_again(self.recorder.finish_now(Finished(job, outcome)))
        if due:
            return Retry(exc=reason if isinstance(reason, Exception) else None, when=due)
        # SystemExit would end the process, and with it what other tasks left to record.
        return reason if isinstance(reason, Exception) else RuntimeError(f"{type(reason).__name__}: {reason}")

    def retry(self, args: Any = None, kwargs: Any = None, exc: Any = None, **options: Any) -> Any:
        """Within an event: end the attempt; the trigger's `retry` decides. Else Celery's own."""
        if getattr(self.running, "job", None) is None:
            return super().retry(args, kwargs, exc=exc, **options)
        raise RetryAsked(exc, seconds_of(options.get("countdown")))

    def update_state(self, task_id: Any = None, state: Any = None, meta: Any = None, **more: Any) -> None:
        """Within an event: `meta` is its progress. Passed on when there is a result backend."""
        job = getattr(self.running, "job", None)
        if job is not None and task_id in (None, job.id):
            self.recorder.progressed(job, meta if meta is not None else {"state": state})
        super().update_state(task_id, state, meta, **more)


def seconds_of(countdown: Any) -> float | None:
    """A countdown as the user's code gave it; None, which leaves it to the policy, for what is none."""
    try:
        seconds = float(countdown.total_seconds() if isinstance(countdown, timedelta) else countdown)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < inf else None


def failure(error: BaseException) -> dict[str, str] | None:
    """An exception as an event's `error`: type and message, never a traceback."""
    if isinstance(error, Ignore):
        return None
    name = "Timeout" if isinstance(error, AttemptTimeout) else type(error).__name__
    return {"type": name, "message": str(error)[:2048].replace("\x00", "\N{REPLACEMENT CHARACTER}")}


def due_again(done: Finish | None) -> Any:
    """The instant of the next attempt, if there is one."""
    for _, made in done.won if done else []:
        if made.status == Status.PENDING:
            return made.due_at
    return None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise AttemptTimeout in this code after `seconds`, counted from here.

    On the main thread by a signal, which also ends a wait in the operating system. On another thread (the
    solo pool) between two steps of Python code: a wait in the operating system ends first.
    """
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        with alarm(seconds):
            yield
        return
    with Interruption(seconds):
        yield


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise AttemptTimeout here when the time is up."""

    def ring(number: int, frame: Any) -> None:
        raise AttemptTimeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interruption:
    """Raises AttemptTimeout in the thread that enters, when it next runs Python code after `seconds`.

    Never after the exit: there it would end the thread, which all later tasks need.
    """

    def __init__(self, seconds: float) -> None:
        self.thread = ctypes.c_ulong(threading.get_ident())
        self.lock = threading.Lock()
        self.over = False
        self.rang = False
        self.timer = threading.Timer(seconds, self.ring)
        self.timer.daemon = True

    def ring(self) -> None:
        """The time is up."""
        with self.lock:
            if not self.over:
                self.rang = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self.thread, ctypes.py_object(AttemptTimeout))

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.lock:
            self.over = True
        self.timer.cancel()
        if self.rang and kind is None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self.thread, None)  # it may not have been raised yet
            raise AttemptTimeout
