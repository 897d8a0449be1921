"""Soak: `python -m tests.soak [--minutes M] [--database sqlite] [--rate R]`.

Runs beat, two workers and the endpoint on a steady load, with somebody who creates triggers meanwhile and
with retention so short that what comes goes again. Samples what the processes, the database and the broker
take, and in the end says whether it was level after the warm-up. Prints a table and one line of JSON, and
leaves a picture. Exit status 1 when something rises, the audit finds anything, or a process died.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.soak.judge import FEWEST, QUARTERS, Sample
from tests.soak.measures import judge, table
from tests.soak.picture import draw
from tests.soak.sampler import alive, sample
from tests.soak.site import DATABASES, Site

RESULTS = Path("results")
SHOWN = 20  # of what is wrong
SAMPLE_SECONDS = 10  # between two samples; more often in a short run, or there would be too few
SAMPLES = 60  # at least, in all
KEPT_SHARE = 40  # of the run: how long an event stays active; it stays as long again in the archive
CLEAN_SHARE = 120  # of the run: how often retention is sent for
AUDIT = ("expected", "recorded", "missing", "duplicate", "unexpected", "overdue", "unfinished", "purged")


def main() -> int:
    arguments = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seconds = 60 * arguments.minutes
    directory = Path(tempfile.mkdtemp(prefix="triggerbeat-soak-"))
    results = arguments.results or RESULTS / f"soak-{arguments.database}"
    results.mkdir(parents=True, exist_ok=True)
    print(
        f"{arguments.minutes:g} minutes on {arguments.database}, {arguments.rate} occurrences a second; "
        f"logs in {directory}, picture in {results}",
        flush=True,
    )
    with Site(arguments.database, directory, arguments.rate, max(3, int(seconds / KEPT_SHARE))) as site:
        series, died = soak(site, seconds)
        title = f"{arguments.minutes:g} min, {arguments.database}, {arguments.rate} occurrences a second"
        (results / "soak.svg").write_text(draw(title, seconds, series))
        told = tell(site, series, seconds, died)
    (results / "soak.json").write_text(json.dumps(told | {"series": series}) + "\n")
    print(json.dumps(told))
    if told["ok"] and not arguments.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if told["ok"] else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real processes at full speed: is what they take level?")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--database", choices=DATABASES, default=DATABASES[0])
    parser.add_argument("--rate", type=int, default=200, help="occurrences a second (default: 200)")
    parser.add_argument(
        "--results", type=Path, help="where the picture goes (default: results/soak-DATABASE)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run in which all was well")
    arguments = parser.parse_args()
    if not (arguments.minutes >= 1 and arguments.rate >= 50):
        parser.error("a soak takes at least 1 minute and 50 occurrences a second")
    return arguments


def soak(site: Site, seconds: float) -> tuple[dict[str, list[Sample]], list[str]]:
    """Sample until the time is over or a process has died; the series, and who died."""
    series: defaultdict[str, list[Sample]] = defaultdict(list)
    began = time.monotonic()
    step = min(SAMPLE_SECONDS, seconds / SAMPLES)
    next_clean = 0.0
    died: list[str] = []
    while (at := time.monotonic() - began) < seconds and not died:
        for name, value in sample(site).items():
            series[name].append(Sample(at, value))
        if at >= next_clean:
            site.clean()
            next_clean = at + seconds / CLEAN_SHARE
        died = alive(site.processes)
        time.sleep(max(0.0, step - (time.monotonic() - began - at)))
    complete = {name: samples for name, samples in series.items() if enough(samples, seconds)}
    return complete, died


def enough(samples: list[Sample], seconds: float) -> bool:
    """Whether there is enough to judge: a pool process may have come late."""
    quarters = [int(QUARTERS * sample.at / seconds) for sample in samples]
    return min(quarters.count(1), quarters.count(QUARTERS - 1)) >= FEWEST


def tell(site: Site, series: dict[str, list[Sample]], seconds: float, died: list[str]) -> dict[str, Any]:
    """Judge, print, and say what came of it as JSON."""
    rows = judge(series, seconds)
    print("\n".join(table(rows)), flush=True)
    purged = site.count_purged()
    audit = site.audit()
    counts = {name: audit[name] for name in AUDIT}
    creates = site.client.took(0, time.monotonic())
    wrong = [f"{row.name} rises" for row in rows if row.judged and not row.level.ok]
    wrong += [f"{role} died" for role in died]
    wrong += [f"audit: {one['code']}: {one['trigger']}: {one['text']}" for one in audit["findings"]]
    wrong += [f"the endpoint answered {answer}" for answer in site.client.strange]
    if not purged:
        wrong.append("nothing was purged: the run was too short")
    print("audit: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    print(
        f"{creates.number:,} triggers created, 99 of 100 within {creates.p99_ms} ms; {purged:,} events purged"
    )
    print("\n".join(wrong[:SHOWN]) or "all is level", flush=True)
    return {
        "ok": not wrong, "database": site.database, "minutes": seconds / 60, "rate": site.rate,
        "wrong": wrong, "audit": counts, "purged": purged,
        "creates": creates.number, "create_p99_ms": creates.p99_ms,
        "measures": {row.name: [row.level.settled, row.level.last, row.verdict] for row in rows},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
