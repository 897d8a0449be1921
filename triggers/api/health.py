"""Whether the endpoint lives, and whether the whole of it is of use."""

from __future__ import annotations

import time
from datetime import timedelta

from flask import Response, jsonify
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from models.database import Database, schema_is_current
from triggers.api.problems import unavailable
from triggers.settings import Settings
from triggers.store import reads

MISSED_TICKS = 3


class Health:
    """The two probes. `healthz` is for who restarts the process, `readyz` for who relies on the service."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.database = database
        self.patience = timedelta(seconds=MISSED_TICKS * settings.tick_seconds)
        self.started = time.monotonic()
        self.migrated = False  # once it was so it stays so: the migrations are not read at every probe

    def healthz(self) -> Response:
        """200 while the process answers: restarting it mends neither the database nor the tick."""
        return jsonify(status="ok")

    def readyz(self) -> Response:
        """200, or 503 with the reason: no database, no migrations, no tick."""
        try:
            with self.database.read() as connection:
                reason = self.unready(connection)
        except SQLAlchemyError as error:
            reason = f"the database is away: {type(error).__name__}"
        return jsonify(status="ok") if reason is None else unavailable(reason)

    def unready(self, connection: Connection) -> str | None:
        """What is missing."""
        self.migrated = self.migrated or schema_is_current(connection)
        if not self.migrated:
            return "migrations are missing: run `triggerbeat migrate`"
        last = reads.last_tick_at(connection)
        silent = (
            timedelta(seconds=time.monotonic() - self.started)
            if last is None
            else self.database.now(connection) - last
        )
        if silent > self.patience:
            since = "since the endpoint started" if last is None else f"since {last:%Y-%m-%dT%H:%M:%SZ}"
            return f"no tick has committed {since}, for more than {self.patience.total_seconds():.0f} s"
        return None
