"""The usage of a call's models and its cost, report by report."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("stream_sid", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("text_in", sa.Integer, nullable=False),
        sa.Column("text_cached", sa.Integer, nullable=False),
        sa.Column("text_out", sa.Integer, nullable=False),
        sa.Column("audio_in", sa.Integer, nullable=False),
        sa.Column("audio_cached", sa.Integer, nullable=False),
        sa.Column("audio_out", sa.Integer, nullable=False),
        sa.Column("image_in", sa.Integer, nullable=False),
        sa.Column("image_cached", sa.Integer, nullable=False),
        sa.Column("audio_ms", sa.Integer, nullable=False),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
        sa.Column("at_least", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("usage")
