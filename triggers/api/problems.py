"""Errors as problem details (RFC 9457): one form for ours, Flask's and the database's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, json, request
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, Unauthorized

from triggers.errors import Conflict, InvalidDocument, NameInUse, NotFound, NotJson, Problem

RETRY_AFTER_SECONDS = 5
KEPT_HEADERS = ("Allow", "Retry-After")
CHALLENGE = 'Bearer realm="triggerbeat"'  # quoted, as RFC 9110, section 11.5, wants it; Werkzeug does not
DETAILS = {
    404: "there is nothing at this path",
    405: "this method is not allowed here; `Allow` says which are",
}

log = logging.getLogger("triggerbeat.api")


def install(app: Flask) -> None:
    """Answer every error with problem details."""
    app.register_error_handler(InvalidDocument, invalid)
    app.register_error_handler(NotJson, lambda error: problem(400, str(error), [Problem("", str(error))]))
    app.register_error_handler(NotFound, lambda error: problem(404, str(error)))
    app.register_error_handler(
        NameInUse, lambda error: problem(409, str(error), [Problem("/name", str(error))])
    )
    app.register_error_handler(Conflict, lambda error: problem(409, str(error)))
    app.register_error_handler(HTTPException, of_flask)
    app.register_error_handler(DBAPIError, of_database)
    app.register_error_handler(PoolTimeout, of_database)
    app.register_error_handler(Exception, unexpected)


def problem(
    status: int, detail: str, errors: Iterable[Problem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that failed."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": [{"pointer": error.pointer, "detail": error.detail} for error in errors],
    }
    return Response(json.dumps(body), status, headers, content_type="application/problem+json")


def unavailable(detail: str) -> Response:
    """503: what is missing may be back soon."""
    return problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def invalid(error: InvalidDocument) -> Response:
    """422: understood, and against the rules."""
    count = len(error.problems)
    return problem(422, f"{count} thing{'s are' if count > 1 else ' is'} wrong", error.problems)


def of_flask(error: HTTPException) -> Response:
    """What Flask refuses: no such path, another method, a body that is too large."""
    headers = {name: value for name, value in error.get_headers() if name in KEPT_HEADERS}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    code = error.code or 500
    return problem(code, DETAILS.get(code, error.description or ""), headers=headers)


def of_database(error: Exception) -> Response:
    """503 while the database is away, locked, or not migrated yet; an error of ours otherwise."""
    if isinstance(error, IntegrityError | DataError):
        return unexpected(error)
    reason = error.orig if isinstance(error, DBAPIError) else error
    log.warning("the database did not answer %s %s: %s", request.method, request.path, reason)
    return unavailable("the database is away, or busy for too long")


def unexpected(error: Exception) -> Response:
    """500: a mistake of ours, on record."""
    log.exception("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, "an error of the endpoint's own; its log says more")


def never_cached(response: Response) -> Response:
    """What was true for one answer may not be for the next."""
    response.headers["Cache-Control"] = "no-store"
    return response
