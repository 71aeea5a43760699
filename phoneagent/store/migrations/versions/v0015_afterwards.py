"""What is still to be done about calls that ended: their outcome, and the webhook `call.ended`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from phoneagent.store.schema import UtcTime

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "afterwards",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", UtcTime, nullable=False),
        sa.Column("problem", sa.Text),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("done_at", UtcTime),
    )
    op.create_index("ix_afterwards_state", "afterwards", ["state"])


def downgrade() -> None:
    op.drop_table("afterwards")
