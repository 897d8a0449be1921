"""A user's task that keeps its own record of every time it ran, on disk."""

from __future__ import annotations

import json
import os
import time

from celery import shared_task

RECORD = "tests.faults.tasks.record"


@shared_task(name=RECORD)
def record(ledger: str, event: str, attempt: str, scheduled_for: str, seconds: float = 0.0) -> str:
    """Leave a line, and run for so long."""
    now = time.clock_gettime(time.CLOCK_REALTIME)  # the machine's, also where this process's clock is stepped
    line = {"time": now, "event": event, "attempt": attempt, "scheduled_for": scheduled_for}
    # One write to a file opened for appending: lines of several processes do not mix.
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)
    time.sleep(seconds)
    return "recorded"
