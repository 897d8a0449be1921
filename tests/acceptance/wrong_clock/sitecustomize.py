"""Python imports this first, where it is on the path: a process whose clock of the wall is wrong.

Its monotonic clock is right, as that of a machine with a wrong date is. (Debian's faketime would be the
thing, but `time.sleep` fails under it.)
"""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

OFF_SECONDS = float(os.environ["WRONG_CLOCK_SECONDS"])
Real = datetime.datetime
real_time, real_time_ns = time.time, time.time_ns


class Instances(type):
    """What C code makes are instances of the real class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Real)


class Wrong(Real, metaclass=Instances):
    """The class that everybody imports as `datetime`."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        """The wrong time."""
        return Real.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        """The wrong time."""
        return Real.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


time.time = lambda: real_time() + OFF_SECONDS
time.time_ns = lambda: real_time_ns() + int(OFF_SECONDS * 1e9)
datetime.datetime = Wrong  # type: ignore[misc]
