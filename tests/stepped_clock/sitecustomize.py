"""Python imports this first, where it is on the path: a process whose clock of the wall can be set.

By as many seconds as the file says whose name is in STEPPED_CLOCK. Its monotonic clock runs on, as it does
when somebody sets a machine's date. (Debian's faketime would be the thing, but `time.sleep` fails under it.)
"""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

FILE = os.environ["STEPPED_CLOCK"]
READ_SECONDS = 0.1
Real = datetime.datetime
real_time, real_time_ns, monotonic = time.time, time.time_ns, time.monotonic
known = [0.0, 0.0]  # the offset, and when to read it again


def offset() -> float:
    """How wrong the clock is now."""
    now = monotonic()
    if now >= known[1]:
        known[1] = now + READ_SECONDS
        try:
            with open(FILE) as file:
                known[0] = float(file.read() or 0)
        except (OSError, ValueError):
            pass  # it is being written
    return known[0]


class Instances(type):
    """What C code makes are instances of the real class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Real)


class Stepped(Real, metaclass=Instances):
    """The class that everybody imports as `datetime`."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        """The time as this machine has it."""
        return Real.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        """The same."""
        return Real.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


time.time = lambda: real_time() + offset()
time.time_ns = lambda: real_time_ns() + int(offset() * 1e9)
datetime.datetime = Stepped  # type: ignore[misc]
