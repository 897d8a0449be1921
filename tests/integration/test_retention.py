"""`update_event_states` on both databases: archived, accounted for, deleted; nothing that is unfinished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert

from models import Attempt, Event, IdempotencyKey, PurgedEvents
from models.account import sum_of
from models.base import new_id
from models.database import Database
from tests.integration import test_tick
from tests.integration.test_tick import NOON, World, at_once, seconds
from triggers import retention
from triggers.retention import Ages, update_event_states

reused_postgres_url = test_tick.reused_postgres_url
emptied_postgres_url = test_tick.emptied_postgres_url
world = test_tick.world

HOUR = timedelta(hours=1)
AGES = Ages(active=2 * HOUR, archived=48 * HOUR, failed=720 * HOUR)
INSTANT = timedelta(microseconds=1)
ATTEMPTED = {"attempt": 1, "started_at": NOON, "attempt_started_at": NOON}
FATES: dict[str, dict[str, Any]] = {
    "succeeded": {"status": "succeeded", **ATTEMPTED},
    "failed": {"status": "failed", "reason": "attempts", **ATTEMPTED},
    "skipped": {"status": "skipped", "reason": "misfire"},
    "cancelled": {"status": "cancelled", "reason": "paused"},
}
KEPT_BRIEFLY = ["succeeded", "skipped", "cancelled"]


def final(trigger_id: str, fate: str = "succeeded", at: datetime = NOON, **changed: Any) -> dict[str, Any]:
    """A row of an event that was planned for noon and finished `at`."""
    return {
        "id": new_id(NOON),
        "trigger_id": trigger_id,
        **dict.fromkeys(("scheduled_for", "fire_at", "due_at", "created_at"), NOON),
        "source": "backfill",
        "state": "active",
        "finished_at": at,
        **FATES[fate],
        **changed,
    }


def planned_for(instant: datetime, **changed: Any) -> dict[str, Any]:
    """What differs in an event of another occurrence."""
    instants = dict.fromkeys(("scheduled_for", "fire_at", "due_at"), instant)
    return {**instants, "source": "schedule", "attempt": 0, "started_at": None, **changed}


def store(world: World, *rows: dict[str, Any]) -> list[str]:
    with world.database.write() as connection:
        for row in rows:
            connection.execute(insert(Event).values(**row))
    return [row["id"] for row in rows]


def clean(world: World, after: timedelta, batch: int = retention.BATCH) -> dict[str, int]:
    """One pass, so long after noon."""
    world.now = NOON + after
    return update_event_states(world.database, AGES, batch)


def states(world: World) -> list[str]:
    return [event.state for event in world.events()]


@pytest.fixture
def trigger_id(world: World) -> str:
    return world.create("t", {"type": "manual"})


# ----------------------------------------------------------------------------------------- archived


@pytest.mark.parametrize("fate", FATES)
def test_a_finished_event_is_archived_when_it_is_old_enough(world: World, trigger_id: str, fate: str) -> None:
    store(world, final(trigger_id, fate))
    assert clean(world, 2 * HOUR)["archived"] == 0
    assert states(world) == ["active"]
    assert clean(world, 2 * HOUR + INSTANT)["archived"] == 1
    assert states(world) == ["archived"]


def test_ages_count_from_the_end_of_an_event(world: World, trigger_id: str) -> None:
    """Neither its instant nor its start: one that was retried for days is kept as long as any other."""
    store(world, final(trigger_id, at=NOON + 100 * HOUR))
    clean(world, 102 * HOUR)
    assert states(world) == ["active"]
    clean(world, 103 * HOUR)
    assert states(world) == ["archived"]
    clean(world, 148 * HOUR)
    assert states(world) == ["archived"]
    clean(world, 148 * HOUR + INSTANT)
    assert states(world) == []


def test_archiving_changes_nothing_but_the_state(world: World, trigger_id: str) -> None:
    store(world, final(trigger_id, "failed", error={"type": "E", "message": "m"}, result={"status": 500}))
    before = world.event()._asdict()
    clean(world, 3 * HOUR)
    assert world.event()._asdict() == before | {"state": "archived"}


# ---------------------------------------------------------------------------------------- unfinished


def unfinished(trigger_id: str) -> list[dict[str, Any]]:
    """One of each kind, all from noon."""
    rows = [final(trigger_id, at=NOON) for _ in range(3)]
    for row in rows:
        row |= {"status": "pending", "finished_at": None, "recheck_at": NOON}
    rows[0] |= {"attempt": 0, "started_at": None, "attempt_started_at": None}
    rows[2] |= {"status": "running", "lease_until": NOON}
    return rows


def test_nothing_unfinished_is_ever_touched(world: World, trigger_id: str) -> None:
    store(world, *unfinished(trigger_id))
    before = world.events()
    for days in (1, 100, 10_000):
        made = clean(world, timedelta(days=days))
        assert made == {"archived": 0, "deleted": 0, "keys_forgotten": 0}
    assert world.events() == before
    assert world.rows(PurgedEvents) == []


# ------------------------------------------------------------------------------------------ deleted


@pytest.mark.parametrize("fate", KEPT_BRIEFLY)
def test_an_archived_event_is_deleted_when_it_is_old_enough(world: World, trigger_id: str, fate: str) -> None:
    store(world, final(trigger_id, fate))
    clean(world, 48 * HOUR)
    assert states(world) == ["archived"]
    assert clean(world, 48 * HOUR + INSTANT)["deleted"] == 1
    assert states(world) == []


def test_a_failed_event_is_kept_longer(world: World, trigger_id: str) -> None:
    store(world, final(trigger_id, "failed"))
    clean(world, 720 * HOUR)
    assert states(world) == ["archived"]
    assert clean(world, 720 * HOUR + INSTANT)["deleted"] == 1
    assert states(world) == []


def test_an_event_is_archived_and_deleted_in_one_pass_when_none_ran_for_long(
    world: World, trigger_id: str
) -> None:
    store(world, *(final(trigger_id, fate) for fate in FATES))
    made = clean(world, 1000 * HOUR)
    assert (made["archived"], made["deleted"]) == (4, 4)
    assert world.events() == []


def test_what_is_active_is_never_deleted(world: World, trigger_id: str) -> None:
    """Also when an archived event would be deleted before an active one is archived."""
    store(world, final(trigger_id))
    world.now = NOON + 3 * HOUR
    made = update_event_states(world.database, Ages(active=4 * HOUR, archived=HOUR, failed=HOUR))
    assert (made["archived"], made["deleted"], states(world)) == (0, 0, ["active"])


def test_attempts_go_with_their_event(world: World, trigger_id: str) -> None:
    gone, kept = store(world, final(trigger_id), final(trigger_id, "failed"))
    with world.database.write() as connection:
        for event_id in (gone, kept):
            values = {"attempt": 1, "started_at": NOON, "finished_at": NOON, "outcome": "failed"}
            connection.execute(insert(Attempt).values(event_id=event_id, **values))
    clean(world, 49 * HOUR)
    assert [row.event_id for row in world.rows(Attempt)] == [kept]


# ------------------------------------------------------------------------------------------- batches


@pytest.fixture
def transactions(world: World) -> Iterator[list[int]]:
    """How many events each committed transaction archived or deleted."""
    sizes: list[int] = []
    current: list[int] = []

    def executed(
        connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if statement.strip().startswith(("UPDATE events", "DELETE FROM events")):
            current.append(cursor.rowcount)

    def committed(connection: Connection) -> None:
        sizes.extend(current)
        current.clear()

    engine = world.database.engine
    event.listen(engine, "after_cursor_execute", executed)
    event.listen(engine, "commit", committed)
    yield sizes
    event.remove(engine, "after_cursor_execute", executed)
    event.remove(engine, "commit", committed)


@pytest.mark.parametrize("events", [9, 10])
def test_no_transaction_touches_more_than_a_batch(
    world: World, trigger_id: str, transactions: list[int], events: int
) -> None:
    store(world, *(final(trigger_id) for _ in range(events)))
    made = clean(world, 49 * HOUR, batch=5)
    assert (made["archived"], made["deleted"]) == (events, events)
    assert sum(transactions) == 2 * events
    assert max(transactions) == 5
    assert world.events() == []


# ------------------------------------------------------------------------------------------- account


def account(world: World) -> list[tuple[Any, ...]]:
    return [(row.month, row.status, row.events, row.occurrences) for row in world.rows(PurgedEvents)]


def test_what_is_deleted_is_summed_up_by_month_and_fate(world: World, trigger_id: str) -> None:
    december = datetime(2026, 12, 1, tzinfo=UTC)
    store(
        world,
        final(trigger_id, **planned_for(NOON, status="skipped", reason="misfire", attempt_started_at=None)),
        final(trigger_id, "skipped", **planned_for(december - INSTANT)),
        final(trigger_id, "skipped", **planned_for(december)),
        final(trigger_id, "cancelled", **planned_for(december + HOUR)),
    )
    clean(world, 1000 * HOUR)
    assert account(world) == [
        (date(2026, 11, 1), "skipped", 2, 2),
        (date(2026, 12, 1), "cancelled", 1, 1),
        (date(2026, 12, 1), "skipped", 1, 1),
    ]


def test_a_covered_occurrence_counts_and_an_event_of_no_schedule_does_not(
    world: World, trigger_id: str
) -> None:
    covering: dict[str, Any] = {"coalesced": 5, "coalesced_from": NOON - HOUR}
    store(
        world,
        final(trigger_id, "skipped", source="schedule", **covering),
        final(trigger_id, "skipped", source="manual"),
        final(trigger_id, "skipped", source="backfill"),
    )
    clean(world, 1000 * HOUR)
    (row,) = world.rows(PurgedEvents)
    assert (row.events, row.occurrences, row.planned) == (3, 5, 1)
    assert row.instants == sum_of([NOON])
    assert (row.first_scheduled_for, row.last_scheduled_for) == (NOON - HOUR, NOON)


def test_the_account_grows_over_batches_and_passes(world: World, trigger_id: str) -> None:
    for number in range(12):
        at = NOON + seconds(number)
        store(world, final(trigger_id, "skipped", at=at, **planned_for(at)))
    clean(world, 48 * HOUR + seconds(6), batch=2)
    (row,) = world.rows(PurgedEvents)
    assert (row.events, row.last_scheduled_for) == (6, NOON + seconds(5))
    clean(world, 49 * HOUR, batch=5)
    (row,) = world.rows(PurgedEvents)
    assert (row.events, row.occurrences, row.planned) == (12, 12, 12)
    assert row.instants == sum_of(NOON + seconds(number) for number in range(12))
    assert (row.first_scheduled_for, row.last_scheduled_for) == (NOON, NOON + seconds(11))


def test_the_account_reaches_back_when_older_events_go_later(world: World, trigger_id: str) -> None:
    late, soon = NOON, NOON + HOUR
    store(world, final(trigger_id, "skipped", at=soon, **planned_for(soon)))
    store(world, final(trigger_id, "skipped", at=soon + HOUR, **planned_for(late)))
    clean(world, 49 * HOUR + INSTANT)
    clean(world, 60 * HOUR)
    (row,) = world.rows(PurgedEvents)
    assert (row.events, row.first_scheduled_for, row.last_scheduled_for) == (2, late, soon)


def test_each_trigger_has_an_account_of_its_own(world: World) -> None:
    ids = [world.create(f"t{number}", {"type": "manual"}) for number in range(3)]
    store(world, *(final(ids[number % 3], source="manual") for number in range(10)))
    clean(world, 1000 * HOUR, batch=4)
    assert {row.trigger_id: row.events for row in world.rows(PurgedEvents)} == dict(
        zip(ids, [4, 3, 3], strict=True)
    )


# -------------------------------------------------------------------------------------- last fired


def test_when_a_trigger_last_fired_outlives_its_events(world: World, trigger_id: str) -> None:
    store(world, final(trigger_id), final(trigger_id, started_at=NOON + seconds(7)))
    clean(world, 49 * HOUR, batch=1)
    assert world.events() == []
    assert world.trigger().last_fired_at == NOON + seconds(7)


def test_when_a_trigger_last_fired_never_moves_back(world: World, trigger_id: str) -> None:
    store(world, final(trigger_id, started_at=NOON + HOUR))
    clean(world, 49 * HOUR)
    store(world, final(trigger_id, "failed"))
    clean(world, 1000 * HOUR)
    assert world.trigger().last_fired_at == NOON + HOUR


def test_what_never_started_is_no_firing(world: World, trigger_id: str) -> None:
    store(world, final(trigger_id, "skipped"))
    clean(world, 49 * HOUR)
    assert world.trigger().last_fired_at is None


# ---------------------------------------------------------------------------------------------- keys


def test_idempotency_keys_are_forgotten_after_a_day(world: World, trigger_id: str) -> None:
    with world.database.write() as connection:
        for number in range(5):
            values = {"key": f"k{number}", "body_digest": "d", "trigger_id": trigger_id}
            connection.execute(insert(IdempotencyKey).values(created_at=NOON + number * HOUR, **values))
    assert clean(world, 24 * HOUR)["keys_forgotten"] == 0
    assert clean(world, 26 * HOUR + INSTANT, batch=2)["keys_forgotten"] == 3
    assert [row.key for row in world.rows(IdempotencyKey)] == ["k3", "k4"]


# ------------------------------------------------------------------------------------------- at once


def test_several_at_once_count_each_event_once(world: World) -> None:
    ids = [world.create(f"t{number}", {"type": "manual"}) for number in range(4)]
    for number in range(60):
        fate = list(FATES)[number % 4]
        at = NOON + seconds(number)
        store(world, final(ids[number % 3], fate, at=at))
    world.now = NOON + 1000 * HOUR
    competitors = [world.connect() for _ in range(3)]

    def compete(database: Database) -> dict[str, int]:
        return update_event_states(database, AGES, batch=4)

    made = at_once(*(lambda database=database: compete(database) for database in competitors))
    left = len(world.events())
    assert sum(one["archived"] for one in made) == 60
    assert sum(one["deleted"] for one in made) == 60 - left
    assert clean(world, 1000 * HOUR)["deleted"] == left
    counts = Counter[str]()
    for row in world.rows(PurgedEvents):
        counts[row.status] += row.events
    assert counts == dict.fromkeys(FATES, 15)


def test_a_second_pass_finds_nothing(world: World, trigger_id: str) -> None:
    store(world, *(final(trigger_id, fate) for fate in FATES))
    clean(world, 3 * HOUR)
    assert clean(world, 3 * HOUR) == {"archived": 0, "deleted": 0, "keys_forgotten": 0}
