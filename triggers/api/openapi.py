"""The OpenAPI document, made from the models that validate."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from flask import Response, json
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from models.states import EventState, Status, TriggerState
from triggers.api import answers
from triggers.api.creation import MOST_IN_BULK
from triggers.api.requests import DEFAULT_LIMIT, MAX_LIMIT, Query
from triggers.definition import TriggerDocument

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]

REF = "#/components/schemas/{model}"
EXAMPLE: Json = {
    "name": "nightly-report",
    "schedule": {"type": "cron", "cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
    "target": {"type": "log", "message": "report of {{scheduled_for}}"},
}
PROBLEMS = {
    400: "Not JSON, read strictly.",
    401: "No token, or a wrong one.",
    404: "There is none.",
    409: "The name is in use, or the Idempotency-Key came with another body.",
    413: "More than 64 KiB.",
    415: "Not application/json in UTF-8.",
    422: "Understood, and against the rules; `errors` says where.",
    503: "The database is away or busy; try again after `Retry-After`.",
}
READ_PROBLEMS = (401, 422, 503)
CREATE_PROBLEMS = (400, 401, 409, 413, 415, 422, 503)


def document() -> Response:
    """The OpenAPI document."""
    Query()
    return Response(text(), content_type="application/json")


@cache
def text() -> str:
    """The document as it is sent."""
    return json.dumps(build())


def build() -> Json:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Triggerbeat",
            "version": package_version(),
            "description": "Creates triggers, and answers about what was created.",
        },
        "security": [{"token": []}],
        "paths": paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas()[1],
        },
    }


def paths() -> Json:
    """All paths with their parameters and answers."""
    page = [limit(), parameter("cursor", {"type": "string"}, "`next_cursor` of the page before.")]
    events = [*page, *event_filters()]
    ref = parameter("ref", {"type": "string"}, "A trigger's id or name.", where="path")
    return {
        "/triggers": {
            "post": create(),
            "get": read("listTriggers", answers.TriggerPage, [*page, *trigger_filters()]),
        },
        "/triggers:bulk": {"post": create_in_bulk()},
        "/triggers/{ref}": {"get": read("showTrigger", answers.DescribedTrigger, [ref], 404)},
        "/triggers/{ref}/events": {"get": read("listTriggerEvents", answers.EventPage, [ref, *events], 404)},
        "/events": {"get": read("listEvents", answers.EventPage, events)},
        "/events/{event_id}": {
            "get": read(
                "showEvent",
                answers.EventWithAttempts,
                [parameter("event_id", {"type": "string"}, "An event's id.", where="path")],
                404,
            )
        },
        "/openapi.json": {"get": operation("openapi", {"200": plain("This document.")}, READ_PROBLEMS)},
        "/healthz": {"get": open_to_all("healthz", "The process answers.", ())},
        "/readyz": {"get": open_to_all("readyz", "Database, schema and ticks are well.", (503,))},
    }


def create() -> Json:
    """`POST /triggers`."""
    key = {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"}
    answered = {
        "201": described("Created.", answers.DescribedTrigger),
        "200": described("A dry run, or created before with this key.", answers.DescribedTrigger),
    }
    answered["201"]["headers"] = {
        "Location": {"description": "The trigger's path.", "schema": {"type": "string"}}
    }
    return operation("createTrigger", answered, CREATE_PROBLEMS) | {
        "parameters": [
            parameter("dry_run", {"type": "boolean"}, "Answer as if, and store nothing."),
            parameter("Idempotency-Key", key, "The same key and body give the same trigger.", where="header"),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": reference(TriggerDocument, "validation"),
                    "examples": {"smallest": {"value": EXAMPLE}},
                }
            },
        },
    }


def create_in_bulk() -> Json:
    """`POST /triggers:bulk`."""
    one = create()
    page = answers.DescribedTriggerPage
    answered = {
        "201": described("All created, in the order of the request.", page),
        "200": described("A dry run, or created before with this key.", page),
    }
    schema = {
        "type": "array",
        "items": reference(TriggerDocument, "validation"),
        "minItems": 1,
        "maxItems": MOST_IN_BULK,
    }
    content = {"schema": schema, "examples": {"smallest": {"value": [EXAMPLE]}}}
    said = operation("createTriggers", answered, CREATE_PROBLEMS) | {
        "description": "Creates all triggers of the array, or none.",
        "parameters": one["parameters"],
        "requestBody": {"required": True, "content": {"application/json": content}},
    }
    said["responses"]["413"]["description"] = "More than 1 MiB."
    return said


def read(name: str, model: type[BaseModel], parameters: list[Json], *problems: int) -> Json:
    """A GET."""
    answered = {"200": described(plain_text(model), model)}
    return operation(name, answered, (*READ_PROBLEMS, *problems)) | {"parameters": parameters}


def open_to_all(name: str, description: str, problems: tuple[int, ...]) -> Json:
    """A probe, which needs no token."""
    answered = {"200": described(description, answers.Health)}
    return operation(name, answered, problems) | {"security": []}


def operation(name: str, answered: Json, problems: tuple[int, ...]) -> Json:
    """An operation with its answers."""
    failed = {str(status): failure(status) for status in sorted(problems)}
    return {"operationId": name, "responses": answered | failed}


def failure(status: int) -> Json:
    """An answer of problem details."""
    found = described(PROBLEMS[status], answers.Problem, "application/problem+json")
    header = {401: "WWW-Authenticate", 503: "Retry-After"}.get(status)
    if header is not None:
        found["headers"] = {header: {"schema": {"type": "string"}}}
    return found


def described(description: str, model: type[BaseModel], content_type: str = "application/json") -> Json:
    """An answer whose form is a model."""
    return plain(description, content_type, reference(model, "serialization"))


def plain(description: str, content_type: str = "application/json", schema: Json | None = None) -> Json:
    """An answer."""
    return {"description": description, "content": {content_type: {"schema": schema or {"type": "object"}}}}


def plain_text(model: type[BaseModel]) -> str:
    """The first line of a model's docstring."""
    return (model.__doc__ or "").strip().partition("\n")[0]


