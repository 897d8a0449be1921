"""The models that validate a trigger, on every way in, and that the OpenAPI document is made from.

Strict: nothing is converted, unknown members are errors. Bounds that depend on settings, and all of
time, are judged in `reading`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from triggers.cron import LONGEST_EXPRESSION
from triggers.schedule_reader import (
    LARGEST_JITTER_SECONDS,
    LARGEST_MAX_RUNS,
    LONGEST_INTERVAL_SECONDS,
    NO_OCCURRENCES,
)
from triggers.targets.address import MAX_URL_CHARACTERS
from triggers.targets.headers import MAX_HEADER_BYTES, MAX_HEADERS
from triggers.targets.signing import MAX_CHARACTERS

MAX_TAGS = 20
MAX_TAG_CHARACTERS = 50
MAX_DESCRIPTION_CHARACTERS = 10_000
MAX_MESSAGE_CHARACTERS = 10_000
MAX_WORD_CHARACTERS = 255
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
ID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"


def whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is the integer 5 (RFC 8259, section 6)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def not_an_id(name: str) -> str:
    """A name must not look like an id, or `/triggers/<id or name>` would mean two things."""
    if re.fullmatch(ID, name):
        raise ValueError("a name must not have the form of an id")
    return name


def each_once(tags: list[str]) -> list[str]:
    """A tag is there or it is not."""
    if len(set(tags)) < len(tags):
        raise ValueError("a tag is there twice")
    return tags


def unset(value: Any) -> None:
    """Null is as good as absent."""
    if value is not None:
        raise ValueError(NO_OCCURRENCES)


def zero(value: Any) -> int:
    """0 is as good as absent."""
    if isinstance(value, bool) or value != 0:
        raise ValueError(NO_OCCURRENCES)
    return 0


Whole = Annotated[int, BeforeValidator(whole)]
Text = Annotated[str, StringConstraints(max_length=MAX_WORD_CHARACTERS)]
Expression = Annotated[str, StringConstraints(max_length=LONGEST_EXPRESSION)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=MAX_WORD_CHARACTERS)]
Name = Annotated[
    str,
    StringConstraints(pattern=NAME),
    AfterValidator(not_an_id),
    Field(description="Unique among triggers that are not deleted; not shaped like an id."),
]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TAG_CHARACTERS)]
Tags = Annotated[
    list[Tag], Field(max_length=MAX_TAGS, json_schema_extra={"uniqueItems": True}), AfterValidator(each_once)
]
Instant = Annotated[
    str | None,
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}),
    Field(description="RFC 3339 with an offset."),
]
Unset = Annotated[None, BeforeValidator(unset), Field(exclude=True)]
Seconds = Annotated[Whole, Field(ge=1, le=86_400)]


class Strict(BaseModel):
    """What all parts of the document share."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Bounded(Strict):
    """What schedules that fire by themselves share. `start_time` and `end_time` are inclusive."""

    start_time: Instant = None
    end_time: Instant = None
    max_runs: Annotated[Whole, Field(ge=1, le=LARGEST_MAX_RUNS)] | None = None
    jitter_seconds: Annotated[Whole, Field(ge=0, le=LARGEST_JITTER_SECONDS)] = 0


BOUNDS = tuple(Bounded.model_fields)


class CronSchedule(Bounded):
    """Five fields, or one of @hourly @daily @midnight @weekly @monthly @yearly @annually."""

    type: Literal["cron"]
    cron: Expression
    timezone: Annotated[Text, Field(description="An IANA name.")] = "UTC"


class IntervalSchedule(Bounded):
    """Every so many seconds from `start_time`, or from the creation."""

    type: Literal["interval"]
    every_seconds: Annotated[Whole, Field(ge=1, le=LONGEST_INTERVAL_SECONDS)]


