"""The user's state of a call, for its next media stream."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("calls", sa.Column("state", sa.Text))


def downgrade() -> None:
    op.drop_column("calls", "state")
