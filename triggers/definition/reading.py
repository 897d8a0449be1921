"""From a JSON document to a trigger that can run, or to everything that is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from triggers import schedule as schedules
from triggers.definition.documents import CeleryTarget, HttpTarget, Schedule, Target, TriggerDocument
from triggers.definition.strict_json import MAX_PROBLEMS, pointer, unstorable
from triggers.errors import InvalidDocument, InvalidSchedule, InvalidUrl, Problem
from triggers.rfc3339 import BEGINNING, MICROSECOND
from triggers.settings import Settings, task_allowed
from triggers.targets.address import is_local_name, judge, parse_url
from triggers.targets.headers import wrong_headers
from triggers.targets.placeholders import NAMES, unknown_placeholders
from triggers.targets.signing import check_secret, secret_warnings

MAX_PROBLEMS_OF_ALL = 1_000  # of a list of triggers: each may be told of one
UNIONS = ("schedule", "target")  # pydantic puts the tag of the chosen member into the location
MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "missing",
    "union_tag_not_found": "missing",
    "union_tag_invalid": "must be one of {expected_tags}",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
}


def parse_trigger(
    document: Any, settings: Settings, now: datetime, current: Mapping[str, Any] | None = None
) -> TriggerDocument:
    """The trigger in a JSON document, with every default filled in and `at: now` resolved to `now`.

    `current` is the stored schedule of the trigger that is edited, if any: a schedule that stays as it is
    need not fire again. Raises InvalidDocument with all that is wrong, each by its JSON pointer.
    """
    if found := unstorable(document):
        raise InvalidDocument(found)
    try:
        read = TriggerDocument.model_validate(document)
    except ValidationError as error:
        raise InvalidDocument([problem(e) for e in error.errors(include_url=False)[:MAX_PROBLEMS]]) from None
    found = []
    target = settle_target(read.target, settings, found)
    schedule = settle_schedule(read, now, current, found)
    if found:
        raise InvalidDocument(found)
    if target is read.target and schedule is read.schedule:  # as of most: a copy costs as much as the reading
        return read
    return read.model_copy(update={"target": target, "schedule": schedule})


def parse_triggers(
    documents: Sequence[Any],
    settings: Settings,
    now: datetime,
    currents: Sequence[Mapping[str, Any] | None] | None = None,
    inside: str = "",
) -> list[TriggerDocument]:
    """All triggers of a list that stands at the pointer `inside`, each as `parse_trigger` reads it.

    Raises InvalidDocument with what is wrong in all of them (the first MAX_PROBLEMS_OF_ALL), a name that is
    there twice included.
    """
    parsed, found = [], list(duplicates(documents, inside))
    for index, (document, current) in enumerate(
        zip(documents, currents or repeat(None, len(documents)), strict=True)
    ):
        try:
            parsed.append(parse_trigger(document, settings, now, current))
        except InvalidDocument as error:
            found += [Problem(f"{inside}/{index}{one.pointer}", one.detail) for one in error.problems]
            if len(found) >= MAX_PROBLEMS_OF_ALL:
                break
    if found:
        raise InvalidDocument(found[:MAX_PROBLEMS_OF_ALL])
    return parsed


def duplicates(documents: Sequence[Any], inside: str) -> Iterator[Problem]:
    """Each name that is there twice: one of the two would not be stored, or edited by the other."""
    seen: set[str] = set()
    for index, document in enumerate(documents):
        name = document.get("name") if isinstance(document, dict) else None
        if not isinstance(name, str):
            continue  # what is wrong with it is said later
        if name in seen:
            yield Problem(f"{inside}/{index}/name", f"{name[:100]!a} is there twice")
        seen.add(name)


def problem(error: ErrorDetails) -> Problem:
    """Pydantic's finding, by JSON pointer."""
    where = list(error["loc"])
    if len(where) > 1 and where[0] in UNIONS:
        del where[1]
    if error["type"].startswith("union_tag"):
        where.append("type")
    detail = MESSAGES.get(error["type"], "").format(**error.get("ctx", {}))
    return Problem(pointer(*where), detail or error["msg"].removeprefix("Value error, "))


