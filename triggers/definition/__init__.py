"""What a trigger may be: the one definition behind HTTP, command line and OpenAPI."""

from triggers.definition.documents import TriggerDocument
from triggers.definition.reading import check_payload, parse_trigger, parse_triggers, warnings_for
from triggers.definition.strict_json import digest, load_json, pointer, unstorable

__all__ = [
    "TriggerDocument",
    "check_payload",
    "digest",
    "load_json",
    "parse_trigger",
    "parse_triggers",
    "pointer",
    "unstorable",
    "warnings_for",
]
