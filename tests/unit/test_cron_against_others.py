"""Random expressions near clock changes against cronsim and croniter: every difference has a name.

The names are faults of those two, each seen in their releases at the time of writing and described
where it stands. A difference that fits no name fails the test. So does a name that no longer fits
anything, so that the list stays honest. Expressions that croniter reads differently whatever the
clocks do are kept out of the random part and stand in a table of their own.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab
from croniter import croniter
from cronsim import CronSim

from tests import oracle
from tests.oracle import HOUR, Change, Job
from triggers.cron import parse_cron
from triggers.errors import InvalidSchedule

CHANGES = 900
SEED = 20_261_120
AROUND = 3 * HOUR
TICKS = 5_000  # a real answer within six hours takes a few hundred
NEVER_ENDS = None

Fault = Callable[[Job, Change, set[int], set[int]], bool]
Answers = list[int] | None


class Counted(CronSim):
    """cronsim that gives up where it would go on for ever."""

    ticks = 0

    def tick(self, seconds: int = 1) -> None:
        self.ticks += 1
        if self.ticks > TICKS:
            raise TimeoutError
        super().tick(seconds)


def cronsim_answers(text: str, zone: str, start: int, stop: int) -> Answers:
    iterator = Counted(text, datetime.fromtimestamp(start - 1, ZoneInfo(zone)))
    found: list[int] = []
    try:
        while (instant := int(next(iterator).timestamp())) < stop:
            iterator.ticks = 0
            if found and instant <= found[-1]:
                return NEVER_ENDS  # back where it was, and round again
            found.append(instant)
    except TimeoutError:
        return NEVER_ENDS
    return found


def croniter_answers(text: str, zone: str, start: int, stop: int) -> Answers:
    iterator, found = croniter(text, datetime.fromtimestamp(start - 1, ZoneInfo(zone))), []
    while (instant := int(iterator.get_next(datetime).timestamp())) < stop:
        found.append(instant)
    return found


# ------------------------------------------------------------- what is known; `lacks`, `adds`: instants


def gap(change: Change) -> int:
    return change.after - change.before


def on_the_hour(change: Change) -> bool:
    return (change.at + change.before) % HOUR == 0 and (change.at + change.after) % HOUR == 0


def skips_midnight(change: Change) -> bool:
    low, high = change.at + change.before, change.at + change.after
    return -(-low // oracle.DAY) * oracle.DAY < high


def second_pass(change: Change, instants: set[int]) -> bool:
    return all(change.at <= instant < change.at - gap(change) for instant in instants)


def after_change(change: Change, instants: set[int]) -> bool:
    return all(instant >= change.at for instant in instants)


def jump_back(job: Job, change: Change, lacks: set[int], adds: set[int]) -> bool:
    """Fixed jobs do not repeat however far the clocks go back: the limit of three hours is not known."""
    return not job.wildcard and gap(change) < -3 * HOUR and not adds and second_pass(change, lacks)


CRONSIM: dict[str, Fault] = {
    "does not repeat fixed jobs after a jump": jump_back,
    # They are moved out of any gap, for the same reason.
    "moves fixed jobs across a jump": lambda job, change, lacks, adds: (
        not job.wildcard and gap(change) > 3 * HOUR and not lacks and adds == {change.at}),
    # A wall time is set back to the full hour, or on to the next, in the midst of a change that is
    # not on the hour: lands before the change again (and goes round for ever), or beyond matches.
    "loses its way where the change is not on the hour": lambda job, change, lacks, adds: (
        job.wildcard and not on_the_hour(change) and after_change(change, lacks | adds)),
    # The start of a day that has no 00:00 is taken for a real time: answered, or an hour lost after it.
    "believes in a midnight that was skipped": lambda job, change, lacks, adds: (
        job.wildcard and skips_midnight(change) and after_change(change, lacks | adds)),
}  # fmt: skip

CRONITER: dict[str, Fault] = {
    "repeats fixed jobs in the second pass of a fold": lambda job, change, lacks, adds: (
        not job.wildcard and gap(change) < 0 and not lacks and second_pass(change, adds)),
    "forgets fixed jobs that a gap skipped": lambda job, change, lacks, adds: (
        not job.wildcard and gap(change) > 0 and not adds and max(lacks) - change.at < 60),
    "fires in a gap at wall times that do not match": lambda job, change, lacks, adds: (
        gap(change) > 0 and not lacks and after_change(change, adds)),
    # Those that are due in it: wildcard jobs, and all jobs after a jump.
    "loses jobs in the second pass of a fold": lambda job, change, lacks, adds: (
        (job.wildcard or gap(change) < -3 * HOUR) and gap(change) < 0 and not adds
        and after_change(change, lacks)),
}  # fmt: skip


def attributed(
    faults: dict[str, Fault], job: Job, change: Change, ours: list[int], theirs: Answers
) -> str | None:
    """The name of the known fault that accounts for the difference."""
    lacks, adds = (set(), set()) if theirs is None else (set(ours) - set(theirs), set(theirs) - set(ours))
    return next((name for name, fits in faults.items() if fits(job, change, lacks, adds)), None)


def read_alike(text: str) -> bool:
    """Whether croniter reads the expression as cron does, see the table below."""
    _, _, day, _, weekday = text.split()
    return not re.search(r"\b(\d+)-\1\b", text) and "*" in (day, weekday)


def differences(
    answers: Callable[[str, str, int, int], Answers], faults: dict[str, Fault]
) -> tuple[Counter[str], list[str], int]:
    """How often each fault was seen, the differences without a name, and how many answers were equal."""
    chance = random.Random(SEED)
    together = {(change.at, change.before, change.after): change for change in oracle.all_changes()}
    uneven = [change for change in together.values() if not on_the_hour(change)]
    jumps = [change for change in together.values() if abs(gap(change)) > 3 * HOUR]
    changes = chance.sample(list(together.values()), CHANGES) + chance.sample(uneven, 150)
    questions = [(change, oracle.expressions(change, chance, 1)[0]) for change in changes]
    questions += [(change, f"30 {hour} * * *") for change in jumps for hour in range(24)]
    seen: Counter[str] = Counter()
    nameless, equal = [], 0
    for change, text in questions:
        if not read_alike(text):
            continue
        start, stop = change.at - AROUND, change.at + AROUND
        ours, theirs = oracle.engine(text, change.zone, start, stop), answers(text, change.zone, start, stop)
        if ours == theirs:
            equal += 1
            continue
        name = attributed(faults, oracle.read(text), change, ours, theirs)
        if name is None:
            nameless.append(f"{text!r} in {change}: {ours} but {theirs}")
        else:
            seen[name] += 1
    return seen, nameless, equal


@pytest.mark.parametrize(
    ("answers", "faults"),
    [(cronsim_answers, CRONSIM), (croniter_answers, CRONITER)],
    ids=["cronsim", "croniter"],
)
def test_every_difference_near_a_clock_change_is_a_known_fault(
    answers: Callable[[str, str, int, int], Answers], faults: dict[str, Fault]
) -> None:
    seen, nameless, equal = differences(answers, faults)
    assert nameless == []
    assert set(seen) == set(faults)
    assert equal > 300


def test_cronsim_asked_inside_the_repeated_hour_answers_an_instant_before_the_question() -> None:
    asked = 1_792_890_600  # 2026-10-25T01:10Z, 02:10 in Berlin for the second time
    theirs = next(CronSim("20 2 * * *", datetime.fromtimestamp(asked, ZoneInfo("Europe/Berlin"))))
    assert theirs.timestamp() < asked
    (ours, *_) = oracle.engine("20 2 * * *", "Europe/Berlin", asked, asked + 3 * oracle.DAY)
    assert datetime.fromtimestamp(ours, UTC) == datetime(2026, 10, 26, 1, 20, tzinfo=UTC)


@pytest.mark.parametrize("text", ["0 0 9 * * 1", "0 0 L * *", "0 0 * * 5#2", "5/15 * * * *"])
def test_what_cronsim_reads_and_cron_does_not_is_refused(text: str) -> None:
    CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidSchedule):
        parse_cron(text)


@pytest.mark.parametrize(
    ("text", "theirs", "ours"),
    [
        # An equal range is read as everything.
        ("5-5 * * * *", "2026-01-01 00:01", "2026-01-01 00:05"),
        # A day field that begins with * but is not only that, beside another: either, not both.
        ("0 0 */2 * 1", "2026-01-03 00:00", "2026-01-05 00:00"),
    ],
)
def test_what_croniter_reads_differently(text: str, theirs: str, ours: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    found = croniter(text, start).get_next(datetime)
    seconds = int(start.timestamp())
    (first, *_) = oracle.engine(text, "UTC", seconds + 1, seconds + 10 * oracle.DAY)
    assert found.strftime("%Y-%m-%d %H:%M") == theirs
    assert datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%d %H:%M") == ours


def test_a_range_that_croniter_wraps_is_refused() -> None:
    assert croniter("0 22-2 * * *", datetime(2026, 1, 1, tzinfo=UTC)).get_next(datetime).hour == 1
    with pytest.raises(InvalidSchedule, match="22-23,0-2"):
        parse_cron("0 22-2 * * *")


@pytest.mark.parametrize(
    ("minute", "hour", "night", "fires"),
    [
        ("30", "2", "2026-03-28T23:00", "01:30"),
        ("30", "2", "2026-10-24T22:00", "00:30"),
        ("*/30", "*", "2026-10-24T22:00", "22:30 23:00 23:30 00:00 00:30 02:00 02:30"),
    ],
)
def test_what_the_documentation_says_of_celerys_crontab(
    minute: str, hour: str, night: str, fires: str
) -> None:
    """Asked every minute, as beat would, in the two nights of docs/time.md."""
    berlin = ZoneInfo("Europe/Berlin")
    now = datetime.fromisoformat(night).replace(tzinfo=UTC)
    app = Celery("asked", set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    schedule = crontab(minute=minute, hour=hour, app=app, nowfun=lambda: now.astimezone(berlin))
    last, found = now.astimezone(berlin), []
    for _ in range(5 * 60):
        if schedule.is_due(last).is_due:
            found.append(f"{now:%H:%M}")
            last = now.astimezone(berlin)
        now += timedelta(minutes=1)
    app.close()
    assert found == fires.split()
