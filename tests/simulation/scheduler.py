"""Virtual time, and which actor goes on next. Everything that happens follows from the seed.

An actor is a generator that yields for how many seconds it sleeps, or a `Signal` that it waits for. The
product's own functions cannot yield: where they begin or end a transaction they `linger`, and what is due
meanwhile runs inside that call. So one tick can run between two transactions of another, and a third between
two of its own; but two that take turns, each twice, cannot be had.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable
from datetime import datetime, timedelta
from random import Random

Steps = Generator["float | Signal", None, None]

DEEPEST = 4  # functions that linger within each other
SECOND = 1_000_000


class Crash(BaseException):
    """The process is gone, in the middle of what it did. No product code may catch it."""


class Signal:
    """Wakes the actors that wait for it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.waiting: list[tuple[Process, int, Steps]] = []

    def set(self) -> None:
        """Wake them, each after a moment of its own."""
        waiting, self.waiting = self.waiting, []
        for process, life, steps in waiting:
            self._scheduler.push(self._scheduler.random.uniform(0.0, 0.003), process, life, steps)


class Process:
    """What can die at once, with all that it had in memory. `start` gives the actors of a new life.

    A process whose `restarts_after` is None stays dead.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        name: str,
        start: Callable[[], Iterable[Steps]],
        restarts_after: float | None = 5.0,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        self.scheduler = scheduler
        self.name = name
        self.restarts_after = restarts_after
        self.life = 0
        self.alive = False
        self.frozen_until = 0
        self._start = start
        self._died = died

    def begin(self) -> None:
        """Start, with an empty memory."""
        self.life += 1
        self.alive = True
        self.frozen_until = 0
        for steps in self._start():
            self.spawn(steps)

    def spawn(self, steps: Steps, after: float = 0.0) -> None:
        """One more actor in this life."""
        self.scheduler.push(after, self, self.life, steps)

    def die(self) -> None:
        """Lose the memory; a supervisor starts it again."""
        if not self.alive:
            return
        self.scheduler.tell(self.name, "dies")
        self.alive = False
        self.life += 1
        self._died()
        if self.restarts_after is not None:
            after = self.scheduler.random.uniform(0.5, 2 * self.restarts_after)
            self.scheduler.push(after, self.scheduler.nobody, 0, self._again(self.life))

    def freeze(self, seconds: float) -> None:
        """Stand still, without knowing it."""
        self.frozen_until = max(self.frozen_until, self.scheduler.micros + int(seconds * SECOND))

    def _again(self, life: int) -> Steps:
        if self.life == life and not self.alive:
            self.begin()
        return
        yield


class Scheduler:
    """Steps actors in the order of their instants. `story` collects lines when `telling`."""

    def __init__(self, random: Random, start: datetime, telling: bool = False) -> None:
        self.random = random
        self.start = start
        self.micros = 0
        self.telling = telling
        self.story: list[str] = []
        self.steps = 0
        self.nobody = Process(self, "", lambda: ())
        self.current = self.nobody
        self._heap: list[tuple[int, int, Process, int, Steps]] = []
        self._number = 0
        self._depth = 0

    @property
    def now(self) -> datetime:
        """The instant; no two looks at the clock see the same one."""
        self.micros += 1
        return self.start + timedelta(microseconds=self.micros)

    def tell(self, who: str, what: str) -> None:
        """Add a line to the story."""
        if self.telling:
            self.story.append(f"{self.start + timedelta(microseconds=self.micros):%H:%M:%S.%f} {who}: {what}")

    def push(self, after: float, process: Process, life: int, steps: Steps) -> None:
        """Let an actor go on after so many seconds."""
        self._number += 1
        at = self.micros + max(0, int(after * SECOND))
        heapq.heappush(self._heap, (at, self._number, process, life, steps))

    def run_until(self, micros: int) -> None:
        """Step everything that is due up to an instant, and put the clock there."""
        while self._heap and self._heap[0][0] <= micros:
            self._step(heapq.heappop(self._heap))
        self.micros = max(self.micros, micros)

    def linger(self, seconds: float) -> None:
        """Let time pass within a function of the product; others go on meanwhile.

        Raises Crash when the process of the caller has died.
        """
        process, life = self.current, self.current.life
        until = self.micros + int(seconds * SECOND)
        if self._depth <= DEEPEST:
            self.run_until(until)
            while process.life == life and process.frozen_until > self.micros:
                self.run_until(process.frozen_until)
        self.micros = max(self.micros, until)
        if process.life != life:
            raise Crash

    def _step(self, entry: tuple[int, int, Process, int, Steps]) -> None:
        at, _, process, life, steps = entry
        self.micros = max(self.micros, at)
        if process.life != life:
            steps.close()
            return
        if process.frozen_until > self.micros:
            self.push((process.frozen_until - self.micros) / SECOND, process, life, steps)
            return
        before, self.current = self.current, process
        self.steps += 1
        self._depth += 1
        try:
            pause = next(steps)
        except StopIteration:
            return
        except Crash:
            if process.life == life:
                process.die()
            return
        finally:
            self.current = before
            self._depth -= 1
        if process.life != life:
            steps.close()
        elif isinstance(pause, Signal):
            pause.waiting.append((process, life, steps))
        else:
            self.push(pause, process, life, steps)
