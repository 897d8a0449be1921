"""The `log` target: writes its message to the log, and that is all."""

from __future__ import annotations

import logging
from datetime import datetime

from triggers.logs import step

log = logging.getLogger("triggerbeat.message")


def write(trigger: str, event: str, scheduled_for: datetime, message: str) -> None:
    """Write the message at INFO."""
    step(log, "message", trigger=trigger, event=event, scheduled_for=scheduled_for, message=message)
