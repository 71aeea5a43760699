"""The transfers in a call's record: to whom, when, and what became of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from phoneagent.store.schema import UtcTime

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "call_transfers",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("at", UtcTime, primary_key=True),
        sa.Column("to_name", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("warm", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("call_transfers")
