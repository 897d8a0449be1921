"""Tasks that a newcomer can trigger at once. For your own: name your module in TASK_MODULES."""

from __future__ import annotations

import time
import urllib.request
from typing import Any

from celery import shared_task

USER_AGENT = "triggerbeat-example"


@shared_task(name="examples.tasks.call_microservice")
def call_microservice(url: str) -> int:
    """Call a service and return the status code of its answer. Raises for one that is not a success."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("url must begin with http:// or https://")
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


@shared_task(bind=True, name="examples.tasks.divide")
def divide(self: Any, a: float, b: float) -> float:
    """Divide two numbers, telling how far it is; by zero it fails as Python does."""
    self.update_state(state="PROGRESS", meta={"step": "dividing", "current": 1, "total": 2})
    quotient = a / b
    self.update_state(state="PROGRESS", meta={"step": "done", "current": 2, "total": 2})
    return quotient


@shared_task(bind=True, name="examples.tasks.process_text")
def process_text(self: Any, text: str, times: int) -> str:
    """Return the text in upper case, `times` times over, telling how far it is."""
    parts: list[str] = []
    for number in range(1, times + 1):
        parts.append(text.upper())
        self.update_state(state="PROGRESS", meta={"current": number, "total": times})
    return " ".join(parts)


@shared_task(name="examples.tasks.add")
def add(a: float, b: float) -> float:
    """Add two numbers, slowly: 3 seconds, so that one can watch the event go from pending to its result."""
    time.sleep(3)
    return a + b