def settle_schedule(
    read: TriggerDocument, now: datetime, current: Mapping[str, Any] | None, found: list[Problem]
) -> Schedule:
    """The schedule as it is stored; adds to `found` when it is malformed or has nothing left to fire."""
    given = read.schedule.model_dump()
    try:
        resolved = schedules.resolve(given, now)
        if resolved != current:
            refuse_past(resolved, timedelta(seconds=read.policy.misfire_grace_seconds), now)
        return read.schedule if resolved == given else read.schedule.model_copy(update=resolved)
    except InvalidSchedule as error:
        found.append(Problem("/schedule" + (pointer(error.field) if error.field else ""), str(error)))
        return read.schedule


def refuse_past(schedule: Mapping[str, Any], grace: timedelta, now: datetime) -> None:
    """Raise InvalidSchedule when no occurrence is left. An `at` within the grace still counts."""
    if schedule["type"] == "manual":
        return
    understood = schedules.parse(schedule, now)
    if schedule["type"] == "once":
        at = understood.after(BEGINNING)
        if at is None or at < now - grace:
            raise InvalidSchedule("lies further back than misfire_grace_seconds: it would never fire", "at")
    elif understood.after(now - MICROSECOND) is None:
        raise InvalidSchedule(
            "the last occurrence lies in the past: it would never fire",
            "end_time" if schedule["end_time"] is not None else schedule["type"],
        )


def settle_target(target: Target, settings: Settings, found: list[Problem]) -> Target:
    """The target with its defaults; adds to `found` what settings or protocols do not allow."""
    if isinstance(target, HttpTarget):
        check(found, "/target/url", lambda: judge(parse_url(target.url), settings.allow_private_targets))
        for name, detail in wrong_headers(target.headers):
            found.append(Problem("/target/headers" + ("" if name is None else pointer(name)), detail))
        if target.secret is not None:
            secret = target.secret
            check(found, "/target/secret", lambda: check_secret(secret))
    if isinstance(target, CeleryTarget):
        queue = target.queue or settings.celery_queues[0]
        if queue not in settings.celery_queues:
            allowed = ", ".join(settings.celery_queues)
            found.append(Problem("/target/queue", f"not one of CELERY_QUEUES: {allowed}"))
        if not task_allowed(target.task, settings.allowed_tasks):
            found.append(Problem("/target/task", "not one of ALLOWED_TASKS"))
        return target if queue == target.queue else target.model_copy(update={"queue": queue})
    return target


def check(found: list[Problem], at: str, judgement: Callable[[], object]) -> None:
    """Add what a judgement raises."""
    try:
        judgement()
    except (InvalidUrl, ValueError) as error:
        found.append(Problem(at, str(error)))


def check_payload(target_type: str, payload: Any) -> None:
    """Whether `payload` may replace the body or the kwargs of one event. Raises InvalidDocument."""
    found = unstorable(payload)
    if not found and target_type == "celery" and not isinstance(payload, dict):
        found = [Problem("", "the payload replaces kwargs, so it must be a JSON object")]
    if not found and target_type == "log":
        found = [Problem("", "a log target has neither body nor kwargs that a payload could replace")]
    if found:
        raise InvalidDocument(found)


def warnings_for(
    schedule: Mapping[str, Any],
    target: Mapping[str, Any],
    retry: Mapping[str, Any],
    now: datetime,
    secret: str | None = None,
    *,
    allow_private: bool = False,
) -> list[str]:
    """Sentences about what users often did not mean. The arguments are as they are stored."""
    try:
        found = [] if schedule["type"] == "manual" else schedules.warnings(schedule, now)
    except InvalidSchedule as error:  # it was valid once: another tz database may know less
        found = [str(error)]
    sent = [target.get(part) for part in ("body", "args", "kwargs", "message")]
    for word in unknown_placeholders(sent):
        known = ", ".join(NAMES)
        found.append(f"{{{{{word}}}}} is no placeholder and is sent as it stands; there are {known}")
    if retry["min_backoff_seconds"] > retry["max_backoff_seconds"]:
        found.append("min_backoff_seconds exceeds max_backoff_seconds, which every wait is cut to")
    if not allow_private and target["type"] == "http":
        found += local_target(target["url"])
    return found if secret is None else found + secret_warnings(secret)


def local_target(url: str) -> list[str]:
    """Whether a target's name is one that usually stands for an address that deliveries may not go to."""
    host = parse_url(url).host
    if not is_local_name(host):
        return []
    return [f"{host} usually means this machine or its network, where deliveries may not go: "
            "ALLOW_PRIVATE_TARGETS is not set"]  # fmt: skip
