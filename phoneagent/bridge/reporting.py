"""Telling the outside what happens in a call: the events of `phoneagent.events`, in order, on the call's own clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal

from phoneagent.bridge.history import Role
from phoneagent.bridge.playback import Outcome
from phoneagent.bridge.transcript import Transcript
from phoneagent.events import (
    AgentAnswered,
    BargeIn,
    CallEnded,
    CallerSpoke,
    CallHandedOver,
    Cost,
    EndedBy,
    Event,
    KeyPressed,
    MessageAdded,
    RateLimit,
    RateLimitsUpdated,
    ToolCalled,
    ToolReturned,
    Trouble,
    Turn,
    TurnEnded,
    Usage,
    UsageReported,
)
from phoneagent.protocol.realtime import TranscriptDelta, TranscriptDone

TEXT_SECONDS = 5.0
"""How long the text of a turn may take."""

MAX_TROUBLES = 100
"""Different complaints that are told of one call."""


class Reporter:
    """Collects the events of one call. `now` is in seconds; what is told counts milliseconds from `start`."""

    def __init__(self, call_sid: str) -> None:
        self._call_sid = call_sid
        self._started_at: float | None = None
        self._reports = self._messages = 0
        self._speech_from_ms = 0
        self._unanswered_since: float | None = None  # the caller's speech ended then
        self._answers_since: float | None = None  # and the response to it has begun
        self._events: deque[Event] = deque()
        self._troubles: set[str] = set()
        self._committed_at = -math.inf
        self._transcript = Transcript()

    def take(self) -> Iterator[Event]:
        """Take the events that were not taken yet."""
        while self._events:
            yield self._events.popleft()

    def start(self, now: float) -> None:
        """The call's clock begins."""
        self._started_at = now

    def ms(self, now: float) -> int:
        """Return milliseconds of the call; 0 before it started."""
        return 0 if self._started_at is None else round((now - self._started_at) * 1000)

    def trouble(self, what: str, now: float) -> None:
        """Something is wrong; the same thing is told once."""
        if what in self._troubles or len(self._troubles) >= MAX_TROUBLES:
            return
        self._troubles.add(what)
        self._events.append(Trouble(call_sid=self._call_sid, at_ms=self.ms(now), what=what))

    def key_pressed(self, digit: str, now: float) -> None:
        self._events.append(KeyPressed(call_sid=self._call_sid, at_ms=self.ms(now), digit=digit))

    # --- the caller's turns; `behind_ms` is how long ago it was, on the model's clock ---

    def speech_started(self, behind_ms: float, now: float) -> None:
        self._unanswered_since = self._answers_since = None
        self._speech_from_ms = max(0, round(self.ms(now) - behind_ms))
        self._events.append(CallerSpoke(call_sid=self._call_sid, at_ms=self._speech_from_ms))

    def speech_stopped(self, behind_ms: float, now: float) -> None:
        self._unanswered_since = now - behind_ms / 1000
        self._transcript.caller_spoke(self._speech_from_ms, round(self.ms(now) - behind_ms))

    def committed(self, item_id: str, now: float) -> None:
        self._committed_at = now
        self._transcript.caller_turn(item_id, self.ms(now))

    @property
    def lacks_text(self) -> bool:
        """Whether nobody knows what the caller said last."""
        return self._transcript.lacks_text

    def awaits_text(self, now: float) -> bool:
        """Tell whether the text of what the caller said last may still come; not every session has a recogniser."""
        return self.lacks_text and now < self._committed_at + TEXT_SECONDS

    def understood(self, item_id: str, text: str) -> None:
        turn = self._transcript.caller_text(item_id, text)
        if turn is not None:
            self._events.append(TurnEnded(call_sid=self._call_sid, turn=turn))

    # --- the agent's turns ---

    def speaks(self, agent: str) -> None:
        """What is said from here on is said by that agent."""
        self._transcript.speaker = agent

    def agent_says(self, event: TranscriptDelta | TranscriptDone) -> None:
        """Take the words of the agent, or all of an item's."""
        if isinstance(event, TranscriptDelta):
            self._transcript.agent_words(event.item_id, event.delta)
        else:
            self._transcript.agent_text(event.item_id, event.transcript)

    def answer_begins(self) -> None:
        """A response was created: what it says is an answer to what was said before."""
        self._answers_since, self._unanswered_since = self._unanswered_since, None

    def audio_sent(self, now: float) -> None:
        """Audio of the agent goes out: if the caller waited for an answer, this is its latency."""
        since, self._answers_since = self._answers_since, None
        if since is not None:
            latency = round((now - since) * 1000)
            self._events.append(AgentAnswered(call_sid=self._call_sid, at_ms=self.ms(now), latency_ms=latency))

    def session_lost(self, playing: Iterable[Outcome], *, heard_again: bool) -> None:
        """The model's session is gone: of what it was saying no more comes; the caller may be heard once more."""
        self._transcript.no_more({each.item_id: None if each.complete else each.received_ms for each in playing})
        if heard_again:
            self._transcript.forget_caller()

    def turns(self, now: float) -> list[Turn]:
        """Return what was said in this media stream, and what is being said."""
        return self._transcript.so_far(self.ms(now))

    def heard(self, outcome: Outcome, now: float) -> str:
        """An item is over: heard to its end, or cut off. Returns what was heard of it."""
        turn = self._transcript.agent_turn(
            outcome.item_id,
            heard_ms=outcome.heard_ms,
            said_ms=outcome.received_ms,
            now_ms=self.ms(now),
            interrupted=outcome.heard_ms < outcome.received_ms or not outcome.complete,
            complete=outcome.complete,
        )
        self._events.append(TurnEnded(call_sid=self._call_sid, turn=turn))
        return turn.heard_text

    def barge_in(self, outcome: Outcome, now: float, *, by_caller: bool) -> None:
        self._events.append(
            BargeIn(
                call_sid=self._call_sid,
                at_ms=self.ms(now),
                item_id=outcome.item_id,
                audio_end_ms=outcome.heard_ms,
                said_ms=outcome.received_ms,
                reaction_ms=max(0, self.ms(now) - self._speech_from_ms) if by_caller else None,
            )
        )

    # --- messages, tools and the end ---

    def message_added(self, role: Role, text: str, now: float) -> None:
        self._messages += 1
        at_ms, number = self.ms(now), self._messages
        self._events.append(MessageAdded(call_sid=self._call_sid, at_ms=at_ms, number=number, role=role, text=text))

    def tool_called(self, call_id: str, name: str, arguments: str, now: float) -> None:
        self._events.append(
            ToolCalled(call_sid=self._call_sid, at_ms=self.ms(now), call_id=call_id, name=name, arguments=arguments)
        )

    def tool_returned(self, call_id: str, name: str, output: str, since: float, now: float) -> None:
        self._events.append(
            ToolReturned(
                call_sid=self._call_sid,
                at_ms=self.ms(now),
                call_id=call_id,
                name=name,
                output=output,
                ms=round((now - since) * 1000),
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
        """A model has reported what it used."""
        self._reports += 1
        self._events.append(
            UsageReported(
                call_sid=self._call_sid,
                at_ms=self.ms(now),
                number=self._reports,
                source=source,
                model=model,
                usage=usage,
                cost=cost,
                total=total,
            )
        )

    def rate_limits(self, model: str, limits: Iterable[RateLimit], now: float) -> None:
        """The provider has told how much may still be used."""
        self._events.append(
            RateLimitsUpdated(call_sid=self._call_sid, at_ms=self.ms(now), model=model, limits=tuple(limits))
        )

    def hand_over(self, reason: str, now: float) -> None:
        """Our part of the call is over."""
        self._events.append(CallHandedOver(call_sid=self._call_sid, at_ms=self.ms(now), reason=reason))

    def end(self, by: EndedBy, reason: str, now: float, cost: Cost | None = None) -> None:
        """The call is over: the turns whose text never came end as well."""
        for turn in self._transcript.close():
            self._events.append(TurnEnded(call_sid=self._call_sid, turn=turn))
        self._events.append(
            CallEnded(
                call_sid=self._call_sid,
                ended_by=by,
                reason=reason,
                duration_ms=self.ms(now),
                transcript=self._transcript.turns(),
                cost=cost,
            )
        )