class OnceSchedule(Bounded):
    """One instant."""

    type: Literal["once"]
    at: Annotated[
        Text, Field(description="RFC 3339 with an offset, or a local time in `timezone`, or `now`.")
    ]
    timezone: Annotated[Text, Field(description="An IANA name.")] = "UTC"


class ManualSchedule(Strict):
    """Fires only when told to. The bounds of other schedules may be written down, and are not kept."""

    type: Literal["manual"]
    start_time: Unset = None
    end_time: Unset = None
    max_runs: Unset = None
    jitter_seconds: Annotated[Literal[0], BeforeValidator(zero), Field(exclude=True)] = 0


class HttpTarget(Strict):
    """An HTTP request. Placeholders in strings of `body` are filled in at each attempt."""

    type: Literal["http"]
    method: Literal["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] = "POST"
    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS)]
    headers: Annotated[
        dict[str, Annotated[str, StringConstraints(max_length=MAX_HEADER_BYTES)]],
        Field(max_length=MAX_HEADERS),
    ] = {}
    body: Any = None
    secret: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS)] | None,
        Field(
            repr=False,
            description="Any text of 1 to 256 bytes, or whsec_ and base64; several are separated by a blank.",
            json_schema_extra={"writeOnly": True},
        ),
    ] = None


class CeleryTarget(Strict):
    """A Celery task, sent to a queue of the users' tasks with the event's id as its task id."""

    type: Literal["celery"]
    task: Word
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    queue: Annotated[Word | None, Field(description="By default the first of CELERY_QUEUES.")] = None


class LogTarget(Strict):
    """A line in the log, and that is all."""

    type: Literal["log"]
    message: Annotated[str, StringConstraints(max_length=MAX_MESSAGE_CHARACTERS)] = ""


class Policy(Strict):
    """What happens to late, overlapping and failing events."""

    misfire: Literal["skip", "fire_once", "fire_all"] = "fire_once"
    misfire_grace_seconds: Seconds = 60
    catchup_window_seconds: Annotated[Whole, Field(ge=0, le=31_536_000)] = 86_400
    overlap: Literal["allow", "skip", "queue"] = "allow"
    timeout_seconds: Annotated[Whole, Field(ge=1, le=3_600)] = 30
    pause_after_failures: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None


class Retry(Strict):
    """How often, and after which waits, a failed attempt is repeated."""

    max_attempts: Annotated[Whole, Field(ge=1, le=100)] = 3
    min_backoff_seconds: Seconds = 5
    max_backoff_seconds: Seconds = 3_600


Schedule = Annotated[
    CronSchedule | IntervalSchedule | OnceSchedule | ManualSchedule, Field(discriminator="type")
]
Target = Annotated[HttpTarget | CeleryTarget | LogTarget, Field(discriminator="type")]


class TriggerDocument(Strict):
    """A trigger as its user writes it. The smallest has `name`, `schedule` and `target`."""

    name: Name
    description: Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARACTERS)] = ""
    tags: Tags = []
    schedule: Schedule
    target: Target
    policy: Policy = Policy()
    retry: Retry = Retry()

    @property
    def secret(self) -> str | None:
        """The secret of an HTTP target, which is kept apart from what is read back."""
        return self.target.secret if isinstance(self.target, HttpTarget) else None

    def stored(self) -> dict[str, Any]:
        """The columns of a trigger that are its definition."""
        dumped = self.model_dump()
        target = dumped["target"]
        target.pop("secret", None)
        return {
            "name": self.name,
            "description": self.description,
            "tags": dumped["tags"],
            "schedule": in_order(dumped["schedule"]),
            "target_type": self.target.type,
            "target": target,
            "secret": self.secret,
            "policy": dumped["policy"],
            "retry": dumped["retry"],
        }


def in_order(schedule: dict[str, Any]) -> dict[str, Any]:
    """The bounds that all schedules share last, as users write them: pydantic puts the inherited first."""
    for name in BOUNDS:
        if name in schedule:
            schedule[name] = schedule.pop(name)
    return schedule
