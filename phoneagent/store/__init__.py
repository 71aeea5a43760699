"""Call records in SQLite or PostgreSQL: what was said, heard and done in each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phoneagent.store.filters import CallFilter
from phoneagent.store.records import (
    AnswerRecord,
    CallDetails,
    CallRecord,
    Highlights,
    MessageRecord,
    OutboundCall,
    RecordingRecord,
    SoFar,
    Standing,
    StreamRecord,
    ToolRecord,
    TransferredRecord,
    UsageRecord,
)

if TYPE_CHECKING:
    from phoneagent.store.store import Store

__all__ = [
    "AnswerRecord",
    "CallDetails",
    "CallFilter",
    "CallRecord",
    "Highlights",
    "MessageRecord",
    "OutboundCall",
    "RecordingRecord",
    "SoFar",
    "Standing",
    "Store",
    "StreamRecord",
    "ToolRecord",
    "TransferredRecord",
    "UsageRecord",
]


def __getattr__(name: str) -> Any:
    """Import the store at its first use: SQLAlchemy takes as long to import as the rest of the package."""
    if name != "Store":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from phoneagent.store.store import Store

    return Store
