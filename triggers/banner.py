"""What `triggerbeat up` says once all is up: where everything is, and what to do first."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import quote, urlsplit

from triggers.settings import Settings, without_password

FIRST_TRIGGER = (
    '{"name": "hello", "schedule": {"type": "interval", "every_seconds": 5},'
    ' "target": {"type": "log", "message": "Hello from {{trigger_name}}, due at {{scheduled_for}}"}}'
)


def reachable(host: str) -> str:
    """An address at which a client on this machine finds what serves `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def banner(settings: Settings, folder: Path, given_token: bool) -> str:
    """Where all is, and what to do first. A token that was given is not shown."""
    host = reachable(settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    kept = folder / "admin-token"
    token = "the one in ADMIN_TOKEN" if given_token else f"{settings.admin_token}  (kept in {kept})"
    bearer = "$ADMIN_TOKEN" if given_token else settings.admin_token
    embedded = "embedded Valkey, " if settings.broker_is_default else ""
    return f"""
Triggerbeat is up.
  endpoint  {url}
  token     {token}
  database  {without_password(settings.database_url)}
  broker    {embedded}{without_password(settings.celery_broker_url)}
  queue     {queue_command(settings)}
            (mostly empty, as workers fetch at once; `triggerbeat queue` shows what they hold, too)

Your first trigger, to paste into another terminal:

curl {url}/triggers -H "Authorization: Bearer {bearer}" -H "Content-Type: application/json" \\
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


