"""The log of changes is kept by the database: what stands in `trigger_changes` is not changed or deleted.

Zero downtime: no version of Triggerbeat updates or deletes there, so those that run notice nothing.

Revision: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REFUSAL = "trigger_changes is append-only: the audit stands on it"
SQLITE = [
    f"CREATE TRIGGER trigger_changes_keep_{verb.lower()} BEFORE {verb} ON trigger_changes"
    f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
    for verb in ("UPDATE", "DELETE")
]
POSTGRESQL = [
    "CREATE OR REPLACE FUNCTION refuse_to_change() RETURNS trigger LANGUAGE plpgsql AS"
    f" $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$",
    "CREATE TRIGGER trigger_changes_keep BEFORE UPDATE OR DELETE ON trigger_changes"
    " FOR EACH ROW EXECUTE FUNCTION refuse_to_change()",
    "CREATE TRIGGER trigger_changes_keep_all BEFORE TRUNCATE ON trigger_changes"
    " FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change()",
]


def upgrade() -> None:
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER trigger_changes_keep_update")
        op.execute("DROP TRIGGER trigger_changes_keep_delete")
    else:
        op.execute("DROP TRIGGER trigger_changes_keep ON trigger_changes")
        op.execute("DROP TRIGGER trigger_changes_keep_all ON trigger_changes")
        op.execute("DROP FUNCTION refuse_to_change")
