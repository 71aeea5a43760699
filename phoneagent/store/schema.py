"""The tables. `migrations/` creates them, and a test compares the two.

Times are UTC with milliseconds. A turn stores its absolute time, not its offset in a media stream, because a resumed
call has several streams. Deleting a call deletes everything that belongs to it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A timezone-aware moment. SQLite stores no time zone, so there the stored value is always UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


metadata = sa.MetaData()


def _of_a_call(**options: Any) -> sa.Column[str]:
    return sa.Column("call_sid", sa.Text, sa.ForeignKey("calls.sid", ondelete="CASCADE"), primary_key=True, **options)


calls = sa.Table(
    "calls",
    metadata,
    sa.Column("sid", sa.Text, primary_key=True),
    sa.Column("stream_sid", sa.Text, nullable=False),
    sa.Column("caller", sa.Text, index=True),
    sa.Column("called", sa.Text, index=True),
    sa.Column("direction", sa.Text, nullable=False),
    sa.Column("started_at", UtcTime, nullable=False, index=True),
    sa.Column("ended_at", UtcTime, index=True),
    sa.Column("ended_by", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("state", sa.Text),
)

streams = sa.Table(
    "streams",
    metadata,
    _of_a_call(),
    sa.Column("stream_sid", sa.Text, primary_key=True),
    sa.Column("started_at", UtcTime, nullable=False),
)

turns = sa.Table(
    "turns",
    metadata,
    _of_a_call(),
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
    sa.Column("agent", sa.Text),
)

messages = sa.Table(
    "messages",
    metadata,
    _of_a_call(),
    sa.Column("stream_sid", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
)

tools = sa.Table(
    "tools",
    metadata,
    _of_a_call(),
    sa.Column("call_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("output", sa.Text),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("ms", sa.Integer),
)

answers = sa.Table(
    "answers",
    metadata,
    _of_a_call(),
    sa.Column("at", UtcTime, primary_key=True),
    sa.Column("latency_ms", sa.Integer, nullable=False),
)

usage = sa.Table(
    "usage",
    metadata,
    _of_a_call(),
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

# The two tables below are not records of calls but messages between processes: a sweep empties them within a day. A
# next step applies after its stream; '' means any stream.

next_steps = sa.Table(
    "next_steps",
    metadata,
    sa.Column("call_sid", sa.Text, primary_key=True),
    sa.Column("stream_sid", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("until", UtcTime, nullable=False),
)
