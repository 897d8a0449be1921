"""Flower, the real one, shows the tasks of the examples by their names, with the plain commands."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installation import Installation, message, task
from tests.processes import free_port, wait_until


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis", "classic"])
def test_flower_shows_the_examples(
    kind: str, sqlite_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Flower is started first, for it shows what happens while it runs."""
    url = str(request.getfixturevalue("broker_url" if kind == "redis" else "rabbitmq_url"))
    with Installation(tmp_path, sqlite_url, url) as installation:
        worker = installation.worker_unready()
        port = free_port()
        flower = installation.celery(
            "flower", f"--port={port}", "--address=127.0.0.1", FLOWER_UNAUTHENTICATED_API="true"
        )
        worker.expect(" ready.", 40)
        flower.expect("Connected to ", 40)
        wait_until(
            lambda: asked(port, "workers?refresh=true"), 30, "Flower sees the worker", poll_seconds=0.3
        )
        names = {
            "divide": task("divide", 1, 4),
            "by-zero": task("divide", 1, 0),
            "text": task("process_text", "tick", 2),
            "log": message(),
        }
        for name, target in names.items():
            installation.create(name, target)
        installation.hint()
        installation.wait_for_all(["divide", "text", "log"])
        installation.wait_for("by-zero", "failed")
        expected = {
            installation.event("divide").id: ("examples.tasks.divide", "SUCCESS"),
            installation.event("by-zero").id: ("examples.tasks.divide", "FAILURE"),
            installation.event("text").id: ("examples.tasks.process_text", "SUCCESS"),
        }

        def shown() -> dict[str, tuple[str, str]]:
            return {id_: (one["name"], one["state"]) for id_, one in asked(port, "tasks?limit=100").items()}

        wait_until(lambda: expected.items() <= shown().items(), 20, lambda: str(shown()), poll_seconds=0.3)
        tasks = asked(port, "tasks?limit=100")
        assert any("log: log at " in one["args"] for one in tasks.values() if one["name"].endswith("deliver"))


def asked(port: int, path: str) -> dict[str, Any]:
    """What Flower's own API answers; empty while it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return {}
