"""What an error of the model means for the call; most of them mean little."""

from __future__ import annotations

from typing import Literal, NamedTuple

from phoneagent.billing.ratelimits import RATE_LIMIT_CODES, RateLimits
from phoneagent.bridge.interruption import Truncations
from phoneagent.bridge.policy import PATIENCE_SECONDS
from phoneagent.bridge.responses import Ending, ResponseGate
from phoneagent.protocol.realtime import FATAL_CODES, Failure


class Verdict(NamedTuple):
    """`lost`: no session will do better. `renew`: another one is needed, elsewhere if possible. `expired`: another one,
    this one was good. `trouble`: it is told; the call goes on."""

    kind: Literal["lost", "renew", "expired", "trouble"]
    text: str


class ModelErrors:
    """Judges what the model refuses; `elsewhere` tells that there is another endpoint. `now` is in seconds."""

    def __init__(self, responses: ResponseGate, truncations: Truncations, *, elsewhere: bool) -> None:
        self._responses = responses
        self._truncations = truncations
        self._elsewhere = elsewhere
        self.limits = RateLimits()

    def judge_response(self, ending: Ending, failure: Failure | None, now: float) -> Verdict | None:
        """Return what the end of a response means; None for nothing. One that failed is asked for once more.

        If that was for a rate limit, it waits until there is room again. If that is too long for a caller, it is asked
        for elsewhere; without another endpoint they may wait twice as long, but not in vain.
        """
        code = failure.code if failure is not None else None
        if code in FATAL_CODES:
            return self._fatal(code)
        if code in RATE_LIMIT_CODES and ending is Ending.RETRIED:
            wait = self.limits.wait(now)
            if wait > (PATIENCE_SECONDS if self._elsewhere else 2 * PATIENCE_SECONDS):
                kind: Literal["renew", "lost"] = "renew" if self._elsewhere else "lost"
                return Verdict(kind, f"the model refuses responses for {wait:.0f} s: {code}")
            self._responses.wait(now + wait)
        if ending is not Ending.FAILED:
            return None
        if code in RATE_LIMIT_CODES and not self._elsewhere:
            return Verdict("lost", f"the model refuses responses: {code}")
        return Verdict("renew", f"the model failed two responses in a row{': ' if code else ''}{code or ''}")

    def judge(self, failure: Failure, now: float) -> Verdict | None:
        """Give an error to whom it answers, and return what else it means; None for nothing."""
        code, event_id = failure.code or "", failure.event_id or ""
        if code == "session_expired":
            return Verdict("expired", "its time is over")
        if code in FATAL_CODES:
            return self._fatal(code)
        if code == "conversation_already_has_active_response":
            self._responses.already_active(failure.event_id)
            return None
        if self._truncations.owns(event_id):
            if self._truncations.refused(event_id, failure.message or ""):
                return None
            return Verdict("trouble", "a truncation was refused: the model may believe that more was heard")
        if code == "response_cancel_not_active":
            return None  # it had just ended; its `response.done` is here or on its way
        verdict = self.judge_response(self._responses.create_refused(event_id), failure, now)
        what = f"the model refused an event: {code or failure.type} {failure.param or ''}".rstrip()
        return verdict or Verdict("trouble", what)

    def _fatal(self, code: str) -> Verdict:
        return Verdict("renew" if self._elsewhere else "lost", f"the model refused: {code}")
