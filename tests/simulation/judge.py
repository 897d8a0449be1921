"""What must hold when all has healed: an event for each occurrence, and an end; no delivery but those."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any

from sqlalchemy import Row, text

from models.states import FINAL, Status
from tests import oracle
from tests.simulation.ledger import Delivery
from tests.simulation.workers import TZDATA
from tests.simulation.world import World
from triggers import schedule as schedules
from triggers.audit.records import Report
from triggers.audit.run import audit
from triggers.deliver import LEASE_MARGIN

DAY = timedelta(days=1)
RUN_UP_SECONDS = 6 * 3_600  # after which the oracle knows what a change of clocks repeats
PROMPT = timedelta(seconds=5)  # without faults nothing is later than this
Events = dict[str, Row[Any]]

EXHUME = (
    "INSERT INTO events SELECT * FROM buried WHERE state = 'archived'",
    "INSERT INTO attempts SELECT * FROM buried_attempts WHERE event_id IN (SELECT id FROM events)",
    "DELETE FROM purged_events",
)


class Judge:
    """Looks at the database, at the ledger, and says what is wrong."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.occurrences = 0
        self.events: Events = {}

    def judge(self) -> None:
        """All of it. The audit twice: with the account of what was purged, and with what was purged."""
        self.audited("with its account of purged events")
        self.exhume()
        self.occurrences = self.audited("with purged events").expected
        self.events = {row.id: row for row in self.rows("SELECT * FROM events")}
        self.buried = {row.id: row for row in self.rows("SELECT * FROM buried")}
        self.attempts = {(row.event_id, row.attempt): row for row in self.rows("SELECT * FROM attempts")}
        self.triggers = {row.id: row for row in self.rows("SELECT * FROM triggers")}
        for check in (
            self.final,
            self.in_order,
            self.gone,
            self.delivered,
            self.one_by_one,
            self.lost,
            self.alone,
            self.told,
            self.by_the_clocks,
        ):
            for what in check():
                self.world.broken(what)
        if not self.world.faulty:
            for what in (*self.exactly_once(), *self.prompt()):
                self.world.broken(what)

    # The occurrences

    def audited(self, how: str) -> Report:
        """The product's own audit of all that was."""
        world = self.world
        now = world.scheduler.now
        _, report = audit(
            world.database,
            world.scheduler.start - DAY,
            now + DAY,
            None,
            patience=timedelta(seconds=150),
            archive_after=world.ages.active,
            tzdata=TZDATA,
        )
        for one in report.findings:
            world.broken(
                f"audit {how}: {one.kind} {one.code} {one.trigger} {one.scheduled_for}"
                f" event {one.event}: {one.text}"
            )
        return report

    def exhume(self) -> None:
        """Put what retention deleted back, where a second event of an occurrence finds no room."""
        try:
            with self.world.database.write() as connection:
                for statement in EXHUME:
                    connection.execute(text(statement))
        except Exception as error:
            self.world.broken(f"a purged occurrence has another event: {error}")

    def rows(self, statement: str) -> list[Row[Any]]:
        """What a statement gives."""
        with self.world.database.look() as connection:
            return list(connection.execute(text(statement)).all())

    # The events

    def final(self) -> Iterator[str]:
        """Everything has come to its end, and stayed there."""
        for event in self.events.values():
            if event.status not in FINAL:
                yield f"event {event.id} is still {event.status}"
        for row in self.rows("SELECT * FROM revived"):
            yield f"event {row.event} had ended as {row.was} and became {row.became}"
        for trigger in self.triggers.values():
            if trigger.deleted_at is None and trigger.state == "active" and self.is_over(trigger):
                yield f"trigger {trigger.name} has nothing left to plan and is not completed"

    def is_over(self, trigger: Row[Any]) -> bool:
        """Whether the schedule has nothing left after the plan's cursor."""
        understood = schedules.parse(json.loads(trigger.schedule), instant(trigger.anchor))
        if understood.kind == "manual":
            return False
        spent = understood.max_runs is not None and trigger.planned_count >= understood.max_runs
        return spent or understood.after(instant(trigger.planned_until)) is None

    def in_order(self) -> Iterator[str]:
        """A trigger is completed behind its last event; what is skipped when late does not start late."""
        completed = {
            row.trigger_id: instant(row.effective_at)
            for row in self.rows("SELECT * FROM trigger_changes WHERE change = 'completed' ORDER BY id")
        }
        for event in self.events.values():
            trigger = self.triggers[event.trigger_id]
            if event.source == "manual" or trigger.id in self.world.edited:
                continue
            if trigger.id in completed and completed[trigger.id] < instant(
                event.finished_at or event.created_at
            ):
                yield f"trigger {trigger.name} was completed before its event {event.id} had ended"
            if json.loads(trigger.policy)["misfire"] != "skip" or None in (
                event.started_at,
                event.misfire_at,
            ):
                continue
            if event.started_at > event.misfire_at:
                yield f"event {event.id} began at {event.started_at}, a misfire since {event.misfire_at}"

    def gone(self) -> Iterator[str]:
        """Only what never started was taken out of the plan; the rest was purged at its age."""
        ages = self.world.ages
        for row in self.buried.values():
            if row.state != "archived" and (row.status != "pending" or row.attempt):
                yield f"event {row.id} was deleted as {row.status}, attempt {row.attempt}"
        for fired in self.world.ledger.fired:
            if fired not in self.events:
                yield f"the manual event {fired} was confirmed and is not there"
        if ages.active > DAY and any(row.state == "archived" for row in self.buried.values()):
            yield "an event was purged before its time"

    # The deliveries

    def delivered(self) -> Iterator[str]:
        """No delivery without an attempt on record, none before its instant, no more than were allowed."""
        seen: Counter[tuple[str, int]] = Counter()
        for one in self.world.ledger.deliveries:
            seen[one.event_id, one.attempt] += 1
            event = self.events.get(one.event_id)
            if event is None:
                yield f"event {one.event_id} was delivered and is not on record"
                continue
            if one.attempt > event.attempt:
                yield f"event {one.event_id} was delivered as attempt {one.attempt} of {event.attempt}"
            if one.began < max(one.due_at, instant(event.fire_at)):
                yield f"event {one.event_id} was delivered at {one.began}, due at {one.due_at}"
            if one.attempt > self.world.ledger.most_attempts[one.trigger_id]:
                yield f"event {one.event_id} was delivered as attempt {one.attempt}, more than are allowed"
        for (event_id, attempt), count in (seen + self.world.ledger.logged).items():
            if count > 1:
                yield f"event {event_id} was delivered {count} times as attempt {attempt}"
        for event in self.events.values():
            if event.status == Status.SUCCEEDED and event.result is not None:
                yield from self.succeeded(event)

    def succeeded(self, event: Row[Any]) -> Iterator[str]:
        """A success is that of the event's last attempt, and somebody saw it."""
        if json.loads(event.result) != {"attempt": event.attempt}:
            yield f"event {event.id} has the result of another attempt than {event.attempt}: {event.result}"
        if not any(one.outcome == "ok" for one in self.of(event.id) if one.attempt == event.attempt):
            yield f"event {event.id} succeeded, but its target never said so"

    def of(self, event_id: str) -> list[Delivery]:
        """The deliveries of an event."""
        if not hasattr(self, "_by_event"):
            self._by_event: dict[str, list[Delivery]] = defaultdict(list)
            for one in self.world.ledger.deliveries:
                self._by_event[one.event_id].append(one)
        return self._by_event[event_id]

    def one_by_one(self) -> Iterator[str]:
        """An attempt begins after the one before has ended, unless that was declared lost."""
        for event_id in self.events:
            calls = sorted(self.of(event_id), key=lambda one: one.attempt)
            for one, other in pairwise(calls):
                row = self.attempts.get((event_id, one.attempt))
                if row is not None and row.outcome == "lost":
                    continue
                if one.ended is None or other.began < one.ended:
                    yield f"event {event_id}: attempt {other.attempt} began while {one.attempt} was under way"

    def lost(self) -> Iterator[str]:
        """An attempt is declared lost when its lease is over, or its process dead; not before."""
        for (event_id, attempt), row in self.attempts.items():
            event = self.events.get(event_id)
            if row.outcome != "lost" or event is None:
                continue
            died = [one for one in self.of(event_id) if one.attempt == attempt and one.died]
            lease = instant(row.started_at) + timedelta(seconds=2) + LEASE_MARGIN  # 2: the shortest timeout
            if not died and instant(row.finished_at) < lease:
                yield f"event {event_id}: attempt {attempt} was declared lost while it ran"

    def alone(self) -> Iterator[str]:
        """Events of a trigger that does not allow it never overlap: from first start to end."""
        by_trigger: dict[str, list[Row[Any]]] = defaultdict(list)
        for event in self.events.values():
            trigger = self.triggers[event.trigger_id]
            if event.started_at is None or event.source == "manual" or trigger.id in self.world.edited:
                continue
            if json.loads(trigger.policy)["overlap"] != "allow":
                by_trigger[trigger.id].append(event)
        for events in by_trigger.values():
            events.sort(key=lambda event: event.started_at)
            for one, other in pairwise(events):
                if one.finished_at is None or other.started_at < one.finished_at:
                    yield f"event {other.id} began while {one.id} of its trigger was under way"

    def told(self) -> Iterator[str]:
        """What people were told was done is in the log of changes."""
        logged = Counter(
            (row.trigger_id, row.change)
            for row in self.rows("SELECT trigger_id, change FROM trigger_changes")
        )
        for (trigger_id, change), count in self.world.ledger.told.items():
            if logged[trigger_id, change] < count:
                yield f"trigger {trigger_id} was {change} {count} times, and it is not in its log"

    def by_the_clocks(self) -> Iterator[str]:
        """Cron means what Debian's does, also in the hour in which clocks change.

        The audit cannot see that: it shares its reading of schedules with the planner.
        """
        planned: dict[str, list[tuple[int, int, Row[Any]]]] = defaultdict(list)
        for event in self.events.values():
            if event.source in ("schedule", "catchup"):
                last = instant(event.scheduled_for)
                first = instant(event.coalesced_from) if event.coalesced_from else last
                planned[event.trigger_id].append((int(first.timestamp()), int(last.timestamp()), event))
        changes: dict[str, list[float]] = defaultdict(list)
        for row in self.rows("SELECT trigger_id, effective_at FROM trigger_changes ORDER BY id"):
            changes[row.trigger_id].append(instant(row.effective_at).timestamp())
        for id_, runs in planned.items():
            schedule = json.loads(self.triggers[id_].schedule)
            if schedule["type"] != "cron" or id_ in self.world.edited:
                continue
            latest = max(end for _, end, _ in runs)
            known = debian(schedule["cron"], schedule["timezone"], int(changes[id_][0]), latest)
            for begin, end, event in runs:
                if end not in known or sum(begin <= at <= end for at in known) != event.coalesced:
                    yield f"event {event.id} of {schedule} is none of Debian's: {event.scheduled_for}"
            unbroken = min([latest, *changes[id_][1:]])  # up to a pause
            for at in known:
                served = any(begin <= at <= end for begin, end, _ in runs)
                if changes[id_][0] < at <= unbroken and not served:
                    yield f"{schedule} has no event for {datetime.fromtimestamp(at, UTC)}"

    # Without faults

    def exactly_once(self) -> Iterator[str]:
        """Each attempt is one delivery, and each delivery is an attempt; nothing is lost."""
        ledger = self.world.ledger
        for event in self.events.values():
            if self.triggers[event.trigger_id].id in self.world.edited:
                continue  # its target may have become another
            kind = self.triggers[event.trigger_id].target_type
            if kind == "log":
                count = 0 if self.world.plain_log else ledger.logged[event.id, 1]
                wanted = 0 if self.world.plain_log else event.attempt
            else:
                count, wanted = len(self.of(event.id)), event.attempt
            if count != wanted:
                yield f"event {event.id} made {wanted} attempts and was delivered {count} times"
        if any(row.outcome == "lost" for row in self.attempts.values()):
            yield "an attempt was declared lost, although nothing went wrong"
        if ledger.repeated:
            yield "a line was written in a transaction that failed, although nothing went wrong"

    def prompt(self) -> Iterator[str]:
        """Each event starts at its instant; one that queues, as soon as the one before it has ended."""
        ended: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
        for event in self.events.values():
            if event.started_at is not None and event.finished_at is not None:
                ended[event.trigger_id].append((instant(event.started_at), instant(event.finished_at)))
        for event in self.events.values():
            trigger = self.triggers[event.trigger_id]
            if event.started_at is None or trigger.id in self.world.edited:
                continue
            began = instant(event.started_at)
            free = max(instant(event.fire_at), instant(event.created_at))
            if json.loads(trigger.policy)["overlap"] == "queue":
                free = max([free, *(end for start, end in ended[trigger.id] if start < began)])
            if began > free + PROMPT:
                yield f"event {event.id} of {trigger.name} could begin at {free} and did at {began}"


@lru_cache(maxsize=256)
def debian(cron: str, zone: str, since: int, until: int) -> list[int]:
    """What Debian's cron would start, from some hours before an instant up to another, in seconds."""
    begin = since // 60 * 60 - RUN_UP_SECONDS
    return oracle.expected(oracle.read(cron), oracle.walk(zone, begin, until + 1))


def instant(value: str) -> datetime:
    """An instant out of SQLite."""
    return datetime.fromisoformat(value).replace(tzinfo=UTC)
