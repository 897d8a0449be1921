"""The audit of what the product itself recorded: clean whatever it did, and changes by hand are found."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, text, update

from models import Attempt, Base, Event, PurgedEvents, Trigger, TriggerChange
from models.account import MODULUS, micros
from models.database import Database
from tests.integration import test_tick
from tests.integration.test_tick import (
    FAILED,
    HTTP,
    LOG,
    NOON,
    SUCCEEDED,
    TZDATA,
    World,
    every,
    seconds,
    unguard,
)
from triggers import manage
from triggers.audit.records import Report
from triggers.audit.run import audit
from triggers.definition import parse_trigger
from triggers.errors import Conflict, NotFound
from triggers.retention import Ages, update_event_states
from triggers.targets import Outcome

reused_postgres_url = test_tick.reused_postgres_url
emptied_postgres_url = test_tick.emptied_postgres_url
world = test_tick.world

HOUR = timedelta(hours=1)
PATIENCE = seconds(150)
AGES = Ages(active=2 * HOUR, archived=48 * HOUR, failed=720 * HOUR)
KEPT_SHORTLY = Ages(active=seconds(60), archived=seconds(300), failed=seconds(600))


def audited(
    world: World,
    since: datetime | None = NOON - HOUR,
    until: datetime | None = None,
    trigger: str | None = None,
    ages: Ages = AGES,
) -> Report:
    trigger_id = world.trigger(trigger).id if trigger else None
    report = audit(
        world.database, since, until, trigger_id,
        patience=PATIENCE, archive_after=ages.active, tzdata=TZDATA,
    )[1]  # fmt: skip
    return report


def counts(report: Report) -> dict[str, int]:
    return {name: count for name, count in report.document().items() if count}


def codes(report: Report) -> list[str]:
    return [str(finding.code) for finding in report.findings]


def work(world: World, outcome: Outcome = SUCCEEDED) -> None:
    """What is due is started and ends."""
    world.finish(outcome, *world.start())


@pytest.fixture
def minute(world: World) -> World:
    """A trigger, each of whose seven events succeeded at its instant."""
    world.create(target=HTTP)
    world.tick(horizon=60)
    for offset in range(0, 61, 10):
        world.now = NOON + seconds(offset)
        work(world)
    world.now = NOON + seconds(65)
    world.tick(horizon=0)
    return world


# ------------------------------------------------------------------------------- the product by itself

POLICIES = [(misfire, overlap) for misfire in ("skip", "fire_once", "fire_all") for overlap in
            ("allow", "skip", "queue")]  # fmt: skip


class Life:
    """Users, ticks and workers that do what chance has them do, for some hours."""

    def __init__(self, world: World, seed: int, misfire: str, overlap: str) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.policy = {"misfire": misfire, "overlap": overlap, "misfire_grace_seconds": 20}
        self.names: list[str] = []
        self.running: list[Any] = []

    def document(self, name: str) -> dict[str, Any]:
        chance, now = self.chance, self.world.now
        jitter = chance.choice([0, 0, 5, 30])
        bounds: dict[str, Any] = {
            "max_runs": chance.choice([None, None, 3, 20]),
            "jitter_seconds": jitter,
            "end_time": chance.choice([None, (now + seconds(chance.randint(30, 900))).isoformat()]),
        }
        schedule: dict[str, Any] = chance.choice(
            [
                {"type": "interval", "every_seconds": chance.choice([7, 10, 60]), **bounds},
                {"type": "cron", "cron": chance.choice(["* * * * *", "*/5 * * * *"]), **bounds,
                 "timezone": "Europe/Berlin", "end_time": None},
                {"type": "once", "at": chance.choice(["now", (now + seconds(45)).isoformat(),
                                                      (now - seconds(12)).isoformat()])},
                {"type": "manual"},
            ]
        )  # fmt: skip
        policy = self.policy | {
            "catchup_window_seconds": chance.choice([0, 100, 86_400]),
            "misfire": chance.choice([self.policy["misfire"]] * 4 + ["skip", "fire_once", "fire_all"]),
            "pause_after_failures": chance.choice([None, None, 2]),
        }
        retry = {"max_attempts": chance.choice([1, 3]), "min_backoff_seconds": 5}
        target = chance.choice([HTTP, HTTP, LOG])
        return {"name": name, "schedule": schedule, "target": target, "policy": policy, "retry": retry}

    def create(self) -> None:
        name = f"t{len(self.names)}"
        self.names.append(name)
        given = self.document(name)
        self.world.create(
            name, given["schedule"], given["target"], policy=given["policy"], retry=given["retry"]
        )

    def change(self, verb: Callable[..., Any]) -> None:
        with suppress(Conflict, NotFound), self.world.database.write() as connection:
            verb(connection, self.chance.choice(self.names), self.world.database.now)

    def edit(self) -> None:
        name = self.chance.choice(self.names)
        given = self.document(name)
        with suppress(Conflict, NotFound), self.world.database.write() as connection:
            before = manage.lock(connection, name, self.world.now)[0]
            for part in self.chance.sample(["schedule", "policy", "target"], self.chance.randint(0, 2)):
                given[part] = before[part]
            document = parse_trigger(given, test_tick.SETTINGS, self.world.now, before["schedule"])
            manage.edit(connection, name, document, self.world.database.now)

    def fire(self) -> None:
        with self.world.database.write() as connection, suppress(NotFound):
            manage.fire(connection, self.chance.choice(self.names), self.world.database.now)

    def begin(self) -> None:
        for kind in ("http", "log"):
            self.running += self.world.start(kind=kind)

    def end(self) -> None:
        """Some attempts end, well or badly; some never do."""
        for job in self.chance.sample(self.running, self.chance.randint(0, len(self.running))):
            self.running.remove(job)
            if self.chance.random() < 0.95:
                self.world.finish(self.chance.choice([SUCCEEDED, SUCCEEDED, FAILED]), job)

    def wait(self, longest: float) -> None:
        self.world.now += seconds(round(self.chance.uniform(0, longest), self.chance.choice([0, 6])))

    def step(self) -> None:
        chance = self.chance
        roll = chance.random()
        if roll < 0.1 and len(self.names) < 12:
            self.create()
        elif roll < 0.4 and self.names:
            chance.choice([
                lambda: self.change(manage.pause), lambda: self.change(manage.pause),
                lambda: self.change(manage.resume), lambda: self.change(manage.resume),
                lambda: self.change(manage.delete) if chance.random() < 0.3 else None,
                self.edit, self.edit, self.fire,
            ])()  # fmt: skip
        elif roll < 0.7:
            self.world.tick(horizon=chance.choice([0, 30, 90]))
        elif roll < 0.95:
            self.begin()
            self.wait(3)
            self.end()
        self.wait(600 if chance.random() < 0.03 else 15)

    def settle(self) -> None:
        """Everything runs again, until nothing is behind."""
        for _ in range(12):
            self.wait(20)
            self.world.tick()
            self.begin()
            self.world.finish(SUCCEEDED, *self.running)
            self.running = []


@pytest.mark.parametrize(("misfire", "overlap"), POLICIES)
def test_whatever_users_and_outages_did_the_audit_is_clean(world: World, misfire: str, overlap: str) -> None:
    life = Life(world, hash_of(misfire, overlap), misfire, overlap)
    life.create()
    for number in range(160):
        life.step()
        if number % 40 == 39:
            clean_now(world)
    life.settle()
    clean_now(world)
    assert audited(world).recorded > 20


def hash_of(*words: str) -> int:
    """A seed for these words, the same in every process."""
    return int.from_bytes("".join(words).encode()) % 1_000_003


def clean_now(world: World, ages: Ages = AGES) -> None:
    """Nothing but lateness may be found while ticks and workers are away."""
    report = audited(world, ages=ages)
    wrong = [finding for finding in report.findings if finding.kind != "overdue"]
    assert wrong == []
    whole = report.document()
    assert whole["expected"] >= whole["recorded"] + whole["purged"]


@pytest.mark.parametrize("seed", range(3))
def test_the_audit_is_clean_over_what_was_purged(world: World, seed: int) -> None:
    life = Life(world, seed, "fire_once", "allow")
    life.create()
    for number in range(120):
        life.step()
        if number % 10 == 9:
            update_event_states(world.database, KEPT_SHORTLY)
            clean_now(world, KEPT_SHORTLY)
    life.settle()
    world.now += seconds(400)
    update_event_states(world.database, KEPT_SHORTLY)
    world.now += seconds(400)
    update_event_states(world.database, KEPT_SHORTLY)
    report = audited(world, ages=KEPT_SHORTLY)
    assert [finding for finding in report.findings if finding.kind != "overdue"] == []
    assert report.purged > 20


# ----------------------------------------------------------------------------------- changes by hand


def test_a_clean_minute(minute: World) -> None:
    assert counts(audited(minute)) == {"expected": 7, "recorded": 7}
    assert counts(audited(minute, NOON + seconds(10), NOON + seconds(40))) == {"expected": 3, "recorded": 3}
    assert audited(minute, None, NOON).expected == 0


def one_event(world: World, number: int) -> str:
    return str(world.ids()[number])


@pytest.mark.parametrize("number", range(7))
def test_a_row_that_is_deleted_is_missing(minute: World, number: int) -> None:
    with minute.database.write() as connection:
        connection.execute(delete(Event).where(Event.id == one_event(minute, number)))
    report = audited(minute)
    assert counts(report) == {"expected": 7, "recorded": 6, "missing": 1}
    assert report.findings[0].scheduled_for == NOON + seconds(10 * number)


def test_a_row_that_is_shifted_is_missing_and_unexpected(minute: World) -> None:
    moved = NOON + seconds(21)
    instants = dict.fromkeys(
        ("scheduled_for", "fire_at", "due_at", "started_at", "attempt_started_at"), moved
    )
    with minute.database.write() as connection:
        where = Event.id == one_event(minute, 2)
        connection.execute(update(Event).where(where).values(**instants, finished_at=moved))
    assert counts(audited(minute)) == {"expected": 7, "recorded": 6, "missing": 1, "unexpected": 1}


def test_a_row_that_is_doubled_behind_a_dropped_index_is_a_duplicate(world: World) -> None:
    world.create(target=HTTP)
    world.tick(horizon=0)
    work(world)
    columns = ", ".join(column.name for column in Event.__table__.columns if column.name != "id")
    with world.database.write() as connection:
        connection.execute(text("DROP INDEX uq_events_occurrence"))
        copy = f"INSERT INTO events (id, {columns}) SELECT :id, {columns} FROM events"
        if world.database.is_postgres:
            copy = copy.replace(":id", "CAST(:id AS uuid)")
        connection.execute(text(copy), {"id": "018f0000-0000-7000-8000-000000000001"})
    try:
        assert counts(audited(world, NOON, NOON + INSTANT)) == {"expected": 1, "recorded": 1, "duplicate": 1}
    finally:
        with world.database.write() as connection:
            connection.execute(delete(Event))
            where = "WHERE source IN ('schedule', 'catchup')"
            index = f"CREATE UNIQUE INDEX uq_events_occurrence ON events (scheduled_for, trigger_id) {where}"
            connection.execute(text(index))


INSTANT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"started_at": NOON - seconds(1)}, "started_early"),
        ({"finished_at": NOON - seconds(1)}, "finished_early"),
        ({"state": "archived"}, "archived_early"),
        ({"attempt": 2}, "attempts_incomplete"),
        ({"status": "failed", "reason": "attempts"}, "attempts_incomplete"),
        ({"source": "manual"}, "missing"),
        ({"status": "pending", "finished_at": None, "recheck_at": NOON}, "attempts_incomplete"),
        ({"status": "running", "finished_at": None, "recheck_at": NOON, "lease_until": NOON}, "lease_over"),
        ({"coalesced": 2, "coalesced_from": NOON - seconds(10)}, "coalesced_from"),
    ],
)
def test_a_record_that_is_changed_is_found(world: World, values: dict[str, Any], code: str) -> None:
    """Where the database's own constraints let it be changed at all."""
    world.create(target=HTTP)
    world.tick(horizon=0)
    work(world)
    world.now += seconds(600)
    world.tick(horizon=0)
    if "started_at" in values:
        with world.database.write() as connection:
            if world.database.is_postgres:
                return  # its CHECK refuses this, and does not go away without the table's owner
            connection.execute(text("PRAGMA ignore_check_constraints = ON"))
            connection.execute(update(Event).where(Event.scheduled_for == NOON).values(**values))
            connection.execute(text("PRAGMA ignore_check_constraints = OFF"))
    else:
        with world.database.write() as connection:
            connection.execute(update(Event).where(Event.scheduled_for == NOON).values(**values))
    assert code in codes(audited(world, NOON, NOON + seconds(5)))


