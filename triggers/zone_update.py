"""After an update of the tz database: plans that were made by other rules are made anew.

A process reads the rules of all zones at its first tick, and again when those of the system have a new
release, and holds them against those by which plans were made so far (`zone_rules`). What differs it adopts,
unless its own release is older: so two releases at work do not move plans to and fro. The steps, in bounded
transactions:

1. Which zones differ? None, mostly, and that is all.
2. Walk the triggers of these zones, and compute what each would have planned ahead, and its next instant.
3. Where that differs, under the trigger's row lock: remove what is planned for later and never started, plan
   anew from this instant on, put it on record. What lies behind keeps its events.
4. Note the zones as adopted: last, so that a walk that was cut short begins again.

While machines with an older release go on planning, the walk is repeated now and then, and once more when
they have stopped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from models.database import Database, in_one_line, is_away
from triggers import planning, tzdata, zones
from triggers.logs import step
from triggers.rfc3339 import format_utc
from triggers.schedule import Schedule, forget_schedules, parse_cached
from triggers.store import zone_rules
from triggers.store.zone_rules import Dependent
from triggers.tzdata import Rules, is_older, release_on_disk

WINDOW = 5_000  # triggers looked at in one transaction
BATCH = 1_000  # triggers planned anew in one transaction
TICK_SECONDS = 20.0  # a tick's share of the walk; the next tick goes on with it
EXAMPLES = 20  # of what moved, on record for each zone
SETTLE_SECONDS = 30.0  # from a new release on the disk until it is read
AGAIN_SECONDS = 600.0  # between two walks while machines with an older release are at work
MIXED = timedelta(days=7)  # after an update: for so long somebody may go on with the release before it

log = logging.getLogger("triggerbeat.tzdata")


class ZoneUpdate:
    """Brings the plans to the rules of this process. One for each process that ticks."""

    def __init__(self, database: Database, rules: Callable[[], Rules]) -> None:
        self.database = database
        self._read_rules = rules
        self._lock = threading.Lock()
        self._rules: Rules | None = None
        self._walk: Walk | None = None
        self._fresh: set[str] = set()  # zones whose rules came with our release, not long ago
        self._since = datetime.min.replace(tzinfo=UTC)  # writers with an older one sought up to here
        self._suspected = False
        self._walked = float("-inf")
        self._noticed: tuple[str, float] | None = None  # a new release on the disk, and since when

    def look(self) -> None:
        """At a tick: compare, walk on, or look for writers with an older release. Mostly nothing.

        Raises nothing: a tick that plans by the rules of yesterday is better than none.
        """
        try:
            with self._lock:
                self._look()
        except SQLAlchemyError as error:
            if not is_away(error):  # else the tick itself says so in a moment
                log.warning("cannot hold the plans against the tz database yet: %s", in_one_line(error))
        except Exception:
            log.exception("cannot hold the plans against the tz database, the next tick tries again")

    def _look(self) -> None:
        if self._rules is not None and self._walk is None and self._has_settled(self._rules):
            forget()
            self._rules = None
        if self._rules is None:
            self._compare(self._read_rules())
        elif self._walk is None and self._fresh:
            self._look_again(self._rules)
        if self._walk is not None and self._walk.go_on(TICK_SECONDS):
            self._walk, self._walked = None, time.monotonic()

    def _has_settled(self, rules: Rules) -> bool:
        """Whether the system has had another release for a while: its files come one after another."""
        found, now = release_on_disk(), time.monotonic()
        if found is None or found == rules.release:
            self._noticed = None
        elif self._noticed is None or self._noticed[0] != found:
            self._noticed = (found, now)
        return self._noticed is not None and now >= self._noticed[1] + SETTLE_SECONDS

    def _compare(self, rules: Rules) -> None:
        """Our rules with those on record."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            known = zone_rules.adopted(connection)
            new = {zone: digest for zone, digest in rules.zones.items() if zone not in known}
            zone_rules.begin(connection, new, rules.release, now)
        self._rules = rules
        differing = {z for z, digest in rules.zones.items() if z in known and known[z].digest != digest}
        newer = {z for z in differing if is_older(rules.release, known[z].tzdata)}
        if newer:
            log.warning("the tz database of this machine is %s, plans were made by %s: update it and restart",
                        rules.release, max(known[z].tzdata for z in newer))  # fmt: skip
        ours = {z: row for z, row in known.items() if row.moved is not None and row.tzdata == rules.release}
        self._fresh = {z for z, row in ours.items() if row.adopted_at > now - MIXED}
        self._since = min((ours[z].checked_at for z in self._fresh), default=now)
        if wanted := differing - newer:
            self._walk = Walk(self.database, rules, wanted, now)
            self._fresh |= wanted
        elif self._fresh:
            self._look_again(rules)

    def _look_again(self, rules: Rules) -> None:
        """Walk once more over what changed with our release, when somebody planned by an older one since."""
        with self.database.read() as connection:
            now = self.database.now(connection)
            self._suspected |= zone_rules.older_writers(connection, rules.release, self._since)
        self._since = now
        if self._suspected and time.monotonic() >= self._walked + AGAIN_SECONDS:
            self._suspected = False
            self._walk = Walk(self.database, rules, self._fresh, now)


