"""From the figures of a run to what is told of them: ratios, bounds, tables, plots."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import all as every
from benchmarks import performance
from benchmarks.bounds import judged
from benchmarks.flames import WAITING, Stack, flames, frames_of, inclusive, stacks
from benchmarks.neighbours import environments
from benchmarks.neighbours.environments import NotInstalled, prepare
from benchmarks.neighbours.outcomes import (
    CELERY,
    LOG,
    MUST,
    Outcome,
    numbers_marked,
    ratios,
    row,
    table_rows,
)
from benchmarks.neighbours.roster import ROSTER, Neighbour
from benchmarks.performance import NOTHING, blocks, kept, plots, redraw, replaced
from benchmarks.svg import Bar, bars

NEIGHBOUR = Neighbour("ours-truly", "Ours, truly", "with_ours.py", ("no-such-thing==1",))


def marks(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def line_of_neighbours(*rows: dict[str, Any], **missing: str) -> dict[str, Any]:
    return {
        "benchmark": "neighbours",
        "counts": [10_000, 100_000],
        "cut_seconds": 60.0,
        "rows": list(rows),
        "missing": missing,
        "ratios": ratios(rows),
    }


def run(name: str, count: int, done: int, seconds: float, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    return row(name, name.title(), [Outcome(count, done, seconds)], packages=list(packages))


# ------------------------------------------------------------------------------------- marks and ratios


def test_a_number_that_ran_twice_counts_once_and_half_a_mark_not_at_all() -> None:
    assert numbers_marked(marks(7, 300_000, 7) + b"\x01\x00") == {7, 300_000}


def test_the_middle_of_three_runs_is_told_with_all_of_them() -> None:
    found = row("redbeat", "RedBeat", [Outcome(100, 100, seconds) for seconds in (1.0, 4.0, 2.0)])
    assert (found["per_second"], found["seconds"], found["all_runs"]) == (50.0, 2.0, [100.0, 25.0, 50.0])


def test_a_run_that_was_cut_is_rated_by_what_was_done_until_then() -> None:
    found = run("django-celery-beat", 100_000, 540, 60.0)
    assert (found["per_second"], found["cut"], found["done"]) == (9.0, True, 540)


def test_ratios_are_of_the_same_count_and_say_whether_they_are_enough() -> None:
    rows = [
        run(LOG, 100_000, 100_000, 3.0),
        run(LOG, 10_000, 10_000, 100.0),
        run("redbeat", 100_000, 60_000, 60.0),
        run("bullmq", 100_000, 100_000, 8.0),
        run("redbeat", 10_000, 10_000, 10.0),
    ]
    found = {(one["ours"], one["against"]): (one["ratio"], one["met"]) for one in ratios(rows)}
    assert found[LOG, "redbeat"] == (33.333, True)
    assert found[LOG, "bullmq"] == (2.667, False)
    assert found[LOG, "apscheduler"] == (None, None)
    assert found[CELERY, "redbeat"] == (None, None), "a log event is no Celery task"


def test_a_neighbour_that_did_nothing_until_the_cut_breaks_no_ratio() -> None:
    rows = [run(LOG, 100_000, 100_000, 4.0), run("django-celery-beat", 100_000, 0, 60.0)]
    found = next(one for one in ratios(rows) if one["against"] == "django-celery-beat")
    assert found["met"] is True


def test_bounds_are_against_neighbours_that_exist() -> None:
    assert {must.against for must in MUST} <= {neighbour.name for neighbour in ROSTER}


def test_the_table_has_a_missing_neighbour_and_a_count_that_was_not_run() -> None:
    rows = [run("redbeat", 1_000, 1_000, 2.0), run("redbeat", 10_000, 90, 60.0)]
    assert table_rows(rows, {"bullmq": "no Node.js"}, [1_000, 10_000, 100_000]) == [
        ["Redbeat", "500", "1.5 (cut)", "-"],
        ["bullmq", "not measured", "not measured", "not measured"],
    ]


# ---------------------------------------------------------------------------------------- environments


def test_every_neighbour_has_a_program_and_all_its_packages_have_versions() -> None:
    programs = Path(environments.__file__).with_name("programs")
    for neighbour in ROSTER:
        assert (programs / neighbour.program).is_file()
        mark = "@" if neighbour.for_node else "=="
        assert all(mark in package for package in neighbour.packages), neighbour.name


def test_a_neighbour_that_cannot_be_installed_is_one_line_and_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(command: list[str]) -> None:
        raise NotInstalled("ERROR: no matching distribution")

    monkeypatch.setattr(environments, "execute", fails)
    for _ in range(2):  # the second time, too: nothing says that it is there
        with pytest.raises(NotInstalled, match="no matching distribution"):
            prepare(NEIGHBOUR, tmp_path)


def test_an_environment_is_made_anew_only_when_its_packages_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(environments, "install", lambda directory, packages: made.append(tuple(packages)))
    newer = Neighbour("ours-truly", "Ours, truly", "with_ours.py", ("no-such-thing==2",))
    for neighbour in (NEIGHBOUR, NEIGHBOUR, newer):
        prepare(neighbour, tmp_path)
    assert made == [("no-such-thing==1",), ("no-such-thing==2",)]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ERROR: none fits (from versions: 1)\nERROR: no such thing\nmore", "ERROR: no such thing"),
        ("npm error code E1\nnpm error none fits\nnpm error A log is here", "npm error none fits"),
        (
            "npm error request to https://index.example/a failed",
            "npm error request to (the package index) failed",
        ),
        ("Killed", "Killed"),
        ("", "sh ended with 3"),
    ],
)
def test_what_an_installer_said_of_its_error_is_the_reason(said: str, reason: str) -> None:
    with pytest.raises(NotInstalled) as refused:
        environments.execute(["sh", "-c", 'printf %s "$0" >&2; exit 3', said])
    assert str(refused.value) == reason


# -------------------------------------------------------------------------------------------- results


def test_a_run_of_some_measures_leaves_the_figures_of_the_others() -> None:
    before = {
        "lines": [{"benchmark": "burst", "count": 1}, {"benchmark": "create", "count": 2}],
        "failed": {"burst": "once", "isolation": "still"},
    }
    printed = 'burst\n-----\n{"benchmark": "burst", "count": 3}\n(burst took 3 s)\n'
    assert kept(printed, {}, before) == {
        "lines": [{"benchmark": "create", "count": 2}, {"benchmark": "burst", "count": 3}],
        "failed": {"isolation": "still"},
    }


def test_a_measure_that_failed_takes_its_old_figures_with_it() -> None:
    before = {"lines": [{"benchmark": "burst", "count": 1}], "failed": {}}
    assert kept("", {"burst": "no"}, before) == {"lines": [], "failed": {"burst": "no"}}


def test_a_measure_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def fails(given: list[str] | None = None) -> None:
        raise AssertionError("not within 60 s\nlong log")

    monkeypatch.setattr(every, "MEASURES", {"first": fails, "second": ran.append})
    assert every.run({"first": [], "second": ["--count", "1"]}) == {"first": "not within 60 s"}
    assert ran == [["--count", "1"]]


def test_every_measure_has_a_full_and_a_quick_form() -> None:
    assert list(every.FULL) == list(every.QUICK) == list(every.MEASURES)


# ------------------------------------------------------------------------------------------- document


def test_without_results_every_block_says_so() -> None:
    found = blocks([], {})
    assert {found[name] for name in ("conditions", "neighbours", "burst", "memory")} == {NOTHING}
    assert found["bounds"].count("not measured") >= len(MUST)
    assert "| yes |" not in found["bounds"]
    rows = found["bounds"].splitlines()
    assert len(set(rows)) == len(rows), "each bound is told from the others"
    assert "{" not in found["bounds"]


def test_bounds_that_are_met_and_bounds_that_are_not_are_both_told() -> None:
    lines = [
        {"benchmark": "burst", "database": "postgresql", "count": 100_000, "times_floor": 12.5},
        {"benchmark": "burst", "database": "sqlite", "count": 100_000, "events_per_second": 39_999.0},
    ]
    found = blocks(lines, {})["bounds"]
    copy = (
        "| 100,000 `log` events at once, against COPY of the same rows | times as long | 12.5 | at most 20 |"
    )
    assert f"{copy} at most 10 | yes |" in found
    assert "| 100,000 `log` events at once, SQLite | a second | 39,999 | 40,000 | 100,000 | **no** |" in found
    assert "2 were measured, and 1 met. Not met: 100,000 `log` events at once, SQLite." in found


def test_an_idle_tick_is_judged_where_a_million_are_stored() -> None:
    line = {"benchmark": "idle_tick", "database": "sqlite", "median_ms": 1.5, "times_first": 4.0}
    lines = [{**line, "stored": stored} for stored in (10_000, 10_000_000)]
    found = [(one.what, one.met) for one in judged(lines) if one.found is not None]
    assert found == [
        ("idle tick, 10,000,000 stored, sqlite", True),
        ("idle tick, 10,000,000 stored, sqlite, against the first", False),
    ]


def test_memory_is_judged_by_the_bounds_its_line_names() -> None:
    sizes = {"pss_mb": 80.0, "rss_mb": 140.0, "peak_rss_mb": 260.0}
    processes = {
        "beat": {**sizes, "must_stay_under_mb": 90},
        "worker, after the burst": {**sizes, "must_stay_under_mb": 250},
        "endpoint": {**sizes, "must_stay_under_mb": None},
    }
    found = judged([{"benchmark": "memory", "database": "sqlite", "processes": processes}])
    assert [(one.what, one.found, one.met) for one in found if one.found is not None] == [
        ("resident memory of beat, sqlite", 140.0, False),
        ("resident memory of worker, after the burst, sqlite", 260.0, False),
    ]


def test_the_document_shows_neighbours_what_failed_and_the_plots(tmp_path: Path) -> None:
    redbeat = run("redbeat", 100_000, 60_000, 60.0, ("celery==5",))
    line = line_of_neighbours(run(LOG, 100_000, 100_000, 2.0), redbeat, bullmq="no npm")
    results, document = tmp_path / "results.json", tmp_path / "performance.md"
    results.write_text(json.dumps({"lines": [line], "failed": {"create": "no gunicorn"}}))
    document.write_text(performance.DOCUMENT.read_text())
    redraw(results, document)
    text = document.read_text()
    assert "| Redbeat | - | 1,000 (cut) |" in text
    assert "bullmq: no npm" in text
    assert "`create` failed: no gunicorn" in text
    assert (
        "| 100,000 `log` events at once, PostgreSQL, against redbeat | times as fast | 50 | 30 |  | yes |"
        in text
    )
    drawn = ElementTree.fromstring((tmp_path / "plots" / "all-at-once.svg").read_text())
    assert "1,000 (cut)" in [element.text for element in drawn.iter()]
    assert "(plots/all-at-once.svg)" in text
    redraw(results, document)
    assert document.read_text() == text, "a second time changes nothing"


def test_the_plot_of_celery_tasks_has_only_those_that_run_them() -> None:
    line = line_of_neighbours(
        run(LOG, 10_000, 10_000, 1.0),
        run(CELERY, 10_000, 10_000, 5.0),
        run("redbeat", 10_000, 10_000, 10.0, ("celery==5",)),
        run("bullmq", 10_000, 10_000, 2.0, ("bullmq@6",)),
    )
    _, svg = plots([line])["celery-tasks.svg"]
    assert ("Redbeat" in svg, "Triggerbeat-Celery" in svg) == (True, True)
    assert ("Bullmq" in svg, "Triggerbeat-Log" in svg) == (False, False)


def test_a_marker_without_its_block_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        replaced("<!-- begin:a --><!-- end:a -->", {})
    with pytest.raises(ValueError, match="has no"):
        replaced("<!-- begin:a -->", {"a": "x"})


@pytest.mark.parametrize("values", [[5.0], [0.0, 9.1, 45_700.0], [100.0, 1_000.0]])
def test_a_plot_is_well_formed_and_no_bar_leaves_it(values: list[float]) -> None:
    svg = bars("a < b", "done a second", [Bar(f"<{value}>", value) for value in values])
    drawn = ElementTree.fromstring(svg)
    rectangles = [element for element in drawn if element.tag.endswith("rect")]
    assert len(rectangles) == 1 + len(values)
    assert all(
        float(one.get("x", 0)) + float(one.get("width", 0)) <= float(rectangles[0].get("width", 0))
        for one in rectangles
    )


# --------------------------------------------------------------------------------------- where time goes

RAW = """\
run (threading.py:9);Threads.run (celery_config/engine.py:1);plan (triggers/tick.py:7);a (sqlalchemy/x.py:1);\
b (sqlalchemy/y.py:2);__enter__ (contextlib.py:3);write (models/database.py:4) 3
run (threading.py:9);plan (triggers/tick.py:9);ask (sqlalchemy/x.py:1);C.wait (psycopg/connection.py:5);\
deep (psycopg/waiting.py:6) 5
run (threading.py:9);loop (triggers/courier.py:1);select (selectors.py:2) 100
run (threading.py:9);main (celery/bin.py:2) 100
"""
FOLDED: dict[Stack, int] = {
    ("plan (tick.py)", "sqlalchemy", "write (database.py)"): 3,
    ("plan (tick.py)", "sqlalchemy", WAITING): 5,
}


def test_a_stack_begins_with_our_work_and_a_library_is_one_frame() -> None:
    assert stacks(RAW.splitlines()) == FOLDED
    counted = inclusive(FOLDED)
    assert counted["plan (tick.py)"] == counted["sqlalchemy"] == 8
    assert counted[WAITING] == 5


def test_flames_lie_over_who_calls_them() -> None:
    assert list(frames_of(FOLDED, 0, 0)) == [
        ("plan (tick.py)", 0, 0, 8),
        ("sqlalchemy", 1, 0, 8),
        (WAITING, 2, 0, 5),
        ("write (database.py)", 2, 5, 3),
    ]
    root = ElementTree.fromstring(flames("<title>", FOLDED))
    boxes = [element for element in root.iter() if element.tag.endswith("}g")]
    assert [box[0].text for box in boxes] == [
        "plan (tick.py): 100.0%",
        "sqlalchemy: 100.0%",
        f"{WAITING}: 62.5%",
        "write (database.py): 37.5%",
    ]
    assert [box[1].get("x") for box in boxes] == ["0.0", "0.0", "0.0", "625.0"]
