"""Pool processes that die in the middle of a task: which attempt each one had, told without its help.

A process notes the attempt that it won in memory that it shares with the worker, before the user's code
runs. When it is killed Celery tells the worker at once, and the worker reads there which attempt that
ends: the event's id alone would not do, since another worker may have the event by then.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

from billiard.exceptions import WorkerLostError
from billiard.process import current_process
from celery.worker.request import Request

from celery_config.bundle import Unpacked

PLACE = 64  # bytes of a note
PLACES = 1024  # processes of a pool; those beyond leave no note, and a tick judges them by their lease

_notes = mmap.mmap(-1, PLACE * PLACES)  # made before the pool forks, and so shared with it


def note(event_id: str, attempt: int) -> None:
    """This process begins an attempt. In the pool's own place, of which there is one a process."""
    index = getattr(current_process(), "index", PLACES)
    if index < PLACES:
        text = f"{os.getpid()} {event_id} {attempt}".encode().ljust(PLACE)
        _notes[index * PLACE : (index + 1) * PLACE] = text


def noted(pid: int | None, event_id: str) -> int | None:
    """The attempt at this event that a process of ours was the last to begin."""
    for place in range(0, len(_notes), PLACE):
        words = _notes[place : place + PLACE].decode("ascii", "replace").split()
        if words[:2] == [str(pid), event_id]:
            return int(words[2])
    return None


class EventRequest(Request):
    """A message to a user's task, as the worker holds it while a pool process runs it."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Celery's own; and a task out of a bundle that would be acknowledged at its end has begun."""
        super().on_accepted(pid, time_accepted)
        if self.task.acks_late and isinstance(self.message, Unpacked):
            self.message.begun()

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Celery's own; and an event whose process died is judged, instead of when its lease is over."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, WorkerLostError) and self.request_dict.get("triggerbeat_event"):
            attempt = noted(self.worker_pid, self.id)
            if attempt is not None:
                self.task.recorder.lost(self.id, attempt)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """A worker that is to end at once ends what runs in its pool. A thread of its own ends with it."""
        if self.worker_pid != os.getpid():
            super().cancel(pool, signal, emit_retry)
