"""The one event loop of a worker process: it holds events until their instant and delivers them.

A message hands its ids over and is done; no delivery waits inside a pool. All statements run on a few
threads, so that the loop never blocks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from models.database import Database, in_one_line, is_away
from triggers import deliver
from triggers.deliver import Finish, Finished, Released
from triggers.store import delivery, lifecycle
from triggers.store.delivery import Job
from triggers.targets import Outcome, log
from triggers.targets.address import parse_url
from triggers.targets.http import HttpCaller, HttpRequest
from triggers.targets.placeholders import render
from triggers.tick import Dispatch, Hint

CHUNK = 500  # events in one statement
LATE_CHUNK = 50  # of these, for events that came late, when there are others
LATE_SECONDS = 1.0  # after its instant an event that comes now is late anyway
MOST_DUE = 2_000  # due events in this process before it takes no more from the broker
PER_HOST = 100  # calls in flight to one host, so that one that hangs delays nobody else
IN_FLIGHT = 2_000  # calls in flight in this process
MOST_FILES = 8_192  # that we ask to have open at once; Debian gives a process 1,024 unasked
OTHER_FILES = 200  # of these, for all but calls
AT_ONCE = 20  # calls that begin in one turn of the loop
SWITCH_SECONDS = 0.001  # a thread that computes lets the loop have its turn; Python's own 5 ms add up
RESYNC_SECONDS = 30.0  # how often the distance to the database's clock is measured
NOT_EARLY_SECONDS = 0.0005  # after the computed instant, for the error of that measure
HAND_BACK_SECONDS = 2.0  # for publishing what a stopping process held; a tick finds what was not
RECORD_SECONDS = (
    25.0  # for a stopping process to record results when no call is left, if the database is away
)
PAUSE_SECONDS = 1.0  # between tries to record results while the database is away

Publish = Callable[[Sequence[Job]], None]  # sends users' tasks to their queue; raises when it cannot
Batch = list[tuple[str, datetime]]  # ids with their instants
NOTHING = deliver.Ready([], [])
NOBODY = "00000000-0000-0000-0000-000000000000"
T = TypeVar("T")

logger = logging.getLogger("triggerbeat.courier")


class SharedClock:
    """The database's clock, read through this machine's monotonic one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._offset = 0.0
        self._measured = float("-inf")
        self._lock = threading.Lock()

    def measure(self, at_once: bool = False) -> None:
        """Measure the distance again when the last measure is old, or `at_once`; blocks for one statement."""
        with self._lock:
            if not at_once and time.monotonic() - self._measured < RESYNC_SECONDS:
                return
            with self._database.read() as connection:
                before = time.monotonic()
                now = self._database.now(connection).timestamp()
                after = time.monotonic()
            self._offset = now - (before + after) / 2
            self._measured = after

    def seconds_until(self, instant: datetime) -> float:
        """How long until `instant`; negative when it has passed."""
        return instant.timestamp() - self._offset - time.monotonic()


class Lane:
    """Due events of one kind of target, and who waits for some.

    What is on time goes before what was late when it came, for which there is but a part of each chunk then:
    whoever has a hundred thousand occurrences to make up for makes nobody else late.
    """

    def __init__(self, taken: Callable[[], None]) -> None:
        self.due: deque[tuple[str, datetime]] = deque()
        self.late: deque[tuple[str, datetime]] = deque()
        self.wake = asyncio.Event()
        self.taken = taken

    def __len__(self) -> int:
        return len(self.due) + len(self.late)

    def put(self, batch: Iterable[tuple[str, datetime]], late: bool = False) -> None:
        """These are due, and for longer than they should be with `late`."""
        (self.late if late else self.due).extend(batch)
        self.wake.set()

    async def take(self) -> Batch:
        """Up to a chunk of what is due, as soon as there is any."""
        while not len(self):
            self.wake.clear()
            await self.wake.wait()
        late = min(len(self.late), max(CHUNK - len(self.due), LATE_CHUNK))
        batch = [self.due.popleft() for _ in range(min(CHUNK - late, len(self.due)))]
        batch += [self.late.popleft() for _ in range(late)]
        self.taken()
        return batch


