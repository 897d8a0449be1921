"""Every measure but those that want a bare machine or a long time, and then all their tables together.

    python -m benchmarks.all [--quick]

Their JSON lines go to benchmarks/results.json, and from there into docs/performance.md and its plots. So
that all of it takes half an hour, the slow ones are measured in part. `--quick` runs each with small numbers,
to see that it runs; its figures mean nothing, and are not kept. A measure that fails is told, and costs the
others nothing.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Mapping
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
    performance,
)
from benchmarks.neighbours import __main__ as neighbours

FULL: dict[str, list[str]] = {
    "next_occurrence": [],
    "idle_tick": ["--databases", "postgresql"],
    "create": ["--one-by-one", "3000", "--in-bulk", "30000", "--databases", "postgresql"],
    "burst": [],
    "celery_tasks": ["--count", "5000", "--workers", "1", "--databases", "postgresql"],
    "http_deliveries": ["--count", "100000", "--repeat", "1", "--databases", "postgresql"],
    "isolation": ["--cases", "catch-up,calls,hanging,tasks", "--seconds", "15", "--databases", "postgresql"],
    "lateness": ["--seconds", "20", "--databases", "postgresql"],
    "memory": ["--databases", "postgresql"],
    "neighbours": ["--counts", "1000,10000,100000", "--brief"],
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
    "neighbours": ["--counts", "200", "--cut", "10"],
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
    "neighbours": neighbours.main,
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


def run(measures: Mapping[str, list[str]]) -> dict[str, str]:
    """One after the other; those that failed, and why."""
    failed = {}
    for name, given in measures.items():
        began = time.monotonic()
        try:
            MEASURES[name](given)
        except Exception as failure:
            failed[name] = str(failure).strip().partition("\n")[0][:300] or type(failure).__name__
            print(f"{name} failed: {failure}")
        print(f"({name} took {time.monotonic() - began:,.0f} s)", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> None:
    """Run all, keep the figures, and repeat the tables at the end."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that all of it runs")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    tee = Tee()
    with redirect_stdout(tee):
        failed = run(QUICK if options.quick else FULL)
    print(f"\n{'=' * 40} all tables, after {time.monotonic() - began:,.0f} s")
    print("\n".join(line for line in tee.getvalue().splitlines() if not line.startswith("{")))
    if not options.quick:
        performance.keep(performance.kept(tee.getvalue(), failed, {}))
        performance.redraw()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
