"""Children of a test run: each in a process group of its own, its output in a file, never left behind."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

Found = TypeVar("Found")

# Below the range from which Linux and macOS hand out ports for outgoing connections: a port found free
# here stays free until its server is up, unless another process of tests happens to pick the same one.
PORTS = range(15_000, 32_000)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    for _ in range(200):
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no free port from {PORTS.start} to {PORTS.stop}")


def wait_until(
    condition: Callable[[], Found],
    deadline_seconds: float = 10.0,
    message: str | Callable[[], str] = "the condition",
    *,
    poll_seconds: float = 0.02,
) -> Found:
    """Ask `condition` until its answer is true, and return that; fail when the deadline has passed.

    `message` names what was waited for, or tells it at the end, when there is more to say by then.
    """
    deadline = time.monotonic() + deadline_seconds
    while not (found := condition()):
        if time.monotonic() >= deadline:
            text = message if isinstance(message, str) else message()
            raise AssertionError(f"not within {deadline_seconds:g} s: {text}")
        time.sleep(poll_seconds)
    return found


class Process:
    """A command line as a child of the test run.

    with Process(["celery", "-A", "celery_config.celery_worker", "worker"], tmp_path, env=...) as worker:
        worker.expect("ready.", 20)
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        name: str = "",
        cwd: Path | None = None,
    ) -> None:
        """Start `command` with `env` on top of our own environment; its output goes to `directory`."""
        self.name = name or Path(command[0]).name
        directory.mkdir(parents=True, exist_ok=True)
        self.log = _unused(directory, self.name)
        programs = Path(sys.executable).parent  # `celery` is found although nobody activated the environment
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', os.defpath)}"
        with self.log.open("wb") as output:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                process_group=0,
            )
        self.pid = self.popen.pid
        self._seen = 0
        _tell_watchdog(f"+{self.pid}")

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def expect(self, text: str, deadline_seconds: float = 10.0) -> str:
        """Wait for `text` in what was written since the last expectation was met, and return its line."""

        def line_with_text() -> str:
            ended = not self.alive()  # asked first: what a process writes before its end counts
            output = self.output()
            at = output.find(text, self._seen)
            if at < 0:
                assert not ended, f"{self.name} ended without {text!r}: {self._tail()}"
                return ""
            self._seen = at + len(text)
            return output[output.rfind("\n", 0, at) + 1 :].partition("\n")[0]

        return wait_until(
            line_with_text, deadline_seconds, lambda: f"{text!r} from {self.name}: {self._tail()}"
        )

    def alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Signal the process alone, as a supervisor would."""
        self.popen.send_signal(number)

    def wait(self, deadline_seconds: float = 10.0) -> int:
        """Wait for its own end, and return its exit status."""
        try:
            return self.popen.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {deadline_seconds:g} s: {self._tail()}"
            ) from None

    def terminate(self, deadline_seconds: float = 10.0) -> int:
        """Ask it to end (SIGTERM), and return its exit status. What it leaves behind is killed."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(deadline_seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the process and all that it started. Harmless when they have ended."""
        self._signal_all(signal.SIGKILL)
        self.popen.wait()
        _tell_watchdog(f"-{self.pid}")

    def freeze(self) -> None:
        """Stop it and all that it started, with their connections open, as a hanging machine would."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def descendants(self) -> list[int]:
        """The processes it started, and theirs: also those that left the group, as PostgreSQL's do."""
        found = [self.pid]
        for pid in found:
            with suppress(OSError):  # it ended meanwhile
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text().split())
        return found[1:]

    def _signal_all(self, number: int) -> None:
        descendants = self.descendants()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        for pid in descendants:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _tail(self) -> str:
        return "\n" + "\n".join(self.output().splitlines()[-30:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _unused(directory: Path, name: str) -> Path:
    """A log file for each start, so that a restart does not wipe what led to it."""
    number = sum(1 for _ in directory.glob(f"{name}*.log"))
    return directory / (f"{name}.log" if not number else f"{name}-{number + 1}.log")


@cache
def _watchdog() -> IO[str]:
    """The way to this run's watchdog, which is started with the first child."""
    script = Path(__file__).with_name("watchdog.py")
    watchdog = subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), str(os.getpid())],
        stdin=subprocess.PIPE,
        start_new_session=True,
        text=True,
        cwd="/",
    )
    pipe = watchdog.stdin
    assert pipe is not None

    def let_go() -> None:
        pipe.close()
        watchdog.wait()

    atexit.register(let_go)
    return pipe


def _tell_watchdog(line: str) -> None:
    pipe = _watchdog()
    pipe.write(f"{line}\n")
    pipe.flush()
