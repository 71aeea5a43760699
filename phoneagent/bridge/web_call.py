"""A web page's call, as its side-band socket shows it, sans-I/O: its turns, its tools and its cost.

The page and the model exchange the audio themselves, and the server cuts what was interrupted. How much of an answer
was heard is therefore estimated from when the server says it was played.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from phoneagent.billing import usage
from phoneagent.billing.prices import SIMULATED, Price, cost_of, price_of
from phoneagent.bridge.chat import Chat
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.heard import heard_part
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.scripts import char_ms, chars_of
from phoneagent.events import Cost, EndedBy, Turn, Usage
from phoneagent.protocol import realtime

MAX_TURNS = 10_000
MAX_OPEN_TURNS = 64
"""How many turns may be unfinished; beyond that, the oldest are reported as they are."""

REST_MS = 500
"""The least that counts as left of an answer that was cut: there is no audio here to measure."""

PLAYED = "output_audio_buffer."
"""The prefix of the events that report what the page plays."""


@dataclass(slots=True)
class _Said:
    """A turn that is not over. For the agent's, `response_id` is the response that it is part of."""

    item_id: str
    start_ms: int
    end_ms: int
    response_id: str = ""
    text: str = ""


class WebConversation:
    """The conversation of a web call. `now` is in seconds."""

    def __init__(
        self,
        call_sid: str,
        *,
        model: str,
        recognizer: str,
        prices: Mapping[str, Price],
        greeting: str | None,
        max_cost: Decimal | None = None,
    ) -> None:
        self._clock = CallClock()
        self.reporter = Reporter(call_sid, self._clock)
        self.chat = Chat(greeting=greeting, observer=self.reporter)
        self.agent_name: str | None = None
        """The name of the agent that has the call."""
        self._models = {"response": model, "transcription": recognizer}
        self._prices = prices
        self._max_cost = max_cost
        self.cost: Cost | None = None
        self._turns: list[Turn] = []
        self._heard: dict[str, _Said] = {}  # the caller's
        self._spoken: dict[str, _Said] = {}  # the agent's
        self._playing: dict[str, int] = {}  # responses, each since when

    @property
    def over_budget(self) -> bool:
        """Whether the call has reached its cost limit."""
        return self._max_cost is not None and self.cost is not None and self.cost.usd >= self._max_cost

    @property
    def playing(self) -> bool:
        """Whether the page still plays words of the agent."""
        return bool(self._playing)

    def start(self, now: float) -> None:
        """Note that the socket to the session is open."""
        self._clock.start(now)
        self.chat.handle_timer(now)  # a greeting may be due

    def receive(self, raw: bytes, event: realtime.FromModel, now: float) -> None:
        """Handle an event; `raw` is the event as received."""
        ms = self._clock.ms(now)
        match event:
            case realtime.SpeechStarted(item_id=item_id):
                self.reporter.speech_started(ms)
                self._heard[item_id or ""] = _Said(item_id or "", ms, ms)
            case realtime.SpeechStopped(item_id=item_id):
                if (said := self._heard.get(item_id or "")) is not None:
                    said.end_ms = ms
            case realtime.InputTranscript(item_id=item_id, transcript=text):
                self._count("transcription", usage.of_transcription(event.usage), now)
                self._caller_turn(self._heard.pop(item_id, _Said(item_id, ms, ms)), text.strip())
            case realtime.InputTranscriptFailed(item_id=item_id):
                if (said := self._heard.pop(item_id, None)) is not None:
                    self._caller_turn(said, "", failed=True)
            case realtime.TranscriptDelta(response_id=response_id, item_id=item_id, delta=delta):
                said = self._spoken.setdefault(item_id, _Said(item_id, ms, ms, response_id))
                said.text += delta
            case realtime.ResponseDone(response=response):
                self._count("response", usage.of_response(response.usage), now)
            case realtime.Unknown(type=kind) if kind.startswith(PLAYED):
                self._played(kind.removeprefix(PLAYED), str(realtime.as_dict(raw).get("response_id")), ms)
        for said in [*self._heard.values()][:-MAX_OPEN_TURNS]:
            self._caller_turn(self._heard.pop(said.item_id), "", failed=True)
        for said in [*self._spoken.values()][:-MAX_OPEN_TURNS]:
            self._agent_turn(said, said.start_ms, ms, cut=False)
        self.chat.receive(event, now)

    def end(self, by: EndedBy, reason: str, now: float) -> None:
        """End the call."""
        for said in list(self._spoken.values()):
            self._agent_turn(said, self._playing.get(said.response_id, said.start_ms), self._clock.ms(now), cut=True)
        transcript = tuple(sorted(self._turns, key=lambda turn: turn.start_ms))
        self.reporter.ended(by, reason, transcript, now, self.cost)

    def _played(self, what: str, response_id: str, ms: int) -> None:
        if what == "started":
            self._playing[response_id] = ms
            return
        since = self._playing.pop(response_id, None)
        for said in [each for each in self._spoken.values() if each.response_id == response_id]:
            self._agent_turn(said, said.start_ms if since is None else since, ms, cut=what == "cleared")

    def _caller_turn(self, said: _Said, text: str, *, failed: bool = False) -> None:
        if text or failed:
            length = said.end_ms - said.start_ms
            self._add(
                Turn(
                    role="caller",
                    item_id=said.item_id,
                    text=text,
                    heard_text=text,
                    start_ms=said.start_ms,
                    end_ms=said.end_ms,
                    said_ms=length,
                    heard_ms=length,
                )
            )

    def _agent_turn(self, said: _Said, start_ms: int, end_ms: int, *, cut: bool) -> None:
        self._spoken.pop(said.item_id, None)
        text, heard_ms = said.text.strip(), max(0, end_ms - start_ms)
        said_ms = max(heard_ms + REST_MS, sum(map(char_ms, chars_of(text)))) if cut else heard_ms
        self._add(
            Turn(
                role="agent",
                item_id=said.item_id,
                text=text,
                heard_text=heard_part(text, heard_ms, said_ms, complete=True) if cut else text,
                start_ms=start_ms,
                end_ms=end_ms,
                said_ms=said_ms,
                heard_ms=heard_ms,
                interrupted=cut,
                agent=self.agent_name,
            )
        )

    def _add(self, turn: Turn) -> None:
        self._turns.append(turn)
        del self._turns[:-MAX_TURNS]
        self.reporter.turn_ended(turn)

    def _count(self, source: Any, reading: usage.Reading | None, now: float) -> None:
        total, used = self.cost or Cost(), Usage() if reading is None else reading.usage
        if total.at_least if reading is None else used == Usage():
            return  # it would add nothing
        model = self._models[source]
        simulated = self._models["response"] == SIMULATED  # its session names a real recognizer, which does not run
        priced = price_of(SIMULATED if simulated else model, self._prices)
        cost = Cost(at_least=not simulated) if reading is None else cost_of(used, priced)
        self.cost = total + cost
        self.reporter.used(source, model, used, cost, self.cost, now)
