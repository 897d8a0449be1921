"""Users' tasks that wait in a worker behind long ones: another worker may be idle, so it gets a copy.

Celery takes one more message for each process of its pool, and keeps it however long that has to do. Which
of the two begins wins the event, and the other does nothing; a copy makes no further copy.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

from celery import Celery
from celery.concurrency.prefork import TaskPool
from celery.worker import state

from celery_config.bundle import OF_AN_EVENT, Packed, send_alone

LOOK_SECONDS = 0.5  # what waits when it is looked at and still does at the next look has a copy sent
COPY = "triggerbeat_copy"  # a header
BEGIN_SECONDS = 1.0  # for a pool process to say that it has begun


class Waiting:
    """What has been seen to wait in this worker. On the thread of its loop."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.timer: Any = None

    def start(self, consumer: Any) -> None:
        """Look from now on; the timers of a lost connection are gone."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = consumer.hub.call_repeatedly(LOOK_SECONDS, self.look, consumer.app)

    def look(self, app: Celery) -> None:
        """Send a copy of what waited at the last look, too: once, and of no copy."""
        waiting = {one.id: one for one in not_begun() if not one.message.headers.get(COPY)}
        both_times = [waiting[id_] for id_ in self.seen & waiting.keys()]
        share(app, both_times)
        for request in both_times:
            request.message.headers[COPY] = True
        self.seen = set(waiting)

    def share_all(self, app: Celery) -> None:
        """The worker ends, and begins none of what waits. Copies that it has taken are lost with it."""
        share(app, not_begun())


def let_begin(pool: Any) -> None:
    """Hear from the pool's processes what they have begun, before Celery forgets what has not.

    A process whose task is forgotten waits half a minute at its end for the result to be read, and a worker
    that is to stop waits for it: under load, each time.
    """
    if not isinstance(pool, TaskPool):
        return
    processes, end = pool._pool, time.monotonic() + BEGIN_SECONDS
    while handed := [job for job in processes._cache.values() if job._write_to and not job._accepted]:
        readable = wait([job._write_to.outqR_fd for job in handed], max(0.0, end - time.monotonic()))
        if not readable:
            return
        for fd in readable:
            processes.handle_result_event(fd)


def not_begun() -> list[Any]:
    """Requests for events that the pool has not begun."""
    taken = list(state.requests.values())  # in one step: threads change it
    return [
        request
        for request in taken
        if request not in state.active_requests and request.message.headers.get("triggerbeat_event")
    ]


def share(app: Celery, requests: Iterable[Any]) -> None:
    """Send copies; on a thread, since the broker may be slow."""
    copies = []
    for request in requests:
        with suppress(TypeError, ValueError):  # somebody's message of another form
            copies.append((request.name, packed(request), queue_of(request)))
    if copies:
        Thread(target=send_alone, args=(app, copies, OF_AN_EVENT | {COPY: True}), daemon=True).start()


def packed(request: Any) -> Packed:
    """What a message says of a task."""
    args, kwargs, _ = request.message.payload
    return Packed(request.id, request.time_limits[0], args, kwargs)


def queue_of(request: Any) -> str:
    """Where the message came from."""
    queue: str = request.message.delivery_info["routing_key"]
    return queue
