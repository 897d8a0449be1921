"""The forms of answers, for the OpenAPI document. What answers contain is made in `store.views`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from models.states import EventState, Reason, Source, Status, TriggerState
from triggers.definition.documents import (
    CeleryTarget,
    LogTarget,
    Name,
    Policy,
    Retry,
    Schedule,
    Tag,
)

Instant = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Id = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]


class Answer(BaseModel):
    """What all answers share."""

    model_config = ConfigDict(extra="forbid")


class HttpTargetAnswer(Answer):
    """An HTTP target as it is read back: the secret is not."""

    type: Literal["http"]
    method: str
    url: str
    headers: dict[str, str]
    body: Any
    has_secret: bool


class Trigger(Answer):
    """A trigger with every default."""

    id: Id
    name: Name
    description: str
    tags: list[Tag]
    schedule: Schedule
    target: Annotated[HttpTargetAnswer | CeleryTarget | LogTarget, Field(discriminator="type")]
    policy: Policy
    retry: Retry
    state: TriggerState
    next_fire_at: Annotated[Instant | None, Field(description="The earliest instant not yet started.")]
    last_fired_at: Instant | None
    created_at: Instant
    updated_at: Instant
    consecutive_failures: int


class DescribedTrigger(Trigger):
    """A trigger with what it will do next."""

    next_occurrences: Annotated[list[Instant], Field(max_length=5)]
    warnings: Annotated[list[str], Field(description="What users of such a trigger often did not mean.")]


class TriggerPage(Answer):
    """A page of triggers, oldest first."""

    items: list[Trigger]
    next_cursor: str | None


class DescribedTriggerPage(Answer):
    """The triggers that were created, in the order of the request."""

    items: list[DescribedTrigger]
    next_cursor: Annotated[None, Field(description="All are here.")]


class Event(Answer):
    """One occurrence, or a run of them, and what became of it."""

    id: Id
    trigger_id: Id
    trigger_name: str
    scheduled_for: Instant
    fire_at: Annotated[Instant, Field(description="`scheduled_for` with its part of the jitter.")]
    source: Source
    status: Annotated[Status, Field(description="What happened.")]
    state: Annotated[EventState, Field(description="Where it is kept.")]
    reason: Reason | None
    attempt: Annotated[int, Field(description="The number of the latest attempt.")]
    coalesced: Annotated[int, Field(description="How many occurrences this event covers.")]
    coalesced_from: Annotated[Instant | None, Field(description="The oldest of them.")]
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    lateness_ms: Annotated[float | None, Field(description="From `fire_at` to `started_at`.")]
    result: Any
    error: Any
    progress: Any


class Attempt(Answer):
    """One try at an event: when, how long, what came of it."""

    attempt: int
    started_at: Instant
    finished_at: Instant | None
    duration_ms: float | None
    outcome: Literal["running", "succeeded", "failed", "lost", "cancelled"]
    result: Any
    error: Any


class EventWithAttempts(Event):
    """An event with all attempts at it, oldest first."""

    attempts: list[Attempt]


class EventPage(Answer):
    """A page of events, newest first by `scheduled_for`."""

    items: list[Event]
    next_cursor: str | None


class ProblemItem(Answer):
    """One thing that is wrong."""

    pointer: Annotated[str, Field(description="A JSON pointer (RFC 6901) into the body, or `/<parameter>`.")]
    detail: str


class Problem(Answer):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemItem]


class Health(Answer):
    """All is well."""

    status: Literal["ok"]
