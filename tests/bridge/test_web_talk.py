"""The conversation of a web call: who has the turn, what is owed, and what the page must stop playing."""

from __future__ import annotations

from typing import Any

from phoneagent.bridge.requests import State
from phoneagent.bridge.turn_signs import COMMIT_SECONDS
from phoneagent.bridge.web_talk import WebTalk
from phoneagent.protocol import realtime
from tests.bridge.rig import function_call
from tests.bridge.test_chat import Bench


class Ignored:
    def tool_called(self, *args: Any) -> None: ...
    def tool_returned(self, *args: Any) -> None: ...
    def message_added(self, *args: Any) -> None: ...


class Web(Bench):
    """A web call's conversation; `plays` is whether the page plays words of the agent."""

    def __init__(self, **options: Any) -> None:
        self.plays = False
        super().__init__()
        self.chat = WebTalk(greeting=None, observer=Ignored(), plays=lambda: self.plays, **options)
        self.chat.handle_timer(self.now)

    def speaks(self, item: str = "u1") -> None:
        self.receive(realtime.SpeechStarted(item_id=item))

    def stops(self, item: str = "u1") -> None:
        self.receive(realtime.SpeechStopped(item_id=item))

    def commits(self, item: str = "u1") -> None:
        self.receive(realtime.Committed(item_id=item))

    def answers(self, id: str) -> None:
        """The server answers a turn by itself."""
        self.receive(realtime.ResponseCreated(response=realtime.Response(id=id)))

    def runs_tool(self) -> None:
        self.speaks("u0")
        self.stops("u0")
        self.commits("u0")
        self.answers("r0")
        self.receive(realtime.OutputItemDone(item=function_call("c1"), response_id="r0"))
        self.done("r0")

    def added(self) -> None:
        """The server has taken the tool's output."""
        self.receive(realtime.ItemAdded(item=realtime.Item(id="o1", type="function_call_output", call_id="c1")))

    def asks(self, words: str = "Your table is ready.", **options: Any) -> None:
        self.chat.conversation.say(words, **options)
        self.chat.move_on(self.now)
        self.flush()

    def stop(self, *, mute: bool = False) -> None:
        if mute:
            self.chat.mute(self.now, muted=True)
        else:
            self.chat.interrupt(self.now)
        self.flush()

    @property
    def stopping(self) -> list[str]:
        """What the model's server was told to stop, in order."""
        kinds = {realtime.ResponseCancel: "cancel", realtime.OutputAudioClear: "clear"}
        return [kinds[type(message)] for message in self.sent if type(message) in kinds]


def test_a_tool_that_returns_while_the_visitor_speaks_is_answered_with_their_turn() -> None:
    web = Web()
    web.runs_tool()
    web.speaks()
    web.returns()
    web.added()
    assert web.creates == []  # the agent would talk over them
    web.stops()
    assert web.creates == []
    web.commits()
    web.answers("r1")
    web.says("Your order is on its way.", "r1")
    web.done("r1")
    assert web.creates == []
    assert web.chat.idle


def test_a_tool_that_returns_before_they_speak_is_answered_at_once() -> None:
    web = Web()
    web.runs_tool()
    web.returns()
    assert len(web.creates) == 1


def test_a_turn_whose_answer_the_server_refuses_is_answered_afterwards() -> None:
    web = Web(barge_in=False)
    web.asks()
    web.created("r1")
    web.speaks()
    web.stops()
    web.commits()
    web.error("conversation_already_has_active_response")
    web.says(response="r1")
    web.done("r1")
    assert len(web.creates) == 2
    web.created("r2")
    web.says("You asked for a bell.", "r2", "i2")
    web.done("r2")
    assert len(web.creates) == 2
    assert web.chat.idle


def test_a_turn_that_the_server_never_answers_is_answered_on_request() -> None:
    web = Web()
    web.speaks()
    web.stops()
    assert web.creates == []
    web.wait(COMMIT_SECONDS)  # the commit was lost
    web.wait(6)
    assert len(web.creates) == 1


def test_words_that_the_page_discards_are_waited_for_no_longer() -> None:
    web = Web()
    web.runs_tool()
    web.speaks()
    web.returns()
    web.receive(realtime.Unknown("input_audio_buffer.cleared"))
    assert len(web.creates) == 1


def test_a_response_that_begins_while_the_visitor_speaks_is_canceled() -> None:
    web = Web()
    web.runs_tool()
    web.returns()
    web.speaks()  # between the request and its response
    web.created("r1")
    assert web.stopping == ["cancel", "clear"]
    web.done("r1", "cancelled")
    web.stops()
    web.commits()
    web.answers("r2")
    assert web.stopping == ["cancel", "clear"]


def test_a_disclosure_and_an_agent_that_is_not_interrupted_begin_all_the_same() -> None:
    web = Web()
    web.asks("This call is recorded.", interruptible=False)
    web.speaks()
    web.created("r1")
    assert web.stopping == []

    web = Web(barge_in=False)
    web.asks()
    web.speaks()
    web.created("r1")
    assert web.stopping == []


def test_user_code_asks_for_the_answer_to_a_turn_that_it_has_marked() -> None:
    web = Web(manual_turns=True)
    web.commits()
    web.wait(20)
    assert web.creates == []
    assert web.chat.idle


def test_what_is_played_is_stopped() -> None:
    for mute in (False, True):
        web = Web()
        web.asks()
        web.created("r1")
        web.says()
        web.plays = True
        web.stop(mute=mute)
        assert web.stopping == ["cancel", "clear"]

        web = Web()
        web.asks()
        web.created("r1")
        web.says()
        web.done("r1")
        web.plays = True  # the model speaks faster than anyone
        web.stop(mute=mute)
        assert web.stopping == ["clear"]


def test_where_the_agent_says_nothing_there_is_nothing_to_stop() -> None:
    web = Web()
    web.stop()
    web.stop(mute=True)
    web.stop(mute=True)
    assert web.stopping == []


def test_what_a_muted_agent_was_asked_to_say_waits() -> None:
    web = Web()
    web.asks()
    web.stop(mute=True)
    web.created("r1")
    assert web.stopping == ["cancel", "clear"]
    web.done("r1", "cancelled")
    web.speaks()
    web.stops()
    web.commits()
    web.answers("r2")  # the server does not know that it is muted
    assert web.stopping == ["cancel", "clear"] * 2
    web.done("r2", "cancelled")
    assert len(web.creates) == 1
    web.chat.mute(web.now, muted=False)
    web.chat.move_on(web.now)
    web.flush()
    assert len(web.creates) == 2


def test_nothing_cuts_the_last_words() -> None:
    web = Web(barge_in=False)
    web.chat.hang_up(web.now)
    web.flush()
    web.created("r1")
    web.says("Goodbye!")
    web.stop()
    web.stop(mute=True)
    web.done("r1")
    web.plays = True
    web.stop()
    assert web.chat.over
    web.speaks()
    web.stops()
    web.commits()
    assert web.chat.over  # their turn is not answered any more
    web.answers("r2")
    assert not web.chat.over
    assert web.stopping == ["cancel"]  # a clear would cut the goodbye
    web.done("r2", "cancelled")
    assert web.chat.over
    assert len(web.creates) == 1


def test_a_goodbye_does_not_wait_for_silence() -> None:
    web = Web()
    web.speaks()
    web.chat.hang_up(web.now)
    web.flush()
    web.created("r1")
    assert web.stopping == []
    assert web.chat.conversation.responses.state is State.ACTIVE
