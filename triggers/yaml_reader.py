"""The YAML of `triggerbeat apply`, read as strictly as our JSON: what it says is what one sees."""

from __future__ import annotations

import re
from typing import Any

import yaml

from triggers.errors import NotJson

# libyaml's, which is ten times as fast, where PyYAML was built with it.
Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(Base):  # type: ignore[misc]  # chosen when it runs
    """YAML's core schema (1.2, section 10.3): no `yes` that is a boolean, no date that is not a string.

    Duplicate keys are refused; PyYAML would let the last one win in silence.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own way of telling

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == MERGE:  # `<<: *defaults` may repeat what it brings
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != TEXT:
                raise at(key, "a key must be a string")
            if key.value in seen:
                raise at(key, f"the key {key.value[:100]!a} is there twice")
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


MAX_DEPTH = 100  # more than a trigger may have
TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"
PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    "merge": (r"<<", "<"),
}
for name, (pattern, first) in PLAIN.items():
    firsts = ["" if letter == "\0" else letter for letter in first]
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern})$"), firsts)
Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


def load_yaml(data: bytes) -> Any:
    """The value of a YAML text in UTF-8, made of what JSON has.

    Raises NotJson, whose message names line and column, for what is not YAML, and for duplicate keys.
    """
    try:
        text = data.decode("utf-8")
        check_depth(text)
        return yaml.load(text, Loader)
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise NotJson(f"not YAML{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise NotJson(f"not YAML: {error}") from None
    except (ValueError, RecursionError):
        raise NotJson("not YAML that we can read: a number too long, or nested too deep") from None


def check_depth(text: str) -> None:
    """Raise ValueError for nodes that lie too deep: libyaml's reader would end the process."""
    depth = 0
    for event in yaml.parse(text, Base):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def at(node: Any, problem: str) -> yaml.MarkedYAMLError:
    """An error that names its place."""
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
