"""Ends what a test run started when the run itself can no longer do so: it was killed, or crashed.

Started by `tests.processes` in a session of its own, so that a signal to the run's process group spares it.
It reads `+<process group>` and `-<process group>`, one a line, and acts when the run has gone:
1. every group still on the list gets SIGTERM, after which PostgreSQL for one cleans up its shared memory;
2. two seconds later SIGKILL, which also ends what is stopped or does not listen.
Standard library only: it is run as a script, without the project on its path.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

GRACE_SECONDS = 2.0
POLL_SECONDS = 0.25


def groups_left_behind(parent: int) -> set[int]:
    """Follow the list until the run has gone, and return what is still on it."""
    groups: set[int] = set()
    unread = b""
    # The end of the pipe alone tells too little: a forked child of the run may hold it open.
    while os.getppid() == parent:
        if not select.select([0], [], [], POLL_SECONDS)[0]:
            continue
        piece = os.read(0, 4096)
        if not piece:
            break
        *lines, unread = (unread + piece).split(b"\n")
        for line in lines:
            (groups.add if line.startswith(b"+") else groups.discard)(int(line[1:]))
    return groups


def signal_all(groups: set[int], number: int) -> set[int]:
    """Signal each group, and return those that still exist."""
    alive = set()
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            alive.add(group)
    return alive


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    left = signal_all(groups_left_behind(int(sys.argv[1])), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = signal_all(left, 0)
    signal_all(left, signal.SIGKILL)


if __name__ == "__main__":
    main()
