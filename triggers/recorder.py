"""Users' tasks on record: begin an attempt, note its progress and its end, in the process that runs it."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from models.database import Database, in_one_line
from triggers import deliver
from triggers.deliver import Finish, Finished
from triggers.store import delivery, plan
from triggers.store.delivery import Job
from triggers.targets import Outcome
from triggers.tick import Dispatch, Hint

CHUNK = 500  # results in one transaction
COLLECT_SECONDS = 0.02  # for so long results come together when they follow one another
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
    """Records what tasks of this process led to: before the next attempt begins here, so that no crash of
    that takes it along; or, when none does, on a thread of its own.
    """

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
        self._waiting: list[Finished] = []
        self._progress: dict[str, tuple[int, str]] = {}
        self._unsettled: list[Finish] = []  # recorded, but for what it means for the trigger
        self._hints: list[Hint] = []  # to be sent: retries that are near, and what was released
        self._work = threading.Event()
        # Held by who has taken from these, until it is written. Never while the broker is spoken to.
        self._writing: AbstractContextManager[Any] = threading.Lock()
        self._busy = False
        self._written = -COLLECT_SECONDS
        self._thread: threading.Thread | None = None

    def begin(self, event_id: str, task: str) -> Job | None:
        """Win the event for an attempt, as `begin`; before that, what earlier ones led to is on record, if it
        can be. Should it not, this event is not to suffer for it.
        """
        self._ensure_thread()
        with self._writing:
            try:
                self._busy = True
                waiting = self._take()
                if len(waiting) == 1 and self._is_plain(waiting):
                    return self._end_and_begin(waiting[0], event_id, task)
                self._record_before(waiting)
            finally:
                self._busy = False
        return begin(self.database, event_id, task)

    def _record_before(self, waiting: Sequence[Finished]) -> None:
        if not waiting:
            return
        try:
            deliver.record(self._write, waiting)
        except BaseException as error:
            self._put_back(waiting)
            if not isinstance(error, Exception):
                raise
            log.warning("cannot record %d results, trying again: %s", len(waiting), in_one_line(error))

    def _end_and_begin(self, one: Finished, event_id: str, task: str) -> Job | None:
        try:
            with self.database.statement() as connection:
                now = self.database.given_now(connection)
                done, ended, job = deliver.end_and_begin(connection, one, event_id, task, now)
        except (DataError, IntegrityError, ProgrammingError):  # a result that cannot be kept
            self._record_before([one])
            return begin(self.database, event_id, task)
        except BaseException:
            self._put_back([one])  # the database is away; refused, should it be on record after all
            raise
        self._written = time.monotonic()
        deliver.finished(done, ended)
        self._settle_later(done)
        if job is None:
            job = begin_after_a_look(self.database, event_id, task)
        if job is not None:
            deliver.started([job])
        return job

    def _settle_later(self, done: Finish) -> None:
        if deliver.is_to_settle(done):
            with self._lock:
                self._unsettled.append(done)
            self._wake()

    def finished(self, one: Finished) -> None:
        """Take over the end of an attempt; it is recorded within milliseconds, or as soon as can be."""
        self._ensure_thread()
        self._put_back([one])

    def _take(self) -> list[Finished]:
        with self._lock:
            waiting, self._waiting = self._waiting[:CHUNK], self._waiting[CHUNK:]
        return waiting

    def _put_back(self, waiting: Sequence[Finished]) -> None:
        with self._lock:
            self._waiting[:0] = waiting
        self._wake()

    def _wake(self) -> None:
        """The thread has something to write."""
        self._work.set()

    def _is_plain(self, batch: Sequence[Finished]) -> bool:
        """Whether one statement records all of it."""
        return self.database.is_postgres and not self._progress and all(map(deliver.is_plain, batch))

    def refuse(self, event_id: str, task: str, kind: str, message: str) -> None:
        """Fail an attempt that cannot even begin here."""
        try:
            job = self.begin(event_id, task)
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
        self._wake()

    def finish_now(self, one: Finished) -> Finish | None:
        """Record the end of an attempt before going on; None: the database is away, it is queued."""
        self._ensure_thread()
        try:
            done = self._write([one])
        except Exception as error:
            log.warning("event=%s cannot record its result yet: %s", one.job.id, in_one_line(error))
            self.finished(one)
            return None
        self._send_hints()
        return done

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
        self._send_hints()

    def close(self, seconds: float) -> None:
        """Record what is left, for up to `seconds`."""
        end = time.monotonic() + seconds
        while self._left() and self._pid == os.getpid() and time.monotonic() < end:
            time.sleep(0.01)

    def _left(self) -> bool:
        """Whether anything is taken over and not recorded yet."""
        return self._has_work() or self._busy or self._has_work()  # it may move while this looks

    def _has_work(self) -> bool:
        return bool(self._waiting or self._progress or self._unsettled or self._hints)

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._pid != os.getpid():  # a thread does not survive a fork
                self._reset()
                self._pid = os.getpid()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._work.wait()
            if time.monotonic() - self._written < COLLECT_SECONDS:
                time.sleep(COLLECT_SECONDS)
            if not self._write_waiting():
                time.sleep(PAUSE_SECONDS)

    def _write_waiting(self) -> bool:
        """Record what waits now; whether the database let us. Then send what came of it."""
        waiting: list[Finished] = []
        with self._writing:
            try:
                self._work.clear()
                self._busy = True
                waiting = self._take()
                if waiting or self._progress:
                    deliver.record(self._write, waiting)
                while self._unsettled:
                    self._settle(self._unsettled[0])
                    self._unsettled.pop(0)
            except Exception as error:
                log.warning("cannot record %d results, trying again: %s", len(waiting), in_one_line(error))
                self._put_back(waiting)
                return False
            finally:
                self._busy = False
            self._written = time.monotonic()
        self._send_hints()
        if self._waiting:
            self._wake()
        return True

    def _write(self, batch: Sequence[Finished]) -> Finish:
        if self._is_plain(batch):
            return self._write_plain(batch)
        with self._lock:
            progress = dict(self._progress)
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
        """Have the retries that are near, and what was released, sent."""
        hints = [Hint(job.id, due, job.target_type, job.name) for job, due in done.again]
        hints += [Hint(*released) for released in done.released]
        if hints:
            with self._lock:
                self._hints += hints
            self._wake()

    def _send_hints(self) -> None:
        with self._lock:
            hints, self._hints = self._hints, []
        if hints:
            self.dispatch(hints)

    def _write_plain(self, batch: Sequence[Finished]) -> Finish:
        if not batch:
            return Finish()
        with self.database.statement() as connection:
            done, now = deliver.succeed(connection, batch, self.database.given_now(connection))
        if now is not None:
            deliver.finished(done, now)
        self._settle_later(done)
        return done

    def _settle(self, done: Finish) -> None:
        with self.database.write() as connection:
            deliver.settle(connection, done, self.database.now(connection), self.tzdata)


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
