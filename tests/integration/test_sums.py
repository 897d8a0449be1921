"""The sums add up: whatever users, ticks and workers do, each occurrence belongs to exactly one event.

A random life of some triggers beside a small model, which knows schedules by arithmetic of its own, and of
everything else only when a trigger plans and when it does not.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from models import Event, Trigger
from models.states import PLANNED
from tests.integration.test_tick import (  # noqa: F401  fixtures
    FAILED,
    NOON,
    SETTINGS,
    SUCCEEDED,
    World,
    emptied_postgres_url,
    reused_postgres_url,
    seconds,
    world,
)
from triggers import manage
from triggers.definition import parse_trigger
from triggers.errors import Conflict, InvalidDocument
from triggers.store.delivery import Job

HTTP = {"type": "http", "url": "http://127.0.0.1:9/"}
TRIGGERS = 8
STEPS = 60
DRAIN_STEPS = 600
FINAL = ("succeeded", "failed", "skipped", "cancelled")


# ------------------------------------------------------------------------------------------- the model


@dataclass
class Model:
    """What one trigger should have planned."""

    schedule: dict[str, Any]
    policy: dict[str, Any]
    anchor: datetime
    since: datetime  # inclusive
    runs: list[datetime] = field(default_factory=list)
    counted: int = 0
    planning: bool = True
    edited: bool = False

    def stop(self, at: datetime) -> None:
        """Nothing later than `at` belongs to it any more."""
        if self.planning:
            found = list(self.occurrences(at))
            self.runs += found
            self.counted += len(found)
        self.planning = False

    def go_on(self, at: datetime) -> None:
        """From the instant after `at` on it plans."""
        self.planning, self.since = True, at + timedelta(microseconds=1)

    def replaced(self, at: datetime, schedule: dict[str, Any]) -> None:
        """Another schedule from the instant after `at` on, if it plans at all."""
        self.schedule, self.counted = schedule, 0
        self.anchor = at if not at.microsecond else at.replace(microsecond=0) + seconds(1)

    def occurrences(self, until: datetime) -> Iterator[datetime]:
        """Those from `since` to `until`, both inclusive."""
        given = self.schedule
        low, high = self.since, until
        if given["start_time"]:
            low = max(low, datetime.fromisoformat(given["start_time"]))
        if given["end_time"]:
            high = min(high, datetime.fromisoformat(given["end_time"]))
        left = 10**9 if given["max_runs"] is None else given["max_runs"] - self.counted
        for instant in self.instants(low, high):
            if left <= 0:
                return
            left -= 1
            yield instant

    def instants(self, low: datetime, high: datetime) -> Iterator[datetime]:
        """Those of the rule alone."""
        if self.schedule["type"] == "cron":  # `*/n * * * *`, in UTC
            step, every = seconds(60), int(self.schedule["cron"].split()[0][2:])
            at = low.replace(second=0, microsecond=0)
            at = at if at >= low else at + step
            while at <= high:
                if at.minute % every == 0:
                    yield at
                at += step
        elif self.schedule["type"] == "once":
            at = datetime.fromisoformat(self.schedule["at"])
            if low <= at <= high:
                yield at
        else:
            start = self.schedule["start_time"]
            anchor = datetime.fromisoformat(start) if start else self.anchor
            every_ = seconds(self.schedule["every_seconds"])
            at = anchor + max(0, -((anchor - low) // every_)) * every_
            at = at if at >= low else at + every_
            while at <= high:
                yield at
                at += every_


# ------------------------------------------------------------------------------------ a random life


class Life:
    """Some triggers, and what happens to them."""

    def __init__(self, world: World, seed: int) -> None:  # noqa: F811
        self.world = world
        self.chance = random.Random(seed)
        self.world.now = NOON + seconds(self.chance.choice([0, 0.25, 59.999999]))
        self.models: dict[str, Model] = {}
        self.running: list[Job] = []
        self.log: list[str] = []

    def live(self) -> None:
        for number in range(TRIGGERS):
            self.create(f"t-{number}")
        acts = [self.tick] * 5 + [self.work] * 4 + [self.finish] * 3 + [self.wait] * 6
        acts += [self.pause, self.resume, self.edit_policy] * 2
        acts += [self.edit_schedule, self.edit_tags, self.fire]
        for _ in range(STEPS):
            act = self.chance.choice(acts)
            act()
            self.notice_pauses()
        self.drain()

    # what users do

    def schedule(self) -> dict[str, Any]:
        """One that fires within its bounds."""
        while True:
            made = self.any_schedule()
            with suppress(InvalidDocument):
                self.document("valid", made, {"misfire_grace_seconds": 60})
                return made

    def any_schedule(self) -> dict[str, Any]:
        chance, now = self.chance, self.world.now
        kind = chance.choice(["cron", "interval", "interval", "once"])
        made: dict[str, Any] = {"type": kind, "jitter_seconds": chance.choice([0, 0, 0, 5, 90, 3_600])}
        bounds: dict[str, Any] = {"start_time": None, "end_time": None, "max_runs": None}
        if kind == "cron":
            made["cron"] = f"*/{chance.choice([1, 2, 7, 30])} * * * *"
        elif kind == "interval":
            made["every_seconds"] = chance.choice([7, 30, 60, 61, 600])
        else:
            made["at"] = (now + seconds(chance.choice([1, 30, 100, 4_000]))).isoformat()
        if kind != "once":
            if chance.random() < 0.3:
                bounds["start_time"] = (now + seconds(chance.choice([-10_000, -0.5, 45, 700]))).isoformat()
            if chance.random() < 0.3:
                bounds["end_time"] = (now + seconds(chance.choice([1_200, 6_000]))).isoformat()
            if chance.random() < 0.6:
                bounds["max_runs"] = chance.choice([1, 2, 5, 12, 40])
        return made | bounds

    def policy(self) -> dict[str, Any]:
        chance = self.chance
        return {
            "misfire": chance.choice(["skip", "fire_once", "fire_all"]),
            "misfire_grace_seconds": chance.choice([1, 60, 600]),
            "catchup_window_seconds": chance.choice([0, 30, 600, 86_400]),
            "overlap": chance.choice(["allow", "skip", "queue"]),
            "timeout_seconds": chance.choice([10, 300]),
            "pause_after_failures": chance.choice([None, None, 1, 3]),
        }

    def document(self, name: str, schedule: Any, policy: Any, current: Any = None, **more: Any) -> Any:
        given = {"name": name, "schedule": schedule, "policy": policy, "target": HTTP, **more}
        given["retry"] = {"max_attempts": 2, "min_backoff_seconds": 1, "max_backoff_seconds": 200}
        return parse_trigger(given, SETTINGS, self.world.now, current)

    def create(self, name: str) -> None:
        schedule, policy, now = self.schedule(), self.policy(), self.world.now
        if self.models and self.chance.random() < 0.4:  # what plans alike is planned together
            other = self.models[self.name()]
            schedule, policy = other.schedule, other.policy
        with self.world.database.write() as connection:
            manage.create(connection, self.document(name, schedule, policy), now)
        self.models[name] = Model(schedule, policy, now, now)
        self.models[name].replaced(now, schedule)
        self.note("create", name, schedule, policy)

    def pause(self) -> None:
        name = self.name()
        with suppress(Conflict), self.world.database.write() as connection:
            if manage.pause(connection, name, self.world.now).changed:
                self.models[name].stop(self.world.now)
                self.note("pause", name)

    def resume(self) -> None:
        paused = [name for name, model in self.models.items() if not model.planning]
        name = self.chance.choice(paused or list(self.models))
        with suppress(Conflict), self.world.database.write() as connection:
            if manage.resume(connection, name, self.world.now).changed:
                self.models[name].go_on(self.world.now)
                self.note("resume", name)

    def edit_schedule(self) -> None:
        name, now = self.name(), self.world.now
        model, schedule = self.models[name], self.schedule()
        if schedule == model.schedule:
            return  # no edit at all: nothing starts anew
        with suppress(Conflict), self.world.database.write() as connection:
            document = self.document(name, schedule, model.policy)
            changed = manage.edit(connection, name, document, now)
            model.stop(now)
            model.replaced(now, schedule)
            if changed.state == "active":
                model.go_on(now)
            self.note("edit", name, schedule)

    def edit_policy(self) -> None:
        """All but the overlap: two that run already may not become one."""
        name, now = self.name(), self.world.now
        model = self.models[name]
        policy = self.policy() | {"overlap": model.policy["overlap"]}
        with suppress(Conflict), self.world.database.write() as connection:
            stored = self.stored(name)
            changed = manage.edit(connection, name, self.document(name, stored, policy, stored), now)
            if changed.changed and model.planning:
                model.stop(now)
                model.go_on(now)
            model.policy, model.edited = policy, True
            self.note("policy", name, policy)

    def edit_tags(self) -> None:
        name = self.name()
        tags = [f"tag-{self.chance.random()}"]
        with self.world.database.write() as connection:
            stored = self.stored(name)
            document = self.document(name, stored, self.models[name].policy, stored, tags=tags)
            manage.edit(connection, name, document, self.world.now)
        self.note("tags", name)

    def stored(self, name: str) -> dict[str, Any]:
        return dict(self.world.trigger(name).schedule)

    def fire(self) -> None:
        self.world.fire(self.name())

    def name(self) -> str:
        return self.chance.choice(list(self.models))

    # what time and processes do

    def wait(self) -> None:
        self.world.now += seconds(self.chance.choice([0.000001, 1, 10, 60, 60, 61, 300, 3_000]))
        self.note("now")

    def tick(self) -> None:
        self.world.broker_is_up = self.chance.random() < 0.9
        self.world.tick(horizon=self.chance.choice([0, 90, 90, 90, 400]))
        self.note("tick")

    def work(self) -> None:
        """Workers get some of what is due."""
        now = self.world.now
        due = [e.id for e in self.world.events() if e.status == "pending" and e.due_at <= now]
        if chosen := [id_ for id_ in due if self.chance.random() < 0.8]:
            won = self.world.start(*chosen)
            self.running += won
            for job in won:
                self.check_start(job)
            self.note("started", len(won), "of", len(chosen))
        self.check_overlaps()

    def finish(self) -> None:
        """Some attempts end, and some workers vanish."""
        now = self.world.now
        ending = [job for job in self.running if self.chance.random() < 0.7]
        self.running = [job for job in self.running if job not in ending]
        for job in ending:
            if self.chance.random() < 0.9:
                self.world.finish(SUCCEEDED if self.chance.random() < 0.6 else FAILED, job)
        self.note("finished", len(ending), now)

    def notice_pauses(self) -> None:
        """Too many failures pause a trigger, which users see at the instant it happens."""
        for row in self.world.rows(Trigger):
            model = self.models[row.name]
            assert row.schedule_error is None
            if row.state == "paused" and model.planning:
                model.stop(self.world.now)
                self.note("paused after failures", row.name)

    def drain(self) -> None:
        """Everybody is paused, and all that is left comes to its end."""
        for name, model in self.models.items():
            with suppress(Conflict), self.world.database.write() as connection:
                manage.pause(connection, name, self.world.now)
            model.stop(self.world.now)
        for _ in range(DRAIN_STEPS):
            self.tick()
            self.work()
            self.finish()
            if all(event.status in FINAL for event in self.world.events()):
                return
            self.world.now += seconds(60)
        left = [e for e in self.world.events() if e.status not in FINAL]
        raise AssertionError(f"never ended: {left}")

    def note(self, *what: Any) -> None:
        self.log.append(f"{(self.world.now - NOON).total_seconds():>12.6f} {' '.join(map(str, what))}")

    # what must hold

    def check_start(self, job: Job) -> None:
        now = self.world.now
        assert now >= job.fire_at >= job.scheduled_for
        policy = self.models[job.name].policy
        if job.attempt > 1 or job.source not in PLANNED or policy["overlap"] == "queue":
            return
        if self.models[job.name].edited:
            return
        late, age = (now - job.fire_at).total_seconds(), (now - job.scheduled_for).total_seconds()
        if late > policy["misfire_grace_seconds"]:
            assert policy["misfire"] != "skip", job
            assert age <= policy["catchup_window_seconds"], job

    def check_overlaps(self) -> None:
        names = {row.id: row.name for row in self.world.rows(Trigger)}
        under_way = Counter(
            names[e.trigger_id]
            for e in self.world.events()
            if e.source in PLANNED and (e.status == "running" or (e.status == "pending" and e.attempt))
        )
        for name, count in under_way.items():
            assert count == 1 or self.models[name].policy["overlap"] == "allow", (name, count)

    def check_sums(self) -> None:
        """Each occurrence is covered by exactly one event, in order, and nothing else is."""
        with self.world.database.read() as connection:
            found = connection.execute(
                select(Trigger.name, Event.scheduled_for, Event.coalesced, Event.coalesced_from)
                .join(Event, Event.trigger_id == Trigger.id)
                .where(Event.source.in_(PLANNED))
                .order_by(Event.scheduled_for)
            ).all()
        for name, model in self.models.items():
            events, position = [row for row in found if row.name == name], 0
            for event in events:
                run = model.runs[position : position + event.coalesced]
                first = event.coalesced_from or event.scheduled_for
                told = [offset(at) for at in (first, event.scheduled_for)]
                assert run, f"{name}: {told} is one too many"
                assert [offset(run[0]), offset(run[-1])] == told, name
                assert len(run) == event.coalesced, name
                position += event.coalesced
            missing = [offset(at) for at in model.runs[position:]]
            assert missing == [], f"{name}: no event for these"


def offset(at: datetime) -> float:
    return (at - NOON).total_seconds()


@pytest.mark.parametrize("known", range(12))
def test_whatever_happens_each_occurrence_has_exactly_one_event(world: World, known: int) -> None:  # noqa: F811
    led(world, known)


@pytest.mark.parametrize("new", range(4))
def test_lives_that_nobody_has_seen_before(world: World, new: int) -> None:  # noqa: F811
    """To repeat one, add its seed to those above."""
    led(world, secrets.randbits(32))


def led(world: World, seed: int) -> None:  # noqa: F811
    life = Life(world, seed)
    try:
        life.live()
        life.check_sums()
    except Exception as error:
        error.add_note(f"seed {seed}\n" + "\n".join(life.log))
        raise
