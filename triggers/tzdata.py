"""Which tz database this process goes by: its release, and a digest of the rules of each zone.

The standard library takes a zone from the first directory of its search path that has it, else from the
package `tzdata`; so does this module.
"""

from __future__ import annotations

import re
import zoneinfo
from functools import lru_cache
from hashlib import sha256
from importlib import import_module, resources
from pathlib import Path
from typing import NamedTuple

LONGEST_NAME = 64
_RELEASE = re.compile(r"\d{4}[a-z]{1,2}")
_SAYS = (("tzdata.zi", "# version "), ("+VERSION", ""))  # the files that name a directory's release
_DIGITS = 16  # of a digest


class Rules(NamedTuple):
    """The release, such as `2026a`, and the digest of each zone's file."""

    release: str
    zones: dict[str, str]


@lru_cache(maxsize=1)
def rules() -> Rules:
    """What this process goes by; reads some 600 small files, once."""
    return Rules(release(), _digests())


@lru_cache(maxsize=1)
def release() -> str:
    """The release of the first place with zones; `custom-` and a digest where none is named."""
    directory = _directory()
    if directory is None:
        return str(import_module("tzdata").IANA_VERSION)
    return _named(directory) or f"custom-{_digest_of_all()}"


def release_on_disk() -> str | None:
    """The release as the directory names it now; None where none is named, and for the package."""
    directory = _directory()
    return None if directory is None else _named(directory)


def _directory() -> Path | None:
    """The first directory of the search path with anything in it."""
    found = (path for path in map(Path, zoneinfo.TZPATH) if path.is_dir() and any(path.iterdir()))
    return next(found, None)


def is_older(one: str, other: str) -> bool:
    """Whether `one` is a release before `other`. Custom directories are neither older nor newer."""
    return bool(_RELEASE.fullmatch(one) and _RELEASE.fullmatch(other)) and one < other


def _named(directory: Path) -> str | None:
    """The release that a directory of zones claims to be."""
    for name, prefix in _SAYS:
        try:
            with (directory / name).open("rb") as file:
                line = file.readline(100).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if line.startswith(prefix) and _RELEASE.fullmatch(line[len(prefix) :]):
            return line[len(prefix) :]
    return None


def _digest_of_all() -> str:
    return sha256(repr(sorted(_digests().items())).encode()).hexdigest()[:8]


def _digests() -> dict[str, str]:
    names = sorted(name for name in zoneinfo.available_timezones() if len(name) <= LONGEST_NAME)
    found = ((name, _content(name)) for name in names)
    return {name: sha256(text).hexdigest()[:_DIGITS] for name, text in found if text is not None}


def _content(name: str) -> bytes | None:
    """The file of a zone, from where the standard library takes it."""
    for directory in zoneinfo.TZPATH:
        path = Path(directory, name)
        if path.is_file():
            return path.read_bytes()
    try:
        return resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    except (OSError, ModuleNotFoundError):
        return None
