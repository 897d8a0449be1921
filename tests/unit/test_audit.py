"""The pure audit: good data gives no finding, and each planted defect is found for what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.account import sum_of
from triggers.audit.check import Check, check
from triggers.audit.purges import reach, stretches
from triggers.audit.records import (
    MOST_FINDINGS,
    Attempted,
    Change,
    Purged,
    Recorded,
    Report,
    Span,
    Subject,
)
from triggers.audit.timeline import END, Timeline
from triggers.rfc3339 import BEGINNING
from triggers.schedule import fire_at, parse

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
ID = "018f0000-0000-7000-8000-000000000001"
TZDATA = "2026b"
FAR = NOON + 100_000 * HOUR


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def at(number: float) -> datetime:
    return NOON + seconds(number)


def every(number: int = 10, **bounds: Any) -> dict[str, Any]:
    """An interval whose occurrences are noon, noon + number, ..."""
    return {"type": "interval", "every_seconds": number, "start_time": NOON.isoformat(), **bounds}


def cron(text: str, zone: str = "Europe/Berlin") -> dict[str, Any]:
    return {"type": "cron", "cron": text, "timezone": zone}


def change(
    kind: str = "created",
    when: datetime = NOON - INSTANT,
    schedule: dict[str, Any] | None = None,
    state: str = "active",
    **policy: Any,
) -> Change:
    text = json.dumps(schedule or every())
    return Change(kind, when, state, text, NOON, json.dumps({"overlap": "allow"} | policy), TZDATA)


def subject(*changes: Change, purged: Sequence[Purged] = (), **row: Any) -> Subject:
    """A trigger that is what its log says, and is planned for ever unless `row` says otherwise."""
    last = changes[-1]
    values: dict[str, Any] = {
        "id": ID,
        "name": "t",
        "state": last.state,
        "schedule": last.schedule,
        "anchor": last.anchor,
        "policy": last.policy,
        "planned_until": FAR,
        "deleted": last.change == "deleted",
    }
    return Subject(**(values | row), changes=changes, purged=purged)


def event(when: datetime, **values: Any) -> Recorded:
    """An event that succeeded at once."""
    instants = dict.fromkeys(("scheduled_for", "fire_at", "due_at"), when)
    started = dict.fromkeys(("started_at", "attempt_started_at", "finished_at"), when + seconds(0.01))
    usual: dict[str, Any] = {
        "id": f"e{(when - NOON).total_seconds():g}",
        "trigger_id": ID,
        "source": "schedule",
        "status": "succeeded",
        "state": "active",
        "reason": None,
        "attempt": 1,
        "coalesced": 1,
        "coalesced_from": None,
        "recheck_at": None,
        "lease_until": None,
    }
    return Recorded(**(usual | instants | started | values))


def unstarted(when: datetime, **values: Any) -> Recorded:
    """One that did not run: skipped, unless `values` say otherwise."""
    usual: dict[str, Any] = {"status": "skipped", "reason": "misfire", "attempt": 0}
    usual |= {"started_at": None, "attempt_started_at": None, "finished_at": when + HOUR}
    return event(when, **(usual | values))


def pending(when: datetime, **values: Any) -> Recorded:
    usual = {"status": "pending", "reason": None, "finished_at": None, "recheck_at": when + seconds(10)}
    return unstarted(when, **(usual | values))


def audit(
    one: Subject,
    events: Sequence[Recorded],
    since: float = 0,
    until: float = 60,
    now: datetime | None = None,
    explain: bool = False,
    others: frozenset[str] = frozenset(),
) -> Report:
    """The report on [since, until) seconds after noon, some hours later."""
    now = now or NOON + 6 * HOUR
    span = Span(at(since), at(until), now, seconds(150), 2 * HOUR, TZDATA, others)
    report = Report(explain)
    low, high = reach(one, span)
    ordered = sorted(events, key=lambda e: e.scheduled_for)
    inside = [e for e in ordered if low <= e.scheduled_for < high]
    later = [e for e in ordered if e.scheduled_for >= high and e.source in ("schedule", "catchup")]
    check(one, inside, span, report, lambda: later[0] if later else None)
    return report


def codes(report: Report) -> list[str]:
    return [str(finding.code) for finding in report.findings]


def counts(report: Report) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: count for name, count in report.document().items() if count}


CREATED = subject(change())
GOOD = [event(at(n)) for n in range(0, 60, 10)]


def without(*numbers: int) -> list[Recorded]:
    return [e for e in GOOD if e.scheduled_for not in {at(n) for n in numbers}]


def but(number: int, **values: Any) -> list[Recorded]:
    """Good events, one of which has other values."""
    return [e._replace(**values) if e.scheduled_for == at(number) else e for e in GOOD]


# ------------------------------------------------------------------------------------------ in order


def test_good_events_give_no_finding() -> None:
    report = audit(CREATED, GOOD)
    assert (counts(report), report.ok) == ({"expected": 6, "recorded": 6}, True)


def test_the_span_is_from_inclusive_to_exclusive() -> None:
    assert audit(CREATED, GOOD, 10, 30).expected == 2


def test_no_trigger_expects_nothing_before_its_creation_and_the_instant_itself() -> None:
    assert audit(CREATED, GOOD, -3600, 60).expected == 6


@pytest.mark.parametrize("jitter", [1, 60, 3600])
def test_jitter_moves_the_start_and_not_the_occurrence(jitter: int) -> None:
    one = subject(change(schedule=every(jitter_seconds=jitter)))
    spread = []
    for n in range(0, 60, 10):
        fires = fire_at(ID, at(n), jitter)
        spread.append(event(fires)._replace(scheduled_for=at(n)))
    assert counts(audit(one, spread)) == {"expected": 6, "recorded": 6}


def test_a_pause_at_parts_of_a_second_takes_out_what_lies_in_it() -> None:
    one = subject(
        change(),
        change("paused", at(20.000001), state="paused"),
        change("resumed", at(39.999999)),
    )
    report = audit(one, without(30), explain=True)
    assert counts(report) == {"expected": 5, "recorded": 5}
    assert [(n.code, n.occurrences) for n in report.notes] == [("paused", 1)]


def test_an_occurrence_at_the_instant_of_a_pause_or_a_resume_was_before_it() -> None:
    one = subject(change(), change("paused", at(20), state="paused"), change("resumed", at(40)))
    assert counts(audit(one, without(30, 40))) == {"expected": 4, "recorded": 4}


def test_max_runs_counts_over_pauses_and_anew_with_another_schedule() -> None:
    limited, other = every(max_runs=3), every(5, max_runs=2)
    one = subject(
        change(schedule=limited),
        change("paused", at(15), limited, "paused"),
        change("resumed", at(25), limited),
        change("edited", at(35), other),
        change("completed", at(46), other, "completed"),
    )
    events = [event(at(n)) for n in (0, 10, 30, 40, 45)]
    assert counts(audit(one, events)) == {"expected": 5, "recorded": 5}


def test_max_runs_goes_on_from_what_was_counted_by_the_rules_before_an_update_of_the_tz_database() -> None:
    limited = every(max_runs=5)
    moved = change("replanned", at(25), limited)._replace(planned_count=4)
    one = subject(change(schedule=limited), moved)
    assert counts(audit(one, GOOD[:4])) == {"expected": 4, "recorded": 4}
    one = subject(change(schedule=limited), moved._replace(change="resumed"))
    assert counts(audit(one, GOOD[:5])) == {"expected": 5, "recorded": 5}


def test_completion_ends_nothing() -> None:
    """A trigger may be completed before the instant of an event that was cancelled."""
    one = subject(
        change(schedule=every(max_runs=3)), change("completed", at(5), every(max_runs=3), "completed")
    )
    assert counts(audit(one, GOOD[:3])) == {"expected": 3, "recorded": 3}


def test_a_new_once_may_lie_back_a_little_and_share_its_instant_with_the_schedule_before() -> None:
    for number, expected in ((17, 4), (20, 3)):
        once = {"type": "once", "at": at(number).isoformat()}
        one = subject(
            change(), change("edited", at(25), once), change("completed", at(26), once, "completed")
        )
        events = [event(at(n)) for n in {0, 10, 20, number}]
        assert counts(audit(one, events)) == {"expected": expected, "recorded": expected}


def test_a_once_that_lies_back_has_its_place_beside_a_run_that_covers_its_instant() -> None:
    """The edit that made it caught up with the old schedule: its event covers what lies around."""
    for number in (15, 20):
        once = {"type": "once", "at": at(number).isoformat()}
        changes = (change(), change("edited", at(35), once), change("completed", at(36), once, "completed"))
        covering = event(at(30), source="catchup", coalesced=4, coalesced_from=at(0))
        own = event(at(number))
        report = audit(subject(*changes), [covering, own])
        assert counts(report) == {"expected": 5, "recorded": 5}
        doubled = audit(subject(*changes), [covering, own, own._replace(id="x")])
        assert counts(doubled) == {"expected": 5, "recorded": 5, "duplicate": 1}
    assert counts(audit(subject(*changes), [covering]))["recorded"] == 4


def test_a_once_that_lies_back_is_missed() -> None:
    once = {"type": "once", "at": at(15).isoformat()}
    for state, until, found in (("completed", at(14), "missing"), ("active", at(15), "missing"),
                                ("active", at(14), "not_planned")):  # fmt: skip
        one = subject(change(), change("edited", at(15.5), once, state), planned_until=until)
        changes = [one.changes[0], one.changes[1]._replace(state="active")]
        if state == "completed":
            changes.append(change("completed", at(16), once, "completed"))
        report = audit(one._replace(changes=changes), GOOD[:2])
        assert (codes(report), counts(report)["expected"]) == ([found], 3)
        assert report.findings[0].scheduled_for == at(15)
    gone = subject(
        change(), change("edited", at(15.5), once), planned_until=at(15), purged=[purged(10, 15, 2)]
    )
    assert counts(audit(gone, GOOD[:1])) == {"expected": 3, "recorded": 1, "purged": 2}


def test_runs_that_are_covered_belong_to_the_event_that_covers_them() -> None:
    covering = event(at(40), source="catchup", coalesced=4, coalesced_from=at(10))
    report = audit(CREATED, [event(at(0)), covering, event(at(50))], explain=True)
    assert counts(report) == {"expected": 6, "recorded": 6}
    assert [(n.code, n.occurrences, n.event) for n in report.notes] == [("coalesced", 3, "e40")]


def test_a_run_may_begin_before_the_span_and_end_after_it() -> None:
    covering = event(at(90), source="catchup", coalesced=10, coalesced_from=at(0))
    assert counts(audit(CREATED, [covering], 20, 60)) == {"expected": 4, "recorded": 4}
    assert counts(audit(CREATED, [covering], 60, 120, now=at(99))) == {
        "expected": 6, "recorded": 4, "missing": 2,
    }  # fmt: skip


def test_why_events_did_not_run_is_told() -> None:
    events = [
        unstarted(at(10), coalesced=2, coalesced_from=at(0)),
        unstarted(at(20), reason="overlap"),
        unstarted(at(30), reason="catchup_window"),
        unstarted(at(40), reason="paused", status="cancelled", finished_at=at(45)),
        unstarted(at(50), reason="deleted", status="cancelled", finished_at=at(55)),
    ]
    paused, resumed = change("paused", at(45), state="paused"), change("resumed", at(46))
    report = audit(subject(change(overlap="skip"), paused, resumed, change("deleted", at(55))), events)
    assert counts(report) == {"expected": 6, "recorded": 6}
    assert report.did_not_run == {
        "misfire": 2, "overlap": 1, "catchup_window": 1, "paused": 1, "deleted": 1,
    }  # fmt: skip


def test_what_no_tick_has_come_to_is_overdue_only_after_a_tick_and_a_horizon() -> None:
    behind = subject(change(), planned_until=at(25))
    assert counts(audit(behind, GOOD[:3], now=at(180))) == {"expected": 3, "recorded": 3}
    assert counts(audit(behind, GOOD[:3], now=at(180.1))) == {"expected": 4, "recorded": 3, "overdue": 1}
    late = audit(behind, GOOD[:3], now=at(1000))
    assert counts(late) == {"expected": 6, "recorded": 3, "overdue": 3}
    assert codes(late) == ["not_planned"] * 3


def test_what_is_planned_ahead_is_recorded_and_what_is_not_is_no_fault() -> None:
    ahead = subject(change(), planned_until=at(30))
    waiting = [pending(at(n)) for n in (10, 20, 30)]
    report = audit(ahead, [event(at(0)), *waiting], now=at(5))
    assert counts(report) == {"expected": 4, "recorded": 4, "unfinished": 3}


def test_an_event_of_the_plan_ahead_that_is_gone_is_missing_before_its_instant() -> None:
    ahead = subject(change(), planned_until=at(30))
    assert counts(audit(ahead, [event(at(0)), pending(at(10)), pending(at(30))], now=at(5)))["missing"] == 1


@pytest.mark.parametrize("state", ["active", "paused"])
def test_a_span_may_reach_from_the_first_instant_to_the_last(state: str) -> None:
    """What no tick has come to yet is not even computed: a cron schedule has billions until the year 9999."""
    asked: list[datetime] = []

    class Bounded(Timeline):
        def run(self, after: datetime, until: datetime) -> Any:
            asked.append(until)
            return super().run(after, until)

    minutely = cron("* * * * *")
    edited = change("edited", at(30), minutely, state)
    one = subject(change(schedule=minutely), edited, planned_until=at(59))
    span = Span(BEGINNING, END, at(70), seconds(150), 2 * HOUR, TZDATA)
    report = Report()
    judged = Check(one, span, report)
    judged.timeline = Bounded(one.changes, at(70))
    judged.check([event(at(0))], None)
    assert counts(report) == {"expected": 1, "recorded": 1}
    assert state == "paused" or max(asked) <= at(70)


def test_manual_events_stand_for_no_occurrence_and_backfilled_ones_serve_what_has_no_other() -> None:
    manual = event(at(3), source="manual")
    assert counts(audit(CREATED, [*GOOD, manual])) == {"expected": 6, "recorded": 6}
    for number in (20, 23):
        report = audit(CREATED, [*GOOD, event(at(number), source="backfill")])
        assert counts(report) == {"expected": 6, "recorded": 6}
    assert audit(CREATED, [*without(20), event(at(20), source="backfill")]).ok
    assert not audit(CREATED, [*without(20), event(at(20), source="manual")]).ok


def test_what_queues_behind_another_is_not_overdue_while_somebody_looks_at_it() -> None:
    queues = subject(change(overlap="queue"))
    for recheck, overdue in ((at(3500), 0), (at(3000), 1)):
        one = audit(queues, [*without(50), pending(at(50), recheck_at=recheck)], now=at(3600))
        assert (one.unfinished, one.document()["overdue"]) == (1, overdue)


def test_attempts_in_order_are_in_order() -> None:
    failed = [Attempted(1, at(20.01), at(20.02)), Attempted(2, at(30), at(31))]
    retried = {"attempt": 3, "attempt_started_at": at(40), "finished_at": at(40)}
    assert audit(CREATED, but(20, attempts=failed, **retried)).ok
    lost = {"status": "failed", "reason": "lost", "attempt": 2, "attempt_started_at": at(30)}
    assert audit(CREATED, but(20, attempts=failed, finished_at=at(31), **lost)).ok


# ------------------------------------------------------------------------------------- planted defects


def shifted(number: int, by: float) -> list[Recorded]:
    return [event(e.scheduled_for + seconds(by)) if e.scheduled_for == at(number) else e for e in GOOD]


def running(**values: Any) -> dict[str, Any]:
    usual = {"status": "running", "finished_at": None, "recheck_at": at(50), "lease_until": at(60)}
    return usual | values


PAUSED = subject(change(), change("paused", at(15), state="paused"), change("resumed", at(35)))
EDITED = subject(change(), change("edited", at(25), every(7)))
ATTEMPTS = [Attempted(1, at(20.01), at(20.02)), Attempted(2, at(30), at(31))]
THIRD = {"attempt": 3, "attempt_started_at": at(40), "finished_at": at(40)}
COVERING = event(at(40), source="catchup", coalesced=4, coalesced_from=at(10))


def covered(**values: Any) -> list[Recorded]:
    return [event(at(0)), COVERING._replace(**values), event(at(50))]


DEFECTS: dict[str, tuple[Subject, list[Recorded], dict[str, int], list[str]]] = {
    "an event dropped": (CREATED, without(20), {"missing": 1}, ["missing"]),
    "the first one dropped": (CREATED, without(0), {"missing": 1}, ["missing"]),
    "the last one dropped": (CREATED, without(50), {"missing": 1}, ["missing"]),
    "all dropped": (CREATED, [], {"missing": 6}, ["missing"] * 6),
    "doubled": (CREATED, [*GOOD, event(at(20), id="x")], {"duplicate": 1}, ["doubled"]),
    "tripled": (
        CREATED, [*GOOD, event(at(20), id="x"), event(at(20), id="y")], {"duplicate": 2}, ["doubled"] * 2,
    ),
    "shifted by a second": (
        CREATED, shifted(20, 1), {"missing": 1, "unexpected": 1}, ["missing", "not_in_schedule"],
    ),
    "shifted back by a microsecond": (
        CREATED, shifted(20, -1e-6), {"missing": 1, "unexpected": 1}, ["not_in_schedule", "missing"],
    ),
    "in a pause": (PAUSED, [*without(20, 30), event(at(20))], {"unexpected": 1}, ["paused"]),
    "missing at the edge of a pause": (PAUSED, without(10, 20, 30), {"missing": 1}, ["missing"]),
    "of the old schedule after an edit": (
        EDITED, [*GOOD[:4], *[event(at(n)) for n in (28, 35, 42, 49, 56)]],
        {"unexpected": 1}, ["other_schedule"],
    ),
    "of the new schedule before an edit": (
        EDITED, [*GOOD[:3], *[event(at(n)) for n in (14, 28, 35, 42, 49, 56)]],
        {"unexpected": 1}, ["other_schedule"],
    ),
    "of a deleted trigger": (
        subject(change(), change("deleted", at(35))), GOOD, {"unexpected": 2}, ["deleted"] * 2,
    ),
    "before the creation": (
        subject(change(when=at(15))), GOOD, {"unexpected": 2}, ["before_creation"] * 2,
    ),
    "more than max_runs": (
        subject(change(schedule=every(max_runs=4))), GOOD, {"unexpected": 2}, ["beyond_max_runs"] * 2,
    ),
    "after end_time": (
        subject(change(schedule=every(end_time=at(45).isoformat()))), GOOD,
        {"unexpected": 1}, ["after_end_time"],
    ),
    "before start_time": (
        subject(change(when=NOON - HOUR)), [event(at(-10)), *GOOD], {"unexpected": 1}, ["before_start_time"],
    ),
    "of a manual trigger": (
        subject(change(schedule={"type": "manual"})), GOOD[:1], {"unexpected": 1}, ["manual"],
    ),
    "of a trigger that was set aside": (
        subject(change(), change("set_aside", at(45), state="paused")), GOOD,
        {"unexpected": 1}, ["set_aside"],
    ),
    "jitter that is not its own": (
        subject(change(schedule=every(3600, jitter_seconds=60))),
        [event(at(5))._replace(scheduled_for=at(0))],
        {"unexpected": 1}, ["jitter"],
    ),
    "jitter where there is none": (
        CREATED, but(20, fire_at=at(20.5), due_at=at(20.5), started_at=at(21), attempt_started_at=at(21),
                     finished_at=at(21)),
        {"unexpected": 1}, ["jitter"],
    ),
    "success without a delivery": (
        CREATED, but(20, attempt=0, started_at=None, attempt_started_at=None),
        {"unexpected": 1}, ["no_delivery"],
    ),
    "two attempts at once": (
        CREATED, but(20, attempts=[ATTEMPTS[0]._replace(finished_at=at(30.5)), ATTEMPTS[1]], **THIRD),
        {"unexpected": 1}, ["attempts_overlap"],
    ),
    "the last attempt before the one before it ended": (
        CREATED, but(20, attempts=ATTEMPTS, **(THIRD | {"attempt_started_at": at(30.9)})),
        {"unexpected": 1}, ["attempts_overlap"],
    ),
    "attempt numbers with a hole": (
        CREATED, but(20, attempts=ATTEMPTS[:1], **THIRD), {"unexpected": 1}, ["attempts_incomplete"],
    ),
    "a failure that was made a success": (
        CREATED, but(20, attempts=[Attempted(1, at(20.01), at(20.02))]),
        {"unexpected": 1}, ["attempts_incomplete"],
    ),
    "a failure without its attempt": (
        CREATED, but(20, status="failed", reason="attempts"), {"unexpected": 1}, ["attempts_incomplete"],
    ),
    "archived too early": (
        CREATED, but(20, state="archived", finished_at=at(6 * 3600 - 7199)),
        {"unexpected": 1}, ["archived_early"],
    ),
    "started before its instant": (
        CREATED, but(20, started_at=at(19.99), attempt_started_at=at(19.99)),
        {"unexpected": 1}, ["started_early"],
    ),
    "finished before it started": (
        CREATED, but(20, finished_at=at(20)), {"unexpected": 1}, ["finished_early"],
    ),
    "finished in the future": (
        CREATED, but(20, finished_at=at(7 * 3600)), {"unexpected": 1}, ["in_the_future"],
    ),
    "running, its lease long over": (
        CREATED, but(20, **running()), {"overdue": 1, "unfinished": 1}, ["lease_over"],
    ),
    "pending long after its instant": (
        CREATED, [*without(20), pending(at(20))], {"overdue": 1, "unfinished": 1}, ["not_started"],
    ),
    "a count that does not match its run": (
        CREATED, covered(coalesced=3), {"unexpected": 1}, ["coalesced_count"],
    ),
    "coalesced_from that is no occurrence": (
        CREATED, covered(coalesced_from=at(9)), {"unexpected": 1}, ["coalesced_from"],
    ),
    "coalesced_from too late": (
        CREATED, covered(coalesced_from=at(20)), {"missing": 1, "unexpected": 1},
        ["missing", "coalesced_count"],
    ),
    "a run covered twice": (
        CREATED, [*covered()[:2], event(at(50), coalesced=5, coalesced_from=at(10))],
        {"duplicate": 1}, ["covered_twice"],
    ),
    "a run that reaches into a single event": (
        CREATED, [event(at(0)), event(at(10)), COVERING, event(at(50))], {"duplicate": 1}, ["covered_twice"],
    ),
    "no such status": (CREATED, but(20, status="done"), {"unexpected": 1}, ["impossible"]),
    "pending and archived": (
        CREATED, [*without(50), pending(at(50), state="archived", due_at=at(21590))],
        {"unexpected": 1, "unfinished": 1}, ["impossible"],
    ),
    "skipped after a start": (
        CREATED, but(20, status="skipped", reason="misfire", attempts=[Attempted(1, at(20.01), at(20.02))]),
        {"unexpected": 1}, ["impossible"],
    ),
    "final and waiting": (CREATED, but(20, recheck_at=at(99)), {"unexpected": 1}, ["impossible"]),
    "failed for no reason": (
        CREATED, but(20, status="failed", attempts=[Attempted(1, at(20.01), at(20.01))]),
        {"unexpected": 1}, ["impossible"],
    ),
    "succeeded for a reason": (CREATED, but(20, reason="lost"), {"unexpected": 1}, ["impossible"]),
    "skipped for a reason of failures": (
        CREATED, [*without(20), unstarted(at(20), reason="attempts")], {"unexpected": 1}, ["impossible"],
    ),
    "a success that was made a skip for overlap": (
        CREATED, [*without(20), unstarted(at(20), reason="overlap")], {"unexpected": 1}, ["no_reason"],
    ),
    "a success that was made a misfire": (
        subject(change(misfire="skip", misfire_grace_seconds=60)),
        [*without(20), unstarted(at(20), finished_at=at(80))], {"unexpected": 1}, ["no_reason"],
    ),
    "a misfire where all fire": (
        subject(change(misfire="fire_all")), [*without(20), unstarted(at(20))],
        {"unexpected": 1}, ["no_reason"],
    ),
    "too old within the catch-up window": (
        subject(change(catchup_window_seconds=3601)),
        [*without(20), unstarted(at(20), reason="catchup_window")], {"unexpected": 1}, ["no_reason"],
    ),
    "cancelled by a pause that was not then": (
        subject(change(), change("paused", at(65), state="paused")),
        [*without(20), unstarted(at(20), status="cancelled", reason="paused", finished_at=at(64))],
        {"unexpected": 1}, ["no_reason"],
    ),
    "cancelled by a deletion that was not": (
        CREATED, [*without(20), unstarted(at(20), status="cancelled", reason="deleted")],
        {"unexpected": 1}, ["no_reason"],
    ),
    "started, and its attempt was not": (
        CREATED, but(20, attempt_started_at=None), {"unexpected": 1}, ["impossible"],
    ),
    "more attempts than there is memory for": (
        CREATED, but(20, attempt=2**31 - 1), {"unexpected": 1}, ["attempts_incomplete"],
    ),
    "pending, and due at the end of time": (
        CREATED, [*without(50), pending(at(50), due_at=END, attempt=3)],
        {"unexpected": 1, "unfinished": 1}, ["impossible"],
    ),
    "a run since the beginning of time": (
        CREATED, covered(coalesced_from=BEGINNING),
        {"duplicate": 1, "unexpected": 1}, ["covered_twice", "coalesced_from", "coalesced_count"],
    ),
    "a state that its log does not know": (
        subject(change(), state="paused"), GOOD, {"unexpected": 1}, ["not_on_record"],
    ),
    "another schedule than its log has": (
        subject(change(), schedule=json.dumps(every(11))), GOOD, {"unexpected": 1}, ["not_on_record"],
    ),
    "a log without its beginning": (
        subject(change("resumed")), GOOD, {"unexpected": 1}, ["log_broken"],
    ),
    "a log that goes on after the end": (
        subject(change(), change("deleted", at(70)), change("resumed", at(80))), GOOD,
        {"unexpected": 1}, ["log_broken"],
    ),
    "a schedule that cannot be read": (
        subject(change(schedule=cron("* * * * *", "Moon/Base"))), [event(at(0))],
        {"unexpected": 1}, ["unreadable"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    one, events, expected, told = DEFECTS[name]
    report = audit(one, events, since=-60)
    found = {kind: count for kind, count in counts(report).items() if kind not in ("expected", "recorded")}
    assert (found, codes(report)) == (expected, told)
    assert not report.ok
    assert all(finding.trigger == "t" and finding.text for finding in report.findings)
    overdue = report.document()["overdue"] - report.unfinished
    assert report.expected == report.recorded + report.purged + report.document()["missing"] + max(0, overdue)


# ---------------------------------------------------------------------------------- nights of the year


def nights(schedule: dict[str, Any], since: datetime) -> tuple[Subject, list[Recorded]]:
    """A trigger made at midnight, and its events of six hours."""
    known = parse(schedule, None)
    one = subject(change(when=since - INSTANT, schedule=schedule))
    events, instant = [], since - INSTANT
    while (following := known.after(instant)) is not None and following < since + 6 * HOUR:
        events.append(event(following, id=following.isoformat()))
        instant = following
    return one, events


def night(one: Subject, events: list[Recorded], since: datetime) -> Report:
    offset = (since - NOON).total_seconds()
    return audit(one, events, offset, offset + 6 * 3600, now=since + 20 * HOUR)


AUTUMN = datetime(2026, 10, 24, 22, tzinfo=UTC)
SPRING = datetime(2027, 3, 27, 23, tzinfo=UTC)


def test_an_hour_that_clocks_repeat_and_that_was_run_twice_is_found() -> None:
    one, events = nights(cron("30 2 * * *"), AUTUMN)
    assert night(one, events, AUTUMN).ok
    report = night(one, [*events, event(datetime(2026, 10, 25, 1, 30, tzinfo=UTC), id="second")], AUTUMN)
    assert (codes(report), report.document()["unexpected"]) == (["clock_change"], 1)


def test_an_hour_that_clocks_skip_and_that_was_lost_is_found() -> None:
    one, events = nights(cron("30 2 * * *"), SPRING)
    assert [e.scheduled_for.hour for e in events] == [1]  # right after the gap
    assert night(one, events, SPRING).ok
    report = night(one, [], SPRING)
    assert (codes(report), report.findings[0].scheduled_for) == (["missing"], events[0].scheduled_for)


def test_a_finding_says_when_the_rules_of_its_zone_may_have_changed() -> None:
    one, _ = nights(cron("30 2 * * *"), AUTUMN)
    old = one.changes[0]._replace(tzdata="2019a")
    for changes, doubted in ((one.changes, False), ([old], True)):
        report = night(one._replace(changes=changes), [], AUTUMN)
        assert ("2019a" in report.findings[0].text) is doubted
    offset = (AUTUMN - NOON).total_seconds()
    report = audit(one, [], offset, offset + 6 * 3600, AUTUMN + 9 * HOUR, others=frozenset({"2025a"}))
    assert "2025a, too: the rules of Europe/Berlin may have changed" in report.findings[0].text
    utc = nights(cron("30 2 * * *", "UTC"), AUTUMN)[0]
    report = audit(utc, [], offset, offset + 6 * 3600, AUTUMN + 9 * HOUR, others=frozenset({"2025a"}))
    assert "2025a" not in report.findings[0].text


# --------------------------------------------------------------------------------------------- purged


def purged(first: float, last: float, occurrences: int, **values: Any) -> Purged:
    """A line of the account; it has no sums, as of events of which one stood for many, unless `values` do."""
    line = Purged(date(2026, 11, 1), "succeeded", occurrences, min(occurrences, 1), 0, at(first), at(last))
    return line._replace(**values)


def summed(*numbers: int) -> Purged:
    """The account of events that stood for one occurrence each, at these seconds after noon."""
    values = {"planned": len(numbers), "instants": sum_of(map(at, numbers))}
    return purged(min(numbers), max(numbers), len(numbers), **values)


def test_what_was_purged_is_accounted_for_and_not_missing() -> None:
    one = subject(change(), purged=[purged(0, 20, 3)])
    report = audit(one, without(0, 10, 20))
    assert counts(report) == {"expected": 6, "recorded": 3, "purged": 3}


def test_an_event_that_was_deleted_by_hand_among_purged_ones_is_missed_by_count() -> None:
    one = subject(change(), purged=[purged(0, 40, 3)])
    report = audit(one, without(0, 10, 20, 40))
    assert counts(report) == {"expected": 6, "recorded": 2, "purged": 3, "missing": 1}
    assert codes(report) == ["purge_short"]


def test_the_account_is_held_against_the_whole_stretch_whatever_the_span() -> None:
    one = subject(change(), purged=[purged(0, 40, 3)])
    assert counts(audit(one, without(0, 10, 20, 40), 10, 30)) == {"expected": 2, "purged": 1, "missing": 1}
    assert counts(audit(one, without(0, 10, 40), 10, 30)) == {"expected": 2, "recorded": 1, "purged": 1}


@pytest.mark.parametrize("schedule", [every(), cron("* * * * *", "UTC")])
def test_the_one_that_was_deleted_by_hand_among_purged_ones_is_told_by_its_instant(
    schedule: dict[str, Any],
) -> None:
    step = 10 if schedule["type"] == "interval" else 60
    purged_ = summed(*(n * step for n in (0, 1, 3, 4)))
    one = subject(change(schedule=schedule), purged=[purged_])
    kept = [event(at(5 * step))]
    report = audit(one, kept, 0, 6 * step)
    assert counts(report) == {"expected": 6, "recorded": 1, "purged": 4, "missing": 1}
    assert (codes(report), report.findings[0].scheduled_for) == (["missing"], at(2 * step))
    assert counts(audit(one, kept, 0, 2 * step)) == {"expected": 2, "purged": 2}
    assert counts(audit(one, kept, 2 * step, 3 * step)) == {"expected": 1, "missing": 1}


def test_sums_differ_when_another_was_purged_than_is_gone() -> None:
    one = subject(change(), purged=[summed(0, 10, 30)])
    assert audit(one, without(0, 10, 30)).ok
    assert codes(audit(one, without(0, 20, 30))) == ["purge_other"]
    assert codes(audit(one, without(0, 10, 20, 30, 40))) == ["missing"] * 2  # one of them behind the stretch
    assert codes(audit(one, without(0, 30))) == ["purge_surplus"]


def test_sums_that_point_nowhere_tell_no_instant() -> None:
    account = summed(0, 10, 40)._replace(instants=17)
    report = audit(subject(change(), purged=[account]), without(0, 10, 20, 40))
    assert (codes(report), counts(report)["missing"]) == (["purge_short"], 1)


def test_what_lies_behind_the_last_purged_event_is_missing_for_certain() -> None:
    one = subject(change(), purged=[purged(0, 20, 3)])
    report = audit(one, without(0, 10, 20, 40))
    assert (codes(report), report.findings[0].scheduled_for) == (["missing"], at(40))


def test_an_account_of_more_than_has_no_event_is_found() -> None:
    """As of one who made room in it for an event that is to be deleted later."""
    one = subject(change(), purged=[purged(0, 20, 4)])
    assert codes(audit(one, without(0, 10, 20))) == ["purge_surplus"]


def test_fates_and_months_add_up_and_a_run_over_the_end_of_a_month_joins_them() -> None:
    lines = [
        purged(0, 100, 5),
        purged(30, 50, 1, status="failed"),
        purged(90, 200, 4, month=date(2026, 12, 1)),
        purged(300, 300, 0, month=date(2027, 1, 1)),
    ]
    (only,) = stretches(lines)
    assert (only.first, only.last, only.occurrences) == (at(0), at(200), 10)


# -------------------------------------------------------------------------------------------- bounded


def test_findings_are_bounded_and_all_are_counted() -> None:
    """A second's interval, a year without events: nobody waits, and nobody reads 31 million lines."""
    one = subject(change(schedule=every(1)), planned_until=at(10**9))
    report = audit(one, [], 0, 31_536_000, now=at(10**9))
    assert report.document()["missing"] == report.expected == 31_536_000
    assert (len(report.findings), report.left_out) == (MOST_FINDINGS, 31_536_000 - MOST_FINDINGS)


