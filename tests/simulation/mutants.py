"""The product, broken on purpose in one place each: a simulation that does not see it proves nothing.

Some conditions are not among them because another covers them on SQLite, where a transaction is alone: that
the cursor only moves forward, and that the start asks for `pending` after the look in its transaction did.
What is broken there is broken together with what covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection

from models.states import Status
from triggers import deliver, manage, planning, retry, tick, zones
from triggers.schedule import forget_schedules
from triggers.store import definitions, delivery, lifecycle, plan, retention

NEVER = timedelta(days=4_000)
Patches = Iterator[Any]


def without(module: Any, name: str, *parts: str) -> Any:
    """A statement that has lost some of its text."""
    text: str = getattr(module, name)
    for part in parts:
        assert part in text, f"{name} has no {part!r} any more"
        text = text.replace(part, "")
    return patch.object(module, name, text)


def start_without_condition() -> Patches:
    """An event starts whatever its status."""
    yield without(delivery, "LOOK", "AND e.status = 'pending'")
    yield without(delivery, "START", "AND status = 'pending'")


def log_without_condition() -> Patches:
    """A log event is completed whatever its status."""
    yield without(delivery, "LOOK", "AND e.status = 'pending'")
    yield without(delivery, "COMPLETE", "AND status = 'pending'")
    yield without(delivery, "COMPLETE_PLAIN", "AND events.status = 'pending'")


def start_without_instant() -> Patches:
    """The worker's clock decides what is due."""
    yield without(delivery, "START", "AND due_at <= :now")
    yield without(delivery, "COMPLETE", "AND due_at <= :now")
    yield without(delivery, "COMPLETE_PLAIN", "AND events.due_at <= :now")
    prepare = deliver.prepare

    def eager(connection: Connection, ids: Any, kind: str, now: datetime) -> deliver.Ready:
        ready = prepare(connection, ids, kind, now)
        early = {id_ for id_, _ in ready.early}
        return deliver.Ready([*ready.jobs, *delivery.look(connection, early, kind)], [])

    yield patch.object(deliver, "prepare", eager)


def finish_without_fence() -> Patches:
    """A late worker ends the attempt of another."""
    yield without(delivery, "FINISH", "AND events.attempt = r.attempt")


def finish_without_condition() -> Patches:
    """A late worker ends what has ended."""
    yield without(delivery, "FINISH", "AND events.status = 'running'")


def publish_before_commit() -> Patches:
    """A tick dispatches what may be rolled back."""

    def eager(made: tick.Tick, batch: int, wait: bool) -> int:
        with made.database.write() as connection:
            claimed = plan.claim(connection, made.until, batch, made.resting, wait)
            now = made.database.now(connection)
            plans = tick.plan_each(made, connection, claimed)
            events = plan.new_events(plans, now)
            plan.insert_events(connection, events, now, tick.GRACE)
            plan.advance(connection, plans)
            tick.announce(made, events)
        return len(claimed)

    yield patch.object(tick, "plan_batch", eager)


def advance_on_its_own() -> Patches:
    """The cursor moves in a transaction behind that of the events."""
    advance = plan.advance
    yield patch.object(plan, "advance", lambda connection, plans: None)

    def halved(made: tick.Tick, batch: int, wait: bool) -> int:
        with made.database.write() as connection:
            claimed = plan.claim(connection, made.until, batch, made.resting, wait)
            now = made.database.now(connection)
            plans = tick.plan_each(made, connection, claimed)
            events = plan.new_events(plans, now)
            plan.insert_events(connection, events, now, tick.GRACE)
        with made.database.write() as connection:
            advance(connection, plans)
        tick.announce(made, events)
        return len(claimed)

    yield patch.object(tick, "plan_batch", halved)


def unique_key_gone() -> Patches:
    """Nothing but the cursor keeps two ticks from recording one occurrence, and that moves too late."""
    yield from advance_on_its_own()
    key = " (scheduled_for, trigger_id) WHERE source IN ('schedule', 'catchup')"
    yield without(plan, "INSERT", key)
    # What is left of the statement ignores all conflicts; without the index there is none.
    yield patch("tests.simulation.database.WATCH", without_index())


def without_index() -> str:
    """The watch of a database that has no unique key."""
    from tests.simulation.database import WATCH

    return WATCH + "DROP INDEX uq_events_occurrence;"


def lease_never_checked() -> Patches:
    """Whoever runs when a tick looks is lost."""
    unattended = plan.unattended

    def hasty(*given: Any) -> list[plan.Unattended]:
        return [one._replace(lease_until=None) for one in unattended(*given)]

    yield patch.object(plan, "unattended", hasty)


def lease_never_over() -> Patches:
    """What a dead worker ran is never judged."""
    yield patch.object(deliver, "LEASE_MARGIN", NEVER)


def recheck_never_set() -> Patches:
    """Nobody looks again at what was planned."""
    yield patch.object(tick, "GRACE", NEVER)


def retry_never_looked_at() -> Patches:
    """A retry is held by whoever made it, and by nobody else."""
    yield patch.object(deliver, "look_again_at", lambda due_at, now, ahead: due_at + NEVER)


def take_back_never_dispatches() -> Patches:
    """A tick looks at what nobody started, and sends nothing."""
    yield patch.object(tick, "take_back", lambda made, batch: False)


def attempts_without_end() -> Patches:
    """`max_attempts` is heeded no more."""

    def again(
        reason: Any, attempt: int, policy: Any, now: datetime, chance: float, asked: Any
    ) -> retry.Decision:
        wait = retry.wait_seconds(attempt, policy, chance, asked)
        due = now + timedelta(seconds=wait)
        return (
            retry.Decision(Status.PENDING, None, due)
            if attempt < 20
            else retry.Decision(Status.FAILED, reason)
        )

    yield patch.object(retry, "again_or", again)


