"""Log lines: their order, their quoting, their JSON, and that nobody can forge one."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from select import PIPE_BUF
from typing import Any

import pytest

from triggers import logs
from triggers.settings import Settings

LOGGER = logging.getLogger("triggerbeat.test_logs")
FORGED = "x\n2026-11-20T09:00:00.000Z INFO    succeeded trigger=evil\r\x1b[2K\x85\u2028\x9b"


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = before, level
    logging.captureWarnings(False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was logged; lines as a terminal would break them."""
    return capsys.readouterr().err.split("\n")[:-1]


def documents(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def text_logs() -> None:
    logs.configure(Settings(log_format="text"))


def json_logs() -> None:
    logs.configure(Settings(log_format="json"))


def test_a_step_has_its_fields_in_a_fixed_order(capsys: pytest.CaptureFixture[str]) -> None:
    text_logs()
    logs.step(
        LOGGER,
        "succeeded",
        took=0.01251,
        lease=3,
        late=-0.0001,
        status="succeeded",
        attempt=1,
        reason=None,
        scheduled_for=datetime(2026, 11, 20, 10, tzinfo=timezone(timedelta(hours=1))),
        event="0199",
        trigger="nightly",
    )
    (line,) = lines(capsys)
    instant, level, step = line.split(None, 2)
    assert datetime.fromisoformat(instant).tzinfo == UTC
    assert level == "INFO"
    assert step == (
        "succeeded trigger=nightly event=0199 scheduled_for=2026-11-20T09:00:00Z attempt=1 status=succeeded"
        " late=0.000 took=0.013 lease=3"
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain-word.1", "plain-word.1"),
        ("héllo", "héllo"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("a=b", '"a=b"'),
        ("one\ntwo", '"one\\ntwo"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("no\u00a0break", '"no\\u00a0break"'),
        ("\ud800", '"\\ud800"'),
        (7, "7"),
        (1.5, "1.500"),
        (True, "true"),
    ],
)
def test_values_are_quoted_when_they_are_not_one_visible_word(value: object, written: str) -> None:
    assert str(logs.Step("failed", {"error": value})) == f"failed error={written}"


def test_no_line_can_be_forged_through_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    text_logs()
    logs.step(LOGGER, "logged", trigger="t", message=FORGED)
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert text.rstrip("\n").isprintable()


def test_no_line_can_be_forged_through_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    text_logs()
    LOGGER.info("got %s", FORGED)
    first, *others = capsys.readouterr().err.splitlines()
    assert "got x" in first
    assert len(others) == 1, "control characters other than a newline end no line"
    assert all(line.startswith("    ") for line in others), "what continues a record does not look like one"


def test_json_has_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    json_logs()
    logs.step(LOGGER, "logged", trigger="t", late=0.00251, attempt=2, message=FORGED, took=None)
    logs.step(LOGGER, "started", trigger="t")
    logged, started = documents(capsys)
    assert {k: logged[k] for k in ("step", "level", "trigger", "late", "attempt", "message")} == {
        "step": "logged",
        "level": "INFO",
        "trigger": "t",
        "late": 0.003,
        "attempt": 2,
        "message": FORGED,
    }
    assert "took" not in logged
    assert started["message"] == "started"


def test_json_keeps_a_traceback_in_its_object(capsys: pytest.CaptureFixture[str]) -> None:
    json_logs()
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        LOGGER.exception("it broke")
    (document,) = documents(capsys)
    assert document["message"] == "it broke"
    assert "ValueError: one\ntwo" in document["traceback"]


def test_nothing_is_looked_at_when_nobody_listens() -> None:
    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError("formatted although the level is off")

    logs.configure(Settings(log_level="WARNING"))
    logs.step(LOGGER, "succeeded", trigger=Untouchable())


@pytest.mark.parametrize("level", [logging.WARNING, "WARNING"])
def test_a_level_from_the_command_line_wins(level: int | str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_level="DEBUG"), level=level)
    LOGGER.info("quiet")
    LOGGER.warning("loud")
    (line,) = lines(capsys)
    assert line.endswith("WARNING loud")


def test_a_logfile_stands_in_for_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(), logfile=str(tmp_path / "worker.log"))
    logs.step(LOGGER, "started", trigger="t")
    assert lines(capsys) == []
    assert "started trigger=t" in (tmp_path / "worker.log").read_text()
    logging.getLogger().handlers[0].close()


def test_lines_are_written_together_whole_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool's processes write to the same pipe, where only so much stays in one piece."""
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        written: list[str] = []

        def write(text: str, write: Callable[[str], int] = file.write) -> int:
            written.append(text)
            return write(text)

        monkeypatch.setattr(file, "write", write)
        monkeypatch.setattr(sys, "stderr", file)
        text_logs()
        with logs.together():
            for number in range(200):
                logs.step(LOGGER, "planned", trigger="häufig", number=number)
                with logs.together():
                    LOGGER.info("and %s", number)
            LOGGER.info("long %s", "x" * PIPE_BUF)
            assert not written
        LOGGER.info("at once")
    whole = (tmp_path / "log").read_text().splitlines()
    said = [line.split("INFO    ")[1] for line in whole]
    assert said[:4] == [
        "planned trigger=häufig number=0",
        "and 0",
        "planned trigger=häufig number=1",
        "and 1",
    ]
    assert (len(said), said[-1]) == (402, "at once")
    assert 5 < len(written) < 12
    assert all(text.endswith("\n") for text in written)
    assert [len(text.encode()) > PIPE_BUF for text in written].count(True) == 1, "only a line that is longer"


def test_what_was_undone_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    @logs.unless_undone()
    def fail() -> None:
        LOGGER.info("raised")
        raise LookupError

    text_logs()
    with pytest.raises(LookupError):
        fail()
    with logs.unless_undone() as forget:
        LOGGER.info("taken back")
        forget()
    with logs.unless_undone():
        LOGGER.info("done")
        assert lines(capsys) == []
    assert [line.split()[-1] for line in lines(capsys)] == ["done"]


OTHERS = ("celery.worker.strategy", "celery.app.trace", "celery.beat", "werkzeug", "gunicorn.error")


@pytest.mark.parametrize("name", OTHERS)
def test_the_lines_of_others_take_our_form_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = logging.getLogger(name)
    own = logging.StreamHandler(sys.stderr)
    if name in ("werkzeug", "gunicorn.error"):
        other.addHandler(own)
        other.propagate = False
    json_logs()
    logging.getLogger(name).info("Task %s[%s] received", "t", "1")
    (document,) = documents(capsys)
    assert document["message"] == "Task t[1] received"
    assert document["logger"] == name
