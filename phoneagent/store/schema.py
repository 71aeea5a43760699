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
    sa.Column("pending", sa.Text),
    sa.Column("dead_air_ms", sa.Integer),
    sa.Column("recording", sa.JSON),  # {"status", "where", "complete", "duration_ms"}
    sa.Column("outcome", sa.JSON(none_as_null=True)),
    sa.Column("outcome_error", sa.Text),
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
    sa.Column("pauses", sa.JSON),  # a list of [from, to, cause], in milliseconds of the turn
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

call_transfers = sa.Table(
    "call_transfers",
    metadata,
    _of_a_call(),
    sa.Column("at", UtcTime, primary_key=True),
    sa.Column("to_name", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("warm", sa.Boolean, nullable=False),
)

# Calls that the app makes: a queue until Twilio has them, and then the status of each. They are deleted like calls.

outbound_calls = sa.Table(
    "outbound_calls",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("called", sa.Text, nullable=False, index=True),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("call_sid", sa.Text, unique=True),
    sa.Column("certain", sa.Boolean, nullable=False),
    sa.Column("answered_by", sa.Text),
    sa.Column("decided", sa.Text),
    sa.Column("message_left", sa.Boolean),
    sa.Column("error", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False, index=True),
    sa.Column("due_at", UtcTime, nullable=False),
    sa.Column("asked_at", UtcTime),
    sa.Column("ended_at", UtcTime),
)

# Campaigns: the numbers that each one calls, by their line in the list, with their state; and the numbers that are
# never called. The attempts are rows of outbound_calls.

campaigns = sa.Table(
    "campaigns",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("paced_until", UtcTime),
)

campaign_calls = sa.Table(
    "campaign_calls",
    metadata,
    sa.Column("campaign_id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("called", sa.Text, nullable=False, index=True),
    sa.Column("context", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", UtcTime),
    sa.Column("outbound_id", sa.Text, index=True),
    sa.Column("call_sid", sa.Text, index=True),
    sa.Column("result", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("ended_at", UtcTime),
    sa.Index("ix_campaign_calls_due", "campaign_id", "state", "due_at"),
)

do_not_call = sa.Table(
    "do_not_call",
    metadata,
    sa.Column("number", sa.Text, primary_key=True),
    sa.Column("added_at", UtcTime, nullable=False),
)

# The work that is left after a call has ended.

afterwards = sa.Table(
    "afterwards",
    metadata,
    _of_a_call(),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", UtcTime, nullable=False),
    sa.Column("problem", sa.Text),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("done_at", UtcTime),
)

# The tables below are not records of calls but messages between processes: a sweep empties them within a day. A next
# step applies after its stream; '' means any stream.

next_steps = sa.Table(
    "next_steps",
    metadata,
    sa.Column("call_sid", sa.Text, primary_key=True),
    sa.Column("stream_sid", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
)

transfers = sa.Table(
    "transfers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("call_sid", sa.Text, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("summary", sa.Text),
    sa.Column("callee_sid", sa.Text),
    sa.Column("at", UtcTime, nullable=False),
)

commands = sa.Table(
    "commands",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("call_sid", sa.Text, nullable=False, index=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary),  # until a process takes the command
    sa.Column("answer", sa.JSON),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("taken_at", UtcTime),
)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("until", UtcTime, nullable=False),
)

# The events for readers of the control API: see `event_log`. An erased row keeps its id.

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("call_sid", sa.Text, nullable=False),
    sa.Column("stream_sid", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("ix_events_call_sid", "call_sid", "id"),
)
