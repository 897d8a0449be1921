"""What was delivered, as the targets saw it. Kept in memory: no database, no broker can lose it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from triggers.store.delivery import Job


@dataclass(slots=True)
class Delivery:
    """One call of a target. `ended` is unset while it goes on, and for ever when its process `died`."""

    event_id: str
    trigger_id: str
    attempt: int
    due_at: datetime
    scheduled_for: datetime
    worker: str
    began: datetime
    ended: datetime | None = None
    died: bool = False
    outcome: str = ""


@dataclass(slots=True)
class Ledger:
    """All deliveries, and what people were told."""

    deliveries: list[Delivery] = field(default_factory=list)
    logged: Counter[tuple[str, int]] = field(default_factory=Counter)  # (event, attempt) of committed lines
    repeated: Counter[str] = field(default_factory=Counter)  # lines whose commit failed, by event
    told: Counter[tuple[str, str]] = field(default_factory=Counter)  # (trigger, change) that were confirmed
    most_attempts: Counter[str] = field(default_factory=Counter)  # by trigger: the most it ever allowed
    fired: list[str] = field(default_factory=list)  # manual events that were confirmed
    late: list[str] = field(default_factory=list)

    def begin(self, job: Job, worker: str, now: datetime) -> Delivery:
        """A target is called."""
        delivery = Delivery(job.id, job.trigger_id, job.attempt, job.due_at, job.scheduled_for, worker, now)
        self.deliveries.append(delivery)
        return delivery