def test_attempts_that_are_deleted_are_missed(world: World) -> None:
    world.create(schedule=every(3600), target=HTTP, retry={"max_attempts": 3, "min_backoff_seconds": 1})
    world.tick(horizon=0)
    for outcome in (FAILED, FAILED, SUCCEEDED):
        work(world, outcome)
        world.now += seconds(30)
    assert audited(world).ok
    with world.database.write() as connection:
        connection.execute(delete(Attempt).where(Attempt.attempt == 1))
    assert codes(audited(world)) == ["attempts_incomplete"]


def test_a_failure_that_is_made_a_success_is_found(world: World) -> None:
    world.create(schedule=every(3600), target=HTTP, retry={"max_attempts": 1})
    world.tick(horizon=0)
    work(world, FAILED)
    assert audited(world, until=NOON + HOUR).ok
    world.change(Event, status="succeeded", reason=None, error=None)
    assert codes(audited(world, until=NOON + HOUR)) == ["attempts_incomplete"]


def test_what_is_left_of_a_trigger_whose_row_is_deleted_is_found(minute: World) -> None:
    minute.create("z")
    id_ = minute.trigger("t").id
    with minute.database.write() as connection:
        unguard(connection)
        connection.execute(delete(TriggerChange).where(TriggerChange.trigger_id == id_))
        connection.execute(delete(Trigger).where(Trigger.id == id_))
    report = audited(minute)
    assert set(codes(report)) == {"no_trigger"}
    assert report.document()["unexpected"] == 7


