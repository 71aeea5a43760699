"""What an error of the model means for the call; most of them mean little."""

from __future__ import annotations

from typing import Literal, NamedTuple

from .policy import FATAL_CODES
from .realtime import Failure
from .responses import Ending, ResponseGate
from .truncation import Truncations


class Verdict(NamedTuple):
    """`lost`: no session will do better. `renew`: another one is needed. `trouble`: it is told; the call goes on."""

    kind: Literal["lost", "renew", "trouble"]
    text: str


def judge(failure: Failure, responses: ResponseGate, truncations: Truncations) -> Verdict | None:
    """Give an error to whom it answers, and return what else it means; None for nothing."""
    code, event_id = failure.code or "", failure.event_id or ""
    if code == "session_expired":
        return Verdict("renew", "its time is over")
    if code in FATAL_CODES:
        return Verdict("lost", f"the model refused: {code}")
    if code == "conversation_already_has_active_response":
        responses.already_active(failure.event_id)
        return None
    if truncations.owns(event_id):
        if truncations.refused(event_id, failure.message or ""):
            return None
        return Verdict("trouble", "a truncation was refused: the model may believe that more was heard")
    if code == "response_cancel_not_active":
        return None  # it had just ended; its `response.done` is here or on its way
    if responses.create_refused(event_id) is Ending.FAILED:
        return Verdict("renew", f"the model refused two responses in a row: {code or failure.type}")
    return Verdict("trouble", f"the model refused an event: {code or failure.type} {failure.param or ''}".rstrip())
