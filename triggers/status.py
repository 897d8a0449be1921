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
from triggers.store import overview, zone_rules
from triggers.tick import LARGEST_SKEW_SECONDS
from triggers.tzdata import is_older

MISSED_TICKS = 3  # after that many intervals without a tick something is wrong
LATENESS_SPAN = timedelta(hours=1)
MOST_MOVED = 20  # triggers that an update of the tz database moved, shown by name


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
        "tzdata": zones_document(connection),
        "warnings": [*skewed(nodes), *older(nodes)],
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


def skewed(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each machine whose clock is off by more than a second."""
    return [
        f"the clock of {node['name']} is {node['clock_skew_seconds']:+.1f} s off the database's"
        for node in nodes
        if abs(node["clock_skew_seconds"]) > LARGEST_SKEW_SECONDS
    ]


def older(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each machine with an older tz database than another."""
    newest = max((node["tzdata"] for node in nodes), default="")
    return [
        f"the tz database of {node['name']} is {node['tzdata']}, another machine has {newest}"
        for node in nodes
        if is_older(node["tzdata"], newest)
    ]


def zones_document(connection: Connection) -> dict[str, Any] | None:
    """The tz database by which plans are made, and what its last update moved; None before the first tick."""
    rows = list(zone_rules.adopted(connection).values())
    if not rows:
        return None
    changed = [row for row in rows if row.moved is not None]
    latest = max((row.adopted_at for row in changed), default=max(row.adopted_at for row in rows))
    last = sorted((row for row in changed if row.adopted_at == latest), key=lambda row: row.zone)
    moved = [{"zone": row.zone, **one} for row in last for one in row.examples or []]
    return {
        "release": max(row.tzdata for row in rows if row.adopted_at == latest),
        "adopted_at": format_utc(latest),
        "zones_changed": len(last),
        "triggers_moved": sum(row.moved or 0 for row in last),
        "moved": moved[:MOST_MOVED],
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
