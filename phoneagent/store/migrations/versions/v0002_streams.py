"""The media streams of a call: one that was handed over, or whose line broke, has several."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from phoneagent.store.schema import UtcTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "streams",
        sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True),
        sa.Column("stream_sid", sa.Text, primary_key=True),
        sa.Column("started_at", UtcTime, nullable=False),
    )
    # So far a call had one stream, which began with it; '' stands for one that nobody knew.
    op.execute(
        "INSERT INTO streams (call_sid, stream_sid, started_at) "
        "SELECT sid, stream_sid, started_at FROM calls WHERE stream_sid <> ''"
    )


def downgrade() -> None:
    op.drop_table("streams")
