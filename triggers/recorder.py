"""Users' tasks on record: begin an attempt, note its progress and its end, in the process that runs it."""

from __future__ import annotations

import json
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from models.database import Database, in_one_line
from triggers import deliver
from triggers.deliver import Finish, Finished
from triggers.store import delivery, plan
from triggers.store.delivery import Job
from triggers.targets import Outcome
from triggers.tick import Dispatch, Hint

CHUNK = 500  # results in one transaction
COLLECT_SECONDS = 0.05  # for so long results come together when they follow one another
PAUSE_SECONDS = 1.0  # between tries while the database is away
LONGEST_RESULT = 64 * 1024  # bytes of JSON that are kept of a task's return value

log = logging.getLogger("triggerbeat.recorder")


def begin(database: Database, event_id: str, task: str) -> Job | None:
    """Win the event for an attempt of this task, before any of the user's code runs; None: somebody else has.

    Raises what the database raises when it is away: nothing ran, and a tick dispatches the event again.
    """
    job = begin_at_once(database, event_id, task) or begin_after_a_look(database, event_id, task)
    if job is not None:
        deliver.started([job])
    return job


def begin_at_once(database: Database, event_id: str, task: str) -> Job | None:
    """What most events need, in one statement."""
    if not database.is_postgres:  # there a statement costs little, and a lease is no arithmetic of its own
        return None
    with database.statement() as connection:
        now = database.given_now(connection)
        return delivery.begin(connection, event_id, task, now, deliver.LEASE_MARGIN)


def begin_after_a_look(database: Database, event_id: str, task: str) -> Job | None:
    """What is late, or may overlap with another, is judged first."""
    with database.write() as connection:
        now = database.now(connection)
        ready = deliver.prepare(connection, [event_id], "celery", now)
        won = deliver.start(connection, [job for job in ready.jobs if job.target["task"] == task], now)
    return won[0] if won else None


class Recorder:
    """Records what tasks of this process led to; a thread of its own writes what has come together."""

    def __init__(
        self, database: Database, dispatch: Dispatch, tzdata: str, ahead: timedelta = deliver.LOOK_AHEAD
    ) -> None:
        self.database = database
        self.dispatch = dispatch
        self.tzdata = tzdata
        self.ahead = ahead
        self._lock = threading.Lock()
        self._pid = 0
        self._reset()

    def _reset(self) -> None:
        self._queue: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._progress: dict[str, tuple[int, str]] = {}
        self._thread: threading.Thread | None = None
        self._left = 0  # taken over, not recorded yet

    def finished(self, one: Finished) -> None:
        """Take over the end of an attempt; it is recorded within milliseconds, or as soon as can be."""
        self._ensure_thread()
        self._put(one)

    def refuse(self, event_id: str, task: str, kind: str, message: str) -> None:
        """Fail an attempt that cannot even begin here."""
        try:
            job = begin(self.database, event_id, task)
        except Exception as error:
            log.warning(
                "event=%s cannot be refused yet, a tick sends it again: %s", event_id, in_one_line(error)
            )
            return
        if job is not None:
            self.finished(Finished(job, Outcome(False, error={"type": kind, "message": message})))

    def progressed(self, job: Job, value: Any) -> None:
        """Take over how far an attempt is; of several in a row only the latest is recorded."""
        noted = (job.attempt, json_or_repr(value))
        self._ensure_thread()
        with self._lock:
            self._progress[job.id] = noted
        self._put(None)

    def finish_now(self, one: Finished) -> Finish | None:
        """Record the end of an attempt before going on; None: the database is away, it is queued."""
        try:
            return self._write([one])
        except Exception as error:
            log.warning("event=%s cannot record its result yet: %s", one.job.id, in_one_line(error))
            self.finished(one)
            return None

    def lost(self, event_id: str, attempt: int) -> None:
        """The process that ran this attempt died: judge it now, on a thread, unless it ended all the same."""
        threading.Thread(target=self._judge_lost, args=(event_id, attempt), daemon=True).start()

    def _judge_lost(self, event_id: str, attempt: int) -> None:
        try:
            with self.database.write() as connection:
                now = self.database.now(connection)
                found = plan.running(connection, event_id, attempt)
                done = deliver.finish_lost(connection, found, now, self.tzdata, random.random, self.ahead)
        except Exception as error:
            log.warning(
                "event=%s cannot be judged before its lease is over: %s", event_id, in_one_line(error)
            )
            return
        self._pass_on(done)

    def close(self, seconds: float) -> None:
        """Record what is left, for up to `seconds`."""
        end = time.monotonic() + seconds
        while self._left and self._pid == os.getpid() and time.monotonic() < end:
            time.sleep(0.01)

    def _put(self, one: Finished | None) -> None:
        with self._lock:
            self._left += 1
        self._queue.put(one)

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._pid != os.getpid():  # a thread does not survive a fork
                self._reset()
                self._pid = os.getpid()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        written = -COLLECT_SECONDS
        while True:
            batch = [self._queue.get()]
            if time.monotonic() - written < COLLECT_SECONDS:
                time.sleep(COLLECT_SECONDS)
            while len(batch) < CHUNK and not self._queue.empty():
                batch.append(self._queue.get())
            self._write_until_done([one for one in batch if one is not None])
            written = time.monotonic()
            with self._lock:
                self._left -= len(batch)

    def _write_until_done(self, batch: Sequence[Finished]) -> None:
        while True:
            try:
                deliver.record(self._write, batch)
                return
            except Exception as error:
                log.warning("cannot record %d results, trying again: %s", len(batch), in_one_line(error))
                time.sleep(PAUSE_SECONDS)

    def _write(self, batch: Sequence[Finished]) -> Finish:
        with self._lock:
            progress = dict(self._progress)
        if self.database.is_postgres and not progress and all(map(deliver.is_plain, batch)):
            return self._write_plain(batch)
        with self.database.write() as connection:
            now = self.database.now(connection)
            for event_id, (attempt, value) in progress.items():
                delivery.progress(connection, event_id, attempt, value)
            done = deliver.finish(connection, batch, now, self.tzdata, random.random, self.ahead)
        with self._lock:
            for event_id, noted in progress.items():
                if self._progress.get(event_id) == noted:
                    del self._progress[event_id]
        deliver.finished(done, now)
        self._pass_on(done)
        return done

    def _pass_on(self, done: Finish) -> None:
        """Dispatch the retries that are near, and what was released."""
        hints = [Hint(job.id, due, job.target_type, job.name) for job, due in done.again]
        hints += [Hint(*released) for released in done.released]
        if hints:
            self.dispatch(hints)

    def _write_plain(self, batch: Sequence[Finished]) -> Finish:
        if not batch:
            return Finish()
        with self.database.statement() as connection:
            done, now = deliver.succeed(connection, batch, self.database.given_now(connection))
        if any(one.job.consecutive_failures for one, _ in done.won):
            with self.database.write() as connection:
                deliver.settle(connection, done, self.database.now(connection), self.tzdata)
        if now is not None:
            deliver.finished(done, now)
        return done


def json_or_repr(value: Any) -> str:
    """The value as JSON text; what JSON has no form for, or is too long to keep, by its `repr`."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(described(value)[:LONGEST_RESULT])
    return text if len(text) <= LONGEST_RESULT else json.dumps(text[: LONGEST_RESULT // 2] + "...")


def described(value: Any) -> str:
    """The value's `repr`, which is the user's code and may fail, too."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def keepable(value: Any) -> Any:
    """A task's return value in the form in which the event keeps it."""
    return json.loads(json_or_repr(value))
