"""One field of a cron expression: its text made a mask of values, or refused with a reason.

Grammar of a field, from Debian cron 3.0pl1, `entry.c`: items between commas, each `*`, a number or
a range `a-b` with a <= b, and `/step` after `*` or a range; three-letter names of months and
weekdays in any case stand for numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from triggers.errors import InvalidSchedule

_LONGEST_SHOWN = 40
_LONGEST_NUMBER = 9  # digits without leading zeros; more is out of every range
_BEYOND_ALL = 10**_LONGEST_NUMBER


def _mask(low: int, high: int, step: int) -> int:
    return sum(1 << value for value in range(low, high + 1, step))


@dataclass(frozen=True, slots=True)
class Field:
    """A field's name, its bounds (both inclusive), and the names of its values."""

    label: str
    low: int
    high: int
    names: dict[str, int] = field(default_factory=dict)
    plain: dict[str, int] = field(init=False)  # the masks of `*` and of single numbers: most fields are that

    def __post_init__(self) -> None:
        masks = {str(value): 1 << value for value in range(self.low, self.high + 1)}
        object.__setattr__(self, "plain", masks | {"*": _mask(self.low, self.high, 1)})


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY_OF_MONTH = Field("day of month", 1, 31)
MONTH = Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)})
DAY_OF_WEEK = Field("day of week", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)})

_FOREIGN = {
    "?": 'the "?" of Quartz is not part of cron; "*" says the same',
    "#": '"#", the n-th weekday of a month, is not part of cron',
    "L": '"L", the last day, is not part of cron',
    "W": '"W", the nearest weekday, is not part of cron',
    "H": 'the "H" of Jenkins is not part of cron; jitter_seconds spreads the load',
    "~": 'the "~" of OpenBSD is not part of cron; jitter_seconds spreads the load',
    "%": '"%" is not part of a schedule',
}


def field_mask(kind: Field, text: str) -> int:
    """The values that `text` allows, as a mask with bit n for the value n.

    Raises InvalidSchedule (field `cron`) naming the item that is wrong.
    """
    plain = kind.plain.get(text)
    if plain is not None:
        return plain
    mask = 0
    for item in dict.fromkeys(text.split(",")):  # each item once, however often it is repeated
        mask |= _item_mask(kind, item)
    return mask


def quoted(text: str) -> str:
    """User text for a message: in double quotes, clipped, control characters escaped."""
    clipped = text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
    return '"' + clipped.encode("unicode_escape").decode("ascii") + '"'


def whole(digits: str) -> int:
    """The number in a text of ASCII digits; one number beyond all ranges stands for all huge ones."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _LONGEST_NUMBER else _BEYOND_ALL


def _item_mask(kind: Field, item: str) -> int:
    span, slash, step_text = item.partition("/")
    if not span:
        reason = _step_hint(kind, "*", step_text) if slash else f"{kind.label} has an empty item"
        raise _wrong(item, reason)
    low, high = _bounds(kind, span, item)
    if not slash:
        return _mask(low, high, 1)
    if span != "*" and "-" not in span:
        raise _wrong(item, _step_hint(kind, f"{span}-{kind.high}", step_text))
    return _mask(low, high, _step(kind, step_text, item))


def _bounds(kind: Field, span: str, item: str) -> tuple[int, int]:
    """The first and the last value of `*`, `n` or `a-b`."""
    if span == "*":
        return kind.low, kind.high
    first, dash, last = span.partition("-")
    low = _value(kind, first, item)
    if not dash:
        return low, low
    high = _value(kind, last, item)
    if low > high:
        raise _wrong(item, _backwards_hint(kind, first, last, low, high, stepped=span != item))
    return low, high


def _value(kind: Field, text: str, item: str) -> int:
    if text.isascii() and text.isdigit():
        number = whole(text)
        if number > kind.high:
            raise _wrong(item, f"{kind.label} goes to {kind.high}")
        if number < kind.low:
            raise _wrong(item, f"{kind.label} starts at {kind.low}")
        return number
    named = kind.names.get(text.lower())
    if named is None:
        raise _wrong(item, _value_hint(kind, text, item))
    return named


def _step(kind: Field, text: str, item: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _wrong(item, f"the step of {kind.label} must be a whole number from 1, as in */5")
    step = whole(text)
    if step == 0:
        raise _wrong(item, f"the step of {kind.label} must be 1 or more")
    return step


def _step_hint(kind: Field, span: str, step: str) -> str:
    plausible = step if step.isascii() and step.isdigit() and whole(step) else "n"
    return f"a step needs a range, {span}/{plausible}"


def _backwards_hint(kind: Field, first: str, last: str, low: int, high: int, stepped: bool) -> str:
    if stepped:
        return f"a range of {kind.label} must go upwards; in steps through the end it is a list of values"
    if kind is DAY_OF_WEEK and high == 0:
        return f"a range of {kind.label} must go upwards; Sunday is also 7: {low}-7"
    wrapped = f"{first}-{kind.high if kind is not DAY_OF_WEEK else 6},{kind.low}-{last}"
    return f"a range of {kind.label} must go upwards; through the end it is {wrapped}"


def _value_hint(kind: Field, text: str, item: str) -> str:
    """Why `text` is no value of this field, and what was probably meant."""
    if not text:
        return f"a number is missing in {kind.label}"
    if text.startswith("*"):
        return f'"*" stands alone in {kind.label}, or before a step, as in */5'
    if kind.names.get(text.lower()[:3]) is not None and text.isalpha():
        return f"{kind.label} has names of three letters: {text.lower()[:3]}"
    for other in (MONTH, DAY_OF_WEEK):
        if text.lower() in other.names:
            return f"{text.lower()} belongs to the field {other.label}, this one is {kind.label}"
    for character, hint in _FOREIGN.items():
        if character in text and not (character.isalpha() and text.isalpha() and len(text) > 2):
            return hint
    if "-" in text.strip("-"):
        return f"a range of {kind.label} has a first and a last value, as in {kind.low}-{kind.high}"
    if item.startswith("-") or "--" in item:
        return f"{kind.label} has no negative numbers"
    names = f" or {', '.join(kind.names)}" if kind.names else ""
    return f"{kind.label} is a number from {kind.low} to {kind.high}{names}"


def _wrong(item: str, reason: str) -> InvalidSchedule:
    return InvalidSchedule(f"{quoted(item)}: {reason}", "cron")
