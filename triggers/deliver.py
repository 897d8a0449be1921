"""The transitions of a delivery: prepare, start, finish. Each in the caller's transaction."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from models.database import in_one_line, is_away
from models.states import PLANNED, Change, Reason, Status
from triggers import manage, retry
from triggers.errors import Conflict, NotFound
from triggers.logs import step, together
from triggers.store import delivery, lifecycle, plan
from triggers.store.delivery import Job
from triggers.store.plan import Unattended
from triggers.targets import Outcome

LEASE_MARGIN = timedelta(seconds=15)  # over the timeout: the time a finish may need to be recorded
LOOK_AHEAD = timedelta(seconds=90)  # a retry that is farther away than this (the horizon) is left to a tick
QUEUED = timedelta(minutes=5)  # an event that waits for another is looked at again after this

log = logging.getLogger("triggerbeat.event")


class Ready(NamedTuple):
    """What came of looking at due events: what may start, and what is early by the database's clock."""

    jobs: list[Job]
    early: list[tuple[str, datetime]]


class Finished(NamedTuple):
    """An attempt that ended: whose, when it ended, what came of it."""

    job: Job
    outcome: Outcome
    lost: bool = False


class Released(NamedTuple):
    """An event that waited for another, which ended: what its hint says."""

    event_id: str
    due_at: datetime
    kind: str
    name: str


@dataclass(slots=True)
class Finish:
    """What a batch of finished attempts led to.

    `again`: (job, instant) of retries due before a tick comes; `released`: what was queued behind them.
    """

    won: list[tuple[Finished, retry.Decision]] = field(default_factory=list)
    refused: list[Finished] = field(default_factory=list)
    again: list[tuple[Job, datetime]] = field(default_factory=list)
    released: list[Released] = field(default_factory=list)


def prepare(connection: Connection, ids: Iterable[str], kind: str, now: datetime) -> Ready:
    """Look at due events and keep those that may start.

    1. What somebody else started, ended or removed is not pending any more, and is passed over.
    2. What is early by the database's clock is given back.
    3. What is late is judged by the misfire policy, at its first start.
    4. What would overlap is judged by the overlap policy.
    """
    jobs = delivery.look(connection, ids, kind)
    early = [(job.id, job.due_at) for job in jobs if job.due_at > now]
    jobs = [job for job in jobs if job.due_at <= now]
    if outlived := [job for job in jobs if too_old(job, now)]:
        jobs = drop(connection, jobs, outlived, Reason.CATCHUP_WINDOW, now)
    if any(is_late(job.misfire_at, now) and not job.attempt for job in jobs):
        jobs = judge_misfires(connection, jobs, now)
    if any(job.policy["overlap"] != "allow" for job in jobs):
        jobs = judge_overlaps(connection, jobs, now)
    return Ready(jobs, early)


def too_old(job: Job, now: datetime) -> bool:
    """Whether a first start is a misfire that lies further back than the catch-up window."""
    policy = job.policy
    if job.attempt or job.source not in PLANNED or policy["misfire"] == "skip":
        return False
    if job.misfire_at is None and policy["overlap"] == "queue":  # it waited for another, which is no misfire
        return False
    age, late = (now - job.scheduled_for).total_seconds(), (now - job.fire_at).total_seconds()
    return bool(age > policy["catchup_window_seconds"] and late > policy["misfire_grace_seconds"])


def judge_misfires(connection: Connection, jobs: Sequence[Job], now: datetime) -> list[Job]:
    """Drop first starts that are later than their grace, unless they are the newest under fire_once."""
    late = [job for job in jobs if is_late(job.misfire_at, now) and not job.attempt]
    kept = [job for job in late if job.policy["misfire"] != "skip"]
    superseded = delivery.superseded(connection, kept, now)
    missed = [job for job in late if job.policy["misfire"] == "skip" or job.id in superseded]
    return drop(connection, jobs, missed, Reason.MISFIRE, now)


def is_late(misfire_at: datetime | None, now: datetime) -> bool:
    """Whether a first start now would be a misfire."""
    return misfire_at is not None and misfire_at < now


