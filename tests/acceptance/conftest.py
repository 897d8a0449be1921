"""Fixtures that live as long as a module, so that its tests share what takes seconds to start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Valkey


@pytest.fixture(scope="module")
def module_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module")


@pytest.fixture(scope="module")
def module_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def sqlite_copy(directory: Path, template: Path) -> str:
    """A migrated file in this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, directory / "triggerbeat.db")
    return f"sqlite:///{directory / 'triggerbeat.db'}"
