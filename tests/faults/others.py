"""Operators who edit, targets that misbehave, and several faults at once."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tests.faults.catalogue import AFTER_DEATH, AFTER_OUTAGE, FAULTS, fault
from tests.faults.lane import Lane
from tests.faults.workload import BAD_PREFIX, EDITED_PREFIX, document, every
from tests.processes import wait_until
from triggers import manage
from triggers.definition import parse_trigger
from triggers.errors import Conflict, NotFound

EDITED = 12
BAD_PATHS = (
    "/hang", "/drip", "/drip-headers", "/flood", "/reset-before", "/reset-after", "/close", "/garbage",
    "/endless-headers", "/status/500", "/retry-after/1",
)  # fmt: skip
# One of each of three, since a fault may need the server that another one stops.
STORM = (
    ("child-kill", "worker-kill", "beat-kill-loop", "three-beats", "stop-publish-kill"),
    (
        "broker-kill", "broker-cut", "broker-silent", "broker-freeze", "publish-unheard", "redis-flush",
        "redis-full", "redis-read-only", "rabbitmq-restart", "rabbitmq-close-connections",
    ),
    (
        "postgres-immediate", "postgres-freeze", "postgres-terminate", "commit-unheard", "sqlite-writers",
        "sqlite-locked",
    ),
    ("edits", "bad-targets"),
)  # fmt: skip
AT_ONCE = 3


@fault(AFTER_OUTAGE)
def edits(lane: Lane) -> None:
    """Triggers that fire each second are paused, resumed, edited, deleted and made again, for 12 s."""
    names = [f"{EDITED_PREFIX}{number}" for number in range(EDITED)]
    end = time.monotonic() + 12
    while time.monotonic() < end:
        meddle(lane, lane.chance.choice(names))
        lane.wait(0.05)
    for name in names:
        attempt_change(lane, manage.resume, name)


def meddle(lane: Lane, name: str) -> None:
    """One change, of whatever kind."""
    # The kinds that keep a record may replace each other; of a log the judge could not tell any more.
    kinds = (lane.targets.http, lane.targets.task)
    target = lane.targets.log() if name.endswith("0") else lane.chance.choice(kinds)()
    wanted = document(name, every(lane.chance.choice((1, 1, 2, 3))), target)
    change = lane.chance.choice((manage.pause, manage.resume, manage.resume, manage.delete, "edit", "edit"))
    if change != "edit":
        attempt_change(lane, change, name)
        return
    try:
        with lane.installation.database.write() as connection:
            now = lane.installation.database.now(connection)
            parsed = parse_trigger(wanted, lane.installation.settings, now)
            try:
                manage.edit(connection, name, parsed, lane.installation.database.now)
            except NotFound:
                manage.create(connection, parsed, now)
    except (Conflict, SQLAlchemyError, TimeoutError):
        pass  # another fault is on as well


def attempt_change(lane: Lane, change: Any, name: str) -> bool:
    """Pause, resume or delete; whether that is done, or there is nothing to."""
    try:
        with lane.installation.database.write() as connection:
            change(connection, name, lane.installation.database.now)
    except (Conflict, NotFound):
        return True
    except (SQLAlchemyError, TimeoutError):
        return False
    return True


@fault(AFTER_OUTAGE)
def bad_targets(lane: Lane) -> None:
    """Targets that hang, drip, flood, and reset before and after reading, each every 2 s, for 15 s."""
    prefix = f"{BAD_PREFIX}{time.monotonic_ns()}"
    names = [f"{prefix}-{number}" for number in range(len(BAD_PATHS))]
    retry = {"max_attempts": 2, "min_backoff_seconds": 1, "max_backoff_seconds": 1}
    for name, path in zip(names, BAD_PATHS, strict=True):
        lane.create(document(name, every(2), lane.targets.http(path), retry, timeout_seconds=2))
    lane.wait(15)
    for name in names:  # or it goes on failing for the rest of the run
        wait_until(partial(attempt_change, lane, manage.delete, name), 60, f"{name} to be deleted")


@fault(AFTER_DEATH + AFTER_OUTAGE, deaths=True, times=AT_ONCE)
def storm(lane: Lane) -> None:
    """Three faults at random at the same time."""
    known = [[name for name in group if lane.name in FAULTS[name].lanes] for group in STORM]
    chosen = [lane.chance.choice(group) for group in lane.chance.sample(known, AT_ONCE)]
    lane.notes.append(f"storm of {', '.join(chosen)}")
    errors: list[BaseException] = []

    def one(name: str, after: float) -> None:
        time.sleep(after)
        try:
            FAULTS[name].run(lane)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(name, lane.between(0, 6))) for name in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
