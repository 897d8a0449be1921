"""What arrived at the targets, in the record that they keep themselves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One arrival, by the word of the target. `time` is seconds of Unix time."""

    event: str
    attempt: int
    scheduled_for: str
    time: float
    path: str


class Ledger:
    """The files of the sink and of the users' tasks, read as far as they have grown."""

    def __init__(self, sink: Path, tasks: Path) -> None:
        self.sink = sink
        self.tasks = tasks
        self.arrivals: defaultdict[str, list[int]] = defaultdict(list)  # the attempts that arrived, by event
        self._read = {sink: 0, tasks: 0}

    def grow(self) -> list[Delivery]:
        """Read what is new."""
        new = [from_sink(line) for line in self._lines(self.sink)]
        new += [from_task(line) for line in self._lines(self.tasks)]
        for delivery in new:
            self.arrivals[delivery.event].append(delivery.attempt)
        return new

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read[path])
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._read[path] += len(line)
                yield json.loads(line)


def from_sink(line: dict[str, Any]) -> Delivery:
    """A request."""
    headers = line["headers"]
    attempt = int(headers["triggerbeat-attempt"])
    return Delivery(
        headers["webhook-id"], attempt, headers["triggerbeat-scheduled-for"], line["time"], line["target"]
    )


def from_task(line: dict[str, Any]) -> Delivery:
    """A run of the task."""
    return Delivery(line["event"], int(line["attempt"]), line["scheduled_for"], line["time"], "task")
