"""Users' tasks that behave in all the ways users' tasks do."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import shared_task

PREFIX = "tests.acceptance.users_tasks"


@shared_task(name=f"{PREFIX}.sleep")
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@shared_task(name=f"{PREFIX}.wait_for_file")
def wait_for_file(path: str) -> str:
    """Run until the test says so: an hour-long task that a test can end."""
    while not Path(path).exists():
        time.sleep(0.05)
    return "seen"


@shared_task(name=f"{PREFIX}.swallow")
def swallow(seconds: float) -> str:
    """A task that takes every exception for its own."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(Exception):
            time.sleep(0.05)
    return "survived"


@shared_task(name=f"{PREFIX}.swallow_all")
def swallow_all(seconds: float) -> str:
    """A task that does not want to end at all."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(BaseException):
            time.sleep(0.05)
    return "survived"


@shared_task(bind=True, name=f"{PREFIX}.retry_until")
def retry_until(self: Any, attempts: str, current: str) -> str:
    """`current` is the placeholder of the attempt."""
    if int(current) < int(attempts):
        raise self.retry(exc=ValueError(f"attempt {current} is not enough"), countdown=0)
    return f"attempt {current}"


@shared_task(name=f"{PREFIX}.delegate")
def delegate(path: str) -> str:
    """Call another task as any Celery task does."""
    return str(note.delay(path).id)


@shared_task(bind=True, name=f"{PREFIX}.note")
def note(self: Any, path: str) -> str:
    """Leave word of how it was called."""
    self.update_state(state="PROGRESS", meta={"of": "nobody"})
    queue = self.request.delivery_info["routing_key"]
    Path(path).write_text(f"{self.request.id} {queue} {self.request.retries}")
    return "noted"


@shared_task(name=f"{PREFIX}.append")
def append(path: str, text: str) -> None:
    """Leave a line for each time it runs."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


@shared_task(name=f"{PREFIX}.rest")
def rest(seconds: float) -> None:
    time.sleep(seconds)


@shared_task(name=f"{PREFIX}.exit_politely")
def exit_politely() -> None:
    sys.exit(3)


@shared_task(name=f"{PREFIX}.exit_at_once")
def exit_at_once() -> None:
    os._exit(3)


@shared_task(name=f"{PREFIX}.own_pid")
def own_pid(path: str) -> str:
    """Tell the test which process to kill, and wait for it."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(3600)
    return "not killed"


@shared_task(name=f"{PREFIX}.hang_first")
def hang_first(current: str) -> str:
    """`current` is the placeholder of the attempt: the first one needs to be killed."""
    if current == "1":
        time.sleep(3600)
    return f"attempt {current}"


@shared_task(name=f"{PREFIX}.strange")
def strange() -> Any:
    """JSON has no form for this."""
    return {"neither a list nor an object": object}, {1, 2}


@shared_task(name=f"{PREFIX}.huge")
def huge(size: int) -> str:
    return "x" * size


@shared_task(name=f"{PREFIX}.unspeakable")
def unspeakable() -> int:
    """Too long a number to be written down: `json` and `repr` both refuse."""
    return 10**5000
