"""What anybody may leave in a queue, and what of it comes in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError
from kombu import Message

from celery_config.guard import guarded


def message(body: str, headers: dict[str, Any] | None = None) -> Message:
    """A message as a worker takes it from the queue `tasks`."""
    return Message(
        body,
        content_type="application/json",
        content_encoding="utf-8",
        accept={"application/json"},
        delivery_info={"routing_key": "tasks"},
        headers=headers,
    )


def handed(headers: dict[str, Any], body: str = "[[], {}, {}]") -> list[Message]:
    """What the strategy behind the guard is given."""
    taken: list[Message] = []
    guarded(taken.append)(message(body, headers))
    return taken


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"timelimit": None, "stamped_headers": None, "stamps": None},
        {"timelimit": [40, None], "stamped_headers": ["a"], "stamps": {"a": 1}},
        {"timelimit": [0.5, 10]},
    ],
)
def test_a_message_comes_in(headers: dict[str, Any]) -> None:
    assert len(handed(headers)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"timelimit": [40]},
        {"timelimit": [1, 2, 3]},
        {"timelimit": 40},
        {"timelimit": {"a": 1, "b": 2}},
        {"timelimit": ["40", None]},
        {"timelimit": [10**400, None]},
        {"timelimit": [-1, None]},
        {"stamped_headers": 5},
        {"stamps": [1]},
        {"deep": json.loads("[" * 200 + "]" * 200)},
    ],
)
def test_a_malformed_header_is_refused(headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidTaskError, match="malformed message"):
        handed(headers)


@pytest.mark.parametrize("body", ["no json", "[" * 200 + "]" * 200])
def test_a_malformed_body_is_refused(body: str) -> None:
    with pytest.raises(InvalidTaskError, match="malformed message"):
        handed({}, body)
