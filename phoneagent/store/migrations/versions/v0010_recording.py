"""The recording of a call: its status, where it is, whether it is complete, and how long it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("calls", sa.Column("recording", sa.JSON))


def downgrade() -> None:
    op.drop_column("calls", "recording")
