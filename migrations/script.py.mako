"""${message}

Zero downtime: the version before this one keeps running while this migration is applied. So: add with a
default or as nullable, fill in batches, drop only what no running version reads, and build an index on a
large table with CONCURRENTLY in a migration of its own.

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
