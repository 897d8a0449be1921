"""What `triggerbeat up` says once all is up: where everything is, and what to do first."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from triggers.settings import Settings, without_password

FIRST_TRIGGER = (
    '{"name": "hello", "schedule": {"type": "interval", "every_seconds": 5},'
    ' "target": {"type": "log", "message": "Hello from {{trigger_name}}, due at {{scheduled_for}}"}}'
)


def reachable(host: str) -> str:
    """An address at which a client on this machine finds what serves `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def facts(settings: Settings, folder: Path, given_token: bool) -> dict[str, Any]:
    """Where all is. A token that was given is not among it."""
    host = reachable(settings.host)
    return {
        "endpoint": f"http://{f'[{host}]' if ':' in host else host}:{settings.port}",
        "token": None if given_token else settings.admin_token,
        "token_file": None if given_token else str(folder / "admin-token"),
        "database": without_password(settings.database_url),
        "broker": without_password(settings.celery_broker_url),
        "broker_is_embedded": settings.broker_is_default,
        "queue_command": queue_command(settings),
    }


def banner(of: dict[str, Any]) -> str:
    """The facts for people, and what to do first."""
    token = f"{of['token']}  (kept in {of['token_file']})" if of["token"] else "the one in ADMIN_TOKEN"
    embedded = "  (embedded Valkey)" if of["broker_is_embedded"] else ""
    return f"""
Triggerbeat is up.
  endpoint  {of["endpoint"]}
  token     {token}
  database  {of["database"]}
  broker    {of["broker"]}{embedded}
  queue     {of["queue_command"]}
            (mostly empty, as workers fetch at once; `triggerbeat queue` shows what they hold, too)

Your first trigger, to paste into another terminal:

curl {of["endpoint"]}/triggers -H "Content-Type: application/json" \\
  -H "Authorization: Bearer {of["token"] or "$ADMIN_TOKEN"}" \\
  -d {shlex.quote(FIRST_TRIGGER)}

Ctrl-C stops everything.
"""


def queue_command(settings: Settings) -> str:
    """The line that shows the raw queue."""
    url = urlsplit(settings.celery_broker_url)
    if url.scheme not in ("redis", "rediss"):
        return "triggerbeat queue"
    words = ["redis-cli"]
    if url.hostname not in ("localhost", "127.0.0.1", None):
        words += ["-h", url.hostname]
    words += ["-p", str(url.port or 6379)]
    if url.path.strip("/") not in ("", "0"):
        words += ["-n", quote(url.path.strip("/"))]
    words += ["--tls"] if url.scheme == "rediss" else []
    words += ["--askpass"] if url.password and not settings.broker_is_default else []
    return " ".join([*words, "LRANGE celery 0 -1"])
