"""One pass of `execute_scheduled_triggers`: claim, plan, advance, dispatch, take back."""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from models.database import Database, machine_clock
from models.states import Reason, Status
from triggers import planning
from triggers.deliver import finish_lost
from triggers.logs import step, together
from triggers.settings import PLANNING_MARGIN_SECONDS
from triggers.store import delivery, lifecycle, plan
from triggers.store.reads import last_tick_at

BATCH = 2_000  # triggers in one transaction
CALL_EVERY = 5  # full batches: so often a tick with much to do calls for help
MOST_EVENTS = 10_000  # events in one transaction, and a trigger's batch more
GRACE = plan.GRACE
MOST_DISPATCHES = 1_000  # that are counted: the column has two bytes
LARGEST_SKEW_SECONDS = 1.0  # of this machine's clock against the database's, before it is warned about
MARGIN = timedelta(seconds=PLANNING_MARGIN_SECONDS)  # ahead of now a hint plans at least
LONGEST_GRACE = timedelta(minutes=5)  # so that a backlog does not amplify itself
NEWEST = 50  # unattended events that each tick looks at first
BATCHES_BEFORE_PLANNING = 20  # of the rest
BATCHES_IN_THE_END = 200  # and after it: what waits may come again, and a tick is to end
SMALL_BATCH = 500  # which are small: a large one takes a tenth of a second from who is on time
REST_SECONDS = 0.05  # after each on SQLite: who waits for its lock in another process looks every 10 ms
DOUBLINGS = 5  # of the grace, until it is the longest

log = logging.getLogger("triggerbeat.tick")
taking_back = threading.Lock()


class Hint(NamedTuple):
    """Word to a worker that an event is to be delivered. Ids and an instant: the truth is in the database."""

    event_id: str
    due_at: datetime
    kind: str
    name: str


Dispatch = Callable[[Sequence[Hint]], bool]  # hands hints to the broker; whether they were published


class Queues(NamedTuple):
    """Whether messages wait in the broker: in our queue, and in those of the users' tasks."""

    ours: bool = True
    tasks: bool = True


Look = Callable[[], Queues]  # asks the broker; who cannot tell says that they do
Call = Callable[[], object]  # asks any worker to help with planning
Pause = Callable[[], bool]  # waits for a moment, or while enough waits in the broker; whether to go on


def nobody() -> None:
    """There is no one to call."""


def go_on() -> bool:
    """There is no one to wait for."""
    return True


def let_others_write() -> bool:
    """There is one writer, and who waits for the lock in another process does not stand in line."""
    time.sleep(REST_SECONDS)
    return True


@dataclass(slots=True)
class Tick:
    """What a tick works with, and what it counts. `now` and `until` are the database's time."""

    database: Database
    dispatch: Dispatch
    tzdata: str
    now: datetime
    until: datetime
    planned: int = 0
    skipped: int = 0
    dispatched: int = 0
    taken_back: int = 0
    call: Call = nobody
    resting: set[str] = field(default_factory=set)