def attempts_off_the_record() -> Patches:
    """A failed attempt leaves no row."""
    yield patch.object(delivery, "record_attempts", lambda connection, rows: None)


def coalesced_not_counted() -> Patches:
    """A run of misfires says that it is one."""
    cover = planning.Planner.cover

    def shy(planner: planning.Planner, until: datetime, reason: Any) -> None:
        cover(planner, until, reason)
        planner.events = [one._replace(coalesced=1, coalesced_from=None) for one in planner.events]

    yield patch.object(planning.Planner, "cover", shy)


def misfires_forgotten() -> Patches:
    """What is late is passed over without an event."""

    def forget(planner: planning.Planner, until: datetime, reason: Any) -> None:
        while planner.next_at is not None and planner.next_at <= until:
            planner.moved(planner.next_at, 1)

    yield patch.object(planning.Planner, "cover", forget)


def misfire_never_judged_again() -> Patches:
    """What was planned in time starts however late it is."""
    yield patch.object(deliver, "is_late", lambda misfire_at, now: False)
    yield without(delivery, "COMPLETE_PLAIN", "AND events.misfire_at >= :now")


def queue_never_released() -> Patches:
    """What waits behind another event is not sent when that ends."""
    due = delivery.due

    def nothing(connection: Connection, trigger_ids: Any, now: datetime) -> Any:
        return [] if isinstance(trigger_ids, dict) else due(connection, trigger_ids, now)

    yield patch.object(delivery, "due", nothing)


def overlap_never_judged() -> Patches:
    """All events of a trigger run at once, whatever its policy."""
    yield patch.object(deliver, "judge_overlaps", lambda connection, jobs, now: list(jobs))


def pause_keeps_the_plan() -> Patches:
    """A pause leaves what is planned for later."""
    yield patch.object(definitions, "drop_planned", lambda connection, trigger_id, after: 0)


def unplanned_counts() -> Patches:
    """What was taken out of the plan counts towards `max_runs`."""
    drop = manage.drop_later

    def counted(connection: Connection, row: Any, at: datetime) -> tuple[int, datetime]:
        return 0, drop(connection, row, at)[1]

    yield patch.object(manage, "drop_later", counted)


def change_off_the_record() -> Patches:
    """A pause is not in the log of changes."""
    append = definitions.append_change

    def forgetful(connection: Connection, row: Any, change: Any, *more: Any) -> None:
        if change != "paused":
            append(connection, row, change, *more)

    yield patch.object(definitions, "append_change", forgetful)


def completed_too_soon() -> Patches:
    """A trigger is completed although its last event is still under way."""
    part = lifecycle.COMPLETE[
        lifecycle.COMPLETE.index("  AND NOT EXISTS") : lifecycle.COMPLETE.index("RETURNING")
    ]
    yield without(lifecycle, "COMPLETE", part)


def never_completed() -> Patches:
    """A trigger with nothing left to plan stays active."""
    yield patch.object(lifecycle, "complete", lambda connection, now, tzdata, ids=None: [])


def purged_without_account() -> Patches:
    """What retention deletes leaves no sum."""
    yield patch.object(retention, "account", lambda connection, rows: None)


def purged_unfinished() -> Patches:
    """Retention takes what is old, finished or not."""
    yield patch.object(
        retention,
        "ARCHIVE",
        retention.ARCHIVE.replace(
            "{ended} AND finished_at",
            "attempt > 0 AND started_at",
        ),
    )


@contextmanager
def zones_read_anew() -> Iterator[None]:
    """What is remembered of zones is forgotten, before and after."""
    zones.zone.cache_clear()
    forget_schedules()
    try:
        yield
    finally:
        zones.zone.cache_clear()
        forget_schedules()


def fold_ignored() -> Patches:
    """A fixed job fires in both passes of an hour that clocks repeat."""
    seam = zones._seam
    yield patch.object(zones, "_seam", lambda change, fresh: (zones.LONG_AGO, seam(change, fresh)[1]))
    yield zones_read_anew()


def gap_ignored() -> Patches:
    """A fixed job that falls into an hour that clocks skip is lost."""
    seam = zones._seam
    yield patch.object(zones, "_seam", lambda change, fresh: (seam(change, fresh)[0], None))
    yield zones_read_anew()


MUTANTS: Sequence[Callable[[], Patches]] = (
    start_without_condition, log_without_condition, start_without_instant, finish_without_fence,
    finish_without_condition, publish_before_commit, advance_on_its_own, unique_key_gone, lease_never_checked,
    lease_never_over, recheck_never_set, retry_never_looked_at, take_back_never_dispatches,
    attempts_without_end, attempts_off_the_record, coalesced_not_counted, misfires_forgotten,
    misfire_never_judged_again, queue_never_released, overlap_never_judged, pause_keeps_the_plan,
    unplanned_counts, change_off_the_record, completed_too_soon, never_completed, purged_without_account,
    purged_unfinished, fold_ignored, gap_ignored,
)  # fmt: skip

# What takes some dozens of seeds: `make simulate ARGS=--mutants` finds it, a test would take too long.
RARE = (start_without_instant, advance_on_its_own, queue_never_released, unplanned_counts, gap_ignored)


@contextmanager
def broken(mutant: Callable[[], Patches]) -> Iterator[None]:
    """The product with this fault."""
    with ExitStack() as stack:
        for one in mutant():
            stack.enter_context(one)
        yield
