"""Calls, their turns, tools and answers; next steps and claims."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from phoneagent.store.schema import UtcTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "calls",
        sa.Column("sid", sa.Text, primary_key=True),
        sa.Column("stream_sid", sa.Text, nullable=False),
        sa.Column("caller", sa.Text),
        sa.Column("called", sa.Text),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("ended_at", UtcTime),
        sa.Column("ended_by", sa.Text),
        sa.Column("reason", sa.Text),
    )
    for column in ("caller", "called", "started_at", "ended_at"):
        op.create_index(f"ix_calls_{column}", "calls", [column])
    op.create_table(
        "turns",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("stream_sid", sa.Text, primary_key=True),
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("heard_text", sa.Text, nullable=False),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("length_ms", sa.Integer, nullable=False),
        sa.Column("said_ms", sa.Integer, nullable=False),
        sa.Column("heard_ms", sa.Integer, nullable=False),
        sa.Column("interrupted", sa.Boolean, nullable=False),
    )
    op.create_table(
        "tools",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("call_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("output", sa.Text),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("ms", sa.Integer),
    )
    op.create_table(
        "answers",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("at", UtcTime, primary_key=True),
        sa.Column("latency_ms", sa.Integer, nullable=False),
    )
    op.create_table(
        "next_steps",
        sa.Column("call_sid", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("at", UtcTime, nullable=False),
    )
    op.create_table(
        "claims",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("until", UtcTime, nullable=False),
    )


def downgrade() -> None:
    for table in ("claims", "next_steps", "answers", "tools", "turns", "calls"):
        op.drop_table(table)
