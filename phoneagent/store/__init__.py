"""Call records in SQLite or PostgreSQL: what was said, heard and done in each call."""

from phoneagent.store.records import (
    AnswerRecord,
    CallDetails,
    CallRecord,
    MessageRecord,
    SoFar,
    Standing,
    StreamRecord,
    ToolRecord,
    UsageRecord,
)
from phoneagent.store.store import Store

__all__ = [
    "AnswerRecord",
    "CallDetails",
    "CallRecord",
    "MessageRecord",
    "SoFar",
    "Standing",
    "Store",
    "StreamRecord",
    "ToolRecord",
    "UsageRecord",
]