def judge_overlaps(connection: Connection, jobs: Sequence[Job], now: datetime) -> list[Job]:
    """Drop or put off first starts while another event of their trigger is under way."""
    judged = [j for j in jobs if j.policy["overlap"] != "allow" and j.source != "manual" and not j.attempt]
    if not judged:
        return list(jobs)
    busy = delivery.under_way(connection, {job.trigger_id for job in judged})
    places: dict[str, int] = {}  # of what is due and never started, in the line of its trigger
    ahead = Counter[str](busy)
    mine = {job.id for job in judged}
    for id_, trigger_id, misfire_at, _ in delivery.due(connection, {j.trigger_id for j in judged}, now):
        if id_ not in mine and is_late(misfire_at, now):
            continue  # it will be skipped, so nothing waits for it
        places[id_] = ahead[trigger_id]
        ahead[trigger_id] += 1
    missed: list[Job] = []
    queued: list[Job] = []
    for job in judged:
        queues = job.policy["overlap"] == "queue"
        place = places.get(job.id, 0)
        if job.trigger_id not in busy and (place == 0 or not queues):
            busy.add(job.trigger_id)
        elif queues and (place <= 1 or job.policy["misfire"] == "fire_all"):
            queued.append(job)
        else:
            missed.append(job)
    delivery.wait(connection, [job.id for job in queued], now + QUEUED)
    for job in queued:
        report(job, "queued", status=Status.PENDING, late=lateness(job, now), reason=Reason.OVERLAP)
    held = {job.id for job in queued}
    return [job for job in drop(connection, jobs, missed, Reason.OVERLAP, now) if job.id not in held]


def drop(
    connection: Connection, jobs: Sequence[Job], missed: Sequence[Job], reason: Reason, now: datetime
) -> list[Job]:
    """End `missed` as skipped; the jobs that are left."""
    if not missed:
        return list(jobs)
    won = delivery.end(connection, [job.id for job in missed], Status.SKIPPED, reason, now)
    for job in missed:
        if job.id in won:
            report(job, "skipped", status=Status.SKIPPED, reason=reason, late=lateness(job, now))
    gone = {job.id for job in missed}
    return [job for job in jobs if job.id not in gone]


def start(connection: Connection, jobs: Sequence[Job], now: datetime) -> list[Job]:
    """Begin an attempt at each; those that were won, with the attempt's number."""
    won: list[Job] = []
    by_timeout: dict[int, list[Job]] = {}
    for job in jobs:
        by_timeout.setdefault(job.policy["timeout_seconds"], []).append(job)
    for timeout, group in by_timeout.items():
        lease = now + timedelta(seconds=timeout) + LEASE_MARGIN
        attempts = delivery.start(connection, [job.id for job in group], now, lease)
        for job in group:
            if job.id in attempts:
                began(job, attempts[job.id], now)
                won.append(job)
    return won


def began(job: Job, attempt: int, now: datetime) -> None:
    """Note on the job that its attempt was won."""
    job.attempt = attempt
    job.attempt_started_at = now
    job.started_at = job.started_at or now


def started(jobs: Sequence[Job]) -> None:
    """Log that these attempts began; after the commit."""
    with together():
        for job in jobs:
            assert job.attempt_started_at is not None
            report(job, "started", status=Status.RUNNING, late=lateness(job, job.attempt_started_at))


def lateness(job: Job, now: datetime) -> float:
    """Seconds after the instant at which this attempt was due."""
    return (now - job.due_at).total_seconds()


def report(job: Job, verb: str, **fields: Any) -> None:
    """One line for a step of the event's life."""
    if log.isEnabledFor(logging.INFO):
        step(
            log,
            verb,
            trigger=job.name,
            event=job.id,
            scheduled_for=job.scheduled_for,
            attempt=job.attempt or None,
            **fields,
        )


def finish(
    connection: Connection,
    finished: Sequence[Finished],
    now: datetime,
    tzdata: str,
    chance: Callable[[], float],
    ahead: timedelta = LOOK_AHEAD,
) -> Finish:
    """End attempts, each fenced by its number.

    1. Decide: succeeded, failed, or pending again after a wait.
    2. Compare and set; a result that comes after its lease was taken back is refused.
    3. Leave a row for each attempt that did not succeed.
    4. Count failures in a row, pause after too many, complete what is exhausted, release what waited.
    """
    decisions = [decision_of(one, now, chance) for one in finished]
    retrying = [one.job.trigger_id for one, made in zip(finished, decisions, strict=True) if made.due_at]
    if gone := delivery.deleted(connection, retrying):
        decisions = [
            CANCELLED if made.due_at and one.job.trigger_id in gone else made
            for one, made in zip(finished, decisions, strict=True)
        ]
    rows = [finish_row(one, made, now, ahead) for one, made in zip(finished, decisions, strict=True)]
    won = delivery.finish(connection, rows)
    for one in finished:
        one.job.consecutive_failures = won.get(one.job.id, one.job.consecutive_failures)
    done = Finish(refused=[one for one in finished if one.job.id not in won])
    done.won = [pair for pair in zip(finished, decisions, strict=True) if pair[0].job.id in won]
    delivery.record_attempts(connection, [attempt_row(one, now) for one, _ in done.won if not_ok(one)])
    done.again = [
        (one.job, made.due_at)
        for one, made in done.won
        if made.due_at is not None and made.due_at <= now + ahead
    ]
    settle(connection, done, now, tzdata)
    return done


