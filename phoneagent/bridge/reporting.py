"""Reporting: it turns what happened in a call into the events of `phoneagent.events`, in order. It decides nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.history import Role
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.bridge.toolcalls import ToolCall
from phoneagent.errors import shown
from phoneagent.events import (
    AgentAnswered,
    AgentPaused,
    AgentResumed,
    BargeIn,
    CallControlled,
    CallEnded,
    CallerSpoke,
    CallHandedOver,
    ControlOperation,
    Cost,
    EndedBy,
    Event,
    KeyPressed,
    MessageAdded,
    RateLimit,
    RateLimitsUpdated,
    ResumeCause,
    SilenceFilled,
    ToolCalled,
    ToolReturned,
    Trouble,
    Turn,
    TurnEnded,
    Usage,
    UsageReported,
)

MAX_TROUBLES = 100
"""How many different troubles of one call are reported."""


class Reporter:
    """The events of one call. `now` is in seconds; events count milliseconds of the call's `clock`."""

    def __init__(self, call_sid: str, clock: CallClock) -> None:
        self._call_sid = call_sid
        self._ms = clock.ms
        self._reports = self._messages = 0
        self._unanswered_since: float | None = None  # the caller's speech ended then
        self.answers_since: float | None = None
        """The same, once the response has begun and the caller waits for its first audio."""
        self._troubles: set[str] = set()
        self.events: deque[Event] = deque()
        """Events that were not taken yet."""

    def trouble(self, what: str, now: float) -> None:
        """Report a problem; the same one is reported once. It may repeat words of a far end."""
        what = shown(what)
        if what in self._troubles or len(self._troubles) >= MAX_TROUBLES:
            return
        self._troubles.add(what)
        self.events.append(Trouble(call_sid=self._call_sid, at_ms=self._ms(now), what=what))

    def controlled(self, operation: ControlOperation, now: float) -> None:
        """Report that the control API acted on the call."""
        self.events.append(CallControlled(call_sid=self._call_sid, at_ms=self._ms(now), operation=operation))

    def unmuted(self) -> None:
        """Note that the agent is heard again: what it says now is not a late answer."""
        self._unanswered_since = self.answers_since = None

    # --- the caller ---

    def key_pressed(self, digit: str, now: float) -> None:
        """Report that the caller pressed a key."""
        self.events.append(KeyPressed(call_sid=self._call_sid, at_ms=self._ms(now), digit=digit))

    def speech_started(self, at_ms: int) -> None:
        """Report that the caller began to speak at `at_ms`."""
        self._unanswered_since = self.answers_since = None
        self.events.append(CallerSpoke(call_sid=self._call_sid, at_ms=at_ms))

    def speech_stopped(self, behind_ms: float, now: float) -> None:
        """Note that the caller stopped speaking `behind_ms` ago: from then on, they wait for an answer."""
        self._unanswered_since = now - behind_ms / 1000

    # --- the agent ---

    def answer_begins(self) -> None:
        """Note that a response was created: its words answer what was said before."""
        self.answers_since, self._unanswered_since = self._unanswered_since, None

    def audio_sent(self, now: float) -> None:
        """Note that audio of the agent goes out. If the caller waited for an answer, report its latency."""
        since, self.answers_since = self.answers_since, None
        if since is not None:
            latency = round((now - since) * 1000)
            self.events.append(AgentAnswered(call_sid=self._call_sid, at_ms=self._ms(now), latency_ms=latency))

    def silence_filled(self, sound: Literal["filler", "apology"], since: float, now: float) -> None:
        """Report that a filler or an apology ends a silence."""
        silent_ms = round((now - since) * 1000)
        self.events.append(
            SilenceFilled(call_sid=self._call_sid, at_ms=self._ms(now), silent_ms=silent_ms, sound=sound)
        )

    def turn_ended(self, turn: Turn) -> None:
        """Report that a turn of either side is over."""
        self.events.append(TurnEnded(call_sid=self._call_sid, turn=turn))

    def barge_in(self, outcome: Outcome, speech_from_ms: int | None, now: float) -> None:
        """Report that an item was cut, by the caller's speech from `speech_from_ms` on, or (None) by something else."""
        at_ms = self._ms(now)
        self.events.append(
            BargeIn(
                call_sid=self._call_sid,
                at_ms=at_ms,
                item_id=outcome.item_id,
                audio_end_ms=outcome.heard_ms,
                said_ms=outcome.received_ms,
                reaction_ms=None if speech_from_ms is None else max(0, at_ms - speech_from_ms),
            )
        )

    def agent_paused(self, now: float) -> None:
        """Report that the agent fell silent because of a sound from the caller."""
        self.events.append(AgentPaused(call_sid=self._call_sid, at_ms=self._ms(now)))

    def agent_resumed(self, cause: ResumeCause, paused_seconds: float, now: float) -> None:
        """Report that the agent goes on after a pause: nothing that the caller said needs an answer."""
        self._unanswered_since = self.answers_since = None
        paused_ms = round(paused_seconds * 1000)
        self.events.append(AgentResumed(call_sid=self._call_sid, at_ms=self._ms(now), paused_ms=paused_ms, cause=cause))

    # --- messages, tools, money and the end ---

    def message_added(self, role: Role, text: str, now: float) -> None:
        """Report that user code added a message."""
        self._messages += 1
        at_ms, number = self._ms(now), self._messages
        self.events.append(MessageAdded(call_sid=self._call_sid, at_ms=at_ms, number=number, role=role, text=text))

    def tool_called(self, call: ToolCall, now: float) -> None:
        """Report that the model called a tool."""
        self.events.append(
            ToolCalled(
                call_sid=self._call_sid,
                at_ms=self._ms(now),
                call_id=call.call_id,
                name=call.name,
                arguments=call.arguments,
            )
        )

    def tool_returned(self, call: ToolCall, output: str, now: float) -> None:
        """Report that a tool returned."""
        self.events.append(
            ToolReturned(
                call_sid=self._call_sid,
                at_ms=self._ms(now),
                call_id=call.call_id,
                name=call.name,
                output=output,
                ms=round((now - call.since) * 1000),
            )
        )

    def used(
        self,
        source: Literal["response", "transcription"],
        model: str,
        usage: Usage,
        cost: Cost,
        total: Cost,
        now: float,
    ) -> None:
        """Report a model's usage."""
        self._reports += 1
        self.events.append(
            UsageReported(
                call_sid=self._call_sid,
                at_ms=self._ms(now),
                number=self._reports,
                source=source,
                model=model,
                usage=usage,
                cost=cost,
                total=total,
            )
        )

    def rate_limits(self, model: str, limits: Iterable[RateLimit], now: float) -> None:
        """Report the provider's rate limits."""
        self.events.append(
            RateLimitsUpdated(call_sid=self._call_sid, at_ms=self._ms(now), model=model, limits=tuple(limits))
        )

    def handed_over(self, reason: str, now: float, dead_air_ms: int = 0) -> None:
        """Report that this media stream is over, and the call goes on."""
        at_ms, reason = self._ms(now), shown(reason)
        self.events.append(CallHandedOver(call_sid=self._call_sid, at_ms=at_ms, reason=reason, dead_air_ms=dead_air_ms))

    def ended(
        self,
        by: EndedBy,
        reason: str,
        transcript: tuple[Turn, ...],
        now: float,
        cost: Cost | None = None,
        dead_air_ms: int = 0,
    ) -> None:
        """Report that the call is over."""
        self.events.append(
            CallEnded(
                call_sid=self._call_sid,
                ended_by=by,
                reason=shown(reason),
                duration_ms=self._ms(now),
                transcript=transcript,
                cost=cost,
                dead_air_ms=dead_air_ms,
            )
        )
