"""A tz database of a test's own: zones by a line of rules, which the next update changes."""

from __future__ import annotations

import struct
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triggers.zone_update import forget


def write_zone(directory: Path, name: str, rule: str) -> None:
    """The file of a zone that has always gone by a POSIX rule, such as `<+01>-1` (RFC 9636)."""
    header = b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    body = struct.pack(">lBB", 0, 0, 0) + b"UTC\0"
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + body + header + body + f"\n{rule}\n".encode())


def write_release(directory: Path, release: str) -> None:
    """The file in which a directory of zones says its release."""
    (directory / "tzdata.zi").write_text(f"# version {release}\n# nothing else\n")


@contextmanager
def tz_path(directory: Path) -> Iterator[None]:
    """Zones are taken from here, and what is not here from the package."""
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([str(directory)])
    forget()
    try:
        yield
    finally:
        zoneinfo.reset_tzpath(before)
        forget()
