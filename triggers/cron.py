"""Cron expressions: the grammar, what is wrong with one, and the calendar of a right one.

The reference is Debian's cron 3.0pl1: `entry.c` for the grammar, `cron.c` for which jobs count as
wildcard jobs and how the two day fields combine. A parsed expression knows wall time only; what
clock changes do to it stands in `triggers.rules`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from triggers.cron_fields import DAY_OF_MONTH, DAY_OF_WEEK, HOUR, MINUTE, MONTH, field_mask, quoted
from triggers.errors import InvalidSchedule

LONGEST_EXPRESSION = 4_096  # characters; a list of everything in all five fields takes 450

MINUTES_A_DAY = 1_440
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_FIRST_DAY = date.min.toordinal() - _EPOCH_DAY
_LAST_DAY = date.max.toordinal() - _EPOCH_DAY
_ALL_WEEKDAYS = 0b111_1111
_IN_EVERY_MONTH = ((1 << 28) - 1) << 1
_EVERY_SEVENTH = sum(1 << day for day in range(1, 32, 7))
_MONTH_DAYS = tuple(((1 << days) - 1) << 1 for days in (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31))
_LEAP_FEBRUARY = ((1 << 29) - 1) << 1
_MONTH_NAMES = ("", "January", "February", "March", "April", "May", "June", "July", "August", "September",
                "October", "November", "December")  # fmt: skip

WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression. Each field is a mask whose bit n stands for the value n.

    `wildcard`: the text of the minute or the hour field begins with `*`; the job follows real time
    through clock changes. `either_day`: both day fields are restricted, and either is enough.
    Minutes and days are counted from 1970-01-01 in wall time.
    """

    text: str
    fields: tuple[str, ...]
    minutes: int
    hours: int
    days: int
    months: int
    weekdays: int
    wildcard: bool
    either_day: bool

    def __hash__(self) -> int:  # of all fields it would be worked out anew at each look into a memo
        return hash(self.text)

    def next_minute(self, minute: int) -> int | None:
        """The first matching minute at or after `minute`; None after the year 9999."""
        day, of_day = divmod(minute, MINUTES_A_DAY)
        first = self.next_day(day)
        if first is None:
            return None
        if first > day:
            return first * MINUTES_A_DAY + self._first_of_day()
        hour, in_hour = divmod(of_day, 60)
        if self.hours >> hour & 1:
            rest = self.minutes >> in_hour
            if rest:
                return minute + (rest & -rest).bit_length() - 1
        rest = self.hours >> (hour + 1)
        if rest:
            hour += (rest & -rest).bit_length()
            return day * MINUTES_A_DAY + hour * 60 + (self.minutes & -self.minutes).bit_length() - 1
        first = self.next_day(day + 1)
        return None if first is None else first * MINUTES_A_DAY + self._first_of_day()

    def next_day(self, day: int) -> int | None:
        """The first matching day at or after `day`; None after the year 9999."""
        if day > _LAST_DAY:
            return None
        today = date.fromordinal(max(day, _FIRST_DAY) + _EPOCH_DAY)
        year, month, first = today.year, today.month, today.day
        if self.months >> month & 1:
            rest = self._days_of(year, month) >> first
            if rest:
                return today.toordinal() - _EPOCH_DAY + (rest & -rest).bit_length() - 1
        while True:
            later = self.months >> (month + 1)
            if not later:
                year, month, later = year + 1, 0, self.months >> 1
                if year > date.max.year:
                    return None
            month += (later & -later).bit_length()
            found = self._days_of(year, month)
            if found:
                return date(year, month, (found & -found).bit_length() - 1).toordinal() - _EPOCH_DAY

    def take(self, low: int, high: int, at_most: int) -> tuple[int, int] | None:
        """The matching minutes of [low, high), at most so many: the last one, and how many they are.

        None when there is none. Whole days are counted, not walked.
        """
        first = self.next_minute(low)
        if first is None or first >= high or at_most < 1:
            return None
        times = times_of_day(self.hours, self.minutes)
        day, of_day = divmod(first, MINUTES_A_DAY)
        index, count, last = bisect_left(times, of_day), 0, first
        while True:
            upto = bisect_left(times, high - day * MINUTES_A_DAY)
            if count + upto - index >= at_most:
                return day * MINUTES_A_DAY + times[index + at_most - count - 1], at_most
            if upto > index:
                count, last = count + upto - index, day * MINUTES_A_DAY + times[upto - 1]
            following = self.next_day(day + 1)
            if following is None or following * MINUTES_A_DAY >= high:
                return last, count
            day, index = following, 0

    def _first_of_day(self) -> int:
        hour = (self.hours & -self.hours).bit_length() - 1
        return hour * 60 + (self.minutes & -self.minutes).bit_length() - 1

    def _days_of(self, year: int, month: int) -> int:
        """The matching days of a month as a mask, bit n for day n."""
        length = _MONTH_DAYS[month]
        if month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0):
            length = _LEAP_FEBRUARY
        if self.weekdays == _ALL_WEEKDAYS and not self.either_day:
            return self.days & length
        first = date(year, month, 1).isoweekday() % 7
        # Turned so that bit 0 is the weekday of the 1st, then repeated over the weeks.
        week = (self.weekdays >> first | self.weekdays << (7 - first)) & _ALL_WEEKDAYS
        named = week * _EVERY_SEVENTH
        return (self.days | named if self.either_day else self.days & named) & length