class Walk:
    """One walk over all triggers of some zones, in windows by id. What it has done it need not do again."""

    def __init__(self, database: Database, rules: Rules, zones: Iterable[str], began_at: datetime) -> None:
        self.database = database
        self.rules = rules
        self.zones = sorted(zones)
        self.began_at = began_at
        self.after: str | None = zone_rules.NOBODY
        self.moved: Counter[str] = Counter()
        self.examples: dict[str, list[dict[str, Any]]] = {}

    def go_on(self, seconds: float) -> bool:
        """Walk for about so long; whether the end was reached."""
        end = time.monotonic() + seconds
        while self.after is not None:
            differing, following = self._window(self.after)
            for first in range(0, len(differing), BATCH):
                self._move(differing[first : first + BATCH])
            self.after = following  # only now: a window that failed is looked at again
            if time.monotonic() > end and self.after is not None:
                return False
        self._adopt()
        return True

    def _window(self, after: str) -> tuple[list[str], str | None]:
        """The ids of the next window's triggers whose plan is another now, in order; its end."""
        with self.database.read() as connection:
            now = self.database.now(connection)
            found, following = zone_rules.dependent(connection, self.zones, after, WINDOW)
            ahead = planned_ahead(connection, found, now)
        return sorted(one.id for one in found if differs(one, ahead.get(one.id, set()), now)), following

    def _move(self, ids: Sequence[str]) -> None:
        """Plan these anew, in one transaction, and log it when it is committed."""
        with self.database.write() as connection:
            found = zone_rules.locked(connection, self.zones, ids)
            at = self.database.now(connection)
            moved = plan_anew(connection, found, at, self.rules.release)
        for one, before, after in moved:
            was, now = told(before), told(after)
            step(
                log, "replanned", trigger=one.name, zone=one.zone, was=was, now=now, tzdata=self.rules.release
            )
            self.moved[one.zone] += 1
            if len(self.examples.setdefault(one.zone, [])) < EXAMPLES:
                self.examples[one.zone].append({"trigger": one.name, "was": was, "now": now})

    def _adopt(self) -> None:
        with self.database.write() as connection:
            known = zone_rules.adopted(connection)
            for zone in self.zones:
                row, digest = known[zone], self.rules.zones[zone]
                values: dict[str, Any] = {"checked_at": self.began_at}
                if row.digest != digest:
                    values |= {"digest": digest, "tzdata": self.rules.release, "adopted_at": self.began_at}
                    values |= {"moved": 0, "examples": []}
                    row = row._replace(moved=0, examples=[])
                values["moved"] = values.get("moved", row.moved or 0) + self.moved[zone]
                values["examples"] = [*(row.examples or []), *self.examples.get(zone, [])][-EXAMPLES:]
                zone_rules.adopt(connection, zone, **values)
        log.log(logging.WARNING if self.moved else logging.INFO,
                "the tz database is %s: of %d zones the rules changed, %d triggers were planned anew",
                self.rules.release, len(self.zones), self.moved.total())  # fmt: skip


def forget() -> None:
    """Let this process read zones anew, and all that it computed by them."""
    for cache in (tzdata.rules, tzdata.release, zones.zone, planning.occurrence_after):
        cache.cache_clear()
    forget_schedules()
    ZoneInfo.clear_cache()


def planned_ahead(
    connection: Connection, found: Sequence[Dependent], now: datetime
) -> dict[str, set[datetime]]:
    """The events that wait, of triggers that have planned beyond now."""
    return zone_rules.ahead(connection, [one.id for one in found if one.planned_until > now], now)


def differs(one: Dependent, ahead: set[datetime], now: datetime) -> bool:
    """Whether the rules as they are now give another plan from `now` on than the one that was made."""
    if one.next_at is not None and one.next_at <= now:
        return False  # due: it is planned by this tick, by the rules as they are now
    try:
        schedule = parse_cached(one.schedule, one.anchor)
        return not has_passed(schedule, now) and expected(schedule, one, len(ahead), now) != (
            ahead,
            one.next_at,
        )
    except Exception as error:  # for the tick to set aside, when it is due
        log.warning("id=%s its schedule cannot be looked at: %s", one.id, error)
        return False


def has_passed(schedule: Schedule, now: datetime) -> bool:
    """Whether the only instant is no more to come: what was planned for it before stands, or it were lost."""
    return schedule.kind == "once" and schedule.after(now) is None


def expected(
    schedule: Schedule, one: Dependent, ahead: int, now: datetime
) -> tuple[set[datetime], datetime | None]:
    """The instants from `now` on up to the plan's end, and the first beyond."""
    left = None if schedule.max_runs is None else schedule.max_runs - one.planned_count + ahead
    found: set[datetime] = set()
    instant: datetime | None = schedule.after(now)
    while instant is not None and instant <= one.planned_until and left != len(found):
        found.add(instant)
        instant = schedule.after(instant)
    return found, None if left == len(found) else instant


def plan_anew(
    connection: Connection, found: Sequence[Dependent], at: datetime, tzdata: str
) -> list[tuple[Dependent, datetime | None, datetime | None]]:
    """Plan those of these locked triggers anew from `at` on that still have to be; the first instant of
    each before and now, whether it has its event already or not.
    """
    ahead = planned_ahead(connection, found, at)
    moving = [one for one in found if differs(one, ahead.get(one.id, set()), at)]
    gone = zone_rules.drop_planned(connection, [one.id for one in moving if one.id in ahead], at)
    moved, rows = [], []
    for one in moving:
        schedule, count = parse_cached(one.schedule, one.anchor), one.planned_count - gone[one.id]
        more = schedule.max_runs is None or count < schedule.max_runs
        next_at = schedule.after(at) if more else None
        known = ahead.get(one.id, set()) | ({one.next_at} if one.next_at is not None else set())
        was = min(known, default=None)
        detail = f"tzdata {tzdata}: next {told(was)} is now {told(next_at)}"
        rows.append((one.id, next_at, count, next_at is None, detail))
        moved.append((one, was, next_at))
    zone_rules.move(connection, rows, at, tzdata)
    return moved


def told(at: datetime | None) -> str | None:
    """An instant for people."""
    return None if at is None else format_utc(at)
