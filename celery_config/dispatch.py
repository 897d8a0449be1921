"""Hand events to the broker: hints to our own queue, users' tasks to theirs."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from math import ceil
from operator import attrgetter, itemgetter
from typing import Any

from amqp.exceptions import ChannelError
from celery import Celery
from kombu import Connection
from kombu.transport import virtual

from celery_config import bundle
from celery_config.broker import ONE_TRY, PREFIX, addressed, backlog
from triggers.lanes import Batch
from triggers.outgoing import values_of
from triggers.settings import BACKLOG, OURS, with_backlogs
from triggers.store.delivery import Job
from triggers.targets.placeholders import render
from triggers.tick import Hint, Queues

NAMED = 64  # so many triggers go by their names, one message each
MANY = 16  # tasks of one trigger that are due at once, when there are more
SPREAD = 4  # so many messages, at least, share a batch of more, so that workers do
MOST = 500  # events in one message
TOGETHER = 50  # users' tasks in one round trip
ENOUGH_TASKS = 4  # messages in a backlog's queue, until users' tasks that are late are sent there
ENOUGH_DELIVERIES = 20  # the same, of events by the hundred
PATIENCE_SECONDS = 0.25  # with such a queue; what is for another may wait behind
LOOK_SECONDS = 0.05  # between looks at it
HARD_LIMIT_SECONDS = 10  # after its timeout a task that cannot be interrupted is killed with its process
AGAIN_SECONDS = 1.0  # between tries while the broker is away
MERGE_SECONDS = 0.25  # hints to tick are merged over this time

NOT_FOUND = 404  # AMQP's code for a queue that is not there, which kombu uses for Redis, too

KIND_AND_INSTANT = attrgetter("kind", "due_at")

TICK = PREFIX + "execute_scheduled_triggers"
DELIVER = PREFIX + "deliver"

log = logging.getLogger("triggerbeat.dispatch")


def dispatch(app: Celery, hints: Sequence[Hint]) -> bool:
    """Publish hints in messages of up to `MOST` events, each of one kind of target; whether all were sent.

    Never raises: kombu's and redis-py's errors have no common root, and a hint that was not sent is found
    by the next tick.
    """
    try:
        with app.producer_or_acquire() as producer:
            for kind, of_kind in groupby(sorted(hints, key=KIND_AND_INSTANT), attrgetter("kind")):
                for chunk in chunks(list(of_kind)):
                    publish_chunk(app, producer, kind, chunk)
    except Exception as error:
        log.error("cannot dispatch, the next tick does: %s: %s", type(error).__name__, error)
        return False
    return True


def chunks(hints: Sequence[Hint]) -> list[Sequence[Hint]]:
    """The events of few triggers by their names, one message each; those of many in batches."""
    if len(hints) <= MOST:
        by_name: dict[str, list[Hint]] = {}
        for hint in hints:
            by_name.setdefault(hint.name, []).append(hint)
        if len(by_name) <= NAMED:
            return list(by_name.values())
    size = min(MOST, ceil(len(hints) / SPREAD))
    return [hints[i : i + size] for i in range(0, len(hints), size)]


def publish_chunk(app: Celery, producer: Any, kind: str, chunk: Sequence[Hint]) -> None:
    """One message; what people see of it names the trigger."""
    shown = f"{chunk[0].name or chunk[0].event_id} at {chunk[0].due_at:%Y-%m-%dT%H:%M:%SZ}"
    if len(chunk) > 1:
        others = "of it" if chunk[0].name == chunk[-1].name else "events"
        shown += f" and {len(chunk) - 1} more {others}"
    events = [(hint.event_id, hint.due_at) for hint in chunk]
    send_events(app, kind, events, f"({kind}: {shown})", producer=producer)


def send_events(app: Celery, kind: str, events: Batch, shown: str | None, **options: Any) -> None:
    """Publish events, as `[[instant, [event id, ...]], ...]`. Raises what kombu raises."""
    batch = [[due.isoformat(), [id_ for id_, _ in same]] for due, same in groupby(events, itemgetter(1))]
    app.send_task(DELIVER, (kind, batch), argsrepr=shown, ignore_result=True, **options)


def put_back(app: Celery, kind: str, events: Batch, shown: str | None) -> bool:
    """Send events of a message to the end of the backlog; whether the broker took them."""
    try:
        send_events(app, kind, events, shown, queue=backlog(OURS))
    except Exception as error:  # kombu's and redis-py's have no common root
        log.error("cannot send events back, this worker keeps them: %s: %s", type(error).__name__, error)
        return False
    return True


def publish_tasks(app: Celery, jobs: Sequence[Job], default_queue: str, late: bool = False) -> None:
    """Send users' tasks: few in messages of their own, with the event's id as task id; many in bundles. Many
    that are late, and many of one trigger, to the backlog of their queue.

    The arguments in the message are for people to see; the attempt reads them from the database when it
    begins. Raises what kombu raises. Redis takes some of them in one round trip: waiting for each answer this
    thread and that of the worker's loop would take turns at Python's lock.
    """
    chunks = list(chunks_of_tasks(jobs, default_queue, late))
    if late:
        wait_for_workers(app, {queue for (queue, _), _ in chunks}, ENOUGH_TASKS)
    declared: set[str] = set()  # to look whether it is there is a fifth of what a message takes
    with app.producer_or_acquire() as producer, producer.batch(TOGETHER):
        for (queue, name), chunk in chunks:
            declare: list[Any] | None = [] if queue in declared else None
            options = {"producer": producer, "queue": addressed(queue), "declare": declare}
            bundle.send(app, name, [packed(job) for job in chunk], options)
            declared.add(queue)


def wait_for_deliveries(app: Celery) -> None:
    """Until few of them wait, as `wait_for_workers`."""
    wait_for_workers(app, with_backlogs([OURS]), ENOUGH_DELIVERIES)


def wait_for_workers(app: Celery, queues: Iterable[str], enough: int) -> None:
    """Until few messages are left in these queues, but not for long: nobody may take from one of them.

    A backlog that stands in the broker takes its memory, where the queue is first come first served it is in
    everybody's way, and sending what cannot be run yet takes time from what runs. Never raises: a broker that
    cannot be asked is for who sends to notice.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    with suppress(Exception), app.pool.acquire(block=True) as connection:
        while any(waiting(connection, name) >= enough for name in queues) and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)


