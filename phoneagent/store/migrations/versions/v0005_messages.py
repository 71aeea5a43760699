"""Messages that the user's code added to the conversation, and the agent of each turn."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("turns", sa.Column("agent", sa.Text))
    op.create_table(
        "messages",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("stream_sid", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("messages")
    op.drop_column("turns", "agent")