@lru_cache(maxsize=1_024)
def times_of_day(hours: int, minutes: int) -> tuple[int, ...]:
    """The minutes of a day that both masks allow, in order."""
    return tuple(
        hour * 60 + minute
        for hour in range(24)
        if hours >> hour & 1
        for minute in range(60)
        if minutes >> minute & 1
    )


def parse_cron(text: str) -> Cron:
    """The expression in `text`: five fields, or a word such as `@daily`.

    Raises InvalidSchedule (field `cron`) that says what is wrong, where, and what was probably
    meant; also for an expression that matches no date of the calendar, such as `0 0 30 2 *`.
    Source of the grammar: Debian cron 3.0pl1, `entry.c` and crontab(5).
    """
    if len(text) > LONGEST_EXPRESSION:
        raise _refused(f"longer than {LONGEST_EXPRESSION:,} characters")
    trimmed = text.strip(" \t")
    fields = _split(_spelled_out(trimmed))
    minute, hour, day, month, weekday = fields
    cron = Cron(
        text=trimmed,
        fields=tuple(fields),
        minutes=field_mask(MINUTE, minute),
        hours=field_mask(HOUR, hour),
        days=field_mask(DAY_OF_MONTH, day),
        months=field_mask(MONTH, month),
        weekdays=_sunday_is_zero(field_mask(DAY_OF_WEEK, weekday)),
        wildcard=minute.startswith("*") or hour.startswith("*"),
        either_day=not (day.startswith("*") or weekday.startswith("*")),
    )
    _refuse_never(cron)
    return cron


def _spelled_out(text: str) -> str:
    """The five fields an `@` word stands for; other text as it is."""
    if not text.startswith("@"):
        return text
    if text in WORDS:
        return WORDS[text]
    word = text.split()[0].lower()
    if word == "@reboot":
        raise _refused('"@reboot" has no time: a schedule outlives the machines it runs on, so no start '
                       "of one is an occurrence of it")  # fmt: skip
    if word == "@every":
        raise _refused(f"{quoted(text)}: not part of cron; a schedule of type interval fires every so often")
    if word in WORDS:
        raise _refused(f"{quoted(text)}: probably {word}; such a word stands alone and in lower case")
    raise _refused(f"{quoted(text)} is not known; there are {', '.join(sorted(WORDS))}")


def _split(text: str) -> list[str]:
    if "\n" in text or "\r" in text:
        raise _refused("a line break in the expression: one expression a schedule, on one line")
    fields = [field for field in text.replace("\t", " ").split(" ") if field]
    if len(fields) != 5:
        raise _refused(_wrong_number(fields))
    return fields


def _wrong_number(fields: list[str]) -> str:
    count = len(fields)
    order = "minute, hour, day of month, month, day of week"
    if count == 0:
        return f"an empty expression: cron has five fields, {order}"
    if count < 5:
        return f"{count} field{'s' if count > 1 else ''}: cron has five, {order}"
    if count == 6 and fields[5][:4].isdigit() and len(fields[5]) >= 4:
        return f"6 fields: years are not part of cron; probably {quoted(' '.join(fields[:5]))}"
    if count == 6:
        return f"6 fields: seconds are not part of cron; probably {quoted(' '.join(fields[1:]))}"
    if count == 7:
        return ("7 fields: seconds are not part of cron, nor are years; probably "
                + quoted(" ".join(fields[1:6])))  # fmt: skip
    return f"{count:,} fields: cron has five, {order}"


def _sunday_is_zero(mask: int) -> int:
    return (mask | mask >> 7) & _ALL_WEEKDAYS


def _refuse_never(cron: Cron) -> None:
    """Refuse what no date of the calendar matches.

    Every day that exists at all falls on each weekday within 400 years, 29 February too. So only
    the days of the month can keep an expression from ever firing, and only where they must match.
    """
    if cron.either_day or cron.days & _IN_EVERY_MONTH:
        return
    months = [month for month in range(1, 13) if cron.months >> month & 1]
    if any(cron.days & (_LEAP_FEBRUARY if month == 2 else _MONTH_DAYS[month]) for month in months):
        return
    names = " nor ".join(_MONTH_NAMES[month] for month in months)
    first = (cron.days & -cron.days).bit_length() - 1
    raise _refused(f"{quoted(cron.text)} never fires: {names} has no day {first}")


def _refused(message: str) -> InvalidSchedule:
    return InvalidSchedule(message, "cron")
