"""The cost of a call, and its limit.

At MAX_CALL_COST the model is asked to wrap up. The caller may say one more thing and gets an answer; then, or after
half a minute, the call ends with a goodbye. That last turn costs extra: the limit is soft.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from phoneagent.billing import usage
from phoneagent.billing.prices import SIMULATED, cost_of, price_of
from phoneagent.bridge import prompts
from phoneagent.bridge.deadlines import ANNOUNCE_SECONDS, Deadlines
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.prompts import Wanted
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import State
from phoneagent.bridge.responses import ResponseGate
from phoneagent.events import Cost, Usage
from phoneagent.protocol.realtime import FromModel, InputTranscript, Response, ResponseCreated, ResponseDone
from phoneagent.protocol.session_object import model_of, transcription_model_of

REASON = "the call reached its cost limit"


class Budget:
    """The usage that the models of a call report, and its cost. `now` is in seconds."""

    def __init__(
        self, policy: Policy, past: Past | None, reporter: Reporter, responses: ResponseGate, deadlines: Deadlines
    ) -> None:
        self._policy = policy
        self._reporter = reporter
        self._responses = responses
        self._deadlines = deadlines
        self.total: Cost | None = past.cost if past is not None else None
        """What the call has cost so far; None if no model has reported anything."""
        self.model = self._recogniser = "unknown"
        self._running = 0  # responses whose report has yet to come
        self._wrap_up: Wanted | None = None  # asks the model to wrap up
        self._told = self._last_turn = self._answered = False
        self._turns = 0

    def new_session(self, session: Mapping[str, Any], now: float) -> None:
        """Switch to a new session; `session` is as the server reports it. The one before sends no more reports."""
        self.close(now)
        self.model, self._recogniser = model_of(session), transcription_model_of(session)

    def close(self, now: float) -> None:
        """Note that no more reports come."""
        if self._running:
            self._running = 0
            self._count("response", None, now)

    # --- the model's events, each before anything that it causes ---

    def turn_committed(self) -> None:
        """Note that the caller said something: after the wrap-up, that is the last turn."""
        self._last_turn = self._told

    def response_created(self) -> None:
        """Note that a response was created: its report follows."""
        self._running += 1

    def response_done(self, response: Response, now: float) -> None:
        """Count the usage that a completed response reports."""
        self._running = max(0, self._running - 1)
        self._count("response", usage.of_response(response.usage), now)
        self._answered = self._answered or (self._last_turn and response.status == "completed")

    def beside(self, event: FromModel, now: float) -> None:
        """Count an event of an out-of-band response, which costs money too, but answers no turn."""
        if isinstance(event, ResponseCreated):
            self.response_created()
        elif isinstance(event, ResponseDone):
            self._running = max(0, self._running - 1)
            self._count("response", usage.of_response(event.response.usage), now)

    def transcribed(self, event: InputTranscript, now: float) -> None:
        """Count the usage that the recognizer reports for a turn."""
        self._count("transcription", usage.of_transcription(event.usage), now)

    def _count(self, source: Literal["response", "transcription"], reading: usage.Reading | None, now: float) -> None:
        total = self.total or Cost()
        model = self.model if source == "response" else self._recogniser
        simulated = self.model == SIMULATED  # its session names a real recognizer, which does not run
        if reading is None:
            used, cost = Usage(), Cost(at_least=not simulated)
            if total.at_least:
                return
        else:
            priced = SIMULATED if simulated else model
            used, cost = reading.usage, cost_of(reading.usage, price_of(priced, self._policy.prices))
            if used == Usage():
                return
            if reading.assumed:
                self._reporter.trouble(
                    "a model does not break down its tokens by kind: they are priced at the highest rate", now
                )
        self.total = total + cost
        self._reporter.used(source, model, used, cost, self.total, now)

    def poll(self, now: float, *, turns: int = 0) -> None:
        """End the call if it costs too much, at a moment when a response may be requested.

        `turns`: how many of the caller's turns counted so far, besides those of `turn_committed`.
        """
        if turns != self._turns:
            self._turns = turns
            self.turn_committed()
        limit = self._policy.max_call_cost
        if limit is None or self.total is None or self.total.usd < limit:
            return
        if self._wrap_up is None:
            self._wrap_up = prompts.wrap_up()
            self._told = self._deadlines.announced or not self._responses.want(self._wrap_up)
            self._deadlines.end_by(now + ANNOUNCE_SECONDS, REASON)
        self._told = self._told or self._responses.current is self._wrap_up
        if self._answered and self._responses.state is State.NONE and not self._responses.owes:
            self._answered = False
            if not self._responses.called:  # otherwise the answer comes after the tool
                self._deadlines.end_by(now, REASON)
