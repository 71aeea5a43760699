"""A web page's call, as its side-band socket shows it, sans-I/O: its turns, its tools and its cost.

The page and the model exchange the audio themselves, and the server cuts what was interrupted. How much of an answer
was heard is therefore estimated from when the server says it was played.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from phoneagent.billing import usage
from phoneagent.billing.prices import SIMULATED, Price, cost_of, price_of
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.heard import heard_part
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.scripts import usual_ms
from phoneagent.bridge.web_talk import WebTalk
from phoneagent.events import Cost, EndedBy, Turn, Usage
from phoneagent.protocol import realtime

MAX_TURNS = 10_000
MAX_OPEN_TURNS = 64
"""How many turns may be unfinished; beyond that, the oldest are reported as they are."""

REST_MS = 500
"""The least that counts as left of an answer that was cut: there is no audio here to measure."""

PARTING_SECONDS = 3.0
"""How much later than estimated the last words may be over, before the call is hung up all the same."""

MAX_PARTING_SECONDS = 60.0
"""The longest wait for them."""

SLOWNESS = 2
"""How much longer than usual words may take: a voice may be slow. The wait ends as soon as they were played."""

PLAYED = "output_audio_buffer."
"""The prefix of the events that report what the page plays."""


@dataclass(slots=True)
class _Said:
    """A turn that is not over. For the agent's, `response_id` is the response that it is part of.

    `agent` is who began it: it may be played until another agent has the call.
    """

    item_id: str
    start_ms: int
    end_ms: int
    response_id: str = ""
    agent: str | None = None
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
        manual_turns: bool = False,
        barge_in: bool = True,
    ) -> None:
        self._clock = CallClock()
        self.reporter = Reporter(call_sid, self._clock)
        self.chat = WebTalk(
            greeting=greeting,
            observer=self.reporter,
            plays=lambda: self.playing,
            manual_turns=manual_turns,
            barge_in=barge_in,
        )
        self.agent_name: str | None = None
        """The name of the agent that has the call."""
        self._models = {"response": model, "transcription": recognizer}
        self._prices = prices
        self._max_cost = max_cost
        self.cost: Cost | None = None
        self._turns: list[Turn] = []
        self._heard: dict[str, _Said] = {}  # the caller's
        self._spoken: dict[str, _Said] = {}  # the agent's
        self._finished: deque[str] = deque(maxlen=MAX_OPEN_TURNS)  # the agent's that ended: late words are not heard
        self._playing: dict[str, int] = {}  # responses, each since when
        self._hung_up_at: float | None = None
        self.over = False
        """Whether the agent has hung up, and its last words were played, or should have been."""

    @property
    def over_budget(self) -> bool:
        """Whether the call has reached its cost limit."""
        return self._max_cost is not None and self.cost is not None and self.cost.usd >= self._max_cost

    @property
    def playing(self) -> bool:
        """Whether the page plays words of the agent, or is about to."""
        return bool(self._playing or self._spoken)

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
                if item_id not in self._finished:
                    said = self._spoken.setdefault(item_id, _Said(item_id, ms, ms, response_id, self.agent_name))
                    said.text += delta
            case realtime.ResponseDone(response=response):
                self._count("response", usage.of_response(response.usage), now)
                if response.status == "cancelled" and response.id not in self._playing:
                    self._cut(self._said_in(response.id), ms)  # nothing of it is played
            case realtime.RateLimits(rate_limits=limits):
                self.reporter.rate_limits(self._models["response"], limits, now)
            case realtime.Unknown(type=kind) if kind.startswith(PLAYED):
                self._played(kind.removeprefix(PLAYED), str(realtime.as_dict(raw).get("response_id")), ms)
        for said in [*self._heard.values()][:-MAX_OPEN_TURNS]:
            self._caller_turn(self._heard.pop(said.item_id), "", failed=True)
        for said in [*self._spoken.values()][:-MAX_OPEN_TURNS]:
            self._agent_turn(said, said.start_ms, ms, cut=False)
        self.chat.receive(event, now)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due; None for never."""
        times = (self.chat.get_timer(), self._leave_at)
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due. Calling it too early changes nothing."""
        self.chat.handle_timer(now)
        if self.chat.over and self._hung_up_at is None:
            self._hung_up_at = now
        leave_at = self._leave_at
        self.over = leave_at is not None and (not self.playing or now >= leave_at)

    @property
    def _leave_at(self) -> float | None:
        """When the call ends although the server has not reported that the last words were played."""
        if self._hung_up_at is None or not self.chat.over:
            return None
        played_ms = 0
        for said in self._spoken.values():
            begins_ms = max(played_ms, self._playing.get(said.response_id, said.start_ms))
            played_ms = begins_ms + SLOWNESS * usual_ms(said.text)
        rest_seconds = max(0, played_ms - self._clock.ms(self._hung_up_at)) / 1000
        return self._hung_up_at + min(rest_seconds + PARTING_SECONDS, MAX_PARTING_SECONDS)

    def end(self, by: EndedBy, reason: str, now: float) -> None:
        """End the call."""
        for said in list(self._spoken.values()):
            self._agent_turn(said, self._playing.get(said.response_id, said.start_ms), self._clock.ms(now), cut=True)
        transcript = tuple(sorted(self._turns, key=lambda turn: turn.start_ms))
        self.reporter.ended(by, reason, transcript, now, self.cost)

    def _played(self, what: str, response_id: str, ms: int) -> None:
        if what == "started":
            self._playing[response_id] = ms
        elif what == "stopped":
            since = self._playing.pop(response_id, None)
            for said in self._said_in(response_id):
                self._agent_turn(said, said.start_ms if since is None else since, ms, cut=False)
        elif what == "cleared":
            self._cut(list(self._spoken.values()), ms)
            self._playing.clear()

    def _said_in(self, response_id: str | None) -> list[_Said]:
        return [said for said in self._spoken.values() if said.response_id == response_id]

    def _cut(self, turns: Iterable[_Said], ms: int) -> None:
        """End turns of the agent: what was not played by now never is."""
        for said in turns:
            self._agent_turn(said, self._playing.get(said.response_id, ms), ms, cut=True)

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
        self._finished.append(said.item_id)
        text, heard_ms = said.text.strip(), max(0, end_ms - start_ms)
        said_ms = max(heard_ms + REST_MS, usual_ms(text)) if cut else heard_ms
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
                agent=said.agent,
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