def execute_scheduled_triggers(
    database: Database,
    dispatch: Dispatch,
    horizon: timedelta,
    tzdata: str,
    batch: int = BATCH,
    look: Look = Queues,
    call: Call = nobody,
    pause: Pause = go_on,
    rest: Pause = go_on,
    hinted: bool = False,
) -> Tick:
    """Plan what is due up to now + `horizon`, and take back what nobody finished.

    0. Look whether there is anything to do; mostly there is not. What was sent again and again, while no
       message waits in the broker, is to be sent now; not by a `hinted` tick, of which there may be many.
    1. Events whose `recheck_at` has passed are dispatched again, or their lost attempt is judged: they are
       older than what is planned now. Before, one batch is planned, and the newest few of these events are
       dispatched: there may be a hundred thousand that wait for a slow host, while somebody waits for what
       was just created or fired. Of so many the rest comes in the end.
    2. Claim a batch of triggers, compute their events, insert them, advance the cursors; commit.
    3. Only then dispatch: a message about an event that was rolled back would be a lie, a lost message
       is found by step 1 of a later tick.
    4. Until no trigger is left; the last pass waits for rows that another tick holds.
    5. Complete the triggers that have nothing left.
    """
    with database.read() as connection:
        now = database.now(connection)
        found = plan.outlook(connection, now, now + horizon)
    tick = Tick(database, dispatch, tzdata, now, now + horizon, call=call)
    look = functools.cache(look)  # once, before this tick sends anything itself
    lost = found.sent_again and not hinted and notice_lost(tick, look(), batch)
    more, small = False, min(batch, SMALL_BATCH)
    if found.unattended or lost:
        if found.due:
            plan_batch(tick, batch, wait=False)
        take_back(tick, min(NEWEST, batch), look, newest=True)
        more = take_back_alone(tick, small, look, BATCHES_BEFORE_PLANNING, rest)
    if found.due:
        plan_all(tick, batch)
    if more:
        take_back_alone(tick, small, look, BATCHES_IN_THE_END, lambda: rest() and pause())
    if found.due or found.exhausted or found.unattended or lost:
        with database.write() as connection:
            lifecycle.complete(connection, database.now(connection), tzdata)  # what ended meanwhile, too
    return tick


def help_to_plan(
    database: Database, dispatch: Dispatch, horizon: timedelta, tzdata: str, batch: int = BATCH
) -> Tick:
    """Plan what no other tick holds, as long as there are full batches of it: what is left is for the tick
    that called.
    """
    with database.read() as connection:
        now = database.now(connection)
    tick = Tick(database, dispatch, tzdata, now, now + horizon)
    while plan_batch(tick, batch, wait=False) == batch:
        pass
    return tick


def run(
    database: Database,
    dispatch: Dispatch,
    horizon: timedelta,
    tzdata: str,
    node: str | None,
    look: Look = Queues,
    call: Call = nobody,
    pause: Pause = go_on,
) -> Tick:
    """A tick, with word of it left for `node` (None leaves none: beat did not send it, it is a hint)."""
    began = time.monotonic()
    if node is None:
        horizon = horizon_of_hint(database, horizon)
    rest = go_on if database.is_postgres else let_others_write
    tick = execute_scheduled_triggers(
        database, dispatch, horizon, tzdata, look=look, call=call, pause=pause, rest=rest, hinted=node is None
    )
    if node is not None:
        with database.write() as connection:
            before = machine_clock(connection)
            now = database.now(connection)
            skew = ((before - now) + (machine_clock(connection) - now)).total_seconds() / 2
            plan.ticked(connection, node, now, time.monotonic() - began, tick.planned, skew, tzdata)
        report_tick(tick, node, time.monotonic() - began, skew)
    return tick


def horizon_of_hint(database: Database, horizon: timedelta) -> timedelta:
    """How far ahead a hint plans: as far as the last tick of beat's did. Else each of the hints that come
    while triggers are made would plan a further moment of all others.
    """
    with database.read() as connection:
        now = database.now(connection)
        last = last_tick_at(connection)
    planned = last + horizon - now if last is not None else timedelta()
    return planned if MARGIN <= planned <= horizon else horizon


def report_tick(tick: Tick, node: str, took: float, skew: float) -> None:
    """One line for a tick of beat's. A clock that is off harms no plan, but whoever compares logs."""
    step(log, "ticked", node=node, took=took, planned=tick.planned, clock_skew=f"{skew:+.3f}")
    if abs(skew) > LARGEST_SKEW_SECONDS:
        log.warning("the clock of this machine (%s) is %+.1f s off the database's, which counts", node, skew)