def test_a_trigger_that_is_changed_without_its_log_is_found(minute: World) -> None:
    minute.change(Trigger, schedule=every(20))
    assert codes(audited(minute)) == ["not_on_record"]


def test_a_log_that_is_changed_contradicts_the_events(minute: World) -> None:
    minute.change(TriggerChange, effective_at=NOON + seconds(30))
    assert set(codes(audited(minute))) == {"before_creation"}
    minute.change(TriggerChange, effective_at=NOON - seconds(10))
    assert codes(audited(minute)) == []  # no occurrence lies there, so nothing speaks against it
    with minute.database.write() as connection:
        unguard(connection)
        connection.execute(delete(TriggerChange))
    assert "log_broken" in codes(audited(minute))


def test_a_deletion_among_purged_events_is_found_by_count(minute: World) -> None:
    with minute.database.write() as connection:
        connection.execute(delete(Event).where(Event.id == one_event(minute, 3)))
    minute.now = NOON + 60 * HOUR
    minute.tick(horizon=0)
    assert update_event_states(minute.database, AGES)["deleted"] == 6
    report = audited(minute, NOON, NOON + seconds(61))
    assert counts(report) == {"expected": 7, "purged": 6, "missing": 1}
    assert report.findings[0].scheduled_for == NOON + seconds(30)
    minute.change(PurgedEvents, occurrences=8)
    assert codes(audited(minute, NOON, NOON + seconds(61))) == ["purge_surplus"]
    minute.change(PurgedEvents, events=7, planned=7, occurrences=7)
    assert codes(audited(minute, NOON, NOON + seconds(61))) == ["purge_other"]
    (account,) = minute.rows(PurgedEvents)
    minute.change(PurgedEvents, instants=(account.instants + micros(NOON + seconds(30))) % MODULUS)
    assert audited(minute, NOON, NOON + seconds(61)).ok  # who writes all of it, and right, is not found


