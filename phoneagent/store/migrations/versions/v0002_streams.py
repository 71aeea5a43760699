"""The media streams of a call, each with a next step: a call has several after a hand-over or a broken line."""

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
    # So far a call had one stream, which began with it; '' stands for an unknown stream.
    op.execute(
        "INSERT INTO streams (call_sid, stream_sid, started_at) "
        "SELECT sid, stream_sid, started_at FROM calls WHERE stream_sid <> ''"
    )
    # A step is asked for within seconds, and none is written yet where no call goes on in another stream.
    op.drop_table("next_steps")
    _create_next_steps(sa.Column("stream_sid", sa.Text, primary_key=True))


def downgrade() -> None:
    op.drop_table("next_steps")
    _create_next_steps()
    op.drop_table("streams")


def _create_next_steps(*more: sa.Column[str]) -> None:
    op.create_table(
        "next_steps",
        sa.Column("call_sid", sa.Text, primary_key=True),
        *more,
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("at", UtcTime, nullable=False),
    )
