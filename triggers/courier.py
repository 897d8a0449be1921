"""The one event loop of a worker process: it holds events until their instant and delivers them.

A message hands its ids over and is done; no delivery waits inside a pool. All statements run on a few
threads, so that the loop never blocks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from models.database import Database, in_one_line, is_away
from triggers import deliver
from triggers.calls import Calls, most_calls
from triggers.deliver import Finish, Finished, Released
from triggers.lanes import CHUNK, LATE_CHUNK, Batch, Lane, SharedClock
from triggers.logs import together
from triggers.outgoing import values_of
from triggers.store import delivery, lifecycle, plan
from triggers.store.delivery import Call, Job
from triggers.targets import log
from triggers.targets.placeholders import render
from triggers.tick import Dispatch, Hint

FORESEEN_SECONDS = 1.0  # before its instant a call is looked at
FEW = 50  # calls that are admitted in one turn of the loop
SMALL = 50  # events that come together, and are taken as they come; more are many
ON_TIME_SECONDS = 1.0  # so long what is late lets others go first
GOOD_SECONDS = 0.02  # that others may be late by; when they are more, what is late rests for longer
LONGEST_REST = 5.0  # times of what its work took
LATE_TASKS = 80  # users' tasks that came late, published together; more than go out one by one
LATE_STARTS = 20  # calls that came late and begin together: their answers come together, too
LATE_PAUSE_SECONDS = 0.05  # between looks at calls that came late, while enough of them wait
LATE_SECONDS = 1.0  # after its instant an event that comes now is late anyway
MOST_TAKEN_OVER = 10_000  # events, when a worker starts; of more the next tick finds what nobody holds
MOST_DUE = 2_000  # due events in this process before it takes no more from the broker
ROOM_SECONDS = 1.0  # for room; then what waits in the queue behind these, a tick maybe, has its turn
SWITCH_SECONDS = 0.001  # a thread that computes lets the loop have its turn; Python's own 5 ms add up
NOT_EARLY_SECONDS = 0.0005  # after the computed instant, for the error of that measure
HAND_BACK_SECONDS = 2.0  # for publishing what a stopping process held; a tick finds what was not
RECORD_SECONDS = (
    25.0  # for a stopping process to record results when no call is left, if the database is away
)
PAUSE_SECONDS = 1.0  # between tries to record results while the database is away

Publish = Callable[[Sequence[Job], bool], None]  # sends users' tasks, many late ones or not; may raise
PutBack = Callable[[Batch], bool]  # sends events to the end of the backlog; whether that was done
KINDS = ("log", "http", "celery")
NOBODY = "00000000-0000-0000-0000-000000000000"
Waiting = tuple[str, datetime, str]  # an event with its instant, and its kind of target
T = TypeVar("T")

logger = logging.getLogger("triggerbeat.courier")


class Courier:
    """Holds and delivers events. Made before use, started in the process that uses it.

    `publish` sends users' tasks; `hand_back` dispatches again what is still held when this process stops.
    """

    def __init__(
        self,
        database: Database,
        publish: Publish,
        hand_back: Dispatch,
        allow_private: bool,
        wall_clock: Callable[[], float],
        tzdata: str,
        ahead: timedelta = deliver.LOOK_AHEAD,
    ) -> None:
        self.database = database
        self.publish = publish
        self.hand_back = hand_back
        self.tzdata = tzdata
        self.ahead = ahead
        self.clock = SharedClock(database)
        self._caller_options = (allow_private, wall_clock)
        self._room = {kind: threading.Condition() for kind in KINDS}
        self._stopping = False
        self._hurried = False
        self._thread: threading.Thread | None = None

    # From the worker's threads

    def start(self) -> None:
        """Start the loop's thread."""
        sys.setswitchinterval(SWITCH_SECONDS)
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="courier", daemon=True)
        self._thread.start()
        ready.wait()
        self._threads.submit(self._warm_up)

    def _warm_up(self) -> None:
        """Connect and compile the statements, so that the first event does not wait for it."""
        try:
            self.clock.measure()
            self._write_logs([NOBODY])
            self._start([])
            self._finish([])
            self._look_for_calls([NOBODY])
        except Exception as error:
            logger.warning("cannot use the database: %s", in_one_line(error))

    def submit(self, kind: str, batch: Batch, put_back: PutBack) -> None:
        """Take over events of one kind of target. Many that are due, while there is more than enough of that
        here, are put into the backlog: nobody is to wait behind them.
        """
        self.clock.measure()
        if len(batch) > SMALL and not self._wait_for_room(kind, 0):
            batch = self._without_due(batch, put_back)
        self._loop.call_soon_threadsafe(self._hold, kind, batch)

    def _without_due(self, batch: Batch, put_back: PutBack) -> Batch:
        due = [one for one in batch if self.clock.seconds_until(one[1]) <= 0]
        if len(due) <= SMALL or not put_back(due):
            return batch
        gone = {id_ for id_, _ in due}
        return [one for one in batch if one[0] not in gone]

    def submit_backlog(self, kind: str, batch: Batch, put_back: PutBack) -> None:
        """The same, of what was there. While there is no room this waits, and then puts it to the end of the
        backlog: for this worker, or for one that has room.
        """
        self.clock.measure()
        if self._wait_for_room(kind, ROOM_SECONDS) or not put_back(batch):
            self._wait_for_room(kind)
            self._loop.call_soon_threadsafe(self._hold, kind, batch)

    def _wait_for_room(self, kind: str, seconds: float | None = None) -> bool:
        room = self._room[kind]
        with room:
            return room.wait_for(lambda: self._stopping or self._due_count(kind) < MOST_DUE, seconds)

    def take_over(self) -> None:
        """Hold, too, what a killed worker held. What another one holds after all, one of the two starts."""
        self._threads.submit(self._take_over)

    def _take_over(self) -> None:
        try:
            self.clock.measure()
            batches = self._held_by_somebody()
        except Exception as error:
            logger.warning("cannot take over what is planned, ticks do: %s", in_one_line(error))
            return
        for kind, batch in batches.items():
            self._loop.call_soon_threadsafe(self._hold, kind, batch)

    def _held_by_somebody(self) -> dict[str, Batch]:
        with self.database.read() as connection:
            now = self.database.now(connection)
            found = plan.held(connection, now, now + self.ahead, MOST_TAKEN_OVER)
        batches: dict[str, Batch] = {}
        for id_, due, kind in found:
            batches.setdefault(kind, []).append((id_, due))
        return batches

    def close(self) -> None:
        """Let nobody wait for room any more: `stop` is to come, and hands back what is taken now."""
        self._stopping = True
        for room in self._room.values():
            with room:
                room.notify_all()

    def stop(self, drain_seconds: float = float("inf")) -> None:
        """Hand back what has not begun, let calls in flight end for up to `drain_seconds`, record them.

        Each call ends with its attempt's own timeout at the latest.
        """
        if self._thread is None or not self._thread.is_alive():
            return
        self.close()
        asyncio.run_coroutine_threadsafe(self._drain(drain_seconds), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for publishing in (self._publishing, self._publishing_late):
            publishing.shutdown(wait=False, cancel_futures=True)

    def hurry(self) -> None:
        """Somebody does not want to wait for `stop` any more. Safe in a signal's handler."""
        self._hurried = True

    # The loop

    def _run(self, ready: threading.Event) -> None:
        # Of 10 MB, for none but the process that delivers.
        import uvloop

        from triggers.targets.http import HttpCaller

        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._threads = ThreadPoolExecutor(6, "courier-sql")
        self._publishing = ThreadPoolExecutor(1, "courier-publish")
        self._publishing_late = ThreadPoolExecutor(1, "courier-publish-late")
        self._draining = False
        self._unwanted: list[Waiting] = []  # came to be held while this process stops
        self._lanes = {kind: Lane(self._notify_room) for kind in KINDS}
        self._soon = Lane(self._notify_room)  # calls that are due in a second
        self._on_time_at = float("-inf")  # when something held came to its instant
        self._lag = 0.0  # seconds that others are late by, of late
        self._foreseen: dict[str, Call] = {}  # those that were looked at, until their instant
        self._ready = Lane(self._notify_room, FEW)  # of these, the ones that are due
        self._held: dict[int, tuple[asyncio.TimerHandle, str, Batch]] = {}
        self._finished: deque[Finished] = deque()
        self._finish_wake = asyncio.Event()
        self._recording = 0
        self._blocking = 0
        self._caller = HttpCaller(*self._caller_options, max_lookups=most_calls())
        self._calls = Calls(self._caller, self._ended)
        works = [self._log, self._tasks, self._late_tasks, self._finishes]
        works += [self._http, self._late_http, self._foresee, self._admissions]
        works += [self._starts, self._late_starts]
        if self.database.is_postgres:  # SQLite has one writer
            works += [self._log, self._late_starts]
        self._workers = [self._loop.create_task(self._forever(work)) for work in works]
        self._loop.call_soon(ready.set)
        self._loop.run_forever()
        for worker in self._workers:
            worker.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._workers, return_exceptions=True))
        self._loop.run_until_complete(self._caller.close())
        self._loop.close()

    async def _forever(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Repeat one piece of work. What fails is logged; its events are found by their `recheck_at`."""
        while True:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                known = is_away(error)  # then where it was met is of no interest
                logger.error(
                    "the next tick takes these events back: %s", in_one_line(error), exc_info=not known
                )
            self._notify_room()

    async def _sql(self, call: Callable[..., T], *args: Any) -> T:
        return await self._elsewhere(self._threads, call, *args)

    async def _elsewhere(self, threads: ThreadPoolExecutor, call: Callable[..., T], *args: Any) -> T:
        """Run a call that blocks on another thread. While it runs this process is busy."""
        self._blocking += 1
        try:
            return await self._loop.run_in_executor(threads, call, *args)
        finally:
            self._blocking -= 1

    def _due_count(self, kind: str) -> int:
        return len(self._lanes[kind]) + (self._calls.startable if kind == "http" else 0)

    def _notify_room(self) -> None:
        """Let one go on of those who wait for room, when there is some, and the next when that one has filled
        its part: each that wakes takes its turn from the loop.
        """
        for kind, room in self._room.items():
            if self._due_count(kind) < MOST_DUE:
                with room:
                    room.notify()

    def _hold(self, kind: str, batch: Batch) -> None:
        """Keep events until their instant: one timer for each distinct instant."""
        if self._draining:
            self._unwanted += [(id_, due, kind) for id_, due in batch]
            return
        groups: dict[datetime, Batch] = {}
        for item in batch:
            groups.setdefault(item[1], []).append(item)
        for due, group in groups.items():
            wait = self.clock.seconds_until(due)
            if wait <= 0:
                self._lanes[kind].put(group, late=wait < -LATE_SECONDS)
            elif kind == "http" and wait > FORESEEN_SECONDS:
                self._call_later(wait - FORESEEN_SECONDS, self._due_soon, kind, group)
            else:
                self._call_later(wait + NOT_EARLY_SECONDS, self._due, kind, group)
        self._notify_room()

    @property
    def _others_on_time(self) -> bool:
        """Whether anything came to its instant here in the last moment."""
        return time.monotonic() - self._on_time_at < ON_TIME_SECONDS

    def _call_later(
        self, seconds: float, then: Callable[[str, Batch], None], kind: str, group: Batch
    ) -> None:
        self._held[id(group)] = (self._loop.call_later(seconds, then, kind, group), kind, group)

    def _due_soon(self, kind: str, group: Batch) -> None:
        self._soon.put(group)
        wait = self.clock.seconds_until(group[0][1])
        self._call_later(max(wait, 0.0) + NOT_EARLY_SECONDS, self._due, kind, group)

    def _due(self, kind: str, group: Batch) -> None:
        self._held.pop(id(group), None)
        self._on_time_at = time.monotonic()
        if self.clock.seconds_until(group[0][1]) > 0:  # the clock was measured anew meanwhile
            self._hold(kind, group)
        elif kind == "http" and any(id_ in self._foreseen for id_, _ in group):
            self._ready.put(group)
        else:
            self._lanes[kind].put(group)

    def _hold_early(self, kind: str, early: Batch) -> None:
        """Early by the database's clock, although due by our measure of it: measure again."""
        if early:
            self._threads.submit(self._measure_and_hold, kind, early)

    def _measure_and_hold(self, kind: str, early: Batch) -> None:
        with suppress(Exception):  # the database is away: whoever tries to start them says so
            self.clock.measure(at_once=True)
        self._loop.call_soon_threadsafe(self._hold, kind, early)

    # log

    async def _log(self) -> None:
        batch = await self._lanes["log"].take()
        early, released, plain = await self._sql(self._write_logs, [id_ for id_, _ in batch])
        self._lanes["log"].learn(plain)
        self._learn_lag(due for _, due in batch)
        self._hold_early("log", early)
        for one in released:
            self._hold(one.kind, [(one.event_id, one.due_at)])

    def _write_logs(self, ids: Sequence[str]) -> tuple[Batch, list[Released], bool]:
        """Start, write and finish in one transaction, so that nothing dies in between. And: are all plain?"""
        if not logger.isEnabledFor(logging.INFO) and self._complete_plain(ids):
            return [], [], True
        with self.database.write() as connection:
            now = self.database.now(connection)
            ready = deliver.prepare(connection, ids, "log", now)
            lifecycle.lock(connection, [j.trigger_id for j in ready.jobs if deliver.touches_trigger(j)])
            won = delivery.complete(connection, [job.id for job in ready.jobs], now)
            done = Finish()
            for job in ready.jobs:
                if job.id in won:
                    deliver.began(job, won[job.id], now)
                    done.won.append((Finished(job, deliver.DONE), deliver.SUCCEEDED))
            if logger.isEnabledFor(logging.INFO):
                self._report_logs(done, now)
            deliver.settle(connection, done, now, self.tzdata)
        return ready.early, done.released, False

    def _complete_plain(self, ids: Sequence[str]) -> bool:
        """End those of `ids` that are no more than a row to change; whether that were all. Triggers that may
        be complete now are looked at in a transaction of their own, because whoever changes a trigger locks
        it before its events; should this process end in between, the next tick does it.
        """
        last: list[str] = []
        with self.database.write() as connection:
            now = self.database.now(connection)
            count = delivery.complete_plain(connection, ids, now)
            if count < len(ids):
                last = delivery.complete_last(connection, ids, now)
        if last:
            with self.database.write() as connection:
                lifecycle.complete(connection, self.database.now(connection), self.tzdata, last)
        return count + len(last) == len(ids)

    def _report_logs(self, done: Finish, now: datetime) -> None:
        jobs = [one.job for one, _ in done.won]
        with together():
            deliver.started(jobs)
            for job in jobs:
                log.write(job.name, job.id, job.scheduled_for, render(job.target["message"], values_of(job)))
            deliver.finished(done, now)

    # celery

    async def _tasks(self) -> None:
        batch = await self._lanes["celery"].take_on_time()
        await self._look_and_publish(batch, late=False)
        self._learn_lag(due for _, due in batch)

    async def _late_tasks(self) -> None:
        """Those that came late. To publish one takes as much of the machine as to run it, if it is short."""
        batch = await self._lanes["celery"].take_late(LATE_TASKS)
        began = time.monotonic()
        await self._look_and_publish(batch, late=len(batch) > SMALL)
        await self._rest(began)

    async def _rest(self, began: float) -> None:
        """After what is late, while others are on time: as long as that took, or longer if they are not."""
        if self._others_on_time and not self._draining:
            times = min(max(1.0, self._lag / GOOD_SECONDS), LONGEST_REST)
            await asyncio.sleep((time.monotonic() - began) * times)

    def _learn_lag(self, instants: Iterable[datetime]) -> None:
        """These were due, and have begun: the worst of late counts, for some ten times."""
        lags = [lag for due in instants if 0 <= (lag := -self.clock.seconds_until(due)) < LATE_SECONDS]
        if lags:
            worst = max(lags)
            self._lag += (worst - self._lag) * (1.0 if worst > self._lag else 0.1)

    async def _look_and_publish(self, batch: Batch, late: bool) -> None:
        jobs = await self._sql(self._look, [id_ for id_, _ in batch])
        threads = self._publishing_late if late else self._publishing  # late ones wait for workers
        await self._elsewhere(threads, self.publish, jobs, late and not self._draining)

    def _look(self, ids: Sequence[str]) -> list[Job]:
        with self.database.read() as connection:
            return delivery.look(connection, ids, "celery")

    # http

    async def _foresee(self) -> None:
        """Look at calls before their instant, so that then they need but a start."""
        taken = await self._soon.take()
        batch = {id_: due for id_, due in taken if self.clock.seconds_until(due) > 0}
        for call in await self._sql(self._look_for_calls, list(batch)) if batch else ():
            if self.clock.seconds_until(batch[call.id]) > 0:  # else its timer may be gone
                self._foreseen[call.id] = call
        if not len(self._soon):
            self._forget_passed()
        await asyncio.sleep(0)

    def _forget_passed(self) -> None:
        """A clock that was measured anew may have let a timer go by what was just looked at."""
        passed = [
            id_
            for id_, call in self._foreseen.items()
            if self.clock.seconds_until(call.due_at) < -LATE_SECONDS
        ]
        for id_ in passed:
            del self._foreseen[id_]

    async def _admissions(self) -> None:
        """Let calls start that were foreseen; a few in each turn of the loop."""
        for id_, due in await self._ready.take():
            if call := self._foreseen.pop(id_, None):
                self._admit(call)
            else:
                self._lanes["http"].put([(id_, due)])
        await asyncio.sleep(0)

    async def _http(self) -> None:
        await self._look_and_admit(await self._lanes["http"].take_on_time())

    async def _late_http(self) -> None:
        """Those that came late; slowly while others are on time and enough wait for their turn: to look at a
        hundred thousand keeps this process from its other work for seconds.
        """
        if self._others_on_time and len(self._calls) > MOST_DUE:
            await asyncio.sleep(LATE_PAUSE_SECONDS)
        batch = await self._lanes["http"].take_late(LATE_CHUNK if self._others_on_time else CHUNK)
        await self._look_and_admit(batch)

    async def _look_and_admit(self, batch: Batch) -> None:
        for call in await self._sql(
            self._look_for_calls, [id_ for id_, _ in batch if id_ not in self._calls]
        ):
            self._admit(call)

    def _admit(self, call: Call) -> None:
        if self._draining:
            self._unwanted.append((call.id, call.due_at, "http"))
        elif call.id not in self._calls:
            self._calls.admit(call, late=self.clock.seconds_until(call.due_at) < -LATE_SECONDS)

    def _look_for_calls(self, ids: Sequence[str]) -> list[Call]:
        with self.database.read() as connection:
            return delivery.calls(connection, ids)

    async def _starts(self) -> None:
        calls = await self._calls.take()
        await self._start_calls(calls)
        self._learn_lag(call.due_at for call in calls)

    async def _late_starts(self) -> None:
        """Of calls that came late."""
        calls = await self._calls.take(late=True, most=self._late_starts_at_once)
        began = time.monotonic()
        await self._start_calls(calls)
        await self._rest(began)

    def _late_starts_at_once(self) -> int:
        return LATE_STARTS if self._others_on_time else CHUNK

    async def _start_calls(self, calls: Sequence[Call]) -> None:
        ids = [call.id for call in calls]
        try:
            won, early = await self._sql(self._start, ids)
        except BaseException:
            self._calls.release(ids)
            raise
        begun = {job.id for job in won}
        self._calls.release(id_ for id_ in ids if id_ not in begun)
        self._calls.begin(won)
        self._hold_early("http", early)

    def _start(self, ids: Sequence[str]) -> tuple[list[Job], Batch]:
        with self.database.write() as connection:
            now = self.database.now(connection)
            ready = deliver.prepare(connection, ids, "http", now)
            won = deliver.start(connection, ready.jobs, now)
        deliver.started(won)
        return won, ready.early

    # finish

    def _ended(self, one: Finished) -> None:
        self._finished.append(one)
        self._finish_wake.set()

    async def _finishes(self) -> None:
        while not self._finished:
            self._finish_wake.clear()
            await self._finish_wake.wait()
        batch = [self._finished.popleft() for _ in range(min(CHUNK, len(self._finished)))]
        self._recording += 1
        try:
            recorded = await self._record(batch)
        finally:
            self._recording -= 1
        for done in recorded:
            for job, due in done.again:
                self._hold(job.target_type, [(job.id, due)])
            for one in done.released:
                self._hold(one.kind, [(one.event_id, one.due_at)])

    async def _record(self, batch: Sequence[Finished]) -> list[Finish]:
        """Record results, again and again while the database is away: an attempt that ended is never lost."""
        while True:
            try:
                return await self._sql(deliver.record, self._finish, batch)
            except Exception as error:
                logger.warning("cannot record %d results, trying again: %s", len(batch), in_one_line(error))
                await asyncio.sleep(PAUSE_SECONDS)

    def _finish(self, batch: Sequence[Finished]) -> Finish:
        with self.database.write() as connection:
            now = self.database.now(connection)
            done = deliver.finish(connection, batch, now, self.tzdata, random.random, self.ahead)
        deliver.finished(done, now)
        return done

    # stop

    async def _drain(self, seconds: float) -> None:
        """1. Hand back what has not begun; soon also retries. 2. Let calls end. 3. Record their results."""
        self._draining = True
        end = time.monotonic() + seconds
        called = time.monotonic()  # when a call was last in flight
        await self._hand_back()
        while self._busy() and time.monotonic() < end and not self._hurried:
            called = time.monotonic() if self._calls.in_flight else called
            if time.monotonic() - called > RECORD_SECONDS:
                break
            await asyncio.sleep(0.02)
            await self._hand_back()
        await self._hand_back()
        if left := self._calls.busy + len(self._finished) + self._recording:
            logger.warning("stopping with %d calls unrecorded: each is lost once its lease is over", left)

    async def _hand_back(self) -> None:
        """Dispatch again what has not begun, so that another worker has it before its instant."""
        waiting = self._unwanted + [
            (id_, due, kind) for _, kind, batch in self._held.values() for id_, due in batch
        ]
        for handle, _, _ in self._held.values():
            handle.cancel()
        self._held.clear()
        self._unwanted = []
        for lane in (self._lanes["http"], self._ready):
            waiting += [(id_, due, "http") for id_, due in (*lane.due, *lane.late) if id_ not in self._calls]
            lane.due.clear()
            lane.late.clear()
        self._foreseen.clear()
        calls = self._calls.take_unstarted()
        if not (waiting or calls):
            return
        names = await self._names([id_ for id_, _, _ in waiting])
        back = hints(waiting, names)
        back += [Hint(call.id, call.due_at, "http", call.name) for call in calls]
        publishing = self._loop.run_in_executor(self._publishing, self.hand_back, back)
        await asyncio.wait([publishing], timeout=HAND_BACK_SECONDS)

    async def _names(self, ids: Sequence[str]) -> dict[str, str]:
        """The names of these events' triggers, for who looks at the queue; none when that takes long."""
        if not ids:
            return {}
        asked = self._sql(self._ask_names, ids)
        with suppress(SQLAlchemyError, asyncio.TimeoutError):
            return await asyncio.wait_for(asked, HAND_BACK_SECONDS)
        return {}

    def _ask_names(self, ids: Sequence[str]) -> dict[str, str]:
        with self.database.read() as connection:
            return delivery.names(connection, ids)

    def _busy(self) -> bool:
        due = any(self._due_count(kind) for kind in self._lanes) or len(self._ready)
        return bool(self._calls.busy or self._finished or self._recording or self._blocking or due)


def hints(waiting: Sequence[Waiting], names: Mapping[str, str]) -> list[Hint]:
    """What to send, so that somebody holds these events; by the names of their triggers, as far as known."""
    return [Hint(id_, due, kind, names.get(id_, "")) for id_, due, kind in waiting]
