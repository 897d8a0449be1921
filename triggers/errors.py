"""All exceptions of Triggerbeat. The docstring is the message where none is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TriggerbeatError(Exception):
    """Something Triggerbeat was asked to do cannot be done."""

    def __str__(self) -> str:
        return super().__str__() or (type(self).__doc__ or "").strip()


class ConfigurationError(TriggerbeatError):
    """A setting has a value that is not allowed."""


class InvalidSchedule(TriggerbeatError):
    """The schedule is malformed, or can never fire.

    `field` names the member of the schedule object that is wrong (`cron`, `timezone`, ...), or is
    empty where the whole object is meant.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidUrl(TriggerbeatError):
    """The URL of an HTTP target is malformed, or leads where deliveries may not go."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document: where (a JSON pointer, RFC 6901) and what."""

    pointer: str
    detail: str


class InvalidDocument(TriggerbeatError):
    """The document breaks the rules; `problems` says where and how."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{p.pointer or '/'}: {p.detail}" for p in problems))
        self.problems = problems


class NotJson(TriggerbeatError):
    """The document is not JSON to us."""


class NotFound(TriggerbeatError):
    """There is nothing of that id or name."""


class Conflict(TriggerbeatError):
    """The request contradicts what is stored."""


class DatabaseAway(TriggerbeatError):
    """The database does not answer, or is not migrated."""


class NameInUse(Conflict):
    """Other triggers have these names."""

    def __init__(self, names: Sequence[str]) -> None:
        shown, more = ", ".join(names[:5]), len(names) - 5
        said = f"the name {shown} is in use" if len(names) == 1 else f"the names {shown} are in use"
        super().__init__(f"{said}, and {more} more" if more > 0 else said)
        self.names = names
