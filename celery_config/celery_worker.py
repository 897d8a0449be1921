"""The Celery app and its beat schedule. Wiring only: what the tasks do stands in `triggers`."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from celery import Celery, signals
from celery.schedules import crontab
from celery.utils.imports import import_from_cwd
from sqlalchemy.exc import SQLAlchemyError

from celery_config import engine
from celery_config.broker import PREFIX, is_backlog, options
from celery_config.dispatch import (
    Hinter,
    dispatch,
    look,
    publish_tasks,
    put_back,
    send_hint,
    wait_for_deliveries,
)
from celery_config.task import EventTask
from models.database import Database, in_one_line, is_away
from triggers import logs, retention, tick, tzdata
from triggers.courier import Courier
from triggers.errors import ConfigurationError, DatabaseAway
from triggers.recorder import Recorder
from triggers.settings import Settings
from triggers.tick import Hint
from triggers.zone_update import ZoneUpdate

log = logging.getLogger("triggerbeat.worker")

CHILD_FLUSH_SECONDS = 5  # for recording results when a pool process ends

try:
    settings = Settings.from_environment()
except ConfigurationError as error:
    print(f"triggerbeat: {error}", file=sys.stderr)
    raise SystemExit(2) from None

celery = Celery("triggerbeat", task_cls=EventTask, amqp="celery_config.broker:Amqp")
celery.conf.update(
    options(settings),
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    timezone="UTC",
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,  # without events Flower shows no task
    beat_scheduler="celery_config.beat:MonotonicScheduler",
    beat_schedule={
        "execute_scheduled_triggers": {
            "task": PREFIX + "execute_scheduled_triggers",
            "schedule": timedelta(seconds=settings.tick_seconds),
        },
        "update_event_states": {
            "task": PREFIX + "update_event_states",
            "schedule": crontab(minute="*/30"),
        },
    },
)
celery.events.dispatcher_cls = "celery_config.events:Dispatcher"
celery.steps["worker"].add(engine.Engine)
celery.steps["consumer"].add(engine.EngineConsumer)

database = Database(settings.database_url)
horizon = timedelta(seconds=settings.horizon_seconds)


def send(hints: Sequence[Hint]) -> bool:
    """Hand events to the broker; whether it took them."""
    return dispatch(celery, hints)


def call_for_help() -> None:
    """Ask whichever worker takes the message, maybe this one, to plan beside this tick."""
    try:
        help_to_plan.apply_async(ignore_result=True, retry=False)
    except Exception as error:
        log.warning("cannot call for help, the tick goes on alone: %s", error)


def give_way() -> bool:
    """Wait for a moment while there is enough to deliver; whether to go on. A worker that ends does not."""
    wait_for_deliveries(celery)
    return not engine.Engine.stopping


def look_into_queues() -> tick.Queues:
    """Whether messages wait in the broker."""
    return look(celery, settings.celery_queues)


courier = Courier(
    database,
    publish=lambda jobs, late: publish_tasks(celery, jobs, settings.celery_queues[0], late),
    hand_back=send,
    allow_private=settings.allow_private_targets,
    wall_clock=time.time,  # noqa: TID251  an entry point: for the deliveries' webhook-timestamp
    tzdata=tzdata.release(),
    ahead=horizon,
)
engine.start_courier = courier.start
engine.take_over = courier.take_over
engine.close_courier = courier.close
engine.stop_courier = courier.stop
engine.hurry_courier = courier.hurry
EventTask.recorder = Recorder(database, send, tzdata.release(), horizon)
EventTask.allowed = settings.allowed_tasks
zone_update = ZoneUpdate(database, tzdata.rules)
hint = Hinter(celery)
helping = threading.Lock()  # one at a time helps in a process, beside its own tick


@contextmanager
def told(doing: str) -> Iterator[None]:
    """A database that is away is one line in the log, and not the traceback of whoever noticed it."""
    try:
        yield
    except SQLAlchemyError as error:
        if not is_away(error):
            raise
        log.error("cannot %s: %s", doing, in_one_line(error))
        raise DatabaseAway(in_one_line(error)) from None


@celery.task(Strategy="celery_config.engine:strategy", throws=(DatabaseAway,))
def execute_scheduled_triggers(hint: bool = False) -> dict[str, int]:
    """One tick. With `hint` somebody asked for it between two of beat's."""
    zone_update.look()
    with told("tick, the next one makes up for it"):
        made = tick.run(
            database, send, horizon, tzdata.release(), node(hint), look_into_queues, call_for_help, give_way
        )
    return {"planned": made.planned, "skipped": made.skipped, "taken_back": made.taken_back}


