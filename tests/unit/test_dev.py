"""What a newcomer types first, and what is installed then."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dev

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [ROOT / "requirements" / "run.txt", ROOT / "requirements" / "test.txt"]


def test_make_alone_lists_every_target_with_a_line() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^TARGETS = (.*)$", makefile, re.MULTILINE)
    assert targets is not None
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  (\w+) +\S", shown, re.MULTILINE) == targets[1].split()


def test_an_unknown_chore_is_refused_in_one_line() -> None:
    refused = subprocess.run(
        [sys.executable, "dev.py", "rnu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_an_environment_that_someone_else_made_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / ".venv"
    theirs.mkdir()
    monkeypatch.setattr(dev, "VENV", theirs)
    monkeypatch.setattr(dev, "OURS", theirs / "made-by-dev")
    with pytest.raises(dev.Failure, match="was not made by"):
        dev._remove_environment()
    assert theirs.exists()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_locks_have_hashes_and_name_no_index(lock: Path) -> None:
    text = lock.read_text()
    pinned = re.findall(r"^[a-z0-9-]+==[^\\]*\\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 40
    assert "://" not in text


def test_the_locks_hold_every_dependency_and_agree() -> None:
    pinned = [dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE)) for path in LOCKS]
    run, everything = pinned
    assert run.items() <= everything.items()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for_run = project["dependencies"] + extras["embedded"] + extras["postgres"] + extras["server"]
    for_tests = [*extras["flower"], *extras["test"][1:], *extras["lint"]]
    assert {_name(requirement) for requirement in for_run} <= run.keys()
    assert {_name(requirement) for requirement in for_tests} <= everything.keys()


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=]", requirement)[0].lower()
