"""Word to the broker that something is due before the next tick. Never in the way of a request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from importlib import import_module

log = logging.getLogger("triggerbeat.api")

MODULE = "celery_config.celery_worker"


def to_broker() -> Callable[[], None]:
    """The hint that Celery's wiring offers, imported beside the start.

    It takes half a second to import, which neither the start nor the first request should wait for; and
    what is wrong with users' task modules must not keep the endpoint down.
    """
    threading.Thread(target=load, name="hint-import", daemon=True).start()

    def hint() -> None:
        send = load()
        if send is not None:
            send()

    return hint


def load() -> Callable[[], None] | None:
    """`celery_config.celery_worker.hint`, or None, logged, when it cannot be had."""
    try:
        found: Callable[[], None] = import_module(MODULE).hint
        return found
    except Exception:
        log.exception("cannot load %s: what is created starts with the next tick", MODULE)
        return None


def give(hint: Callable[[], None]) -> None:
    """Call a hint. The trigger is committed, so whatever goes wrong here is no failure of the request."""
    try:
        hint()
    except Exception:
        log.exception("the hint failed: what was created starts with the next tick")
