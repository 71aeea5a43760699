"""The outcome of a call, which a model fills in once the call is over, or why it could not be filled in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("calls", sa.Column("outcome", sa.JSON))
    op.add_column("calls", sa.Column("outcome_error", sa.Text))


def downgrade() -> None:
    op.drop_column("calls", "outcome_error")
    op.drop_column("calls", "outcome")
