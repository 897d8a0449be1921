"""What a request says, read strictly: token, body, headers, query."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge, Unauthorized, UnsupportedMediaType
from werkzeug.http import parse_options_header

from triggers.definition import load_json
from triggers.errors import InvalidDocument, InvalidSchedule, NotJson, Problem
from triggers.rfc3339 import parse_instant

MAX_BODY_BYTES = 64 * 1024
MAX_BULK_BYTES = 1024 * 1024
DEFAULT_LIMIT = 100
MAX_LIMIT = 500
OPEN_PATHS = ("/healthz", "/readyz")

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_PLUS_LOST = re.compile(r" (?=[0-9]{2}:[0-9]{2}\Z)")


def authorize(token: str) -> None:
    """Let a request pass that carries the token (RFC 6750). Raises Unauthorized."""
    if request.path in OPEN_PATHS:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    given_bytes = given.strip().encode("utf-8", "surrogatepass")
    if hmac.compare_digest(given_bytes, token.encode()) and scheme.lower() == "bearer":
        return
    raise Unauthorized("a bearer token is needed: Authorization: Bearer <ADMIN_TOKEN>")


def json_body(most: int = MAX_BODY_BYTES) -> Any:
    """The JSON document in the body, which may have `most` bytes.

    Raises UnsupportedMediaType, RequestEntityTooLarge and NotJson. Whether it can be stored is judged with
    the rest of it.
    """
    check_content_type()
    request.max_content_length = most + 1  # Werkzeug cuts a chunked body off there, and says nothing
    data = body_bytes(most + 1)
    if len(data) > most:
        raise RequestEntityTooLarge(f"the body may have {most:,} bytes")
    return load_json(data)


def body_bytes(read: int) -> bytes:
    """The body, up to `read` bytes. Raises NotJson for one that did not come whole."""
    try:
        data = request.get_data(cache=False)
    except RequestEntityTooLarge:
        return b" " * read
    except Exception as error:  # each server has its own for chunks it cannot read
        raise NotJson("the body cannot be read: it breaks off, or its chunks are malformed") from error
    # A server that ends the input itself (`wsgi.input_terminated`) also ends it where the client hung up.
    if len(data) < min(request.content_length or 0, read):
        raise NotJson("the body is shorter than its Content-Length")
    return data


def check_content_type() -> None:
    """Raise UnsupportedMediaType unless the body is said to be JSON in UTF-8, as it is."""
    kind, options = parse_options_header(request.headers.get("Content-Type"))
    if kind.lower() != "application/json":
        raise UnsupportedMediaType("the body must be sent as application/json")
    if set(options) - {"charset"} or options.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("JSON is in UTF-8 (RFC 8259, section 8.1)")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must be sent as it is, without a Content-Encoding")


def idempotency_key() -> str | None:
    """The Idempotency-Key of the request, if it has one. Raises InvalidDocument."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.match(key):
        raise refused("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return key


class Query:
    """The query of a request, of which only `allowed` parameters may be there, each once.

    Raises InvalidDocument, as all its methods do.
    """

    def __init__(self, *allowed: str) -> None:
        self._given: Mapping[str, str] = {}
        if not request.query_string:  # as of nearly every create: nothing to be read
            return
        check_encoding(request.query_string)
        for name, values in request.args.lists():
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                raise refused(name, f"unknown query parameter; there are: {known}")
            if len(values) > 1:
                raise refused(name, "given more than once")
            if "\0" in values[0]:
                raise refused(name, "contains U+0000")
        self._given = request.args

    def text(self, name: str) -> str | None:
        """Any text."""
        return self._given.get(name)

    def word(self, name: str, allowed: Iterable[str]) -> str | None:
        """One of a few words."""
        value = self.text(name)
        words = [str(word) for word in allowed]
        if value is not None and value not in words:
            raise refused(name, f"must be one of {', '.join(words)}")
        return value

    def flag(self, name: str) -> bool:
        """`true` or `false`, which is the default."""
        return self.word(name, ("true", "false")) == "true"

    def limit(self) -> int:
        """How many rows a page may have."""
        value = self.text("limit")
        if value is None:
            return DEFAULT_LIMIT
        if not (value.isascii() and value.isdigit() and len(value) < 9 and 1 <= int(value) <= MAX_LIMIT):
            raise refused("limit", f"must be a whole number from 1 to {MAX_LIMIT}")
        return int(value)

    def instant(self, name: str) -> datetime | None:
        """An RFC 3339 instant. A `+` that was not encoded arrives as a blank, and is meant."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return parse_instant(_PLUS_LOST.sub("+", value), name)
        except InvalidSchedule as error:
            raise refused(name, str(error)) from None


def check_encoding(query: bytes) -> None:
    """Raise InvalidDocument unless the query is UTF-8: Werkzeug would pass what is not on as text."""
    for part in query.split(b"&"):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            name = unquote_to_bytes(part.partition(b"=")[0]).decode("utf-8", "replace")
            raise refused(name, "not UTF-8") from None


def refused(parameter: str, detail: str) -> InvalidDocument:
    """A parameter that breaks the rules."""
    return InvalidDocument([Problem("/" + parameter.replace("~", "~0").replace("/", "~1"), detail)])
