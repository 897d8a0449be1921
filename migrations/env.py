"""Alembic's environment: one transaction for all migrations, on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from models import Base
from models.database import Database
from triggers.settings import Settings

MIGRATION_LOCK = 0x7419_6265  # two `migrate` at once: the second waits, then finds nothing to do


def run(connection: Connection) -> None:
    """Bring the schema to the revision that was asked for."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


url: Any = context.config.attributes.get("url") or Settings.from_environment().database_url
if context.config.attributes.get("connection") is not None:
    run(context.config.attributes["connection"])
else:
    database = Database(url if isinstance(url, str) else url.render_as_string(hide_password=False))
    with database.write() as opened:
        run(opened)
    database.close()
