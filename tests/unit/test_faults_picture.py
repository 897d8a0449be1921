"""The picture of a run shows what there is to see."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from xml.etree import ElementTree

from tests.faults.exposure import look
from tests.faults.judge import Violation
from tests.faults.picture import BEYOND, COLOURS, FAULT, RECOVERING, Bar, Fate, Mark, draw, row_of
from tests.faults.workload import Creates, slowest

BEGAN = datetime(2026, 11, 20, 9, tzinfo=UTC)


class Row(NamedTuple):
    """An event as the picture reads it."""

    id: str = "e"
    name: str = "fresh-1"
    status: str = "succeeded"
    attempt: int = 1
    fire_at: datetime = BEGAN
    started_at: datetime | None = BEGAN


def fates(*rows: Row, violations: tuple[Violation, ...] = ()) -> list[Fate]:
    return [mark.fate for mark in look(rows, violations, BEGAN)]


def test_what_is_late_or_again_is_told_from_what_was_ordered() -> None:
    late = BEGAN + timedelta(seconds=1.1)
    assert fates(Row(), Row(started_at=BEGAN + timedelta(seconds=1))) == [Fate.KEPT, Fate.KEPT]
    assert fates(Row(started_at=late), Row(attempt=2), Row(started_at=None)) == [Fate.LATE] * 3
    assert fates(Row(name="overlap-queue", started_at=late), Row(name="bad-1", attempt=2)) == [Fate.KEPT] * 2
    assert fates(Row(status="skipped", started_at=None), Row(status="cancelled")) == [Fate.POLICY] * 2


def test_a_violation_is_red_also_where_there_is_no_event() -> None:
    missing = Violation("jitter", BEGAN + timedelta(seconds=7), None)
    marks = list(look([Row()], (Violation("fresh-1", BEGAN, "e"), missing), BEGAN))
    assert marks == [Mark("fresh-1", 0, Fate.WRONG), Mark("jitter", 7, Fate.WRONG)]


def test_triggers_of_a_kind_share_a_row() -> None:
    names = ("http-2s", "fresh-11", "bad-817263-3", "overlap-skip", "slow-http", "jitter")
    assert [row_of(name) for name in names] == ["http", "fresh", "bad", "overlap-skip", "slow-http", "jitter"]


def test_the_picture_has_each_row_each_fault_and_one_stroke_a_pixel() -> None:
    marks = [Mark("fresh-1", 1, Fate.KEPT), Mark("fresh-2", 1.001, Fate.KEPT), Mark("a<b", 2, Fate.WRONG)]
    bars = [Bar("worker-kill", 1, 3, 8.5, True), Bar("storm", 4, 5, None, False)]
    picture = draw("lane & seed", 10, marks, bars)
    root = ElementTree.fromstring(picture)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"lane & seed", "fresh", "a<b", "worker-kill 2 s, back in 5.5 s", "storm, never recovered"} <= {
        *words
    }
    assert {"2 as promised", "1 a violation"} <= {*words}
    strokes = {
        stroke: path.count("M")
        for path, stroke in re.findall(r"<path d='(\S+ [^']*)' stroke='(\S+)'", picture)
    }
    assert strokes == {COLOURS[Fate.KEPT]: 1, COLOURS[Fate.WRONG]: 1}
    fills = [element.get("fill") for element in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert (fills.count(FAULT), fills.count(RECOVERING)) == (3, 2)  # with those of the legend
    assert f"fill='{BEYOND}'>storm" in picture


def test_the_slowest_of_a_hundred_creates_is_left_out_and_no_more() -> None:
    assert slowest([]) == Creates(0, None)
    assert slowest([0.1, 9.0]) == Creates(2, 9000.0)
    assert slowest([0.1] * 99 + [9.0]) == Creates(100, 100.0)
    assert slowest([0.1] * 98 + [0.2, 9.0]) == Creates(100, 200.0)
