"""The calls that the app makes: a queue, and what became of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "outbound_calls",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("idempotency_key", sa.Text, unique=True),
        sa.Column("called", sa.Text, nullable=False, index=True),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("status", sa.Text, nullable=False, index=True),
        sa.Column("call_sid", sa.Text, unique=True),
        sa.Column("certain", sa.Boolean, nullable=False),
        sa.Column("answered_by", sa.Text),
        sa.Column("decided", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )


def downgrade() -> None:
    op.drop_table("outbound_calls")
