"""The next step of a call as a row: its kind, and the rest as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never, cast, get_args

from phoneagent.events import FallBack, HangUp, NextStep, Pending, Resume


def to_row(step: NextStep) -> tuple[str, dict[str, Any]]:
    """Return the kind of a step, and its data."""
    match step:
        case HangUp(stream_sid=stream_sid):
            return "hang_up", {"stream_sid": stream_sid}
        case FallBack(stream_sid=stream_sid):
            return "fall_back", {"stream_sid": stream_sid}
        case Resume(stream_sid=stream_sid, pending=pending, broke=broke):
            return "resume", {"pending": pending, "broke": broke, "stream_sid": stream_sid}
        case _:
            assert_never(step)


def from_row(kind: str, data: Mapping[str, Any]) -> NextStep:
    """Read a step. What another version may have written counts as safely as it can.

    An unknown kind hangs up, because all kinds but `resume` end the call here; unknown pending words are "unknown".
    """
    stream_sid = str(data.get("stream_sid") or "")
    if kind == "resume":
        pending = data.get("pending")
        known = cast(Pending, pending) if pending in get_args(Pending) else "unknown"
        return Resume(stream_sid=stream_sid, pending=known, broke=bool(data.get("broke", True)))
    return FallBack(stream_sid=stream_sid) if kind == "fall_back" else HangUp(stream_sid=stream_sid)
