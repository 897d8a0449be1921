"""Ticks and deliveries in the worker's own process, on threads and a channel of their own.

Celery's pool belongs to the users' tasks: two that run for an hour on a pool of two would hold up every
tick, and while others wait for a slot they fill the prefetch window of the channel, so that the worker
takes nothing more from any queue. So our queue is consumed on its own channel, and our tasks run beside
the pool.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from celery import bootsteps, signals
from celery.concurrency import solo
from celery.concurrency.base import apply_target
from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.worker.control import inspect_command
from celery.worker.strategy import default
from kombu import Consumer

from celery_config.broker import backlog, is_backlog
from celery_config.bundle import Unpacker
from celery_config.guard import guarded
from celery_config.waiting import Waiting, let_begin
from triggers.settings import BACKLOG, OURS

THREADS = 8
BACKLOG_THREADS = 4  # which wait for room
PREFETCH = 8  # messages that wait in this process; the others are left for other workers
EVENTS_SECONDS = 0.1  # for so long what Flower is told is collected
MOST_EVENTS = 500  # or until it is so many
GARBAGE_AFTER = 20_000  # new objects that may hold others; the calls and events that wait are no garbage

log = logging.getLogger("triggerbeat.engine")

start_courier: Callable[[], None] = lambda: None  # noqa: E731  set by celery_worker, which wires
take_over: Callable[[], None] = lambda: None  # noqa: E731
close_courier: Callable[[], None] = lambda: None  # noqa: E731
stop_courier: Callable[[float], None] = lambda seconds: None  # noqa: E731
hurry_courier: Callable[[], None] = lambda: None  # noqa: E731


class Threads:
    """What Celery's request calls a pool: runs our tasks on threads of the worker's process.

    Made before the pool forks; a thread begins with the first task that finds none free. A process that is
    to end at once does not wait for them, as it would for those of a ThreadPoolExecutor.
    """

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self.name = name
        self.tasks: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self.threads: list[Thread] = []
        self.unfinished = 0
        self.closed = False
        self.lock = Lock()
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self.write_fd, False)

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **ignored: Any,
    ) -> None:
        """Run a task; its message is acknowledged when it begins."""
        with self.lock:
            if self.closed:
                return
            self.unfinished += 1
            self.tasks.put((target, args, kwargs, callback, accept_callback))
            if len(self.threads) < min(self.most, self.unfinished):
                thread = Thread(target=self.work, name=f"{self.name}-{len(self.threads)}", daemon=True)
                self.threads.append(thread)
                thread.start()

    def work(self) -> None:
        """One thread's life."""
        while task := self.tasks.get():
            try:
                self.run(*task)
            except BaseException as error:  # of the bookkeeping, since Celery catches the task's own
                log.warning("cannot settle a message: %s: %s", type(error).__name__, error)
            with self.lock:
                self.unfinished -= 1

    def run(self, target: Any, args: Any, kwargs: Any, callback: Any, accept_callback: Any) -> None:
        """Run, and wake the worker's loop, which has the acknowledgement to send."""

        def accepted(*with_: Any) -> None:
            accept_callback(*with_)
            self.wake()

        try:
            apply_target(target, args, kwargs, callback, accepted)
        finally:
            self.wake()

    def wake(self) -> None:
        """Make the worker's loop turn once."""
        with suppress(BlockingIOError):  # the pipe is full: it is awake
            os.write(self.write_fd, b"x")

    def awake(self, *args: Any) -> None:
        """The loop turned."""
        with suppress(BlockingIOError):
            os.read(self.read_fd, 4096)

    def close(self) -> None:
        """Begin nothing more; drop what has not begun."""
        with self.lock, suppress(Empty):
            self.closed = True
            while True:
                self.tasks.get_nowait()
        for _ in self.threads:
            self.tasks.put(None)

    def stop(self) -> None:
        """Let what runs end."""
        self.close()
        for thread in self.threads:
            thread.join()


class Side:
    """The consumer as some tasks see it: with another pool."""

    def __init__(self, consumer: Any, pool: Any) -> None:
        self.consumer = consumer
        self.pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.consumer, name)


