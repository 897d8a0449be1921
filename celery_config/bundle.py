"""Many users' tasks in few messages: together on the wire, in the worker each a task of its own.

A message costs Celery more than a short task does: to make, to send, to wait for, to take apart. So the tasks
of a burst go out as bundles. A worker takes one apart and treats each task as if it had come alone: with its
own id, its own place in the pool, its own events for Flower. It begins what it has room for; what it has not
begun in a moment, because the tasks are long, goes back to the queue one by one, for whoever is free.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from typing import Any, NamedTuple

from celery import Celery
from celery.worker import state
from kombu import Message

from celery_config.broker import PREFIX, addressed, is_backlog
from celery_config.guard import check_time_limits, guarded

TASK = PREFIX + "run_tasks"
MOST = 16  # tasks in a bundle: each costs a sixteenth of a message, and a pool ends them in a moment
PATIENCE_SECONDS = 0.5  # until what a worker has no room for goes back
LEAST_AHEAD = 2  # tasks that wait in the pool for a free process
OTHERS_SECONDS = 10.0  # after a task that is none of a backlog such have half of the pool
OF_AN_EVENT = {"triggerbeat_event": True}  # a header of such a task

log = logging.getLogger("triggerbeat.bundle")


class Packed(NamedTuple):
    """A task of an event: its id, its hard limit in seconds, its arguments (JSON values)."""

    id: str
    time_limit: int
    args: Sequence[Any]
    kwargs: dict[str, Any]


def send(app: Celery, name: str, tasks: Sequence[Packed], options: dict[str, Any]) -> None:
    """Publish one task in a message of its own, or several as a bundle. Raises what kombu raises."""
    first, *others = tasks
    if others:
        shown = f"({name}: {first.id} and {len(others)} more)"
        app.send_task(TASK, (name, tasks), argsrepr=shown, ignore_result=True, **options)
    else:
        of_task = {"task_id": first.id, "time_limit": first.time_limit, "headers": OF_AN_EVENT}
        app.send_task(name, first.args, first.kwargs, **of_task | options)


class Bundle:
    """A bundle that a worker has taken: acknowledged when none of its tasks waits here any more."""

    def __init__(self, message: Message, left: int, acknowledge: Callable[[], None]) -> None:
        self.delivery_info = message.delivery_info
        self.back = where_from(message)
        self.is_behind = is_backlog(message)
        self.origin = message.headers.get("origin")
        self.left = left
        self.acknowledge = acknowledge

    def less(self, count: int) -> None:
        """So many tasks are begun, or handed back."""
        self.left -= count
        if self.left == 0:
            self.acknowledge()


class Unpacked(Message):
    """A task out of a bundle, as the message in which it would have come alone."""

    def __init__(
        self, consumer: Any, name: str, task: Packed, bundle: Bundle, settle: Callable[[Unpacked], None]
    ) -> None:
        id_, time_limit, args, kwargs = task
        alone = consumer.app.amqp.as_task_v2(
            id_, name, args, kwargs, time_limit=time_limit, origin=bundle.origin
        )
        super().__init__(  # type: ignore[no-untyped-call]
            body=json.dumps(alone.body).encode(),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info=bundle.delivery_info,
            properties=alone.properties,
            headers=alone.headers | OF_AN_EVENT,
        )
        self.call_soon = consumer.call_soon
        self.settle = settle

    def begun(self) -> None:
        """The task has begun; from any thread."""
        self.call_soon(self.settle, self)

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        """The task has begun."""
        self.settle(self)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        """The task cannot be run here."""
        self.settle(self)


Waits = tuple[str, Packed, Bundle]  # a task's name, the task, and what it came in


class Unpacker:
    """What a worker has of bundles. All on the thread of the worker's loop."""

    def __init__(self) -> None:
        self.waiting: dict[bool, deque[Waits]] = {behind: deque() for behind in (False, True)}
        self.ahead: dict[Unpacked, Waits] = {}  # in the pool, not begun
        self.pooled: set[str] = set()  # ids of what the pool has, users' other tasks among them
        self.given: dict[str, Waits] = {}  # of backlogs, what the pool has or Celery keeps for it; by id
        self.stopped = False
        self.others_came = float("-inf")  # the last task that is none of a backlog
        self.consumer: Any = None
        self.handle: Callable[[Message], Any] = lambda message: None
        self.feeding = False

    def start(self, consumer: Any) -> None:
        """The worker has a connection. Of an earlier one Celery has dropped what was not begun."""
        self.stopped = False
        self.consumer = consumer
        self.handle = consumer.create_task_handler()
        active = {one.id for one in list(state.active_requests)}
        given = [self.given.pop(id_) for id_ in self.given.keys() - active]
        dropped = [*self.ahead.values(), *self.all_waiting(), *given]
        self.ahead.clear()
        self.pooled &= active
        for waiting in self.waiting.values():
            waiting.clear()
        self.hand_back(dropped)

    def stop(self) -> None:
        """The worker ends, and begins no more: what waits goes back, and what Celery keeps for its rate."""
        self.stopped = True
        self.hand_back([one for id_, one in self.given.items() if id_ not in state.requests])
        for bundle in {id(one[2]): one[2] for one in self.all_waiting()}.values():
            self.give_up(bundle)

    def all_waiting(self) -> list[Waits]:
        """What has not been handed on to the pool."""
        return [one for waiting in self.waiting.values() for one in waiting]

    def take(self, name: str, tasks: Sequence[Packed], bundle: Bundle) -> None:
        """Begin what there is room for now; what still waits in a moment goes back."""
        if self.stopped:  # its message stays unacknowledged, and is another worker's
            return
        self.waiting[bundle.is_behind].extend((name, task, bundle) for task in tasks)
        self.feed()
        if bundle.left:
            soon = (self.give_up, bundle)
            self.consumer.timer.call_after(PATIENCE_SECONDS, self.consumer.call_soon, soon)

    def feed(self) -> None:
        """Hand on to the pool what it has room for."""
        if self.feeding or self.stopped:  # a task that cannot be run here is settled while it is handed on
            return
        self.feeding = True
        try:
            for waiting in self.waiting.values():
                while waiting and self.has_room(waiting[0]):
                    self.hand_on(waiting.popleft())
        finally:
            self.feeding = False

    def hand_on(self, waits: Waits) -> None:
        """What cannot be handed on is settled, or what it came in would never be acknowledged."""
        name, task, bundle = waits
        message = Unpacked(self.consumer, name, task, bundle, self.settle)
        self.ahead[message] = waits
        if bundle.is_behind:
            self.given[task.id] = waits
        try:
            self.handle(message)
        except self.consumer.connection_errors:
            raise
        except Exception:
            log.exception("event=%s cannot be handed on, a tick sends it again", task.id)
            self.settle(message)
        if not bundle.is_behind:
            return
        if message in self.ahead:
            self.settle(message)
        else:  # it was refused
            self.given.pop(task.id, None)

    def has_room(self, waits: Waits) -> bool:
        """One task waits in the pool for each of its processes, but none of a backlog: who comes waits for
        those that are there.
        """
        name, _, bundle = waits
        if bundle.is_behind:
            return not self.is_kept(name) and self.has_room_for_backlog()
        most: int = max(LEAST_AHEAD, self.consumer.pool.num_processes)
        return len(self.ahead) < most

    def is_kept(self, name: str) -> bool:
        """Whether Celery keeps a task of this name, because it limits their rate, or itself finds no room,
        which is what makes it grow its pool (`--autoscale`).
        """
        bucket = self.consumer.task_buckets.get(name)
        outside = self.given.keys() - self.pooled
        return bool(bucket and bucket.contents) or any(
            self.given[id_][0] == name and id_ in state.requests for id_ in outside
        )

    def has_room_for_backlog(self) -> bool:
        """Whether a process is free. While others come, half of the pool is theirs."""
        controller = self.consumer.controller
        largest: int = controller.max_concurrency if controller.autoscaler else 0
        processes: int = max(self.consumer.pool.num_processes, largest)
        others_come = time.monotonic() - self.others_came < OTHERS_SECONDS
        most = max(1, processes // 2) if others_come else processes
        return len(self.pooled) < processes and len(self.given.keys() & self.pooled) < most

    def begins(self, message: Message) -> bool:
        """A user's task came, alone or out of a bundle; whether it begins now. One alone that is of a backlog
        waits as a bundle of one does. Raises for what is no event: it could hold up all that is behind it.
        """
        if not is_backlog(message):
            self.others_came = time.monotonic()
            return True
        if isinstance(message, Unpacked):
            return True
        headers = message.headers
        if not headers.get("triggerbeat_event"):
            raise ValueError("in a backlog are events only")
        task = packed(message)
        check(task)
        self.take(headers["task"], [task], self.bundle(message, 1))
        return False

    def pool_has(self, task_id: str) -> None:
        """A task was given to the pool."""
        self.pooled.add(task_id)

    def ended(self, task_id: str) -> None:
        """The pool has it no more."""
        self.pooled.discard(task_id)
        self.given.pop(task_id, None)
        self.feed()

    def bundle(self, message: Message, count: int) -> Bundle:
        """What a message holds so many tasks of."""
        errors = self.consumer.connection_errors
        return Bundle(message, count, lambda: message.ack_log_error(log, errors))

    def settle(self, message: Unpacked) -> None:
        """A task has begun, or cannot be run here."""
        if found := self.ahead.pop(message, None):
            found[2].less(1)
            self.feed()

    def give_up(self, bundle: Bundle) -> None:
        """Hand back what of a bundle nobody has begun to begin: its tasks are long, or those before it."""
        waiting = self.waiting[bundle.is_behind]
        back = [one for one in waiting if one[2] is bundle]
        if back:
            self.waiting[bundle.is_behind] = deque(one for one in waiting if one[2] is not bundle)
            self.hand_back(back, lambda: self.consumer.call_soon(bundle.less, len(back)))

    def hand_back(self, tasks: Sequence[Waits], done: Callable[[], object] = lambda: None) -> None:
        """Send tasks again, each alone; on a thread, since the broker may be slow. Then `done`: a bundle is
        acknowledged after that, or a worker that ends in between would take its tasks along.
        """

        def work() -> None:
            send_alone(self.consumer.app, [(name, task, bundle.back) for name, task, bundle in tasks])
            done()

        if tasks:
            Thread(target=work, daemon=True).start()


def where_from(message: Message) -> dict[str, Any]:
    """The options that send something to where a message came from."""
    return {"queue": addressed(message.delivery_info["routing_key"])}


def packed(message: Message) -> Packed:
    """What a message of its own says of a task."""
    args, kwargs, _ = message.payload
    time_limit, *_ = message.headers.get("timelimit") or [None]
    return Packed(message.headers["id"], time_limit, args, kwargs)


def send_alone(
    app: Celery, tasks: Iterable[tuple[str, Packed, dict[str, Any]]], headers: dict[str, Any] = OF_AN_EVENT
) -> None:
    """Publish tasks (name, task, options) each in a message; what cannot be sent is found by a tick."""
    try:
        with app.producer_or_acquire() as producer:
            for name, task, options in tasks:
                send(app, name, [task], {"producer": producer, "headers": headers} | options)
    except Exception as error:
        log.error("cannot send tasks again, a tick does: %s: %s", type(error).__name__, error)


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """Celery's strategy for bundles: acknowledged as Celery does, when their tasks are begun."""
    open_ = guarded(opened)

    def handler(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> None:
        name, tasks = open_(message)
        unpacker = consumer.controller.unpacker
        unpacker.take(name, tasks, unpacker.bundle(message, len(tasks)))

    return handler


def opened(message: Message) -> tuple[str, list[Packed]]:
    """What is in a bundle. Raises all sorts of things, since anybody may leave a message."""
    (name, packed), _, _ = message.payload
    tasks = [Packed(*one) for one in packed]
    if not isinstance(name, str) or not 0 < len(tasks) <= MOST:
        raise ValueError(f"a task's name and 1 to {MOST} tasks expected")
    for task in tasks:
        check(task)
    return name, tasks


def check(task: Packed) -> None:
    """Raise for what cannot be a task."""
    for member, kind in zip(task, (str, int, list, dict), strict=True):
        if not isinstance(member, kind):
            raise TypeError(f"{kind.__name__} expected")
    check_time_limits([task.time_limit])