def is_plain(one: Finished) -> bool:
    """Whether the end of the attempt means that it succeeded, and at most that its trigger is complete."""
    job = one.job
    return one.outcome.succeeded and not job.consecutive_failures and job.policy["overlap"] == "allow"


def succeed(
    connection: Connection, finished: Sequence[Finished], now: datetime | None
) -> tuple[Finish, datetime | None]:
    """End attempts that are all plain, in one statement; and when that was. Then see `is_to_settle`."""
    won, ended = delivery.succeed(connection, [success_row(one) for one in finished], now)
    return succeeded(finished, won), ended


def end_and_begin(
    connection: Connection, one: Finished, event_id: str, task: str, now: datetime | None
) -> tuple[Finish, datetime, Job | None]:
    """As `succeed` of one attempt; and in the same statement begin another, if there is nothing to judge."""
    row = success_row(one)
    ended, won, job = delivery.end_and_begin(connection, row, event_id, task, now, LEASE_MARGIN)
    return succeeded([one], won), ended, job


def success_row(one: Finished) -> tuple[str, int, str | None]:
    """The columns of `delivery.SUCCEED_COLUMNS`."""
    return one.job.id, one.job.attempt, as_json(one.outcome.result)


def succeeded(finished: Sequence[Finished], won: dict[str, int]) -> Finish:
    """What came of it; of those that were won, how many events of their triggers failed in a row before."""
    for one in finished:
        one.job.consecutive_failures = won.get(one.job.id, 0)
    return Finish(
        won=[(one, SUCCEEDED) for one in finished if one.job.id in won],
        refused=[one for one in finished if one.job.id not in won],
    )


def is_to_settle(done: Finish) -> bool:
    """Whether any of these successes means something for its trigger after all."""
    return any(touches_trigger(one.job) for one, _ in done.won)


def record(write: Callable[[Sequence[Finished]], Finish], batch: Sequence[Finished]) -> list[Finish]:
    """Write finished attempts; one that cannot be written must not keep the others from being written.

    Such a one is found by halving the batch, and its event ends without the result, or with its lease. Passes
    on what `write` raises when the database is away.
    """
    try:
        return [write(batch)]
    except Exception as error:
        if is_away(error):
            raise
        if len(batch) != 1:
            half = len(batch) // 2
            return record(write, batch[:half]) + record(write, batch[half:]) if batch else []
        log.error("event=%s its result cannot be kept: %s", batch[0].job.id, in_one_line(error))
    try:
        return [write([without_result(one) for one in batch])]
    except Exception as error:
        if is_away(error):
            raise
        log.error("event=%s its end cannot be recorded: %s", batch[0].job.id, in_one_line(error))
        return []


def without_result(one: Finished) -> Finished:
    """The attempt's end alone."""
    outcome = one.outcome
    error = outcome.error and {"type": "Unstorable", "message": "the error could not be kept"}
    return one._replace(outcome=replace(outcome, result=None, error=error, retry_after=None))


def not_ok(one: Finished) -> bool:
    """Whether the attempt leaves a row of its own."""
    return not one.outcome.succeeded


def decision_of(one: Finished, now: datetime, chance: Callable[[], float]) -> retry.Decision:
    """What becomes of the event."""
    if one.lost:
        return retry.decide_lost(one.job.attempt, one.job.retry, now, chance())
    return retry.decide(one.outcome, one.job.attempt, one.job.retry, now, chance())


def finish_row(one: Finished, made: retry.Decision, now: datetime, ahead: timedelta) -> tuple[Any, ...]:
    """The columns of `delivery.FINISH_COLUMNS`."""
    again = made.status == Status.PENDING
    return (
        one.job.id,
        one.job.attempt,
        str(made.status),
        str(made.reason) if made.reason else None,
        as_json(one.outcome.result),
        as_json(one.outcome.error),
        made.due_at,
        look_again_at(made.due_at, now, ahead) if made.due_at else None,
        None if again else now,
    )


def look_again_at(due_at: datetime, now: datetime, ahead: timedelta) -> datetime:
    """A near retry is held by whoever made it, and checked after its instant; a far one is for a tick."""
    return due_at + plan.GRACE if due_at <= now + ahead else due_at - ahead


def attempt_row(one: Finished, now: datetime) -> tuple[Any, ...]:
    """The columns of `delivery.ATTEMPT_COLUMNS`."""
    return (
        one.job.id,
        one.job.attempt,
        one.job.attempt_started_at,
        max(now, one.job.attempt_started_at or now),
        "lost" if one.lost else "failed",
        as_json(one.outcome.result),
        as_json(one.outcome.error),
    )


