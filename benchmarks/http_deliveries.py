"""HTTP deliveries, all due at one instant, beside what aiohttp alone reaches against the same target.

    python -m benchmarks.http_deliveries [--count 10000] [--databases postgresql,sqlite] [--repeat 3]

One worker with its defaults. The target, a process of its own, answers at once; all calls go to one host,
so a hundred are in flight. The clock starts when the message that beat would send is sent, and stops at the
latest `finished_at`. The floor, before and after in the same run: a process that only sends requests, a
hundred at once and 10,000 at most, with aiohttp set as the deliveries set it (a connection for each, no
cookies, no decompression), the same headers and the same body. It runs on Python's own loop, as aiohttp does
where nobody gives it another; deliveries run on uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import aiohttp

from benchmarks.burst import WARM_UP, Burst, burst
from benchmarks.harness import DATABASES, ROOT, Site, report, site, table
from tests.processes import Process, free_port
from tests.servers import wait_until
from triggers.calls import PER_HOST

MUST_REACH = 0.4  # of what aiohttp alone reaches
FLOOR = 10_000  # requests; its rate is the same for more
BODY = {"day": "2026-11-20T09:00:00Z", "ids": [1, 2, 3]}


async def plain(url: str, count: int) -> float:
    """Send as many requests, `PER_HOST` at once; requests a second."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "triggerbeat/0",
        "webhook-id": "0" * 36,
        "webhook-timestamp": "1700000000",
        "Idempotency-Key": "0" * 36,
        "Triggerbeat-Scheduled-For": "2026-11-20T09:00:00Z",
        "Triggerbeat-Attempt": "1",
    }
    left = iter(range(count))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(use_dns_cache=False, force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding",),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(),
    ) as session:

        async def some() -> None:
            for _ in left:
                async with session.post(
                    url, data=json.dumps(BODY), headers=headers, allow_redirects=False
                ) as answer:
                    assert answer.status == 200
                    await answer.read()

        began = time.monotonic()
        await asyncio.gather(*(some() for _ in range(PER_HOST)))
        return count / (time.monotonic() - began)


def floor_rate(url: str, count: int) -> float:
    """What a process that does nothing else reaches."""
    count = min(count, FLOOR)
    command = [sys.executable, "-m", "benchmarks.http_deliveries", "--plain", url, "--count", str(count)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def start_sink(place: Site) -> int:
    """The target; its port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.sink", str(port)]
    process = place.stack.enter_context(Process(command, place.directory, name="sink", cwd=ROOT))
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 20, process.output)
    return port


def answers(url: str) -> bool:
    """Whether the target is up."""
    try:
        return asyncio.run(plain(url, 1)) > 0
    except aiohttp.ClientError:
        return False


def run(kind: str, count: int) -> tuple[Burst, float, dict[str, str]]:
    """One burst on a database of its own, and the floor before and after it."""
    with site(kind) as place:
        url = f"http://127.0.0.1:{start_sink(place)}/hook"
        target: dict[str, Any] = {"type": "http", "url": url, "body": BODY}
        place.environment["ALLOW_PRIVATE_TARGETS"] = "true"
        place.start_worker()
        burst(place, min(WARM_UP, count), target)
        before = floor_rate(url, count)
        found = burst(place, count, target)
        return found, (before + floor_rate(url, count)) / 2, place.durability()


def measure(kind: str, count: int, repeat: int) -> list[object]:
    """Some runs; prints the JSON line and returns the table's row."""
    runs = [run(kind, count) for _ in range(repeat)]
    shares = [one.rate / floor for one, floor, _ in runs]
    rate = statistics.median(one.rate for one, _, _ in runs)
    floor = statistics.median(floor for _, floor, _ in runs)
    share = statistics.median(shares)
    figures = {
        "database": kind,
        "count": count,
        "deliveries_per_second": rate,
        "aiohttp_per_second": floor,
        "share": share,
        "must_reach_share": MUST_REACH,
        "all_runs": [one.rate for one, _, _ in runs],
        "all_shares": shares,
    }
    report("http_deliveries", figures, runs[0][2])
    return [kind, rate, floor, share, f"{min(shares):.2f} to {max(shares):.2f}", MUST_REACH]


HEADERS = ("database", "deliveries/s", "aiohttp alone/s", "share", "all runs", "must reach")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.http_deliveries", description="HTTP deliveries at once")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--databases", default=",".join(DATABASES))
    parser.add_argument("--plain", metavar="URL", help="only send, with aiohttp alone, and print the rate")
    options = parser.parse_args(arguments)
    if options.plain:
        print(asyncio.run(plain(options.plain, options.count)))
        return
    rows = [measure(kind, options.count, options.repeat) for kind in options.databases.split(",")]
    table(f"{options.count:,} HTTP deliveries due at one instant, one worker", HEADERS, rows)


if __name__ == "__main__":
    main()
