"""An independent oracle for cron in zones that change their clocks, and its comparison with the engine.

`expected` is the main loop of Debian cron 3.0pl1 (`cron.c`) played minute by minute over a real zone:
a virtual clock, the difference to the wall clock, four kinds of difference. It knows nothing of the
engine; expressions are read by a few lines of its own, and zones by the standard library. Two words
of Debian's are read as this project documents them: several fixed jobs in one gap are one occurrence,
and a change of exactly three hours, forwards too, is still a change and no jump.

    python -m tests.oracle --occurrences 10000000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from triggers.schedule import parse

HOUR, DAY = 3_600, 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = 0  # 1970-01-01
LAST = 2_556_143_999  # 2050-12-31T23:59:59Z
THREE_HOURS = 180  # minutes
NOT_ZONES = {"Factory", "localtime"}


@dataclass(frozen=True)
class Change:
    """The clocks of a zone change at an instant, by offsets in seconds."""

    zone: str
    at: int
    before: int
    after: int


@dataclass(frozen=True)
class Job:
    """An expression as sets of values, read without any help."""

    text: str
    times: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    wildcard: bool
    either: bool

    def on(self, wall_day: int) -> bool:
        """Whether the job runs on that day, counted from 1970-01-01."""
        _year, month, day, weekday = _calendar(wall_day)
        if month not in self.months:
            return False
        if self.either:
            return day in self.days or weekday in self.weekdays
        return day in self.days and weekday in self.weekdays


@lru_cache(maxsize=100_000)
def _calendar(wall_day: int) -> tuple[int, int, int, int]:
    date = (EPOCH + timedelta(days=wall_day)).date()
    return date.year, date.month, date.day, (date.weekday() + 1) % 7


def read(text: str) -> Job:
    """The expression, which must be a right one."""
    minute, hour, day, month, weekday = text.split()
    hours, minutes = _values(hour, 0, 23), _values(minute, 0, 59)
    return Job(
        text,
        frozenset(h * 60 + m for h in hours for m in minutes),
        _values(day, 1, 31),
        _values(month, 1, 12),
        frozenset(value % 7 for value in _values(weekday, 0, 7)),
        minute[0] == "*" or hour[0] == "*",
        day[0] != "*" and weekday[0] != "*",
    )


def _values(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        begin, end = (low, high) if span == "*" else (int(first), int(last or first))
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


@lru_cache(maxsize=700)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def offset(zone: str, instant: int) -> int:
    """Seconds east of UTC."""
    delta = datetime.fromtimestamp(instant, _zone(zone)).utcoffset()
    assert delta is not None
    return delta.days * DAY + delta.seconds


def walk(zone: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Each whole minute that the clocks of the zone show in [start, stop): the instant, the wall minute."""
    instant = start
    while instant < stop:
        wall = instant + offset(zone, instant)
        if wall % 60:
            instant += 60 - wall % 60  # an offset with seconds: on to where the wall clock shows :00
            if (instant + offset(zone, instant)) % 60:
                continue
            wall = instant + offset(zone, instant)
        yield instant, wall // 60
        instant += 60


def expected(job: Job, minutes: Iterable[tuple[int, int]]) -> list[int]:
    """The instants at which Debian's cron would start the job, over consecutive minutes of a zone."""
    found: list[int] = []
    virtual: int | None = None
    for instant, wall in minutes:
        difference = 1 if virtual is None else wall - virtual
        if difference == 1:
            virtual, due = wall, _due(job, wall)
        elif 1 < difference <= THREE_HOURS + 1:
            assert virtual is not None
            due = _due(job, wall) if job.wildcard else any(_due(job, m) for m in range(virtual + 1, wall + 1))
            virtual = wall
        elif -THREE_HOURS < difference <= 0:
            due = job.wildcard and _due(job, wall)
        else:
            virtual, due = wall, _due(job, wall)
        if due:
            found.append(instant)
    return found


