"""The longest silence of a call while an answer was due, and the pauses in a turn of the agent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("calls", sa.Column("dead_air_ms", sa.Integer))
    op.add_column("turns", sa.Column("pauses", sa.JSON))


def downgrade() -> None:
    op.drop_column("turns", "pauses")
    op.drop_column("calls", "dead_air_ms")