Destination = tuple[str, str]  # the queue, or its backlog, and the task


def chunks_of_tasks(
    jobs: Sequence[Job], default_queue: str, late: bool
) -> Iterator[tuple[Destination, Sequence[Job]]]:
    """What goes out together, and where to: few one by one in their order, many as bundles."""
    by_destination: dict[Destination, list[Job]] = {}
    counts = Counter(job.trigger_id for job in jobs)
    for job in jobs:
        queue = job.target["queue"] or default_queue
        if late or counts[job.trigger_id] > MANY:
            queue += BACKLOG
        destination = (queue, job.target["task"])
        if len(jobs) <= NAMED:
            yield destination, [job]
        else:
            by_destination.setdefault(destination, []).append(job)
    for destination, same in by_destination.items():
        for at in range(0, len(same), bundle.MOST):
            yield destination, same[at : at + bundle.MOST]


def packed(job: Job) -> bundle.Packed:
    """What a message says of a task."""
    values = values_of(job) | {"attempt": str(job.attempt + 1)}
    return bundle.Packed(
        job.id,
        job.policy["timeout_seconds"] + HARD_LIMIT_SECONDS,
        render(job.target["args"], values),
        render(job.target["kwargs"] if job.payload is None else job.payload, values),
    )


def look(app: Celery, tasks: Sequence[str]) -> Queues:
    """Whether messages wait in our queue, and in those of the users' tasks.

    Never raises: when the broker cannot be asked, they may.
    """
    try:
        with app.pool.acquire(block=True) as connection:
            ours = any(waiting(connection, name) for name in with_backlogs([OURS]))
            return Queues(ours, any(waiting(connection, name) for name in with_backlogs(tasks)))
    except Exception as error:
        log.warning("cannot look into the broker's queues: %s: %s", type(error).__name__, error)
        return Queues()


def waiting(connection: Connection, queue: str) -> int:
    """How many messages wait in a queue. One that is not there, as after a flush, has none."""
    with channel_to_ask(connection) as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except ChannelError as error:
            if int(error.reply_code or 0) != NOT_FOUND:
                raise
            return 0


@contextmanager
def channel_to_ask(connection: Connection) -> Iterator[Any]:
    """One of its own on RabbitMQ, which closes it when there is no such queue. On Redis a channel has a
    connection of its own, and to make one takes many times as long as to ask.
    """
    if isinstance(connection.transport, virtual.Transport):
        yield connection.default_channel
    else:
        connection.ensure_connection(**ONE_TRY)  # which was broken the last time is closed
        with connection.channel() as channel:
            yield channel


class Hinter:
    """Asks for a tick soon, without ever making the caller wait; many requests make one message."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.asked = threading.Event()
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        """Ask; returns at once."""
        self.asked.set()
        with self.lock:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self.run, name="hinter", daemon=True)
                self.thread.start()

    def run(self) -> None:
        """Send one message for all that was asked since the last."""
        while True:
            self.asked.wait()
            self.asked.clear()
            while not send_hint(self.app):
                time.sleep(AGAIN_SECONDS)
            time.sleep(MERGE_SECONDS)


def send_hint(app: Celery) -> bool:
    """Ask for a tick now; whether the broker took the message (within its socket's time limits)."""
    try:
        app.send_task(TICK, kwargs={"hint": True}, ignore_result=True, retry=False)
    except Exception as error:
        log.warning("cannot ask for a tick, the next one does it: %s: %s", type(error).__name__, error)
        return False
    return True