UNREADABLE: dict[str, dict[type[Base], list[tuple[dict[str, str], list[str]]]]] = {
    "postgresql": {
        Event: [
            ({"finished_at": "infinity"}, ["impossible"]),
            ({"due_at": "12000-01-01"}, ["unreadable", "missing"]),
            ({"recheck_at": "infinity", "status": "pending", "finished_at": ""}, ["impossible"]),
        ],
        TriggerChange: [({"effective_at": "-infinity"}, ["unreadable"])],
        PurgedEvents: [({"last_scheduled_for": "infinity"}, ["unreadable"])],
    },
    "sqlite": {
        Event: [
            ({"finished_at": "yesterday"}, ["impossible"]),
            ({"finished_at": "2026-11-20T12:00:20Z"}, ["impossible"]),
            ({"due_at": "soon"}, ["unreadable", "missing"]),
        ],
        TriggerChange: [
            ({"effective_at": "yesterday"}, ["unreadable"]),
            ({"schedule": "{"}, ["unreadable"]),
        ],
        Trigger: [({"policy": "none"}, ["unreadable"]), ({"anchor": "noon"}, ["unreadable"])],
        PurgedEvents: [({"month": "November"}, ["unreadable"])],
    },
}


@pytest.mark.parametrize("table", [Event, Trigger, TriggerChange, PurgedEvents])
def test_what_cannot_be_read_is_a_finding_and_hides_nothing_else(world: World, table: type[Base]) -> None:
    """What psycopg and Python refuse, and the database took from somebody's hand."""
    cases = UNREADABLE[world.database.engine.dialect.name].get(table, [])
    for number, (values, told) in enumerate(cases):
        name = f"t{number}"
        world.now = NOON
        world.create(name, target=HTTP)
        world.create(f"{name}-other", target=HTTP)
        world.tick(horizon=40)
        world.now = NOON + seconds(45)
        work(world)
        other, spoilt = world.trigger(f"{name}-other").id, world.trigger(name).id
        with world.database.write() as connection:
            unguard(connection)
            where = Event.trigger_id == other, Event.scheduled_for == NOON + seconds(10)
            connection.execute(delete(Event).where(*where))
            if table is PurgedEvents:
                row = {"status": "skipped", "events": 1, "occurrences": 0, "planned": 0, "instants": 0}
                row |= dict.fromkeys(("first_scheduled_for", "last_scheduled_for"), NOON)
                connection.execute(insert(PurgedEvents).values(trigger_id=spoilt, month=NOON.date(), **row))
            spoil(connection, table, spoilt, values)
        report = audited(world, NOON, NOON + seconds(41))
        found = {
            at_: [str(f.code) for f in report.findings if f.trigger_id == at_] for at_ in (other, spoilt)
        }
        assert found == {other: ["missing"], spoilt: told}, values
        assert report.triggers == 2
        with world.database.write() as connection:
            unguard(connection)
            for model in (Event, PurgedEvents, TriggerChange, Trigger):
                connection.execute(delete(model))


