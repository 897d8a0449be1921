"""The placeholders in what a target is sent: a closed list of words. Nothing is evaluated. Pure.

A placeholder is written exactly `{{event_id}}`, without blanks. Everything else in double braces, such as
`{{ user.name }}` meant for a template engine at the other end, passes through untouched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

NAMES = ("scheduled_for", "event_id", "trigger_id", "trigger_name", "attempt")

_MARKER = "{{"
_KNOWN = re.compile(r"\{\{(" + "|".join(NAMES) + r")\}\}")
_WORD = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}")


def render(value: Any, values: Mapping[str, str]) -> Any:
    """Return `value`, any JSON value, with the placeholders in its strings replaced by `values`.

    Strings are searched once: what was put in is not searched again. Keys of objects stay as they are, and
    so does a placeholder that `values` has no text for. `value` itself is never changed, and it is
    returned, uncopied, when there is no `{{` in it. Any depth will do.
    """
    if not any(_MARKER in text for text in _strings(value)):
        return value
    root: list[Any] = [value]
    # Each entry is a place in a container of the copy that still holds its original. A stack of our own,
    # since recursion would end at a depth that a document may have.
    todo: list[tuple[Any, Any]] = [(root, 0)]
    while todo:
        container, key = todo.pop()
        item = container[key]
        if isinstance(item, str):
            container[key] = _filled(item, values)
        elif isinstance(item, dict):
            copied = container[key] = dict(item)
            todo.extend((copied, name) for name in copied)
        elif isinstance(item, list):
            listed = container[key] = list(item)
            todo.extend((listed, index) for index in range(len(listed)))
    return root[0]


def unknown_placeholders(value: Any) -> list[str]:
    """Return the words in `value` that are written like a placeholder and are none, sorted, each once.

    They are sent as they stand. That is right for another template engine and wrong for a typing error
    such as `{{schedule_for}}`, so creation may warn of them, and must not refuse them.
    """
    words = {word for text in _strings(value) if _MARKER in text for word in _WORD.findall(text)}
    return sorted(words.difference(NAMES))


def _filled(text: str, values: Mapping[str, str]) -> str:
    if _MARKER not in text:
        return text
    return _KNOWN.sub(lambda found: values.get(found[1], found[0]), text)


def _strings(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value but the keys of objects."""
    if isinstance(value, str):
        yield value
        return
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
