"""Beat's scheduler: on the monotonic clock, due at start, nothing on disk."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

AGAIN_SECONDS = 1.0  # after a publish that failed
LONGEST_SLEEP_SECONDS = 5.0

log = logging.getLogger("triggerbeat.beat")


class MonotonicScheduler(Scheduler):
    """Sends each entry when beat starts, and then at its interval.

    The stock schedulers measure by the wall clock (set back by two minutes, they send nothing for two
    minutes) and send first after one interval (restarted more often than that, they never send). A
    publish that failed is tried again instead of being forgotten.
    """

    def setup_schedule(self) -> None:
        """Take the entries of `beat_schedule`."""
        self.merge_inplace(self.app.conf.beat_schedule)
        if self.app.conf.result_backend:
            self.install_default_entries(self.schedule)  # which cleans up expired results
        self.due: dict[str, float] = {}

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; seconds until there is something to do."""
        for name, entry in self.schedule.items():
            due = self.due.setdefault(name, time.monotonic())
            if due <= time.monotonic():
                self.due[name] = self.send(entry, due)
        wait = min(self.due.values(), default=float("inf")) - time.monotonic()
        return max(0.0, min(wait, LONGEST_SLEEP_SECONDS))

    def send(self, entry: ScheduleEntry, due: float) -> float:
        """Publish one entry; when it is due next."""
        try:
            self.apply_async(entry, producer=self.producer, advance=False)
        except Exception as error:
            log.error("cannot send %s, trying again in %.0f s: %s", entry.name, AGAIN_SECONDS, error)
            return time.monotonic() + AGAIN_SECONDS
        log.info("sent %s", entry.name)
        return next_due(entry, due)


def next_due(entry: ScheduleEntry, due: float) -> float:
    """The instant after `due`: an interval later, or a crontab's next minute; never in the past."""
    now = time.monotonic()
    every = getattr(entry.schedule, "run_every", None)
    if isinstance(every, timedelta):
        return max(due + every.total_seconds(), now)
    left: timedelta = entry.schedule.remaining_estimate(entry.schedule.now())
    return now + max(left.total_seconds(), AGAIN_SECONDS)