@dataclass(slots=True)
class Host:
    """The calls to one host."""

    in_flight: int = 0
    parked: deque[Job] = field(default_factory=deque)


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
        self._room = threading.Condition()
        self._stopping = False
        self._hurried = False
        self._thread: threading.Thread | None = None

    # From the worker's threads

    def start(self) -> None:
        """Start the loop's thread."""
        self._most_in_flight = max(1, min(IN_FLIGHT, open_files() - OTHER_FILES))
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
            self._look([NOBODY], "http")
        except Exception as error:
            logger.warning("cannot use the database: %s", in_one_line(error))

    def submit(self, kind: str, batch: Batch) -> None:
        """Take over events of one kind of target; blocks while there is more than enough due here."""
        self.clock.measure()
        with self._room:
            self._room.wait_for(lambda: self._stopping or self._due_count(kind) < MOST_DUE)
        self._loop.call_soon_threadsafe(self._hold, kind, batch)

    def stop(self, drain_seconds: float = float("inf")) -> None:
        """Hand back what has not begun, let calls in flight end for up to `drain_seconds`, record them.

        Each call ends with its attempt's own timeout at the latest.
        """
        if self._thread is None or not self._thread.is_alive():
            return
        with self._room:
            self._stopping = True
            self._room.notify_all()
        asyncio.run_coroutine_threadsafe(self._drain(drain_seconds), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._publishing.shutdown(wait=False, cancel_futures=True)

    def hurry(self) -> None:
        """Somebody does not want to wait for `stop` any more. Safe in a signal's handler."""
        self._hurried = True

    # The loop

    def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._threads = ThreadPoolExecutor(6, "courier-sql")
        self._publishing = ThreadPoolExecutor(1, "courier-publish")
        self._draining = False
        self._unwanted: list[tuple[str, datetime, str]] = []  # came to be held while this process stops
        self._lanes = {kind: Lane(self._notify_room) for kind in ("log", "http", "celery")}
        self._held: dict[int, tuple[asyncio.TimerHandle, str, Batch]] = {}
        self._hosts: dict[str, Host] = {}
        self._in_flight = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._launches: set[asyncio.Task[None]] = set()  # which begin calls
        self._taken: dict[str, str] = {}  # HTTP events between look and finish, with their hosts
        self._startable: deque[Job] = deque()
        self._start_wake = asyncio.Event()
        self._finished: deque[Finished] = deque()
        self._finish_wake = asyncio.Event()
        self._recording = 0
        self._blocking = 0
        self._caller = HttpCaller(*self._caller_options)
        self._workers = [
            self._loop.create_task(self._forever(work))
            for work in (self._log, self._log, self._http, self._starts, self._tasks, self._finishes)
        ]
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
        return len(self._lanes[kind]) + (len(self._startable) if kind == "http" else 0)

    def _notify_room(self) -> None:
        with self._room:
            self._room.notify_all()

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
            else:
                handle = self._loop.call_later(wait + NOT_EARLY_SECONDS, self._due, kind, group)
                self._held[id(group)] = (handle, kind, group)

    def _due(self, kind: str, group: Batch) -> None:
        self._held.pop(id(group), None)
        if self.clock.seconds_until(group[0][1]) > 0:  # the clock was measured anew meanwhile
            self._hold(kind, group)
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
        early, released = await self._sql(self._write_logs, [id_ for id_, _ in batch])
        self._hold_early("log", early)
        for one in released:
            self._hold(one.kind, [(one.event_id, one.due_at)])

    def _write_logs(self, ids: Sequence[str]) -> tuple[Batch, list[Released]]:
        """Start, write and finish in one transaction: nothing can die in between."""
        if not logger.isEnabledFor(logging.INFO):
            ids = self._complete_plain(ids)
            if not ids:
                return [], []
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
        return ready.early, done.released

    def _complete_plain(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that are more than a row to change. Triggers that may be complete are looked at in a
        transaction of their own, because whoever changes a trigger locks it before its events; should this
        process end in between, the next tick does it.
        """
        with self.database.write() as connection:
            now = self.database.now(connection)
            plain = delivery.complete_plain(connection, ids, now, exhausted=False)
            left = [id_ for id_ in ids if id_ not in plain]
            last = delivery.complete_plain(connection, left, now, exhausted=True)
        if last:
            with self.database.write() as connection:
                lifecycle.complete(connection, now, self.tzdata, last.values())
        return [id_ for id_ in left if id_ not in last]

    def _report_logs(self, done: Finish, now: datetime) -> None:
        jobs = [one.job for one, _ in done.won]
        deliver.started(jobs)
        for job in jobs:
            log.write(job.name, job.id, job.scheduled_for, render(job.target["message"], values_of(job)))
        deliver.finished(done, now)

    # celery

    async def _tasks(self) -> None:
        batch = await self._lanes["celery"].take()
        jobs = await self._sql(self._look, [id_ for id_, _ in batch], "celery")
        await self._elsewhere(self._publishing, self.publish, jobs)

    def _look(self, ids: Sequence[str], kind: str) -> list[Job]:
        with self.database.read() as connection:
            return delivery.look(connection, ids, kind)

    # http

    async def _http(self) -> None:
        batch = [item for item in await self._lanes["http"].take() if item[0] not in self._taken]
        for job in await self._sql(self._look, [id_ for id_, _ in batch], "http"):
            if job.id not in self._taken:
                self._taken[job.id] = host_of(job)
                self._admit(job)

    def _admit(self, job: Job) -> None:
        """Let the job start when its host and this process have room, else park it."""
        if self._draining:
            self._taken.pop(job.id)
            self._unwanted.append((job.id, job.due_at, job.target_type))
            return
        host = self._hosts.setdefault(self._taken[job.id], Host())
        if not self._has_room(host):
            host.parked.append(job)
        else:
            host.in_flight += 1
            self._in_flight += 1
            self._startable.append(job)
            self._start_wake.set()

    def _has_room(self, host: Host) -> bool:
        """Whether one more call may begin. Each host has one, however many others hang."""
        if host.in_flight == 0:
            return True
        return host.in_flight < PER_HOST and self._in_flight < self._most_in_flight

    def _release(self, job: Job) -> None:
        """A call ended, or never began: one that was parked may start."""
        name = self._taken.pop(job.id)
        host = self._hosts[name]
        host.in_flight -= 1
        self._in_flight -= 1
        while host.parked and self._has_room(host):
            self._admit(host.parked.popleft())
        if not host.in_flight and not host.parked:
            self._hosts.pop(name, None)

    async def _starts(self) -> None:
        while not self._startable:
            self._start_wake.clear()
            await self._start_wake.wait()
        jobs = [self._startable.popleft() for _ in range(min(CHUNK, len(self._startable)))]
        try:
            won, early = await self._sql(self._start, jobs)
        except BaseException:
            for job in jobs:
                self._release(job)
            raise
        begun = {job.id for job in won}
        for job in jobs:
            if job.id not in begun:
                self._release(job)
        keep(self._launches, self._loop.create_task(self._launch(won)))
        self._hold_early("http", early)

    async def _launch(self, jobs: Sequence[Job]) -> None:
        """Begin the calls, a few in each turn of the loop: a thousand at once would hold it up for as long as
        they take to connect, and with it everybody else's starts.
        """
        for number, job in enumerate(jobs, start=1):
            keep(self._calls, self._loop.create_task(self._call(job)))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _start(self, jobs: Sequence[Job]) -> tuple[list[Job], Batch]:
        with self.database.write() as connection:
            now = self.database.now(connection)
            ready = deliver.prepare(connection, [job.id for job in jobs], "http", now)
            won = deliver.start(connection, ready.jobs, now)
        deliver.started(won)
        return won, ready.early

    async def _call(self, job: Job) -> None:
        try:
            outcome = await self._caller.call(http_request(job))
        except Exception as error:
            logger.exception("trigger=%s event=%s the call raised", job.name, job.id)
            outcome = Outcome(False, error={"type": type(error).__name__, "message": "internal error"})
        self._release(job)
        self._finished.append(Finished(job, outcome))
        self._finish_wake.set()

    # finish

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
            called = time.monotonic() if self._calls else called
            if time.monotonic() - called > RECORD_SECONDS:
                break
            await asyncio.sleep(0.02)
            await self._hand_back()
        await self._hand_back()
        if left := len(self._calls) + len(self._finished) + self._recording:
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
        waiting += [(id_, due, "http") for id_, due in self._lanes["http"].due if id_ not in self._taken]
        self._lanes["http"].due.clear()
        jobs = self._take_unstarted()
        if not (waiting or jobs):
            return
        names = await self._names([id_ for id_, _, _ in waiting])
        hints = [Hint(id_, due, kind, names.get(id_, "")) for id_, due, kind in waiting]
        hints += [Hint(job.id, job.due_at, "http", job.name) for job in jobs]
        publishing = self._loop.run_in_executor(self._publishing, self.hand_back, hints)
        await asyncio.wait([publishing], timeout=HAND_BACK_SECONDS)

    def _take_unstarted(self) -> list[Job]:
        """The calls that are parked, or may begin and have not."""
        jobs = [job for host in self._hosts.values() for job in host.parked]
        for host in self._hosts.values():
            host.parked.clear()
        for job in jobs:
            self._taken.pop(job.id, None)
        startable = list(self._startable)
        self._startable.clear()
        for job in startable:
            self._release(job)
        return jobs + startable

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
        due = any(self._due_count(kind) for kind in self._lanes)
        calling = self._calls or self._launches
        return bool(calling or self._finished or self._recording or self._blocking or due)


def keep(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    """Hold a task until it ends, as the loop itself does not."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def open_files() -> int:
    """Raise the number of files this process may have open to what is allowed; that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return MOST_FILES
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def host_of(job: Job) -> str:
    """The host that a job calls."""
    url = parse_url(job.target["url"])
    return f"{url.host}:{url.port}"


def values_of(job: Job) -> dict[str, str]:
    """What the placeholders stand for."""
    form = "microseconds" if job.scheduled_for.microsecond else "seconds"
    return {
        "scheduled_for": job.scheduled_for.replace(tzinfo=None).isoformat(timespec=form) + "Z",
        "event_id": job.id,
        "trigger_id": job.trigger_id,
        "trigger_name": job.name,
        "attempt": str(job.attempt),
    }


def http_request(job: Job) -> HttpRequest:
    """The job's call, with its placeholders filled in."""
    target = job.target
    body = target["body"] if job.payload is None else job.payload
    return HttpRequest(
        method=target["method"],
        url=target["url"],
        headers=target["headers"],
        body=render(body, values_of(job)),
        secret=job.secret,
        event_id=job.id,
        scheduled_for=job.scheduled_for,
        attempt=job.attempt,
        timeout_seconds=job.policy["timeout_seconds"],
    )
