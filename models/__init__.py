"""What a row is."""

from models.base import Base
from models.event import Attempt, Event
from models.history import IdempotencyKey, Node, PurgedEvents, TriggerChange, ZoneRules
from models.trigger import Trigger

__all__ = [
    "Attempt",
    "Base",
    "Event",
    "IdempotencyKey",
    "Node",
    "PurgedEvents",
    "Trigger",
    "TriggerChange",
    "ZoneRules",
]