@celery.task(Strategy="celery_config.engine:strategy", throws=(DatabaseAway,))
def help_to_plan() -> dict[str, int]:
    """Share the planning of a burst with the tick that called, unless this process does so already."""
    if not helping.acquire(blocking=False):
        return {"planned": 0}
    try:
        with told("help to plan, the tick that called does without"):
            return {"planned": tick.help_to_plan(database, send, horizon, tzdata.release()).planned}
    finally:
        helping.release()


@celery.task(Strategy="celery_config.engine:strategy", throws=(DatabaseAway,))
def update_event_states() -> dict[str, int]:
    """Archive finished events, delete archived ones."""
    ages = retention.Ages(
        active=timedelta(seconds=settings.event_active_seconds),
        archived=timedelta(seconds=settings.event_archived_seconds),
        failed=timedelta(seconds=settings.event_failed_seconds),
    )
    with told("archive and delete, the next run does"):
        return retention.update_event_states(database, ages)


@celery.task(Strategy="celery_config.engine:strategy", throws=(DatabaseAway,))
def deliver(kind: str, batch: list[list[Any]]) -> int:
    """Take over events, `[[instant, [event id, ...]], ...]`, until their instant, and deliver them."""
    events = [(id_, datetime.fromisoformat(due)) for due, ids in batch for id_ in ids]
    shown = getattr(deliver.request, "argsrepr", None)
    submit = courier.submit_backlog if is_backlog(deliver.request) else courier.submit
    with told(f"take over {len(events)} events, a tick sends them again"):
        submit(kind, events, lambda those: put_back(celery, kind, those, shown))
    return len(events)


@celery.task(Strategy="celery_config.bundle:strategy")
def run_tasks(name: str, tasks: list[list[Any]]) -> None:
    """Users' tasks in one message. The worker takes it apart: this code never runs."""


def node(hinted: bool) -> str | None:
    """Whom a tick is recorded for: only beat's ticks prove that beat is alive."""
    return None if hinted else socket.gethostname()


def hint_now(seconds: float = 2.0) -> bool:
    """Ask for a tick and wait for up to `seconds`; whether the broker took the message."""
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(send_hint(celery)), daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(taken and taken[0])


@signals.setup_logging.connect(weak=False)
def configure_logs(loglevel: Any = None, logfile: Any = None, **more: Any) -> None:
    """Our log lines and Celery's, in one form."""
    logs.configure(settings, level=loglevel, logfile=logfile)


@signals.worker_process_shutdown.connect(weak=False)
def flush_child(**more: Any) -> None:
    """A pool process ends: record what its tasks led to."""
    EventTask.recorder.close(CHILD_FLUSH_SECONDS)


@signals.worker_shutdown.connect(weak=False)
def flush_worker(**more: Any) -> None:
    """The worker ends; with the solo pool it ran the tasks itself."""
    EventTask.recorder.close(CHILD_FLUSH_SECONDS)


@signals.task_unknown.connect(weak=False)
def fail_unknown(name: str = "", id: str = "", message: Any = None, **more: Any) -> None:
    """An event's task that this worker does not have: the attempt fails, instead of waiting for ever."""
    if message is not None and message.headers.get("triggerbeat_event"):
        EventTask.recorder.refuse(
            id, name, "NotRegistered", "no such task here; is its module in TASK_MODULES?"
        )


@signals.celeryd_init.connect(weak=False)
def import_tasks(**more: Any) -> None:
    """Import the modules with users' tasks; one that cannot be imported stops the worker with one line.

    Whatever it raises: an Exception that leaves here Celery would log and forget, and run without the tasks.
    """
    for module in settings.task_modules:
        try:
            import_from_cwd(module)
        except (Exception, SystemExit) as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"triggerbeat: TASK_MODULES={module!r} cannot be imported: {why}", file=sys.stderr)
            raise SystemExit(2) from None