def spoil(connection: Connection, table: type[Base], trigger_id: str, values: dict[str, str]) -> None:
    """Write what the types of our columns would refuse into one row of a trigger."""
    key = "id" if table is Trigger else "trigger_id"
    row = f"{key} = '{trigger_id}'"
    if table is Event:
        row += " AND CAST(scheduled_for AS text) LIKE '%12:00:20%'"
    new = ", ".join(f"{column} = " + (f"'{value}'" if value else "NULL") for column, value in values.items())
    assert connection.execute(text(f"UPDATE {table.__tablename__} SET {new} WHERE {row}")).rowcount


def test_deleted_triggers_and_those_of_other_names_are_told_apart(world: World) -> None:
    world.create()
    world.tick(horizon=20)
    world.delete()
    world.create("t2")
    world.tick(horizon=20)
    world.now += seconds(5)
    report = audited(world)
    assert (report.triggers, report.ok) == (2, True)
    assert audited(world, trigger="t2").triggers == 1


def test_why_a_trigger_did_not_run_is_told_when_asked_for_it_alone(world: World) -> None:
    world.create(policy={"misfire": "skip"})
    with world.database.write() as connection:
        manage.pause(connection, "t", NOON + seconds(15))
        manage.resume(connection, "t", NOON + seconds(45))
    world.now += seconds(200)
    world.tick(horizon=0)
    report = audited(world, trigger="t")
    told = [(note.code, note.occurrences) for note in report.notes]
    assert told == [("paused", 2), ("misfire", 9), ("paused", 3)]
    assert audited(world).notes == []


def test_utc_is_what_is_told(minute: World) -> None:
    minute.change(Event, state="archived")
    finding = audited(minute).findings[0]
    assert finding.scheduled_for is not None
    assert finding.scheduled_for.astimezone(UTC) == NOON


# --------------------------------------------------------------------- what the log of changes must say


def test_an_edit_to_a_once_that_lies_back_ends_the_old_schedule_when_it_was_made(world: World) -> None:
    world.create(target=HTTP)
    world.tick(horizon=60)
    for offset in (0, 10, 20):
        world.now = NOON + seconds(offset)
        work(world)
    world.now = NOON + seconds(25)
    once = {"type": "once", "at": (NOON + seconds(5)).isoformat()}
    document = {"name": "t", "schedule": once, "target": HTTP}
    with world.database.write() as connection:
        edited = parse_trigger(document, test_tick.SETTINGS, world.now)
        manage.edit(connection, "t", edited, world.now)
    world.tick()
    work(world)
    assert world.offsets() == [0, 5, 10, 20]
    assert counts(audited(world, until=NOON + HOUR)) == {"expected": 4, "recorded": 4}


