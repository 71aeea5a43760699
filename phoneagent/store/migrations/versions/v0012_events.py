"""The events of calls, for readers of the control API."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("call_sid", sa.Text, nullable=False),
        sa.Column("stream_sid", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Index("ix_events_call_sid", "call_sid", "id"),
    )


def downgrade() -> None:
    op.drop_table("events")
