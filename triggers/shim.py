"""Two small programs that make sure that nothing outlives `triggerbeat up`, however that ends.

    python -I -S shim.py run PARENT COMMAND...
    python -I -S shim.py guard

`run` (Linux): ask the kernel for SIGKILL at the parent's death (PR_SET_PDEATHSIG), look whether the parent
is still there, since it may have died before we asked, and become the command. Elsewhere: become the
command. Not `preexec_fn`, which runs Python between fork and exec and may deadlock.

`guard`: read process groups from standard input, `+<group>` when one begins and `-<group>` when it has
ended; when the other end of the pipe is gone, kill those that are left. That is what ends the children of
the children, and what does all of it where the kernel cannot.

Standard library only: run by its path, without the project and site-packages, it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, where it can.

    It counts from the thread that forked us, so a parent must fork in a thread that lives as long as it.
    Exits at once when the parent is no longer `parent`: then it has ended already.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def guard(lines: Iterable[str]) -> None:
    """Follow the list of process groups to its end, and kill what is still on it."""
    groups: set[int] = set()
    for line in lines:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def run(parent: int, command: list[str]) -> int:
    """Become the command; returns only when that is impossible."""
    die_with_parent(parent)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    if sys.argv[1] == "guard":
        guard(sys.stdin)
    else:
        sys.exit(run(int(sys.argv[2]), sys.argv[3:]))