class EngineSide(Side):
    """With threads of ours, and no slot to wait for."""

    def on_task_request(self, request: Any) -> None:
        """Begin at once."""
        request.execute_using_pool(self.pool)


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """The strategy of our own tasks: Celery's, on our side of the worker."""
    worker = consumer.controller
    ours, of_backlog = (
        default(task, app, EngineSide(consumer, threads), **options)
        for threads in (worker.engine_threads, worker.backlog_threads)
    )

    def handler(message: Any, *given: Any, **more: Any) -> None:
        (of_backlog if is_backlog(message) else ours)(message, *given, **more)

    return guarded(handler)


def users_strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """The strategy of users' tasks: Celery's; with the solo pool on a thread, one at a time.

    The solo pool runs a task in the loop that takes messages: one of an hour would hold up every tick.
    """
    worker = consumer.controller
    unpacker = worker.unpacker
    alone = isinstance(consumer.pool, solo.TaskPool)
    pool = Heard(worker.solo_thread if alone else consumer.pool, unpacker, consumer.call_soon)
    handle = default(task, app, (EngineSide if alone else Side)(consumer, pool), **options)

    def handler(message: Any, *given: Any, **more: Any) -> None:
        if unpacker.begins(message):
            handle(message, *given, **more)

    return guarded(handler)


class Heard:
    """A pool that lets the unpacker know what it has."""

    def __init__(self, pool: Any, unpacker: Unpacker, call_soon: Callable[..., Any]) -> None:
        self.pool = pool
        self.unpacker = unpacker
        self.call_soon = call_soon  # by the thread of the worker's loop

    def apply_async(
        self, *args: Any, callback: Any, error_callback: Any, correlation_id: str, **options: Any
    ) -> Any:
        """The pool's own."""

        def heard(callback: Any) -> Any:
            def called(*result: Any, **more: Any) -> None:
                try:
                    callback(*result, **more)
                finally:
                    self.call_soon(self.unpacker.ended, correlation_id)

            return called

        self.unpacker.pool_has(correlation_id)
        callbacks = {"callback": heard(callback), "error_callback": heard(error_callback)}
        return self.pool.apply_async(*args, correlation_id=correlation_id, **callbacks, **options)


class Engine(bootsteps.StartStopStep):
    """Worker step: the threads, and the courier that holds and delivers events."""

    requires = ("celery.worker.components:Pool",)  # after the pool has forked: forks want no threads
    stopping = False  # a warm shutdown waits for what runs

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.engine_threads = Threads(THREADS, "engine")
        worker.backlog_threads = Threads(BACKLOG_THREADS, "backlog")
        worker.solo_thread = Threads(1, "solo")
        worker.unpacker = Unpacker()
        worker.waiting = Waiting()

    def start(self, worker: Any) -> None:
        """Start the courier. What is there by now stays: looking at it for garbage again and again costs."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_AFTER)
        start_courier()

    def stop(self, worker: Any) -> None:
        """Hand back what is held, then wait for what runs, calls and a solo pool's task, however long."""
        Engine.stopping = True
        worker.solo_thread.close()
        close_courier()
        for threads in (worker.engine_threads, worker.backlog_threads):
            threads.stop()  # first: what they have begun to take is to be handed back, too
        stop_courier(inf)
        worker.solo_thread.stop()

    def terminate(self, worker: Any) -> None:
        """Stop without waiting."""
        stop_courier(0)
        for threads in our_threads(worker):
            threads.close()


def our_threads(worker: Any) -> list[Threads]:
    """All that a worker has beside its pool."""
    return [worker.engine_threads, worker.backlog_threads, worker.solo_thread]


@signals.worker_shutting_down.connect(weak=False)
def end_at_once(**more: Any) -> None:
    """Asked to stop once more while a warm shutdown waits: end now, as Celery does when it is in earnest."""
    if Engine.stopping:
        hurry_courier()
        raise WorkerTerminate(EX_FAILURE)