def _due(job: Job, wall: int) -> bool:
    return wall % 1_440 in job.times and job.on(wall // 1_440)


def all_changes() -> list[Change]:
    """Every change from 1970 to 2050 of every zone; zones with the same changes are named once."""
    noons = [datetime(1970, 1, 1, 12) + timedelta(days=n) for n in range((LAST - FIRST) // DAY)]
    known: dict[tuple[tuple[int, int, int], ...], str] = {}
    for name in sorted(available_timezones() - NOT_ZONES):
        offsets = list(map(_zone(name).utcoffset, noons))
        days = [day for day in range(len(noons) - 1) if offsets[day] != offsets[day + 1]]
        known.setdefault(tuple(_change_near(name, FIRST + day * DAY) for day in days), name)
    return [Change(name, *change) for changes, name in known.items() for change in changes]


def _change_near(zone: str, day: int) -> tuple[int, int, int]:
    """The one change between the noons, by wall time, of a day and the next: at, before, after."""
    low, high = day - DAY, day + 3 * DAY
    before = offset(zone, low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if offset(zone, middle) == before else (low, middle)
    return high, before, offset(zone, high)


def expressions(change: Change, chance: random.Random, count: int) -> list[str]:
    """Expressions whose times lie in and around what the change skips or repeats."""
    low, high = sorted((change.at + change.before, change.at + change.after))
    return [_expression(chance.randrange(low - HOUR, high + HOUR), chance) for _ in range(count)]


def _expression(wall: int, chance: random.Random) -> str:
    _, month, day, weekday = _calendar(wall // DAY)
    hour, minute = wall // HOUR % 24, wall // 60 % 60
    minutes = (str(minute), str(minute), "0", "0,30", "59", "*/15", "*", f"{minute % 9}-59/9", "*/7", "0-59")
    hours = (str(hour), str(hour), "*", "*", "*/2", f"{min(hour, 22)}-23", f"0-{hour}", "0-23", "1-23/2")
    days = ("*", "*", "*", "*", str(day), "*/2", f"{day},{day % 28 + 1}", "1-31", "*,1")
    months = ("*", "*", "*", str(month), "1-12")
    weekdays = ("*", "*", "*", "*", str(weekday), "*/2", "1-5", "0-7", "7", f"{weekday},{(weekday + 1) % 7}")
    choices = ((*minutes, "*,1"), (*hours, f"{hour},{(hour + 1) % 24}"), days, months, weekdays)
    return " ".join(chance.choice(choice) for choice in choices)


def engine(text: str, zone: str, start: int, stop: int) -> list[int]:
    """What the engine under test says for [start, stop)."""
    schedule = parse({"type": "cron", "cron": text, "timezone": zone}, None)
    found: list[int] = []
    instant = EPOCH + timedelta(seconds=start - 1)
    while (following := schedule.after(instant)) is not None:
        seconds = (following - EPOCH) // timedelta(seconds=1)
        if seconds >= stop:
            break
        found.append(seconds)
        instant = following
    return found


def compare(change: Change, texts: Iterable[str], hours: int) -> tuple[int, list[str]]:
    """Occurrences that agree within so many hours of a change, and a line for each disagreement."""
    start, stop = change.at - hours * HOUR, change.at + hours * HOUR
    minutes = list(walk(change.zone, start, stop))
    agreed, wrong = 0, []
    for text in texts:
        right, ours = expected(read(text), minutes), engine(text, change.zone, start, stop)
        if right == ours:
            agreed += len(right)
        else:
            odd = sorted(set(right) ^ set(ours))[:3]
            wrong.append(f"{text!r} in {change.zone} at {change.at}: {odd} of {len(right)} and {len(ours)}")
    return agreed, wrong


def sample(
    changes: list[Change], occurrences: int, seed: int, hours: int, expressions_each: int = 4
) -> tuple[int, int, list[str]]:
    """Compare near every change, round after round, until so many occurrences were seen.

    The first round is always finished, so that no change is left out.

    Gives how many occurrences agree, how many changes were visited, and the disagreements.
    """
    chance = random.Random(seed)
    order = list(changes)
    agreed, visited = 0, 0
    wrong: list[str] = []
    while (agreed < occurrences or visited < len(order)) and len(wrong) < 20:
        if visited % len(order) == 0:
            chance.shuffle(order)
        change = order[visited % len(order)]
        more, odd = compare(change, expressions(change, chance, expressions_each), hours)
        agreed, visited = agreed + more, visited + 1
        wrong += odd
        if visited % 5_000 == 0:
            print(f"{agreed:,} occurrences agree", file=sys.stderr, flush=True)
    return agreed, visited, wrong


def main() -> int:
    """Run the long comparison; exit status 1 when anything disagrees."""
    options = argparse.ArgumentParser(description="The cron engine against Debian's main loop")
    options.add_argument("--occurrences", type=int, default=10_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--hours", type=int, default=6, help="on each side of a change")
    given = options.parse_args()
    begun = time.monotonic()
    changes = all_changes()
    print(f"{len(changes):,} changes in {len({change.zone for change in changes})} zones", file=sys.stderr)
    agreed, _, wrong = sample(changes, given.occurrences, given.seed, given.hours)
    for line in wrong[:20]:
        print(line)
    print(f"{agreed:,} occurrences agree, {len(wrong)} expressions differ, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
