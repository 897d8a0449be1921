"""Faults of our own processes: killed, stopped, restarted, doubled."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.acceptance.installation import stepped_clock
from tests.faults.catalogue import AFTER_DEATH, AFTER_OUTAGE, AFTER_STEP, LEASE_SECONDS, fault
from tests.faults.lane import Lane
from tests.processes import Process

END_SECONDS = 40  # for a worker to end warmly: an attempt's timeout, and what it takes to record its results


@fault(AFTER_OUTAGE, times=0)
def calm(lane: Lane) -> None:
    """Nothing at all, for 15 s."""
    lane.wait(15)


@fault(AFTER_DEATH, deaths=True, times=8)
def child_kill(lane: Lane) -> None:
    """kill -9 of a worker's pool process, eight times in 8 s, in the middle of users' tasks."""
    for _ in range(8):
        children = lane.fleet.running["worker-a"].descendants()
        if children:
            with suppress(ProcessLookupError):
                os.kill(lane.chance.choice(children), signal.SIGKILL)
        lane.wait(1)


@fault(AFTER_DEATH, deaths=True)
def worker_kill(lane: Lane) -> None:
    """kill -9 of a whole worker; it is restarted at once."""
    lane.fleet.running[lane.any_worker()].kill()


@fault(AFTER_DEATH, deaths=True, times=2)
def workers_kill(lane: Lane) -> None:
    """kill -9 of all workers at once, and again 6 s later, while they come up."""
    for pause in (6, 0):
        for worker in lane.fleet.all("worker"):
            worker.kill()
        lane.wait(pause)


@fault(AFTER_OUTAGE)
def beat_kill(lane: Lane) -> None:
    """kill -9 of beat, and none for 20 s."""
    lane.fleet.hold("beat")
    lane.fleet.running["beat"].kill()
    lane.wait(20)
    lane.fleet.release("beat")


@fault(AFTER_OUTAGE, times=5)
def beat_kill_loop(lane: Lane) -> None:
    """kill -9 of beat every 5 s, five times."""
    for _ in range(5):
        lane.fleet.running["beat"].kill()
        lane.wait(5)


@fault(AFTER_OUTAGE)
def three_beats(lane: Lane) -> None:
    """A second beat, and 8 s later a third, for 12 s."""
    more = []
    for name, seconds in (("second", 8), ("third", 12)):
        more.append(lane.installation.beat(name=f"beat-{name}"))
        lane.wait(seconds)
    for beat in more:
        beat.terminate(20)


@fault(AFTER_DEATH, deaths=True)
def worker_stop(lane: Lane) -> None:
    """SIGSTOP of a worker and its pool for longer than its leases. Its late results are refused."""
    worker = lane.fleet.running[lane.any_worker()]
    worker.freeze()
    lane.wait(LEASE_SECONDS + 6)
    worker.thaw()


@fault(AFTER_DEATH, deaths=True)
def stop_publish_kill(lane: Lane) -> None:
    """All workers stopped, messages published to them, and then killed: what a broker hands to the dead."""
    workers = lane.fleet.all("worker")
    for worker in workers:
        worker.freeze()
    lane.wait(7)
    for worker in workers:
        worker.kill()


@fault(AFTER_OUTAGE)
def warm_shutdown(lane: Lane) -> None:
    """SIGTERM to each worker in turn, under load; it ends when what runs has ended."""
    for role in sorted(lane.fleet.roles("worker")):
        worker = lane.fleet.running[role]
        worker.signal(signal.SIGTERM)
        worker.wait(END_SECONDS)
        lane.wait(4)


@fault(AFTER_OUTAGE)
def rolling_restart(lane: Lane) -> None:
    """A new process of each kind is started, then the old one is asked to end."""
    for role in sorted(lane.fleet.roles("worker")):
        lane.fleet.add(*lane.worker(f"worker-new-{role[-1]}"))
        lane.workers_ready()
        old = lane.fleet.remove(role)
        old.signal(signal.SIGTERM)
        old.wait(END_SECONDS)
        pool = "solo" if role == "worker-b" else "prefork"
        lane.fleet.add(*lane.worker(role, pool=pool))
        lane.workers_ready()
        new = lane.fleet.remove(f"worker-new-{role[-1]}")
        new.signal(signal.SIGTERM)
        new.wait(END_SECONDS)
    for role in ("beat", "endpoint"):
        lane.fleet.running[role].terminate(20)


@fault(AFTER_STEP, on="postgresql", times=4)
def clock_step(lane: Lane) -> None:
    """The clock of a worker and of beat is set 120 s ahead, 120 s back, three hours ahead and three back;
    PostgreSQL's is right.
    """
    clock = lane.directory / "clock"
    clock.write_text("0")
    with others_in_place(lane, **stepped_clock(clock)):
        lane.wait(2)
        for offset in ("120", "-120", "10800", "-10800"):
            clock.write_text(offset)
            lane.wait(10)


@fault(AFTER_OUTAGE)
def version_back(lane: Lane) -> None:
    """Beat and a worker of an older version, which does not know the two newest migrations, for 20 s."""
    with others_in_place(lane, PYTHONPATH=str(lane.older)):
        lane.wait(20)


@contextmanager
def others_in_place(lane: Lane, **settings: str) -> Iterator[None]:
    """Beat and a worker run with other settings meanwhile."""
    _, worker = lane.worker("worker-a", **settings)
    other = {"beat": lambda: lane.installation.beat(**settings), "worker-a": worker}
    usual = {role: lane.fleet.makers[role] for role in other}
    replace(lane, other)
    yield
    replace(lane, usual)


def replace(lane: Lane, makers: Mapping[str, Callable[[], Process]]) -> None:
    """End these roles' processes, and start the given ones in their place."""
    lane.fleet.hold(*makers)
    for role, maker in makers.items():
        lane.fleet.running[role].terminate(END_SECONDS)
        lane.fleet.add(role, maker)
    lane.fleet.release(*makers)
    lane.workers_ready()