def plan_all(tick: Tick, batch: int) -> None:
    """Plan batch after batch: first what is free, in the end also what another tick held."""
    wait, full = False, 0
    while True:
        try:
            claimed = plan_batch(tick, batch, wait)
        except OperationalError as error:
            if not wait:
                raise
            log.warning("another tick holds its triggers for longer than the lock timeout: %s", error.orig)
            return
        if wait and not claimed:
            return
        wait = wait or claimed < batch
        if claimed == batch:
            if full % CALL_EVERY == 0 and tick.database.is_postgres:  # SQLite has one writer
                tick.call()
            full += 1


def plan_batch(tick: Tick, batch: int, wait: bool) -> int:
    """One transaction: claim, plan, insert, advance. Then dispatch. How many triggers were claimed."""
    with tick.database.write() as connection:
        claimed = plan.claim(connection, tick.until, batch, tick.resting, wait)
        now = tick.database.now(connection)  # a long tick must not think that its own events were left alone
        plans = plan_each(tick, connection, claimed)
        events = plan.new_events(plans, now)
        plan.insert_events(connection, events, now, GRACE)
        plan.advance(connection, plans)
    announce(tick, events)
    return sum(len(triggers.ids) for triggers in claimed)


def plan_each(
    tick: Tick, connection: Connection, claimed: Sequence[plan.Alike]
) -> list[tuple[planning.Plan, plan.Alike]]:
    """The claimed triggers' plans, up to a transaction's share; what is left is claimed again."""
    plans: list[tuple[planning.Plan, plan.Alike]] = []
    room = MOST_EVENTS
    for triggers in each_plan(claimed):
        if room <= 0:
            break
        try:
            made = planning.plan(triggers.first, tick.now, tick.until)
        except Exception as error:
            set_aside(tick, connection, triggers, error)
            continue
        most = max(1, room // max(1, len(made.events)))
        planned = triggers._replace(ids=triggers.ids[:most], names=triggers.names[:most])
        plans.append((made, planned))
        room -= len(made.events) * len(planned.ids)
        if made.rests:
            tick.resting.update(planned.ids)
    return plans


def each_plan(claimed: Sequence[plan.Alike]) -> Iterator[plan.Alike]:
    """The triggers that a plan is made for at once: with a jitter each has its own."""
    for triggers in claimed:
        if not planning.is_jittered(triggers.first):
            yield triggers
            continue
        for id_, name in zip(triggers.ids, triggers.names, strict=True):
            yield plan.Alike(triggers.first._replace(id=id_, name=name), [id_], [name])


def set_aside(tick: Tick, connection: Connection, triggers: plan.Alike, error: Exception) -> None:
    """A schedule that raises holds up no other."""
    reason = f"{type(error).__name__}: {error}"
    for id_, name in zip(triggers.ids, triggers.names, strict=True):
        log.error("trigger=%s set aside: its schedule raised", name, exc_info=error)
        lifecycle.set_aside(connection, id_, reason, tick.now, tick.tzdata)


def announce(tick: Tick, events: Sequence[plan.NewEvents]) -> None:
    """Log what was planned and hand what is to run to the broker."""
    verbose = log.isEnabledFor(logging.INFO)
    hints: list[Hint] = []
    for new in events:
        tick.planned += len(new.ids)
        if new.planned.skipped:
            tick.skipped += len(new.ids)
        else:
            due, kind = new.planned.fire_at, new.kind
            hints += [Hint(id_, due, kind, name) for id_, name in zip(new.ids, new.names, strict=True)]
        if verbose:
            report(new)
    send(tick, hints)


def report(new: plan.NewEvents) -> None:
    """A line in the log for each event that was planned."""
    skipped = new.planned.skipped
    with together():
        for id_, name in zip(new.ids, new.names, strict=True):
            step(
                log,
                "skipped" if skipped else "planned",
                trigger=name,
                event=id_,
                scheduled_for=new.planned.scheduled_for,
                status=Status.SKIPPED if skipped else Status.PENDING,
                reason=skipped,
            )


def send(tick: Tick, hints: Sequence[Hint]) -> bool:
    """Dispatch; what could not be published is for the next tick to find. Whether all was published."""
    if not hints or tick.dispatch(hints):
        tick.dispatched += len(hints)
        return True
    with tick.database.write() as connection:
        plan.look_now(connection, [hint.event_id for hint in hints], tick.now)
    return False


def take_back_alone(tick: Tick, batch: int, look: Look, most: int, pause: Pause) -> bool:
    """So many batches, the oldest events first, with a `pause` after each: who has much to send takes time
    from who is on time. Nothing while a tick of this process is at it. Whether there may be more.
    """
    if not taking_back.acquire(blocking=False):
        return False
    try:
        return all(take_back(tick, batch, look) and pause() for _ in range(most))
    finally:
        taking_back.release()


def take_back(tick: Tick, batch: int, look: Look, newest: bool = False) -> bool:
    """Look at a batch of unattended events; whether to go on with another.

    A user's task is a message of its own, and its copies take the slots that a backlog needs to end. So while
    tasks wait in their queue only its first copy goes out at once, and then one each five minutes.
    """
    hints: list[Hint] = []
    copies: list[Hint] = []  # after the first
    cancelled: list[plan.Unattended] = []
    with tick.database.write() as connection:
        now = tick.database.now(connection)
        found = plan.unattended(connection, now, batch, newest)
        again: list[tuple[str, datetime, int]] = []
        lost: list[plan.Unattended] = []
        for event in found:
            if event.status == Status.PENDING and event.deleted:
                cancelled.append(event)
            elif event.status == Status.PENDING:
                copy = event.target_type == "celery" and 0 < event.dispatches < DOUBLINGS
                hint = Hint(event.id, event.due_at, event.target_type, event.name)
                (copies if copy else hints).append(hint)
                again.append(
                    (
                        event.id,
                        max(now, event.due_at) + grace(event.dispatches),
                        min(event.dispatches + 1, MOST_DISPATCHES),
                    )
                )
            elif event.lease_until is not None and event.lease_until > now:
                again.append((event.id, event.lease_until, event.dispatches))
            else:
                lost.append(event)
        plan.look_again(connection, again)
        cancel(connection, cancelled, now)
        done = finish_lost(connection, lost, now, tick.tzdata, random.random)
        hints += [Hint(job.id, due, job.target_type, job.name) for job, due in done.again]
        hints += [Hint(*released) for released in done.released]
    tick.taken_back += len(found)
    if copies and not look().tasks:
        hints += copies
    return send(tick, hints) and len(found) == batch


def cancel(connection: Connection, events: Sequence[plan.Unattended], now: datetime) -> None:
    """End what waits although its trigger was deleted, as a retry that was decided meanwhile."""
    won = delivery.end(connection, [event.id for event in events], Status.CANCELLED, Reason.DELETED, now)
    for event in events:
        if event.id in won:
            step(
                log,
                "cancelled",
                trigger=event.name,
                event=event.id,
                scheduled_for=event.scheduled_for,
                status=Status.CANCELLED,
                reason=Reason.DELETED,
            )


def notice_lost(tick: Tick, queues: Queues, batch: int) -> bool:
    """Events wait for a message that is not in the broker: the next step sends it again. Whether any do.

    Before this tick sends anything itself. What a worker holds is sent to it once more, in vain; that cannot
    pile up, since nothing is sent again while the copy waits.
    """
    if queues.ours:
        return False
    graces = [grace(number) for number in range(1, DOUBLINGS + 1)]
    total, count = 0, batch
    while count == batch:
        with tick.database.write() as connection:
            now = tick.database.now(connection)
            count = plan.messages_lost(connection, now, batch, graces, not queues.tasks)
        total += count
    if total:
        log.warning("the broker's queues are empty although %d events wait: sending them again", total)
    return total > 0


def grace(dispatches: int) -> timedelta:
    """How long to wait for a start after dispatch number `dispatches` + 1 before looking again."""
    factor: int = 2 ** min(dispatches, DOUBLINGS)
    return min(LONGEST_GRACE, GRACE * factor)
