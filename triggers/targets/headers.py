"""The headers of a request that its user may choose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MAX_HEADERS = 50
MAX_HEADER_BYTES = 8192  # names, values and four bytes of punctuation each

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110, section 5.6.2
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOP_HEADERS = {"connection", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_OWN_HEADERS = _HOP_HEADERS | {"content-length", "host", "idempotency-key", "user-agent"}
_OWN_HEADER_PREFIXES = ("proxy-", "triggerbeat-", "webhook-")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `ValueError`, which names the header and never shows its value, for headers that cannot be sent.

    The rules are those of RFC 9110, sections 5.1 and 5.5; beside them, names that the protocol or
    Triggerbeat itself sets are refused, and a name that comes twice in different spelling.
    """
    for _, detail in wrong_headers(headers):
        raise ValueError(detail)


def wrong_headers(headers: Mapping[str, str]) -> Iterator[tuple[str | None, str]]:
    """All that is wrong with headers: the name, or None where all of them are meant, and a sentence."""
    if len(headers) > MAX_HEADERS:
        yield None, f"There are more than {MAX_HEADERS} headers."
        return
    seen: set[str] = set()
    for name, value in headers.items():
        if detail := _why_wrong(name, value):
            yield name, detail
        elif name.lower() in seen:
            yield name, f"The header {name} is there twice."
        seen.add(name.lower())
    if sum(len(name) + len(value) + 4 for name, value in headers.items()) > MAX_HEADER_BYTES:
        yield None, f"The headers have more than {MAX_HEADER_BYTES:,} bytes in all."


def _why_wrong(name: str, value: str) -> str | None:
    if not _TOKEN.match(name):
        return f"{name!r} is not the name of a header."
    if name.lower() in _OWN_HEADERS or name.lower().startswith(_OWN_HEADER_PREFIXES):
        return f"The header {name} is set by Triggerbeat, or belongs to the protocol."
    if _CONTROL.search(value):
        return f"The value of the header {name} contains a line break or control character."
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return f"The value of the header {name} contains a character outside Latin-1."
    return None
