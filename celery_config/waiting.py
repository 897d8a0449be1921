"""Users' tasks that wait in a worker behind long ones: another worker may be idle, so it gets a copy.

Celery takes one more message for each process of its pool, and keeps it however long that has to do. Which
of the two begins wins the event, and the other does nothing; a copy makes no further copy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from inspect import isgenerator
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

from celery import Celery
from celery.concurrency.asynpool import AsynPool
from celery.worker import state

from celery_config.broker import is_backlog
from celery_config.bundle import OF_AN_EVENT, packed, send_alone, where_from

LOOK_SECONDS = 0.5  # what waits when it is looked at and still does at the next look has a copy sent
COPY = "triggerbeat_copy"  # a header
BEGIN_SECONDS = 1.0  # for a pool process to say that it has begun

log = logging.getLogger("triggerbeat.waiting")


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
        """Send a copy of what waited at the last look, too: once, and of no copy. Of a backlog nothing waits
        for long, unless Celery limits its rate.
        """
        waiting = {
            one.id: one
            for one in not_begun()
            if not (one.message.headers.get(COPY) or is_backlog(one.message))
        }
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
    that is to stop waits for it.
    """
    processes = getattr(pool, "_pool", None)  # none after a cold shutdown; the solo pool has none
    if not isinstance(processes, AsynPool):
        return
    end = time.monotonic() + BEGIN_SECONDS
    try:
        while (pipes := unheard(processes)) and (left := end - time.monotonic()) > 0:
            for pipe in wait(pipes, left):
                processes.handle_result_event(pipe)
    except Exception as error:  # these are inner parts of Celery's; the worker is to stop all the same
        log.warning("cannot hear what has begun: %s: %s", type(error).__name__, error)


def unheard(processes: AsynPool) -> set[int]:
    """The pipes of processes that have a task and have not said that they began it. Not those of which a
    message is half read: Celery does that later.
    """
    jobs = list(processes._cache.values())
    having = {j._write_to.outqR_fd: j._write_to for j in jobs if j._write_to and not j._accepted}
    readers = processes._result_handler._hub.readers
    return {
        pipe
        for pipe, process in having.items()
        if process._is_alive() and not isgenerator(readers.get(pipe, (None,))[0])
    }


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
            copies.append((request.name, packed(request.message), where_from(request.message)))
    if copies:
        Thread(target=send_alone, args=(app, copies, OF_AN_EVENT | {COPY: True}), daemon=True).start()
