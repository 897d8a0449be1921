"""Every measure but those that want a bare machine or a long time, and then all their tables together.

    python -m benchmarks.all [--quick]

`--quick` runs each with small numbers, to see that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from contextlib import redirect_stdout

from benchmarks import (
    burst,
    celery_tasks,
    create,
    http_deliveries,
    idle_tick,
    isolation,
    lateness,
    memory,
    next_occurrence,
    workers,
)

FULL: dict[str, list[str]] = {
    "next_occurrence": [],
    "idle_tick": [],
    "create": [],
    "burst": [],
    "celery_tasks": [],
    "http_deliveries": [],
    "isolation": [],
    "lateness": [],
    "memory": [],
    "workers": [],
}
QUICK: dict[str, list[str]] = {
    "next_occurrence": [],
    "idle_tick": ["--stored", "1000,5000"],
    "create": ["--one-by-one", "200", "--in-bulk", "5000", "--repeat", "1"],
    "burst": ["--count", "2000", "--repeat", "1"],
    "celery_tasks": ["--count", "500", "--workers", "1"],
    "http_deliveries": ["--count", "500", "--repeat", "1"],
    "isolation": ["--seconds", "10", "--triggers", "20", "--cases", "alone,hanging"],
    "lateness": ["--cases", "100,seconds", "--seconds", "10", "--minute", "10", "--spread", "600"],
    "memory": ["--count", "2000"],
    "workers": ["--workers", "1,2", "--log", "5000", "--tasks", "300"],
}
MEASURES = {
    "next_occurrence": next_occurrence.main,
    "idle_tick": idle_tick.main,
    "create": create.main,
    "burst": burst.main,
    "celery_tasks": celery_tasks.main,
    "http_deliveries": http_deliveries.main,
    "isolation": isolation.main,
    "lateness": lateness.main,
    "memory": memory.main,
    "workers": workers.main,
}


class Tee(io.StringIO):
    """Keeps what is printed, and shows it at once."""

    def write(self, text: str) -> int:
        """Both."""
        sys.__stdout__.write(text) if sys.__stdout__ else None
        return super().write(text)

    def flush(self) -> None:
        """What is shown."""
        if sys.__stdout__:
            sys.__stdout__.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run all, and repeat the tables at the end."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that all of it runs")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    kept = Tee()
    with redirect_stdout(kept):
        for name, given in (QUICK if options.quick else FULL).items():
            MEASURES[name](given)
    print(f"\n{'=' * 40} all tables, after {time.monotonic() - began:,.0f} s")
    print("\n".join(line for line in kept.getvalue().splitlines() if not line.startswith("{")))


if __name__ == "__main__":
    main()
