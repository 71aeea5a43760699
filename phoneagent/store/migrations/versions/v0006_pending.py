"""What is open in a live call, for the next process after a crash."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("calls", sa.Column("pending", sa.Text))


def downgrade() -> None:
    op.drop_column("calls", "pending")
