"""HTTP calls in flight: so many in this process, so many to one host, the others parked."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from triggers.deliver import Finished
from triggers.lanes import CHUNK
from triggers.outgoing import host_of, http_request
from triggers.store.delivery import Call, Job
from triggers.targets import Outcome
from triggers.targets.address import MAX_ADDRESSES

if TYPE_CHECKING:
    from triggers.targets.http import HttpCaller

PER_HOST = 100  # calls in flight to one host, so that one that hangs delays nobody else
IN_FLIGHT = 2_000  # calls in flight in this process
MOST_FILES = 20_480  # that we ask to have open at once; Debian gives a process 1,024 unasked
OTHER_FILES = 200  # of these, for all but calls
FILES_A_CALL = MAX_ADDRESSES + 1  # that it may need; the one for looking up the name, even after its end
LATE_EVERY = 10  # each so manyth call to a host is one that came late, when there are others
AT_ONCE = 20  # calls that begin in one turn of the loop; a turn has its price
FEW = 8  # the same, when so many are to begin that others would wait for many such turns

logger = logging.getLogger("triggerbeat.courier")


@dataclass(slots=True)
class Host:
    """The calls to one host: in flight, of which the `won` ones are yet to be made, and parked. Of the parked
    ones those that are on time go first, as in a `Lane`.
    """

    in_flight: int = 0
    won: deque[Job] = field(default_factory=deque)
    parked: deque[Call] = field(default_factory=deque)
    late: deque[Call] = field(default_factory=deque)
    turn: int = 0

    def park(self, call: Call, late: bool) -> None:
        """Let the call wait."""
        (self.late if late else self.parked).append(call)

    def next(self) -> tuple[Call, bool]:
        """The parked call whose turn it is, and whether it came late."""
        self.turn = (self.turn + 1) % LATE_EVERY
        late = bool(self.late and (not self.parked or not self.turn))
        return (self.late if late else self.parked).popleft(), late

    @property
    def waits(self) -> bool:
        """Whether a call is parked."""
        return bool(self.parked or self.late)


class Calls:
    """The HTTP events of this process between their look and their end. Lives on the loop's thread.

    `ended` takes over what came of each attempt.
    """

    def __init__(self, caller: HttpCaller, ended: Callable[[Finished], None]) -> None:
        self._startable: dict[bool, deque[Call]] = {late: deque() for late in (False, True)}  # with room
        self.in_flight: set[asyncio.Task[None]] = set()
        self._launch: asyncio.Task[None] | None = None  # which begins calls
        self._won: deque[Host] = deque()  # hosts to which some are to begin, in turn
        self._to_begin = 0  # of all hosts
        self._caller = caller
        self._ended = ended
        self._ceiling = most_calls()  # with the first calls of however many hosts
        self._most = max(1, min(IN_FLIGHT, self._ceiling // 2))
        self._admitted = 0
        self._hosts: dict[str, Host] = {}
        self._line: OrderedDict[str, None] = OrderedDict()  # hosts that wait for others, in turn
        self._taken: dict[str, str] = {}  # events, with their hosts
        self._wake = {late: asyncio.Event() for late in (False, True)}

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._taken

    def __len__(self) -> int:
        return len(self._taken)

    def admit(self, call: Call, late: bool = False) -> None:
        """Let the call start when its host and this process have room, else park it."""
        name = self._taken.setdefault(call.id, host_of(call.url))
        host = self._hosts.setdefault(name, Host())
        if self._has_room(host):
            self._start(host, call, late)
        else:
            host.park(call, late)
            self._stand_in_line(name, host)

    @property
    def startable(self) -> int:
        """How many calls may start."""
        return sum(map(len, self._startable.values()))

    async def take(self, late: bool = False, most: Callable[[], int] = lambda: CHUNK) -> list[Call]:
        """Up to `most()` calls that may start, as soon as there is any: of those that came on time, or of
        those that came late.
        """
        startable = self._startable[late]
        while not startable:
            self._wake[late].clear()
            await self._wake[late].wait()
        return [startable.popleft() for _ in range(min(most(), len(startable)))]

    def release(self, event_ids: Iterable[str]) -> None:
        """These calls ended, or never began: what was parked may start."""
        for event_id in event_ids:
            self._release(event_id)

    def begin(self, jobs: Sequence[Job]) -> None:
        """Make the calls of these jobs, whose attempts were won. Hosts take turns, so that who has one call
        does not wait for the hundred of another.
        """
        for job in jobs:
            host = self._hosts[self._taken[job.id]]
            if not host.won:
                self._won.append(host)
            host.won.append(job)
        self._to_begin += len(jobs)
        if self._won and (self._launch is None or self._launch.done()):
            self._launch = asyncio.get_running_loop().create_task(self._launch_all())

    def take_unstarted(self) -> list[Call]:
        """Give up the calls that are parked, or may begin and have not."""
        parked = [call for host in self._hosts.values() for call in (*host.parked, *host.late)]
        for host in self._hosts.values():
            host.parked.clear()
            host.late.clear()
        self._line.clear()
        for call in parked:
            self._taken.pop(call.id, None)
        startable = [call for calls in self._startable.values() for call in calls]
        for calls in self._startable.values():
            calls.clear()
        self.release(call.id for call in startable)
        return parked + startable

    @property
    def busy(self) -> int:
        """How many calls are being made, or about to be."""
        return len(self.in_flight) + self._to_begin

    def _has_room(self, host: Host) -> bool:
        """Whether one more call may begin. Each host has one, however many others hang, as long as this
        process may open files.
        """
        if host.in_flight == 0:
            return self._admitted < self._ceiling
        return host.in_flight < PER_HOST and self._admitted < self._most

    def _start(self, host: Host, call: Call, late: bool) -> None:
        host.in_flight += 1
        self._admitted += 1
        self._startable[late].append(call)
        self._wake[late].set()

    def _stand_in_line(self, name: str, host: Host) -> None:
        """Wait for room that others give up. A host with all its calls in flight waits for one of its own."""
        if host.waits and host.in_flight < PER_HOST:
            self._line.setdefault(name)
            if not host.in_flight:
                self._line.move_to_end(name, last=False)

    def _release(self, event_id: str) -> None:
        """A call ended, or never began: one that was parked may start, of whichever host has its turn."""
        name = self._taken.pop(event_id)
        host = self._hosts[name]
        host.in_flight -= 1
        self._admitted -= 1
        self._stand_in_line(name, host)
        while self._line and self._has_room(first := self._hosts[next(iter(self._line))]):
            waiting, _ = self._line.popitem(last=False)
            self._start(first, *first.next())
            self._stand_in_line(waiting, first)
        if not host.in_flight and not host.waits:
            self._hosts.pop(name, None)

    async def _launch_all(self) -> None:
        """Begin the calls, a few in each turn of the loop: a thousand at once would hold it up for as long as
        they take to connect, and with it everybody else's starts.
        """
        while self._won:
            most = AT_ONCE if self._to_begin <= PER_HOST else FEW
            for _ in range(min(most, self._to_begin)):
                self._begin_next()
            await asyncio.sleep(0)

    def _begin_next(self) -> None:
        self._to_begin -= 1
        host = self._won.popleft()
        job = host.won.popleft()
        if host.won:
            self._won.append(host)
        task = asyncio.get_running_loop().create_task(self._call(job))
        self.in_flight.add(task)  # the loop itself does not hold it
        task.add_done_callback(self.in_flight.discard)

    async def _call(self, job: Job) -> None:
        try:
            outcome = await self._caller.call(http_request(job))
        except Exception as error:
            logger.exception("trigger=%s event=%s the call raised", job.name, job.id)
            outcome = Outcome(False, error={"type": type(error).__name__, "message": "internal error"})
        self._release(job.id)
        self._ended(Finished(job, outcome))


def most_calls() -> int:
    """How many calls this process has files for."""
    return max(2, (open_files() - OTHER_FILES) // FILES_A_CALL)


def open_files() -> int:
    """Raise the number of files this process may have open to what is allowed; that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return allowed
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
