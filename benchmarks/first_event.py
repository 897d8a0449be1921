"""From `make run` to the first event that succeeded, in a project directory that is there already.

    python -m benchmarks.first_event [--deadline 300] DIRECTORY [-- make run]

Meant for a machine that has nothing but git, make and Python: clone the project, then run this file (it needs
the standard library alone; `python3 benchmarks/first_event.py .` does, too). The clock starts when the
command is executed and stops at the first line of its output that tells of an event that succeeded. So it
covers the environment that is made, all packages that are installed, and the start of every process.
Ends what it started.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

MUST_REACH_SECONDS = 60.0
SUCCEEDED = re.compile(rb"\bsucceeded\b.*\bevent=|\bevent=.*\bstatus=succeeded\b")
STOP_SECONDS = 10.0


def first_event(command: list[str], directory: Path, deadline: float) -> float | None:
    """Seconds until the line; None when it did not come in time."""
    began = time.monotonic()
    child = subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    signal.signal(signal.SIGALRM, lambda number, frame: stop(child))
    signal.alarm(max(1, round(deadline)))
    try:
        assert child.stdout is not None
        for line in child.stdout:
            elapsed = time.monotonic() - began
            sys.stderr.write(f"{elapsed:7.2f}  {line.decode(errors='replace')}")
            if SUCCEEDED.search(line):
                return elapsed
        return None
    finally:
        signal.alarm(0)
        stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, and when that does not help, SIGKILL."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
            return


def main() -> int:
    """Measure and print; the exit status tells whether an event was seen."""
    parser = argparse.ArgumentParser(description="from `make run` to the first event succeeded")
    parser.add_argument("directory", type=Path, help="where the project is cloned")
    parser.add_argument("command", nargs="*", default=["make", "run"], help="by default: make run")
    parser.add_argument("--deadline", type=float, default=300.0, help="seconds after which to give up")
    options = parser.parse_args()
    was_there = (options.directory / ".venv").exists()
    seconds = first_event(options.command, options.directory, options.deadline)
    print(f"\n{'From make run to the first event succeeded':<44}{'must stay under':>16}")
    print(f"{'not seen' if seconds is None else f'{seconds:.1f} s':<44}{f'{MUST_REACH_SECONDS:.0f} s':>16}")
    figures = {
        "seconds": seconds,
        "must_reach_seconds": MUST_REACH_SECONDS,
        "environment_was_there": was_there,
    }
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    print(json.dumps({"benchmark": "first_event", **figures, "machine": machine}))
    return 0 if seconds is not None else 1


if __name__ == "__main__":
    sys.exit(main())
