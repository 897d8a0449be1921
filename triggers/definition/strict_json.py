"""JSON read strictly (RFC 8259), judged by what can be stored, and compared by value. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NoReturn

from triggers.errors import NotJson, Problem

MAX_DEPTH = 64  # far below where Python's own recursion ends
MAX_VALUES = 100_000  # of one document: more than 64 KiB can hold; YAML aliases can make more
MAX_PROBLEMS = 50  # reported at once
LARGEST_INTEGER = 2**63 - 1  # what both databases and most readers of JSON can take
SMALLEST_INTEGER = -(2**63)

# The closing quote is optional, so that a string without an end is one match too: linear in any text.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_OUT_OF_RANGE = float("inf")


def load_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises NotJson for bad UTF-8, a byte order mark, duplicate keys, NaN and Infinity, more than 64
    levels, and whatever RFC 8259 does not allow. A number too large for a double or for 64 bits becomes an
    infinity, which `unstorable` finds.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 at byte {error.start} (RFC 8259, section 8.1)") from None
    if text.startswith("\ufeff"):
        raise NotJson("begins with a byte order mark (RFC 8259, section 8.1)")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON: {error}") from None


def unstorable(value: Any) -> list[Problem]:
    """What in a document cannot be stored or passed on: U+0000 (which PostgreSQL's text has no place for),
    lone surrogates (which UTF-8 has none for), numbers out of range, and values JSON does not have.
    """
    if _storable(value, 0, [MAX_VALUES]):
        return []
    found: list[Problem] = []
    seen = 0
    todo: list[tuple[str, Any]] = [("", value)]
    while todo and len(found) < MAX_PROBLEMS:
        at, item = todo.pop()
        seen += 1
        if seen > MAX_VALUES or at.count("/") > MAX_DEPTH:
            return [Problem("", "the document is too large or too deep")]
        if detail := _why_unstorable(item):
            found.append(Problem(at, detail))
        elif isinstance(item, list):
            todo += [(f"{at}/{index}", member) for index, member in reversed(list(enumerate(item)))]
        elif isinstance(item, dict):
            for key, member in reversed(item.items()):
                inside = at + pointer(key)
                if detail := "a key must be a string" if not isinstance(key, str) else _why_unstorable(key):
                    found.append(Problem(inside, detail))
                else:
                    todo.append((inside, member))
    return found


def _storable(value: Any, depth: int, left: list[int]) -> bool:
    """Whether all is well, as it nearly always is: many times as fast as finding what is not, and where."""
    kind = type(value)
    if kind is str:
        # Most texts are ASCII, which has no surrogates.
        return "\0" not in value if value.isascii() else _UNSTORABLE.search(value) is None
    if kind is dict or kind is list:
        left[0] -= len(value)
        if depth >= MAX_DEPTH or left[0] < 0:
            return False
        if kind is dict:
            for key in value:
                if type(key) is not str or not _storable(key, 0, left):
                    return False
            value = value.values()
        for member in value:  # noqa: SIM110  a generator costs a third more
            if not _storable(member, depth + 1, left):
                return False
        return True
    return _why_unstorable(value) is None


def pointer(*parts: object) -> str:
    """A JSON pointer (RFC 6901); lone surrogates are replaced, since the pointer is to be sent."""
    texts = (_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(part)) for part in parts)
    return "".join("/" + text.replace("~", "~0").replace("/", "~1") for text in texts)


def digest(value: Any) -> str:
    """A digest that is the same for documents that are equal as JSON.

    Numbers are compared by value (1 and 1.0), the order of members does not count, and a boolean is no
    number.
    """
    text = json.dumps(_by_value(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_depth(text: str) -> None:
    # Without a backslash every second part between quotes is a string: faster than to look for each.
    outside = _STRING.sub("", text) if "\\" in text else "".join(text.split('"')[::2])
    depth = 0
    for bracket in _BRACKET.findall(outside):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise NotJson(f"nested more than {MAX_DEPTH} levels deep")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotJson(f"the key {twice[:100]!a} is there twice in one object")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not JSON (RFC 8259, section 6)")


def _integer(text: str) -> int | float:
    # int() of thousands of digits is slow, and beyond 4,300 refused.
    return int(text) if len(text) <= 20 else _OUT_OF_RANGE


_decoder = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_refuse_constant, parse_int=_integer)


def _why_unstorable(value: Any) -> str | None:
    match value:
        case str():
            if found := _UNSTORABLE.search(value):
                return "contains U+0000" if found[0] == "\0" else "contains a lone surrogate"
        case bool() | None | list() | dict():
            pass
        case int() if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
            return "the number is out of range: integers have 64 bits"
        case int():
            pass
        case float() if value - value != 0:  # an infinity, or no number at all
            return "the number is out of range"
        case float():
            pass
        case _:
            return f"{type(value).__name__} is not a JSON value; if it is a date, put it in quotes"
    return None


def _by_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _by_value(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_by_value(member) for member in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
