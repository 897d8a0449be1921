"""Whether this installation does its work, in numbers: `triggerbeat status`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from triggers import queue_view
from triggers.rfc3339 import format_utc
from triggers.settings import Settings, without_password
from triggers.store import overview

MISSED_TICKS = 3  # after that many intervals without a tick something is wrong
LATENESS_SPAN = timedelta(hours=1)


def status(connection: Connection, now: datetime, settings: Settings, broker_url: str) -> dict[str, Any]:
    """The document that `status --json` prints. `ok` is false when no tick committed for three intervals."""
    nodes = [node_document(node, now) for node in overview.nodes(connection)]
    silence = min((node["seconds_ago"] for node in nodes), default=None)
    waiting = overview.unfinished(connection, now)
    later = [waiting["next_due"], overview.next_occurrence(connection)]
    lateness = overview.lateness_seconds(connection, now, LATENESS_SPAN)
    problem = queue_view.unreachable(broker_url)
    return {
        "ok": silence is not None and silence <= MISSED_TICKS * settings.tick_seconds,
        "now": format_utc(now),
        "last_tick": nodes[0]["last_tick_at"] if nodes else None,
        "last_tick_seconds_ago": silence,
        "tick_seconds": settings.tick_seconds,
        "nodes": nodes,
        "backlog": waiting["due_now"],
        "oldest_due": instant(waiting["oldest_due"]),
        "ahead": waiting["ahead"],
        "running": waiting["running"],
        "next_event": instant(min((at for at in later if at is not None), default=None)),
        "lateness": {
            "events": len(lateness),
            "p50_ms": milliseconds(percentile(lateness, 0.50)),
            "p99_ms": milliseconds(percentile(lateness, 0.99)),
        },
        "triggers": overview.triggers_by_state(connection),
        "broker": {"url": without_password(broker_url), "reachable": problem is None, "error": problem},
    }


def node_document(node: dict[str, Any], now: datetime) -> dict[str, Any]:
    """A machine that ticked: when, for how long, and how far its clock is off the database's."""
    return {
        "name": node["name"],
        "last_tick_at": format_utc(node["last_tick_at"]),
        "seconds_ago": round(max((now - node["last_tick_at"]).total_seconds(), 0.0), 3),
        "took_seconds": round(node["took_seconds"], 3),
        "planned": node["planned"],
        "clock_skew_seconds": round(node["clock_skew_seconds"], 3),
        "tzdata": node["tzdata"],
    }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile of numbers in order; None of none."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None


def milliseconds(seconds: float | None) -> float | None:
    """Seconds in milliseconds, with one decimal."""
    return None if seconds is None else round(seconds * 1000, 1)


def instant(value: datetime | None) -> str | None:
    """An instant as JSON has it."""
    return None if value is None else format_utc(value)