# ----------------------------------------------------------------------------------------- by the dozen


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_dropping_any_events_is_missed_one_by_one(data: st.DataObject) -> None:
    """Over pauses, edits and limits: what the timeline calls for, less some of it."""
    kinds: list[Callable[[datetime], Change]] = [
        lambda when: change("paused", when, state="paused"),
        lambda when: change("resumed", when),
        lambda when: change("edited", when, every(7, max_runs=5)),
        lambda when: change("edited", when, every(13, end_time=at(300).isoformat())),
        lambda when: change("edited", when, cron("*/2 * * * *", "UTC")),
        lambda when: change("completed", when, state="completed"),
    ]
    moments = sorted(data.draw(st.lists(st.floats(1, 500), max_size=8)))
    changes = [change(), *[data.draw(st.sampled_from(kinds))(at(moment)) for moment in moments]]
    run, instants = Timeline(changes, FAR), []
    instant = NOON - INSTANT
    while (following := run.after(instant)) is not None and following < at(600):
        instants.append(following)
        instant = following
    assert audit(subject(*changes), [event(i) for i in instants], -60, 600).ok
    kept = [i for i in instants if data.draw(st.booleans())]
    report = audit(subject(*changes), [event(i) for i in kept], -60, 600)
    assert report.document()["missing"] == len(instants) - len(kept)
    assert [f.scheduled_for for f in report.findings] == [i for i in instants if i not in kept][
        :MOST_FINDINGS
    ]
    assert counts(report).keys() <= {"expected", "recorded", "missing"}
