"""What `triggerbeat up` keeps beside the database, in `.triggerbeat/`: lock, token, the broker's address."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import make_url

from triggers.errors import ConfigurationError, Conflict
from triggers.settings import Settings

NAME = ".triggerbeat"
PRIVATE = 0o600


def database_file(settings: Settings) -> Path | None:
    """The SQLite file, or None for other databases."""
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database.removeprefix("file:").partition("?")[0])


def directory(settings: Settings) -> Path:
    """`.triggerbeat/` beside the SQLite file; in the working directory for other databases."""
    file = database_file(settings)
    return (file.parent if file else Path()) / NAME


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, made if need be, for this process; the lock ends with it, whatever ends it.

    Raises Conflict when another process holds it, and ConfigurationError when the folder cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode(errors="replace").strip()
            raise Conflict(f"`up` already runs here, as process {holder or '?'}: {folder / 'lock'}") from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(file)


def admin_token(folder: Path) -> str:
    """The token made on the first start and kept since. Call it with the folder locked."""
    path = folder / "admin-token"
    with suppress(FileNotFoundError):
        if token := read_private(path):
            return token
        path.unlink()  # of a start that was killed between creating and writing
    token = secrets.token_urlsafe(32)
    write_private(path, token)
    return token


def write_broker_url(folder: Path, url: str) -> None:
    """Leave the broker's address for the commands. It may hold a password."""
    forget_broker_url(folder)
    write_private(folder / "broker-url", url)


def forget_broker_url(folder: Path) -> None:
    """Take the address away again."""
    (folder / "broker-url").unlink(missing_ok=True)


def broker_url(settings: Settings) -> str:
    """The broker the commands use: CELERY_BROKER_URL, else what `up` left, else the default."""
    if settings.broker_is_default:
        with suppress(OSError):
            return read_private(directory(settings) / "broker-url") or settings.celery_broker_url
    return settings.celery_broker_url


def write_private(path: Path, text: str) -> None:
    """Write a new file that is nobody else's to read, from its first moment. It must not exist."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with open(file, "w") as stream:
        stream.write(text + "\n")


def read_private(path: Path) -> str:
    """The text of such a file. Others' rights to it, from a copy or a backup, are taken away."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(file, encoding="ascii", errors="replace") as stream:
        if stat.S_IMODE(os.fstat(file).st_mode) & 0o077:
            with suppress(PermissionError):
                os.fchmod(file, PRIVATE)
        return stream.read().strip()
