"""Call records: what was said, heard and done in each call, in SQLite or PostgreSQL."""

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
