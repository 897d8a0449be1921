"""Keeps the processes of `triggerbeat up` running, shows what they print, and ends them all."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

SHIM = Path(__file__).with_name("shim.py")
FIRST_PAUSE_SECONDS = 1.0  # before a child that died is started again; doubles with each death
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long starts again at the first pause
STOP_SECONDS = 4.0  # for an orderly end, after SIGTERM
BROKER_STOP_SECONDS = 0.4  # it goes last and has nothing to save
DRAIN_SECONDS = 0.3  # for the last lines, when all have ended
SAME_REQUEST_SECONDS = 0.5
POLL_SECONDS = 0.05
LONGEST_LINE = 65_536  # bytes
WAITING_LINES = 1_000  # while the terminal does not take them; after that the children wait
COLOURS = (36, 32, 33, 35, 34)  # cyan, green, yellow, magenta, blue


class Output:
    """The only writer to standard output: whole lines, each with the name of the process it is from.

    A terminal that was stopped, or a pager that does not read, blocks the one thread here and the children
    behind it, but never the thread that supervises them.
    """

    def __init__(self, names: Sequence[str], colour: bool, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        width = max(map(len, names))
        self._prefixes = {}
        for number, name in enumerate(names):
            prefix = f"{name:<{width}} |"
            code = COLOURS[number % len(COLOURS)]
            self._prefixes[name] = (f"\x1b[{code}m{prefix}\x1b[0m " if colour else f"{prefix} ").encode()
        self._lines: queue.Queue[bytes] = queue.Queue(WAITING_LINES)
        self._readers: list[threading.Thread] = []
        self.broken = False  # nobody reads standard output any more
        threading.Thread(target=self._write, daemon=True).start()

    def follow(self, name: str, pipe: IO[bytes]) -> None:
        """Show each line of `pipe` until its end."""
        reader = threading.Thread(target=self._read, args=(self._prefixes[name], pipe), daemon=True)
        self._readers = [thread for thread in self._readers if thread.is_alive()] + [reader]
        reader.start()

    def say(self, name: str, text: str) -> None:
        """Show a line of our own as that of `name`. Dropped when the terminal takes nothing."""
        with suppress(queue.Full):
            self._lines.put_nowait(self._prefixes[name] + text.encode(errors="replace") + b"\n")

    def show(self, text: str) -> None:
        """Show lines without a name."""
        with suppress(queue.Full):
            self._lines.put_nowait(text.encode(errors="replace") + b"\n")

    def drain(self) -> None:
        """Wait a moment for what the children said last."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline and not self.broken:
            if not any(thread.is_alive() for thread in self._readers) and not self._lines.unfinished_tasks:
                return
            time.sleep(POLL_SECONDS / 5)

    def _read(self, prefix: bytes, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(LONGEST_LINE):
                self._lines.put(prefix + line.rstrip(b"\r\n") + b"\n")

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            try:
                while line and not self.broken:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self.broken = True
            self._lines.task_done()


class Guard:
    """The process that kills whatever of our process groups is left when we are gone."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SHIM), "guard"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd="/",
        )

    def tell(self, line: str) -> None:
        """`+<group>` for one that begins, `-<group>` for one that has ended."""
        assert self._process.stdin is not None
        with suppress(OSError):  # somebody ended the guard: then all still end in order, or with their parent
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Its work is over."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


class Child:
    """One process, started again whenever it ends, in a session and process group of its own."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = list(command)
        self.environment = environment
        self.popen: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._started_at = 0.0
        self._next_start_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def start(self, output: Output, guard: Guard) -> None:
        """Start it. In the main thread only: the children die with the thread that started them."""
        self.popen = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SHIM), "run", str(os.getpid()), *self.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self.environment),
            start_new_session=True,  # a Ctrl-C in the terminal reaches only us, who end all in order
        )
        guard.tell(f"+{self.popen.pid}")
        self._guard = guard
        assert self.popen.stdout is not None
        output.follow(self.name, self.popen.stdout)
        self._started_at = time.monotonic()

    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def ask_to_end(self) -> None:
        """SIGTERM to the process alone: Celery's and gunicorn's own children are theirs to end."""
        if self.popen is not None:
            self.popen.terminate()

    def kill(self) -> None:
        """SIGKILL to whatever is left of its group."""
        if self.popen is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group of zombies
            os.killpg(self.popen.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(1)
        if self._guard:
            self._guard.tell(f"-{self.popen.pid}")

    def keep_running(self, output: Output, guard: Guard) -> None:
        """Notice its death, and start it again when its pause is over."""
        now = time.monotonic()
        if self.alive():
            return
        if self.popen is not None:
            how = ending(self.popen.returncode)
            self.kill()
            self.popen = None
            if now - self._started_at >= STEADY_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self._next_start_at = now + self._pause
            output.say("up", f"{self.name} {how}; it starts again in {self._pause:g} s")
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        elif now >= self._next_start_at:
            self.start(output, guard)


class Supervisor:
    """All children. The first is the broker, if it is ours, and ends last: the others would miss it."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.guard = Guard()
        self.children: list[Child] = []
        self.broker: Child | None = None
        self._asked_at: float | None = None
        self._in_a_hurry = False

    def catch_signals(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP ask for the end, and once more for a quick end.

        A terminal's Ctrl-C under `make` may arrive twice, from the terminal and from make, at once.
        """

        def count(number: int, frame: object) -> None:
            now = time.monotonic()
            self._asked_at = self._asked_at or now
            self._in_a_hurry = now - self._asked_at > SAME_REQUEST_SECONDS

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, count)

    @property
    def stopping(self) -> bool:
        return self._asked_at is not None or self.output.broken

    def start(self, child: Child) -> None:
        self.children.append(child)
        child.start(self.output, self.guard)

    def run(self, meanwhile: Callable[[], None]) -> None:
        """Keep all running until a signal asks for the end; `meanwhile` is called about 20 times a second."""
        while not self.stopping:
            for child in self.children:
                child.keep_running(self.output, self.guard)
            meanwhile()
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End all within 5 s, the broker last, and leave nothing behind."""
        self._end([child for child in self.children if child is not self.broker], STOP_SECONDS)
        self._end([self.broker] if self.broker else [], BROKER_STOP_SECONDS)
        self.guard.close()
        self.output.drain()

    def _end(self, children: list[Child], seconds: float) -> None:
        for child in children:
            child.ask_to_end()
        deadline = time.monotonic() + seconds
        while any(child.alive() for child in children):
            if time.monotonic() >= deadline or self._in_a_hurry:
                break
            time.sleep(POLL_SECONDS)
        for child in children:
            child.kill()


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