def as_json(value: Any) -> str | None:
    """JSON text for a column, NULL for nothing."""
    return None if value is None else json.dumps(value)


def touches_trigger(job: Job) -> bool:
    """Whether the event's success means something for its trigger."""
    return job.exhausted or job.consecutive_failures > 0


def settle(connection: Connection, done: Finish, now: datetime, tzdata: str) -> None:
    """What final events mean for their triggers. Costs nothing for those to which it means nothing."""
    final = [(one.job, made) for one, made in done.won if made.status != Status.PENDING]
    recovered = [
        j.trigger_id for j, made in final if made.status == Status.SUCCEEDED and j.consecutive_failures
    ]
    failed = [job.trigger_id for job, made in final if made.status == Status.FAILED]
    queues = {job.trigger_id: job for job, _ in final if job.policy["overlap"] == "queue"}
    # Or what waits could be put off, because this one runs still, after it was released: for minutes.
    counted = failed + [j.trigger_id for j, _ in final if failed and j.consecutive_failures]
    lifecycle.lock(connection, [*counted, *queues])
    lifecycle.recovered(connection, sorted(set(recovered)))
    for job, made in sorted(final, key=lambda pair: pair[0].trigger_id):
        if made.status == Status.FAILED:
            count_failure(connection, job, now)
    lifecycle.complete(connection, now, tzdata, [job.trigger_id for job, _ in final if job.exhausted])
    seen: set[str] = set()
    for id_, trigger_id, _, due_at in delivery.due(connection, queues, now + LOOK_AHEAD) if queues else []:
        if trigger_id not in seen:
            seen.add(trigger_id)
            job = queues[trigger_id]
            done.released.append(Released(id_, due_at, job.target_type, job.name))
    # It waited with a distant recheck; from here on a lost hint costs one tick and a grace.
    rechecks = [(one.event_id, max(now, one.due_at) + plan.GRACE, 0) for one in done.released]
    plan.look_again(connection, rechecks)


def count_failure(connection: Connection, job: Job, now: datetime) -> None:
    """One more failed event in a row; too many pause the trigger."""
    count = lifecycle.failed_again(connection, job.trigger_id)
    most = job.policy["pause_after_failures"]
    if most is None or count < most:
        return
    with suppress(Conflict, NotFound):  # completed or deleted meanwhile
        if manage.pause(connection, job.trigger_id, now, Change.PAUSED_AFTER_FAILURES).changed:
            step(log, "paused", level=logging.WARNING, trigger=job.name, event=job.id, failures=count)


def finished(done: Finish, now: datetime) -> None:
    """Log how these attempts ended; after the commit."""
    with together():
        for one, made in done.won:
            report_end(one, made, now)
        for one in done.refused:
            report(one.job, "refused", reason="the attempt is not the current one any more")


def report_end(one: Finished, made: retry.Decision, now: datetime) -> None:
    """One line for the end of an attempt."""
    began, error = one.job.attempt_started_at, one.outcome.error
    report(
        one.job,
        "retrying" if made.status == Status.PENDING else str(made.status),
        status=made.status,
        took=(now - began).total_seconds() if began else None,
        reason=made.reason,
        error=f"{error['type']}: {error['message']}" if error else None,
        next_attempt_at=made.due_at,
    )


DONE = Outcome(True)
SUCCEEDED = retry.Decision(Status.SUCCEEDED)
CANCELLED = retry.Decision(Status.CANCELLED, Reason.DELETED)
LOST = Outcome(False, error={"type": "WorkerLost", "message": "the worker vanished during the attempt"})


def finish_lost(
    connection: Connection,
    lost: Sequence[Unattended],
    now: datetime,
    tzdata: str,
    chance: Callable[[], float],
    ahead: timedelta = LOOK_AHEAD,
) -> Finish:
    """Judge attempts that nobody will end: the lease ran out, or the process died."""
    if not lost:
        return Finish()
    jobs = [lost_job(event) for event in lost]
    done = finish(connection, [Finished(job, LOST, lost=True) for job in jobs], now, tzdata, chance, ahead)
    finished(done, now)
    return done


def lost_job(event: Unattended) -> Job:
    """The job of an attempt that nobody holds any more."""
    return Job(
        id=event.id,
        trigger_id=event.trigger_id,
        scheduled_for=event.scheduled_for,
        fire_at=event.due_at,
        due_at=event.due_at,
        misfire_at=None,
        source="",
        attempt=event.attempt,
        payload=None,
        started_at=event.attempt_started_at,
        name=event.name,
        target_type=event.target_type,
        target={},
        secret=None,
        retry=event.retry,
        policy=event.policy,
        consecutive_failures=0,
        exhausted=True,
        attempt_started_at=event.attempt_started_at,
    )
