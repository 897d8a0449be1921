"""What a job sends: its placeholders filled in, and its call."""

from __future__ import annotations

from sys import intern

from triggers.store.delivery import Job
from triggers.targets import HttpRequest
from triggers.targets.address import parse_url
from triggers.targets.placeholders import render


def host_of(address: str) -> str:
    """The host that a URL names, with its port; one text for all calls to it that wait."""
    url = parse_url(address)
    return intern(f"{url.host}:{url.port}")


def values_of(job: Job) -> dict[str, str]:
    """What the placeholders stand for."""
    form = "microseconds" if job.scheduled_for.microsecond else "seconds"
    return {
        "scheduled_for": job.scheduled_for.replace(tzinfo=None).isoformat(timespec=form) + "Z",
        "event_id": job.id,
        "trigger_id": job.trigger_id,
        "trigger_name": job.name,
        "attempt": str(job.attempt),
    }


def http_request(job: Job) -> HttpRequest:
    """The job's call, with its placeholders filled in."""
    target = job.target
    body = target["body"] if job.payload is None else job.payload
    return HttpRequest(
        method=target["method"],
        url=target["url"],
        headers=target["headers"],
        body=render(body, values_of(job)),
        secret=job.secret,
        event_id=job.id,
        scheduled_for=job.scheduled_for,
        attempt=job.attempt,
        timeout_seconds=job.policy["timeout_seconds"],
    )
