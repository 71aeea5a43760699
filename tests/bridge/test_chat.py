"""A conversation in writing: lines, answers, tools, a goodbye, and what goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge import prompts
from phoneagent.bridge.chat import Answered, Chat, Complaint, Happening, Words
from phoneagent.bridge.requests import RunTool, SessionChanged
from phoneagent.errors import EndpointRefused, EndpointUnreachable
from phoneagent.events import RateLimit
from phoneagent.protocol import realtime
from tests.bridge.rig import function_call, ulaw


class Bench:
    """A conversation, and what it sent and showed."""

    def __init__(self, greeting: str | None = None) -> None:
        self.chat = Chat(greeting=greeting)
        self.now = 10.0
        self.sent: list[Any] = []
        self.shown: list[Happening] = []
        self.chat.handle_timer(self.now)
        self.flush()

    def flush(self) -> None:
        while (message := self.chat.next_to_model()) is not None:
            self.sent.append(message)
        self.shown.extend(self.chat.happenings())

    def receive(self, *events: realtime.FromModel) -> None:
        for event in events:
            self.chat.receive(event, self.now)
            self.flush()

    def write(self, text: str = "Hello?") -> None:
        self.chat.write(text, self.now)
        self.flush()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.chat.handle_timer(self.now)
        self.flush()

    def created(self, id: str = "r1") -> None:
        metadata = self.creates[-1].response["metadata"]
        self.receive(realtime.ResponseCreated(response=realtime.Response(id=id, metadata=metadata)))

    def says(self, text: str = "Yes.", response: str = "r1", item: str = "i1") -> None:
        self.receive(realtime.TextDelta(response_id=response, item_id=item, delta=text))

    def calls(self, call_id: str = "c1") -> None:
        self.receive(realtime.OutputItemDone(item=function_call(call_id)))

    def returns(self, call_id: str = "c1", output: str = "42") -> None:
        self.chat.conversation.tool_returned(call_id, output, self.now)
        self.chat.move_on(self.now)
        self.flush()

    def done(self, response: str = "r1", status: str = "completed", code: str | None = None) -> None:
        details = realtime.StatusDetails(error=realtime.Failure(code=code)) if code else None
        self.receive(
            realtime.ResponseDone(response=realtime.Response(id=response, status=status, status_details=details))
        )

    def error(self, code: str, event_id: str | None = None) -> None:
        self.receive(realtime.Error(error=realtime.Failure(code=code, event_id=event_id)))

    @property
    def creates(self) -> list[Any]:
        return [message for message in self.sent if isinstance(message, realtime.ResponseCreate)]

    @property
    def items(self) -> list[Any]:
        return [message.item for message in self.sent if isinstance(message, realtime.ItemCreate)]


def test_a_line_is_answered() -> None:
    bench = Bench()
    assert bench.chat.idle
    bench.write("Hello?")
    (item,) = bench.items
    assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "Hello?"}])
    assert not bench.chat.idle
    bench.created()
    bench.says("Yes, ")
    bench.says("hello.")
    assert not bench.chat.idle
    bench.done()
    assert bench.chat.idle
    assert bench.shown == [Words("i1", "Yes, "), Words("i1", "hello."), Answered()]
    assert len(bench.creates) == 1


def test_the_greeting_comes_first() -> None:
    bench = Bench("Good evening!")
    assert "Good evening!" in bench.items[0]["content"][0]["text"]
    assert not bench.chat.idle
    bench.created()
    bench.says("Good evening!")
    bench.done()
    assert bench.chat.idle


def test_a_server_that_speaks_all_the_same_is_read() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.receive(realtime.TranscriptDelta(response_id="r1", item_id="i1", delta="Yes."))
    assert bench.shown == [Words("i1", "Yes.")]


def test_a_tool_runs_once_and_its_output_is_told() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.calls()
    bench.receive(
        realtime.ResponseDone(
            response=realtime.Response(id="r1", status="completed", output=[function_call("c1"), function_call("c2")])
        )
    )
    assert [each.call_id for each in bench.shown if isinstance(each, RunTool)] == ["c1", "c2"]
    bench.returns("c1")
    assert len(bench.creates) == 1
    bench.returns("c2")
    bench.returns("c2")
    assert [item["call_id"] for item in bench.items if item["type"] == "function_call_output"] == ["c1", "c2"]
    assert len(bench.creates) == 2
    assert not bench.chat.idle
    bench.created("r2")
    bench.says("Done.", "r2", "i2")
    bench.done("r2")
    assert bench.chat.idle


def test_after_the_parting_words_it_is_over() -> None:
    bench = Bench()
    bench.write("Bye!")
    bench.created()
    bench.says("Goodbye!")
    bench.calls()
    bench.chat.hang_up(bench.now)
    bench.returns()
    assert not bench.chat.over
    bench.done()
    assert bench.chat.over
    assert len(bench.creates) == 1


def test_without_parting_words_a_goodbye_is_asked_for() -> None:
    bench = Bench()
    bench.chat.hang_up(bench.now)
    bench.chat.hang_up(bench.now)
    bench.flush()
    assert "goodbye" in bench.items[-1]["content"][0]["text"]
    bench.created()
    bench.says("Goodbye!")
    assert not bench.chat.over
    bench.done()
    assert bench.chat.over
    assert len(bench.creates) == 1


def test_a_tool_that_hangs_up_without_a_word_is_waited_for() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.calls()
    bench.done()
    bench.chat.hang_up(bench.now, goodbye=False)
    assert not bench.chat.over
    bench.returns()
    assert bench.chat.over


def test_what_the_agent_s_code_asks_for() -> None:
    bench = Bench()
    bench.chat.conversation.add("It rains.", "system", bench.now)
    assert bench.chat.conversation.say("One moment.")
    bench.chat.move_on(bench.now)
    bench.flush()
    assert [item["role"] for item in bench.items] == ["system", "system"]
    bench.created()
    bench.says("One mo")
    bench.chat.interrupt(bench.now)
    bench.flush()
    assert isinstance(bench.sent[-1], realtime.ResponseCancel)
    bench.says("ment.")
    assert bench.shown == [Words("i1", "One mo")]
    bench.done(status="cancelled")
    assert bench.chat.conversation.respond({"instructions": "Sing."})
    bench.wait(0)
    assert bench.creates[-1].response["instructions"] == "Sing."


# --- what goes wrong ---


def test_a_failed_response_is_asked_for_again_and_then_given_up() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.done(status="failed", code="server_error")
    assert len(bench.creates) == 2
    assert bench.chat.failure is None
    bench.created("r2")
    bench.done("r2", status="failed", code="server_error")
    assert isinstance(bench.chat.failure, EndpointUnreachable)
    assert Complaint("response failed: server_error") in bench.shown


def test_a_response_without_a_word_is_asked_for_again_and_then_told() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.done()
    bench.created("r2")
    bench.done("r2")
    assert bench.shown[-1] == Complaint("the model answered with nothing, twice")
    assert bench.chat.failure is None
    assert bench.chat.idle


@pytest.mark.parametrize("code", ["insufficient_quota", "session_expired"])
def test_some_errors_end_it(code: str) -> None:
    bench = Bench()
    bench.error(code)
    assert isinstance(bench.chat.failure, EndpointRefused)
    assert bench.chat.failure.code == code


def test_some_errors_end_it_inside_a_response() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.done(status="failed", code="insufficient_quota")
    assert isinstance(bench.chat.failure, EndpointRefused)


def test_other_errors_are_told() -> None:
    bench = Bench()
    bench.error("invalid_value")
    bench.error("response_cancel_not_active")
    assert bench.shown == [Complaint("the model refused an event: invalid_value")]
    assert bench.chat.failure is None


def test_a_create_that_is_refused_twice_ends_it() -> None:
    bench = Bench()
    bench.write()
    bench.error("invalid_value", bench.creates[-1].event_id)
    assert len(bench.creates) == 2
    bench.error("invalid_value", bench.creates[-1].event_id)
    assert isinstance(bench.chat.failure, EndpointRefused)
    assert bench.chat.failure.code == "invalid_value"


def limits(bench: Bench, reset_seconds: float) -> None:
    limit = RateLimit(name="tokens", limit=40_000, remaining=0, reset_seconds=reset_seconds)
    bench.receive(realtime.RateLimits(rate_limits=[limit]))


@pytest.mark.parametrize("refused", ["response", "create"])
def test_a_rate_limit_is_waited_out_as_in_a_call(refused: str) -> None:
    bench = Bench()
    limits(bench, 3)
    bench.write()
    if refused == "create":
        bench.error("rate_limit_exceeded", bench.creates[-1].event_id)
    else:
        bench.created()
        bench.done(status="failed", code="rate_limit_exceeded")
    assert bench.chat.get_timer() == bench.now + 3
    assert not bench.chat.idle
    bench.wait(2.9)
    assert len(bench.creates) == 1
    bench.wait(0.1)
    assert len(bench.creates) == 2
    bench.created("r2")
    bench.says("Yes.", "r2")
    bench.done("r2")
    assert bench.chat.failure is None
    assert bench.chat.idle


@pytest.mark.parametrize("refused", ["response", "create"])
def test_a_rate_limit_that_lasts_ends_it_and_another_attempt_may_help(refused: str) -> None:
    bench = Bench()
    limits(bench, 60)
    bench.write()
    if refused == "create":
        bench.error("rate_limit_exceeded", bench.creates[-1].event_id)
    else:
        bench.created()
        bench.done(status="failed", code="rate_limit_exceeded")
    assert isinstance(bench.chat.failure, EndpointUnreachable)
    assert str(bench.chat.failure) == "the model refuses responses for 60 s: rate_limit_exceeded"
    assert bench.chat.failure.code == "rate_limit_exceeded"


def test_a_change_of_the_session_is_answered() -> None:
    bench = Bench()
    change_id = bench.chat.conversation.change_session({"type": "realtime"})
    bench.receive(realtime.SessionUpdated(session={}))
    assert bench.shown == [SessionChanged(change_id, None)]


def test_nothing_is_heard_or_spoken() -> None:
    bench = Bench()
    bench.receive(
        realtime.SessionCreated(session={}),
        realtime.SpeechStarted(),
        realtime.SpeechStopped(),
        realtime.Committed(item_id="u1"),
        realtime.InputTranscript(item_id="u1", transcript="Hello?"),
        realtime.InputTranscriptFailed(item_id="u1"),
        realtime.AudioDelta(response_id="r1", item_id="i1", delta=ulaw(20)),
        realtime.AudioDone(response_id="r1", item_id="i1"),
        realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="Yes."),
    )
    assert (bench.shown, bench.sent) == ([], [])


def test_a_response_that_is_not_the_active_one_is_nothing() -> None:
    bench = Bench()
    bench.done("r9")
    assert bench.shown == []


def test_a_response_that_runs_already_is_waited_for() -> None:
    bench = Bench()
    bench.write()
    bench.error("conversation_already_has_active_response", bench.creates[-1].event_id)
    assert len(bench.creates) == 1
    bench.done("r0")
    assert len(bench.creates) == 2


def test_a_model_that_answers_no_request_is_given_up() -> None:
    bench = Bench()
    bench.write()
    assert bench.chat.get_timer() is not None
    bench.wait(6)
    bench.wait(6)
    assert isinstance(bench.chat.failure, EndpointUnreachable)


def test_a_model_that_stalls_is_given_up_unless_a_tool_runs() -> None:
    bench = Bench()
    assert bench.chat.get_timer() is None
    bench.write()
    bench.created()
    bench.calls()
    bench.wait(20)
    assert bench.chat.failure is None
    bench.returns()
    bench.wait(6)
    bench.wait(6)
    assert isinstance(bench.chat.failure, EndpointUnreachable)


def test_a_loop_of_tools_is_ended() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    for number in range(1001):
        bench.calls(f"c{number}")
    assert "too many" in bench.items[-1]["output"]


def test_a_response_that_only_calls_a_hosted_tool_is_not_asked_for_again() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.receive(realtime.OutputItemDone(item=realtime.Item(id="m1", type="mcp_call")))
    bench.done()
    assert len(bench.creates) == 1


def test_what_goes_wrong_with_a_hosted_server_is_told() -> None:
    bench = Bench()
    bench.receive(realtime.Unknown("mcp_list_tools.failed"), realtime.Unknown("mcp_list_tools.completed"))
    assert bench.shown == [Complaint("an MCP server could not be asked for its tools by the model's provider")]


def test_what_a_hosted_tool_returned_is_answered() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.receive(realtime.OutputItemDone(item=realtime.Item(id="m1", type="mcp_call")))
    bench.done()
    assert len(bench.creates) == 1
    bench.receive(realtime.ItemDone(item=realtime.Item(id="m1", type="mcp_call")))
    assert len(bench.creates) == 2
    assert not bench.chat.idle


def test_a_muted_agent_stops_writing() -> None:
    chat = Chat()
    chat.mute(0.0, muted=True)
    assert chat.conversation.responses.muted
    chat.mute(0.0, muted=False)
    assert not chat.conversation.responses.muted


def test_a_conversation_that_is_muted_ends_without_a_goodbye() -> None:
    bench = Bench()
    bench.chat.mute(bench.now, muted=True)
    bench.chat.hang_up(bench.now)
    bench.flush()
    assert bench.chat.over
    assert bench.creates == []


def test_nothing_stops_the_goodbye() -> None:
    bench = Bench()
    bench.chat.hang_up(bench.now)
    bench.flush()
    bench.created()
    bench.chat.interrupt(bench.now)
    bench.chat.mute(bench.now, muted=True)
    bench.says("Goodbye!")
    bench.done()
    assert bench.shown == [Words("i1", "Goodbye!"), Answered()]
    assert bench.chat.over


def test_an_answer_that_a_filter_stopped_is_apologized_for() -> None:
    bench = Bench()
    bench.write()
    bench.created()
    bench.says("You could")
    details = realtime.StatusDetails(reason="content_filter")
    bench.receive(realtime.ResponseDone(realtime.Response(id="r1", status="incomplete", status_details=details)))
    assert Complaint("response incomplete: content_filter") in bench.shown
    assert bench.items[-1]["content"][0]["text"] == prompts.filtered().prompt
    bench.created("r2")
    bench.says("I am sorry.", "r2", "i2")
    bench.done("r2")
    assert bench.chat.idle
    assert len(bench.creates) == 2
