"""The next step of a call as a row: its kind, and the rest as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, assert_never, cast, get_args

from phoneagent.bridge.steps import CallerId, FallBack, HangUp, NextStep, Pending, Resume, Transfer


def to_row(step: NextStep) -> tuple[str, dict[str, Any]]:
    """Return the kind of a step, and its data."""
    match step:
        case HangUp(stream_sid=stream_sid):
            return "hang_up", {"stream_sid": stream_sid}
        case FallBack(stream_sid=stream_sid):
            return "fall_back", {"stream_sid": stream_sid}
        case Resume(stream_sid=stream_sid, pending=pending, broke=broke):
            data = {"pending": pending, "broke": broke, "stream_sid": stream_sid}
            return "resume", data | ({"returned": step.returned} if step.returned else {})
        case Transfer():
            return "transfer", asdict(step)
        case _:
            assert_never(step)


def from_row(kind: str, data: Mapping[str, Any]) -> NextStep:
    """Read a step. Data from another version is read in the safest way.

    An unknown kind hangs up, because all kinds but `resume` end the call here; unknown pending words are "unknown".
    """
    stream_sid = str(data.get("stream_sid") or "")
    if kind == "resume":
        return Resume(
            stream_sid=stream_sid,
            pending=pending_of(data.get("pending")),
            broke=bool(data.get("broke", True)),
            returned=str(data.get("returned") or ""),
        )
    if kind == "transfer":
        return read_transfer(stream_sid, data)
    return FallBack(stream_sid=stream_sid) if kind == "fall_back" else HangUp(stream_sid=stream_sid)


def read_transfer(stream_sid: str, data: Mapping[str, Any]) -> Transfer:
    """Read a transfer after that media stream."""
    texts = {name: str(data.get(name) or "") for name in ("to", "name", "conference", "ask", "language")}
    seconds, caller_id = data.get("timeout"), data.get("caller_id")
    return Transfer(
        stream_sid=stream_sid,
        **texts,
        timeout=seconds if isinstance(seconds, int) else 20,
        caller_id=cast(CallerId, caller_id) if caller_id in get_args(CallerId) else "caller",
        screen=bool(data.get("screen")),
    )


def pending_of(text: Any) -> Pending:
    """Read what was open; any other text becomes "unknown"."""
    return cast(Pending, text) if text in get_args(Pending) else "unknown"