class TaskEvents:
    """What Flower is told, in a message each tenth of a second.

    Celery publishes when its loop turns, which with short tasks is a message for each of a task's three
    events: more work than the task.
    """

    def __init__(self, c: Any) -> None:
        self.c = c
        self.pending = False

    def __call__(self) -> None:
        """An event was put into the buffer."""
        if not self.pending:
            self.pending = True
            self.c.hub.call_later(EVENTS_SECONDS, self.flush)

    def flush(self) -> None:
        """Publish what has come together."""
        self.pending = False
        self.c._flush_events()


class EngineConsumer(bootsteps.ConsumerStep):
    """Consumer step: our queue on a channel of its own, when this worker serves it (`-Q`), and backlogs on
    others: their messages wait for room, and others are not to wait for them.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    took_over = False

    def start(self, c: Any) -> None:
        """Take our queue over from the consumer of the users' tasks."""
        self.consumers = c.engine_consumers = []
        if c.hub is not None:
            for threads in our_threads(c.controller):
                c.hub.add_reader(threads.read_fd, threads.awake)
            c.event_dispatcher.on_send_buffered = TaskEvents(c)
            c.event_dispatcher.buffer_limit = MOST_EVENTS
            c.controller.waiting.start(c)
        c.controller.unpacker.start(c)
        c.blueprint.on_close = partial(self.closes, c)
        self.take_backlogs(c)
        queue = c.app.amqp.queues.consume_from.get(OURS)
        if queue is None:
            return
        c.task_consumer.cancel_by_queue(OURS)
        for one, most in ((backlog(OURS), BACKLOG_THREADS), (queue, PREFETCH)):
            self.consume(c, [one], most)
        if not self.took_over:  # not when a lost broker is back: what is held here is held still
            self.took_over = True
            take_over()

    def take_backlogs(self, c: Any) -> None:
        """Of users' tasks: on a channel of their own, one message at a time, so that none of it is in the way
        when one on time comes.
        """
        names = set(c.app.amqp.queues.consume_from)
        for name in names:  # whoever names one with `-Q`
            if name.endswith(BACKLOG):
                c.task_consumer.cancel_by_queue(name)
        theirs = {name.removesuffix(BACKLOG) for name in names} - {OURS}
        queues = [backlog(name) for name in sorted(theirs)]
        self.follow(c, self.consume(c, queues, 1))

    def follow(self, c: Any, backlogs: Any) -> None:
        """A queue that this worker is told to take from, or not to any more, is meant with its backlog."""

        def add(queue: str, *given: Any, **options: Any) -> None:
            type(c).add_task_queue(c, queue, *given, **options)
            if queue != OURS and not queue.endswith(BACKLOG):
                backlogs.add_queue(backlog(queue))
                backlogs.consume()

        def cancel(queue: str) -> None:
            type(c).cancel_task_queue(c, queue)
            backlogs.cancel_by_queue(queue + BACKLOG)

        c.add_task_queue, c.cancel_task_queue = add, cancel

    def consume(self, c: Any, queues: list[Any], most: int) -> Consumer:
        """Take from these queues on a channel of their own, up to so many messages not acknowledged yet."""
        consumer = Consumer(
            c.connection.channel(),
            queues,
            on_message=c.create_task_handler(),
            on_decode_error=c.on_decode_error,
            accept=["json"],
        )
        consumer.qos(prefetch_count=most, apply_global=False)
        consumer.consume()
        self.consumers.append(consumer)
        return consumer

    def stop(self, c: Any) -> None:
        """Cancel, unless the connection broke: then Celery has closed it, and there is nothing to cancel."""
        if c.connection is not None:
            super().stop(c)

    def closes(self, c: Any) -> None:
        """The worker is to end. What the users' pool has not begun another may begin at once: before Celery
        forgets it.
        """
        try:
            c.controller.unpacker.stop()
            let_begin(c.pool)
            c.controller.waiting.share_all(c.app)
        finally:
            c.on_close()

    def get_consumers(self, channel: Any) -> list[Any]:
        """Those that `start` made."""
        return list(self.consumers or [])


@inspect_command()
def active_queues(state: Any) -> list[dict[str, Any]]:
    """List the queues a worker takes messages from."""  # Celery's own would not know of our consumer
    consumers = [state.consumer.task_consumer, *state.consumer.engine_consumers]
    return [queue.as_dict(recurse=True) for consumer in consumers if consumer for queue in consumer.queues]
