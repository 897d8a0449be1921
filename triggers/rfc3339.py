"""RFC 3339 date-times, read strictly and written in UTC with `Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from triggers.errors import InvalidSchedule

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGINNING = datetime.min.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)  # what instants are counted in

_LONGEST = 64
_MICROSECOND_DIGITS = 6
_DATE_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_EXAMPLE = "2026-03-29T02:30:00"


def before(instant: datetime) -> datetime:
    """The instant before, so that what is exclusive begins with this one; the first of all has none."""
    return instant - MICROSECOND if instant > BEGINNING else instant


def parse_instant(text: str, field: str) -> datetime:
    """The instant that an RFC 3339 `date-time` names, in UTC.

    Digits beyond microseconds are dropped. Raises InvalidSchedule for the given field when the text
    is anything else, has no offset, is a leap second, or lies outside the years 1 to 9999.
    """
    moment = parse_moment(text, field)
    if moment.tzinfo is None:
        raise InvalidSchedule(f"{text!a} has no offset; write {text.upper()}Z or {text.upper()}+02:00", field)
    return moment


def parse_moment(text: str, field: str) -> datetime:
    """Like `parse_instant`, but text without an offset gives a naive datetime, a local time."""
    match = _DATE_TIME.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise InvalidSchedule(_malformed(text), field)
    *numbers, fraction, offset = match.groups()
    if numbers[5] == "60":
        raise InvalidSchedule(f"{text!a}: leap seconds are not counted; write :59, or the next minute", field)
    microsecond = int((fraction or "0")[:_MICROSECOND_DIGITS].ljust(_MICROSECOND_DIGITS, "0"))
    year, month, day, hour, minute, second = (int(number) for number in numbers)
    try:
        local = datetime(year, month, day, hour, minute, second, microsecond)
        return local if offset is None else local.replace(tzinfo=_offset(offset)).astimezone(UTC)
    except OverflowError:
        raise InvalidSchedule(f"{text!a} lies outside the years 1 to 9999 in UTC", field) from None
    except ValueError as error:
        raise InvalidSchedule(f"{text!a} does not exist: {error}", field) from None


def format_utc(instant: datetime) -> str:
    """The aware `instant` as RFC 3339 in UTC with `Z`; fractions of a second only where there are any."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _offset(text: str) -> timezone:
    if text in ("Z", "z"):
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(f"offset {text} goes to 23:59")
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(ahead if text[0] == "+" else -ahead)


def _malformed(text: str) -> str:
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    if _DATE_TIME.fullmatch(shown.replace(" ", "T", 1)):
        return f"{shown!a}: RFC 3339 has a T between date and time, {shown.replace(' ', 'T', 1)}"
    return f"{shown!a} is not an RFC 3339 time such as {_EXAMPLE}Z"
