"""The conversation of a web call: a conversation in writing, and what follows from its being spoken.

The model's server interrupts the agent by itself, but only the response that runs, or is played, when the visitor
begins to speak. So nothing is asked for while they have the turn, what begins all the same is canceled, and each turn
is owed an answer, as by telephone. What the agent has said may still be played, so that is cleared when the agent is
stopped.
"""

from __future__ import annotations

from collections.abc import Callable

from phoneagent.bridge.caller import CallerTurn
from phoneagent.bridge.chat import Chat
from phoneagent.bridge.conversation import Observer
from phoneagent.bridge.requests import State
from phoneagent.bridge.turn_signs import AnsweredTurn
from phoneagent.protocol import realtime


class WebTalk(Chat):
    """The conversation of a web call. `now` is in seconds.

    `plays` returns whether the page may still play words of the agent. With `manual_turns`, user code marks the
    visitor's turns, and asks for the answers; otherwise the server answers them. `barge_in`: the visitor's speech stops
    the agent.
    """

    def __init__(
        self,
        *,
        greeting: str | None,
        observer: Observer,
        plays: Callable[[], bool],
        manual_turns: bool = False,
        barge_in: bool = True,
    ) -> None:
        super().__init__(greeting=greeting, observer=observer)
        self._plays = plays
        self._manual_turns = manual_turns
        self._barge_in = barge_in
        self._turn = CallerTurn()

    def turn_open(self, now: float) -> bool:
        """Return whether the visitor has a turn that is not over."""
        return self._turn.open(now)

    def _receive(self, event: realtime.FromModel, now: float) -> None:
        match event:
            case realtime.ResponseCreated(response=response):
                self.conversation.alive(now)
                self._response_created(response, now)
                return
            case realtime.SpeechStarted():
                self._turn.begin()
            case realtime.SpeechStopped():
                self._turn.stop(now)
            case realtime.Committed():
                self._turn.commit()
                self._turn_committed(event, now)
            case realtime.Unknown(type="input_audio_buffer.cleared"):
                self._turn.forget()  # the page has discarded the visitor's words: no end of them is reported
        super()._receive(event, now)

    def _turn_committed(self, event: realtime.Committed, now: float) -> None:
        """Owe an answer: the server refuses its own if another response runs. A call about to end owes none."""
        responses = self.conversation.responses
        if not (self._manual_turns or responses.closing or isinstance(event, AnsweredTurn)):
            responses.turn_committed(now, server_answers=True)

    def _response_created(self, response: realtime.Response, now: float) -> None:
        """Handle a response that begins. The server does not stop it for speech that began before."""
        responses = self.conversation.responses
        unwanted = self._barge_in and self._turn.speaking and not responses.protected
        self.conversation.response_created(response, now, unwanted=unwanted)
        if responses.state is State.CANCELLING and not self._plays():  # earlier words may have to be heard
            self._clear()

    def _stop(self, now: float) -> None:
        heard = self._plays() or self.conversation.responses.state is State.ACTIVE
        super()._stop(now)
        if heard:
            self._clear()

    def _clear(self) -> None:
        self.conversation.outbox.append(realtime.OutputAudioClear())
