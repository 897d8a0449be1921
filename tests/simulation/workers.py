"""A worker without its event loop, its threads and its pool of processes, which cannot be stepped.

Each loop of the courier (`_log`, `_http`, `_starts`, `_tasks`, `_finishes`), of the recorder and of the pool
stands here as an actor that makes the same calls in the same order, in the same transactions: the calls are
those of a real `Courier` and a real `Recorder`. What the courier does between them is repeated here: it holds
an event until its instant, takes none twice, lets so many calls begin at a time, and hands back what has not
begun when it is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.simulation.broker import OURS, TASKS, Consumer
from tests.simulation.scheduler import Process, Signal, Steps
from triggers import deliver, retention, tick
from triggers.courier import Courier
from triggers.deliver import Finish, Finished
from triggers.recorder import Recorder
from triggers.store import plan
from triggers.store.delivery import Call, Job
from triggers.targets import Outcome
from triggers.tick import Hint

if TYPE_CHECKING:
    from tests.simulation.ledger import Delivery
    from tests.simulation.world import World

TZDATA = "2026a"
PREFETCH = 8  # messages of ours that it handles at a time
PAUSE_SECONDS = 1.0  # between tries to record
Batch = list[tuple[str, datetime]]


class SteppedRecorder(Recorder):
    """A recorder whose thread is an actor."""

    world: World
    tell: Callable[[], None]

    def _reset(self) -> None:
        """Others go on within a statement here, on the same thread."""
        super()._reset()
        self._writing = nullcontext()

    def _ensure_thread(self) -> None:
        pass

    def _wake(self) -> None:
        self.tell()

    def _write(self, batch: Sequence[Finished]) -> Finish:
        try:
            return super()._write(batch)
        except Exception as error:
            self.world.expect(error)
            raise


class Worker:
    """A worker process, with its pool."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.process = Process(world.scheduler, name, self.start, 10.0, died=self.died)
        self.stopping = False
        self.calls: list[Delivery] = []
        world.broker.consumers.append(Consumer(self.has_room, self.is_frozen, self.receive))

    # Life and death

    def start(self) -> Iterable[Steps]:
        """An empty memory, and the loops."""
        world, scheduler = self.world, self.world.scheduler
        self.courier = Courier(
            world.database,
            publish=world.broker.publish_tasks,
            hand_back=world.broker.dispatch,
            allow_private=True,
            wall_clock=lambda: 0.0,
            tzdata=TZDATA,
            ahead=world.horizon,
        )
        self.recorder = SteppedRecorder(world.database, world.broker.dispatch, TZDATA, world.horizon)
        self.recorder.world, self.recorder.tell = world, lambda: self.wakes["record"].set()
        self.clock_error = world.random.gauss(0, 0.003) if world.faulty else 0.0
        self.stopping = False
        self.lanes: dict[str, Batch] = {"log": [], "http": [], "celery": []}
        self.wakes = {name: Signal(scheduler) for name in (*self.lanes, "start", "finish", "record")}
        self.held: dict[int, tuple[str, Batch]] = {}
        self.taken: set[str] = set()
        self.parked: list[Call] = []
        self.startable: list[Call] = []
        self.in_flight = 0
        self.finished: list[Finished] = []
        self.handling = {OURS: 0, TASKS: 0}
        self.calls = []
        world.broker.wake()
        yield from (self.forever(work) for work in (self.log, self.log, self.http, self.starts, self.tasks))
        yield self.forever(self.finishes)
        yield self.forever(self.records)
        yield self.take_over()

    def died(self) -> None:
        """What it was calling goes on without anybody who waits for it."""
        for delivery in self.calls:
            if delivery.ended is None:
                delivery.died = True

    def take_over(self) -> Steps:
        """As `Courier._take_over`."""
        yield 0.05
        try:
            batches = self.courier._held_by_somebody()
        except Exception as error:
            self.world.expect(error)
            return
        for kind, batch in batches.items():
            self.hold(kind, batch)

    def forever(self, work: Callable[[], Steps]) -> Steps:
        """As `Courier._forever`: what fails is logged, and found by its `recheck_at`."""
        while True:
            try:
                yield from work()
            except Exception as error:
                self.tell(f"{type(error).__name__} in {work.__name__}")
                self.world.expect(error)
            yield 0.0

    def tell(self, what: str) -> None:
        """A line of the story."""
        self.world.scheduler.tell(self.name, what)

    # Messages

    def has_room(self, queue: str) -> bool:
        """Whether the broker may hand it a message of this queue."""
        if not self.process.alive or self.stopping:
            return False
        return self.handling[queue] < (PREFETCH if queue == OURS else self.world.slots + 1)

    def is_frozen(self) -> bool:
        """Whether it stands still."""
        return self.process.frozen_until > self.world.scheduler.micros

    def receive(self, queue: str, body: tuple[Any, ...]) -> None:
        """Begin to handle a message; it is acknowledged, and so gone with this process."""
        self.handling[queue] += 1
        handlers: dict[str, Callable[..., Steps]]
        handlers = {"tick": self.tick, "retain": self.retain, "deliver": self.deliver, "task": self.child}
        self.process.spawn(self.handle(queue, handlers[body[0]], body[1:]), 0.001)

    def handle(self, queue: str, handler: Callable[..., Steps], arguments: Sequence[Any]) -> Steps:
        """One message; then there is room for another."""
        try:
            yield from handler(*arguments)
        except Exception as error:
            self.tell(f"{type(error).__name__} in {handler.__name__}")
            self.world.expect(error)
        self.handling[queue] -= 1
        self.world.broker.wake()

    def tick(self, hint: bool) -> Steps:
        """As `triggers.tick.run`, in smaller batches."""
        world = self.world
        self.tell("ticks")
        horizon = tick.horizon_of_hint(world.database, world.horizon) if hint else world.horizon
        made = tick.execute_scheduled_triggers(
            world.database, world.broker.dispatch, horizon, TZDATA, world.batch, world.broker.look,
            hinted=hint,
        )  # fmt: skip
        if not hint:
            with world.database.write() as connection:
                plan.ticked(
                    connection, self.name, world.database.now(connection), 0.0, made.planned, 0.0, TZDATA
                )
        return
        yield

    def retain(self) -> Steps:
        """As the task `update_event_states`."""
        done = retention.update_event_states(self.world.database, self.world.ages, batch=7)
        self.tell(f"retention {done}")
        return
        yield

    def deliver(self, kind: str, batch: Batch) -> Steps:
        """As the task `deliver`."""
        self.hold(kind, batch)
        return
        yield

    # The courier

    def hold(self, kind: str, batch: Batch) -> None:
        """As `Courier._hold`: an actor for each instant."""
        if self.stopping:
            hints = [Hint(id_, due, kind, "") for id_, due in batch]
            self.world.broker.dispatch(hints)
            return
        for due in sorted({due for _, due in batch}):
            group = [item for item in batch if item[1] == due]
            self.held[id(group)] = (kind, group)
            self.process.spawn(self.holding(kind, due, group))

    def holding(self, kind: str, due: datetime, group: Batch) -> Steps:
        """Until its instant, by a clock that is nearly right."""
        wait = (due - self.world.scheduler.now).total_seconds() + self.clock_error
        if wait > 0:
            yield wait + 0.0005
        if self.held.pop(id(group), None) is not None:
            self.lanes[kind] += group
            self.wakes[kind].set()

    def hold_early(self, kind: str, early: Batch) -> None:
        """As `Courier._hold_early`: the clock is measured again."""
        if early:
            self.clock_error = 0.0
            self.hold(kind, early)

    def take(self, kind: str) -> Generator[float | Signal, None, list[str]]:
        """What is due, as soon as there is any; the ids come as the generator's value."""
        while not self.lanes[kind]:
            yield self.wakes[kind]
        batch, self.lanes[kind] = self.lanes[kind], []
        return [id_ for id_, _ in batch]

    def log(self) -> Steps:
        """As `Courier._log`."""
        ids = yield from self.take("log")
        early, released, _ = self.courier._write_logs(ids)
        self.hold_early("log", early)
        for one in released:
            self.hold(one.kind, [(one.event_id, one.due_at)])

    def tasks(self) -> Steps:
        """As `Courier._tasks`."""
        ids = yield from self.take("celery")
        jobs = self.courier._look(ids)
        yield 0.001
        self.world.broker.publish_tasks(jobs)

    def http(self) -> Steps:
        """As `Courier._http` and `_admit`."""
        ids = yield from self.take("http")
        for call in self.courier._look_for_calls([id_ for id_ in ids if id_ not in self.taken]):
            if call.id not in self.taken:
                self.taken.add(call.id)
                self.admit(call)

    def admit(self, call: Call) -> None:
        """Let a call begin when there is room."""
        if self.in_flight >= self.world.calls:
            self.parked.append(call)
            return
        self.in_flight += 1
        self.startable.append(call)
        self.wakes["start"].set()

    def release(self, id_: str) -> None:
        """As `Calls._release`."""
        self.taken.discard(id_)
        self.in_flight -= 1
        if self.parked:
            self.admit(self.parked.pop(0))

    def starts(self) -> Steps:
        """As `Courier._starts`."""
        while not self.startable:
            yield self.wakes["start"]
        ids, self.startable = [call.id for call in self.startable], []
        try:
            won, early = self.courier._start(ids)
        except Exception:
            for id_ in ids:
                self.release(id_)
            raise
        begun = {job.id for job in won}
        for id_ in ids:
            if id_ not in begun:
                self.release(id_)
        for job in won:
            self.process.spawn(self.call(job))
        self.hold_early("http", early)

    def call(self, job: Job) -> Steps:
        """As `Courier._call`, to a target that takes its time."""
        delivery = self.begin(job)
        seconds, outcome = self.world.answer(job)
        yield seconds
        self.end(delivery, outcome)
        self.release(job.id)
        self.finished.append(Finished(job, outcome))
        self.wakes["finish"].set()

    def finishes(self) -> Steps:
        """As `Courier._finishes` and `_record`."""
        while not self.finished:
            yield self.wakes["finish"]
        batch, self.finished = self.finished, []
        recorded: list[Finish] | None = None
        while recorded is None:
            try:
                recorded = deliver.record(self.courier._finish, batch)
            except Exception as error:
                self.world.expect(error)
                yield PAUSE_SECONDS
        for done in recorded:
            for job, due in done.again:
                self.hold(job.target_type, [(job.id, due)])
            for one in done.released:
                self.hold(one.kind, [(one.event_id, one.due_at)])

    # The pool

    def child(self, task: str, event_id: str) -> Steps:
        """As `EventTask`: win the event, run the user's code, record what came of it. It may be killed."""
        try:
            job = self.recorder.begin(event_id, task)
        except Exception as error:
            self.world.expect(error)  # a tick sends it again
            return
        if job is None:
            return
        delivery = self.begin(job)
        seconds, outcome = self.world.answer(job)
        if self.world.faulty and self.world.random.random() < self.world.kills:
            self.world.faults["pool process killed"] += 1
            yield seconds * self.world.random.random()
            delivery.died = True
            self.calls.remove(delivery)
            self.tell(f"the pool process of event {job.id} is killed")
            yield 0.1
            self.recorder._judge_lost(job.id, job.attempt)
            return
        if self.world.random.random() < 0.2:
            yield seconds / 2
            self.recorder.progressed(job, {"half": True})
            seconds /= 2
        yield seconds
        self.end(delivery, outcome)
        if outcome.succeeded:
            self.recorder.finished(Finished(job, outcome))
        else:
            self.recorder.finish_now(Finished(job, outcome))

    def records(self) -> Steps:
        """As `Recorder._run`, without its pause for more."""
        while not self.recorder._has_work():
            yield self.wakes["record"]
        if not self.recorder._write_waiting():
            yield PAUSE_SECONDS

    # The ledger

    def begin(self, job: Job) -> Delivery:
        """The target is called."""
        delivery = self.world.ledger.begin(job, self.name, self.world.scheduler.now)
        self.calls.append(delivery)
        self.tell(f"delivers event {job.id} attempt {job.attempt}")
        return delivery

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        """The target has answered."""
        delivery.ended = self.world.scheduler.now
        delivery.outcome = "ok" if outcome.succeeded else "failed"
        self.calls.remove(delivery)
        self.tell(f"event {delivery.event_id} attempt {delivery.attempt} {delivery.outcome}")

    # A stop that was asked for

    def stop(self) -> Steps:
        """As a warm shutdown: hand back what has not begun, wait for what runs, record it, end."""
        self.tell("stops")
        self.stopping = True
        hints = [Hint(id_, due, kind, "") for kind, group in self.held.values() for id_, due in group]
        self.held.clear()
        hints += [Hint(id_, due, "http", "") for id_, due in self.lanes["http"]]
        self.lanes["http"].clear()
        calls = self.parked + self.startable
        hints += [Hint(call.id, call.due_at, "http", call.name) for call in calls]
        self.in_flight -= len(self.startable)
        self.taken -= {call.id for call in calls}
        self.parked, self.startable = [], []
        if hints:
            self.world.broker.dispatch(hints)
        until = self.world.scheduler.micros + 100_000_000
        while self.busy() and self.world.scheduler.micros < until:
            yield 0.5
        self.process.die()

    def busy(self) -> bool:
        """Whether something is left to end, or to record."""
        return bool(self.calls or self.finished or self.recorder._left() or sum(self.handling.values()))
