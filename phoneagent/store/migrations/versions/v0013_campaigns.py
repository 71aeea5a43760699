"""Campaigns: lists of numbers to call, what became of each, and the numbers that are never called."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False, index=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("paced_until", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "campaign_calls",
        sa.Column("campaign_id", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("called", sa.Text, nullable=False, index=True),
        sa.Column("context", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("outbound_id", sa.Text, index=True),
        sa.Column("call_sid", sa.Text, index=True),
        sa.Column("result", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_campaign_calls_due", "campaign_calls", ["campaign_id", "state", "due_at"])
    op.create_table(
        "do_not_call",
        sa.Column("number", sa.Text, primary_key=True),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("do_not_call")
    op.drop_table("campaign_calls")
    op.drop_table("campaigns")