def trigger_filters() -> list[Json]:
    """What a page of triggers can be narrowed by."""
    return [
        parameter("tag", {"type": "string"}, "Only with this tag."),
        parameter("state", {"enum": [str(state) for state in TriggerState]}, "Only in this state."),
    ]


def event_filters() -> list[Json]:
    """What a page of events can be narrowed by."""
    instant = {"type": "string", "format": "date-time"}
    return [
        parameter("status", {"enum": [str(status) for status in Status]}, "Only with this status."),
        parameter("state", {"enum": [str(state) for state in EventState]}, "Only kept there."),
        parameter("since", instant, "Only from this `scheduled_for` on, inclusive."),
        parameter("until", instant, "Only up to this `scheduled_for`, exclusive."),
    ]


def limit() -> Json:
    """The length of a page."""
    schema = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    return parameter("limit", schema, "How many items a page may have.")


def parameter(name: str, schema: Json, description: str, where: str = "query") -> Json:
    """A parameter."""
    found = {"name": name, "in": where, "description": description, "schema": schema}
    return found | ({"required": True} if where == "path" else {})


def reference(model: type[BaseModel], mode: Mode) -> Json:
    """Where a model's schema stands in the document."""
    return schemas()[0][model, mode]


@cache
def schemas() -> tuple[dict[tuple[type[BaseModel], Mode], Json], Json]:
    """The references of all models, and their schemas."""
    wanted: list[tuple[type[BaseModel], Mode]] = [(TriggerDocument, "validation")]
    wanted += [
        (model, "serialization")
        for model in (
            answers.DescribedTrigger,
            answers.DescribedTriggerPage,
            answers.TriggerPage,
            answers.EventWithAttempts,
            answers.EventPage,
            answers.Problem,
            answers.Health,
        )
    ]
    references, definitions = models_json_schema(wanted, ref_template=REF)
    return references, definitions["$defs"]  # type: ignore[return-value]  # models are what was asked for


def package_version() -> str:
    """Triggerbeat's own version."""
    try:
        return version("triggerbeat")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"
