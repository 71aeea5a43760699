"""Errors of the model, and what each means for the call; most of them mean little."""

from __future__ import annotations

from phoneagent.billing.ratelimits import RATE_LIMIT_CODES, RateLimits
from phoneagent.bridge.deadlines import PATIENCE_SECONDS
from phoneagent.bridge.requests import Ending, Verdict
from phoneagent.bridge.responses import ResponseGate
from phoneagent.protocol.realtime import FATAL_CODES, Failure

EXPIRED_CODE = "session_expired"
"""The error code of a session that has reached its time limit."""


class ModelErrors:
    """The rules for the model's errors; `elsewhere` means that there is another endpoint. `now` is in seconds."""

    def __init__(self, responses: ResponseGate, *, elsewhere: bool) -> None:
        self._responses = responses
        self._elsewhere = elsewhere
        self.limits = RateLimits()
        self._failing_since = 0.0  # since when responses fail, one after the other
        self._refusals = 0  # how many of them because of a rate limit

    def response_ended(self, ending: Ending, failure: Failure | None, now: float) -> Verdict | None:
        """Return what the end of a response means; None for nothing. A failed response is asked for again once."""
        code = (failure.code or failure.type) if failure is not None else None
        if code == EXPIRED_CODE:
            return Verdict("expired", "the session expired", code)
        if code in FATAL_CODES:
            return self._fatal(code)
        if ending is Ending.RETRIED:  # the first in a row
            self._failing_since, self._refusals = now, 0
        if code in RATE_LIMIT_CODES and ending in (Ending.RETRIED, Ending.FAILED):
            return self._limited(code, now, again=ending is Ending.FAILED)
        if ending is Ending.MUTE:
            return Verdict("renew", "the model did not speak in three responses in a row")
        if ending is not Ending.FAILED:
            return None
        return Verdict("renew", f"the model failed two responses in a row{': ' if code else ''}{code or ''}", code)

    def _limited(self, code: str | None, now: float, *, again: bool) -> Verdict | None:
        """Wait until there is room again. If that is too long for a caller, return what it means for the session.

        Another endpoint is tried before a longer wait and before a third request. A goodbye is not requested a third
        time either, because no sound fills the silence before it.
        """
        self._refusals += 1
        wait = self.limits.wait(now, self._refusals)
        until = self._failing_since + (PATIENCE_SECONDS if self._elsewhere else 2 * PATIENCE_SECONDS)
        if now + wait <= until and not (again and (self._elsewhere or self._responses.closing)):
            self._responses.wait(now + wait)
            return None
        words = f"the model refuses responses{'' if again else f' for {wait:.0f} s'}: {code}"
        return Verdict("renew" if self._elsewhere else "lost", words, code)

    def error(self, failure: Failure, now: float) -> Verdict | None:
        """Handle an `error` event; return what it means, None for nothing."""
        code = failure.code or ""
        if code == EXPIRED_CODE:
            return Verdict("expired", "the session expired", code)
        if code in FATAL_CODES:
            return self._fatal(code)
        if code == "conversation_already_has_active_response":
            self._responses.already_active(failure.event_id)
            return None
        if code == "response_cancel_not_active":
            return None  # it had just ended; its `response.done` has come or will come
        refused = failure.event_id or (self._responses.latest_request if code in RATE_LIMIT_CODES else "")
        verdict = self.response_ended(self._responses.create_refused(refused), failure, now)
        what = f"the model refused an event: {code or failure.type} {failure.param or ''}".rstrip()
        return verdict or Verdict("trouble", what)

    def _fatal(self, code: str | None) -> Verdict:
        return Verdict("renew" if self._elsewhere else "lost", f"the model refused: {code}", code)
