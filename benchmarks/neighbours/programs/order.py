"""What every neighbour's program is told, and the no-op they all run. Standard library only.

The no-op appends its own number, four bytes, to the file of marks: a microsecond or two, in the process that
ran it. Who measures reads from the file how many different numbers have run, and when the last one did.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

COUNT = int(os.environ["COUNT"])
WARM_UP = int(os.environ["WARM_UP"])  # some few more, due earlier: so that all is loaded and connected
DUE = datetime.fromtimestamp(float(os.environ["DUE"]), UTC)
WARM_UP_DUE = datetime.fromtimestamp(float(os.environ["WARM_UP_DUE"]), UTC)
BROKER_URL = os.environ["BROKER_URL"]
DATABASE_URL = os.environ["DATABASE_URL"]
EVERY = timedelta(days=1)

_marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def mark(number: int) -> None:
    """The no-op: leave word that `number` ran."""
    os.write(_marks, number.to_bytes(4, "little"))


def orders() -> Iterator[tuple[int, datetime]]:
    """The number and the instant of each: first those of the warm-up, then all that are due at once."""
    for number in range(COUNT, COUNT + WARM_UP):
        yield number, WARM_UP_DUE
    for number in range(COUNT):
        yield number, DUE


def command_line(arguments: list[str], store: Callable[[], None], run: Callable[[], None]) -> None:
    """`store`: store all that is due and end. `run`: start what runs it, and stay."""
    {"store": store, "run": run}[arguments[1]]()
