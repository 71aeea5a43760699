"""The end of a call: it comes once the last words were heard, with time limits in case the model does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias, assert_never

from phoneagent.bridge import prompts
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.steps import FallBack, HangUp, NextStep, Pending, Resume, Transfer
from phoneagent.events import EndedBy

GOODBYE_SECONDS = 5.0
"""While the call is closing, the model may be silent this long before the call ends without it."""

CLOSING_SECONDS = 15.0
"""The longest wait for words that were not yet received."""

HEARD_GRACE_SECONDS = 1.0
"""How much later than computed the last mark may come."""

ClosedBy: TypeAlias = Literal["agent", "error", "transfer"]
"""The endings that have last words: the agent hung up, the model was lost, or the call is transferred."""


class Closing:
    """The closing of a call: whether it is about to end, why, and when. `now` is in seconds."""

    def __init__(self, playback: Playback, conversation: Conversation) -> None:
        self._playback = playback
        self._conversation = conversation
        self.active = False
        self.by: ClosedBy = "agent"
        self.reason = ""
        self._transfer = Transfer()
        self._since = 0.0

    def begin(self, now: float, by: ClosedBy, reason: str, *, goodbye: bool = False) -> None:
        """Begin to end the call; with `goodbye` the model says one first. The first reason counts."""
        if not self.active:
            self.by, self.reason = by, reason
        self.active, self._since = True, now
        self._conversation.close(goodbye=goodbye, timed=True)

    def transfer(self, now: float, step: Transfer, *, announce: bool) -> None:
        """Begin to transfer the call; with `announce` the model says so first."""
        self._transfer = step
        self.by, self.reason, self.active, self._since = "transfer", f"transferred to {step.name}", True, now
        self._conversation.close(goodbye=announce, timed=True, words=prompts.put_through(step.name))

    @property
    def ended_by(self) -> EndedBy | None:
        """Return which side ends the call; None for a transfer, after which it goes on elsewhere."""
        return None if self.by == "transfer" else self.by

    def start(self, now: float) -> None:
        """Note that the media stream begins: last words that were requested before can now be heard."""
        self._since = max(self._since, now)

    def get_timer(self) -> float | None:
        """Return when to hang up; None while the call is not closing."""
        if not self.active:
            return None
        coming = self._conversation.more_to_come
        if self._playback.idle and not coming:
            return self._since
        written = max(self._playback.dry_at, self._since)
        heard = written + self._playback.unsent_ms / 1000 + HEARD_GRACE_SECONDS
        if not coming:
            return heard
        silent = max(self._conversation.event_at, self._since) + GOODBYE_SECONDS
        return max(heard, min(silent, self._since + CLOSING_SECONDS))

    def handle_timer(self, now: float) -> Verdict | None:
        """Hang up, if it is time."""
        due = self.get_timer()
        return Verdict("closed") if due is not None and now >= due else None

    def step(self, stream_sid: str) -> NextStep:
        """Return what comes after the last words."""
        return self._step(self.by, stream_sid)

    def step_after(self, by: EndedBy | None, stream_sid: str, pending: Pending) -> NextStep | None:
        """Return what comes after a media stream that `by` ended; None if the caller has hung up.

        A call that neither side ended goes on in another stream. So does a call whose line broke, if Twilio still holds
        it. A line that breaks while the call is closing changes nothing.
        """
        if self.active and by in (None, "line"):
            return self._step(self.by, stream_sid)
        if by == "caller":
            return None
        if by in ("agent", "error"):
            return self._step(by, stream_sid)
        return Resume(stream_sid=stream_sid, pending=pending, broke=by is not None)

    def _step(self, by: ClosedBy, stream_sid: str) -> NextStep:
        match by:
            case "agent":
                return HangUp(stream_sid=stream_sid)
            case "error":
                return FallBack(stream_sid=stream_sid)
            case "transfer":
                return replace(self._transfer, stream_sid=stream_sid)
            case _:
                assert_never(by)