def test_a_once_that_lies_back_stands_beside_the_run_that_its_edit_caught_up_with(world: World) -> None:
    world.create(target=HTTP, policy={"misfire_grace_seconds": 5})
    world.now = NOON + seconds(300)
    once = {"type": "once", "at": (NOON + seconds(295)).isoformat()}
    with world.database.write() as connection:
        edited = parse_trigger({"name": "t", "schedule": once, "target": HTTP}, test_tick.SETTINGS, world.now)
        manage.edit(connection, "t", edited, world.now)
    world.tick()
    work(world)
    assert world.offsets() == [295, 300]
    assert counts(audited(world, until=NOON + HOUR)) == {"expected": 32, "recorded": 32}


def test_what_was_planned_ahead_of_a_trigger_that_is_set_aside_is_expected(world: World) -> None:
    world.create(target=HTTP)
    world.tick(horizon=30)
    test_tick.break_schedule(world, "t")
    world.now += seconds(20)
    world.tick(horizon=30)
    assert world.changes() == ["created", "set_aside"]
    for offset in (20, 30):
        world.now = NOON + seconds(offset)
        work(world)
    world.now = NOON + seconds(300)
    assert counts(audited(world)) == {"expected": 4, "recorded": 4}


def begin_two(world: World, **policy: Any) -> tuple[Any, Any, datetime]:
    """Attempts of noon and ten seconds later; and an instant noted between the two."""
    world.create(target=HTTP, policy=policy, retry={"max_attempts": 1})
    world.tick(horizon=30)
    (first,) = world.start()
    world.now = NOON + seconds(10)
    (second,) = world.start()
    return first, second, NOON + seconds(9.99)


def test_a_pause_after_failures_spares_what_began_while_it_waited_for_its_trigger(world: World) -> None:
    """The instant of a finish is read before the trigger's lock is had, for which it may wait."""
    first, second, noted = begin_two(world, pause_after_failures=1)
    world.now = noted
    world.finish(FAILED, first)
    world.now = NOON + seconds(10.5)
    world.finish(SUCCEEDED, second)
    assert world.changes() == ["created", "paused_after_failures"]
    assert counts(audited(world)) == {"expected": 2, "recorded": 2}


@pytest.mark.parametrize("verb", ["pause", "delete", "edit", "set aside and resumed"])
def test_what_starts_while_a_change_is_made_was_before_it(world: World, verb: str) -> None:
    """A start waits for no lock of the trigger: it may come between a change's clock and its commit."""
    first, second, noted = begin_two(world)
    document = {"name": "t", "schedule": every(7), "target": HTTP}
    if verb.startswith("set"):
        world.change(Trigger, state="paused", next_at=None)
    with world.database.write() as connection:
        match verb:
            case "edit":
                edited = parse_trigger(document, test_tick.SETTINGS, noted)
                manage.edit(connection, "t", edited, noted)
            case "pause":
                manage.pause(connection, "t", noted)
            case "delete":
                manage.delete(connection, "t", noted)
            case _:
                manage.resume(connection, "t", noted)
    world.now = NOON + seconds(13)
    world.finish(SUCCEEDED, first, second)
    expected = 3 if verb == "edit" else 2
    world.tick(horizon=1)
    assert counts(audited(world, until=NOON + seconds(15)))["expected"] == expected
    assert codes(audited(world)) == []


def test_what_waits_between_two_that_began_is_cancelled_and_not_dropped(world: World) -> None:
    world.create(target=HTTP)
    world.tick(horizon=30)
    world.now = NOON + seconds(20)
    first, _, third, _ = world.ids()
    jobs = world.start(first, third)
    with world.database.write() as connection:
        manage.pause(connection, "t", NOON + seconds(9.99))
    world.finish(SUCCEEDED, *jobs)
    assert [event.status for event in world.events()] == ["succeeded", "cancelled", "succeeded"]
    assert counts(audited(world, until=NOON + HOUR)) == {"expected": 3, "recorded": 3}


def test_all_is_read_as_of_one_instant(minute: World) -> None:
    """Retention, or a hand, may delete while the audit reads; here it does so right after the beginning."""
    other = minute.connect()

    def clock(_: object) -> datetime:
        with other.write() as connection:
            connection.execute(delete(Event))
        return minute.now

    reading = Database(minute.url, clock=clock)
    try:
        _, report = audit(
            reading, NOON, None, None, patience=PATIENCE, archive_after=AGES.active, tzdata=TZDATA
        )
    finally:
        reading.close()
    assert counts(report) == {"expected": 7, "recorded": 7}
    assert counts(audited(minute)) == {"expected": 7, "missing": 7}
