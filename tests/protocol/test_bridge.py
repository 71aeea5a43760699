"""The rules of the conversation: the floor, interruption, tools. What ends a call is in test_bridge_endings.py."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.events import AgentAnswered, BargeIn, CallerSpoke, KeyPressed, ToolReturned, TurnEnded
from phoneagent.protocol import mediastream, realtime
from phoneagent.protocol import playback as playback_module
from phoneagent.protocol.mediastream import Audio, Clear, SendMark
from phoneagent.protocol.policy import Floor, RunTool
from phoneagent.protocol.realtime import AudioAppend, InputTranscript, ItemCreate, TranscriptDelta, TranscriptDone
from phoneagent.protocol.toolcalls import MAX_TOOL_CALLS

from .rig import STREAM, Rig, function_call, ulaw

GREETING = "Chez Nous, good evening!"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def words(text: str, item: str = "i1", response: str = "r1") -> TranscriptDelta:
    return TranscriptDelta(response_id=response, item_id=item, delta=text)


# --- the start ---


def test_nothing_goes_to_the_caller_before_start() -> None:
    rig = Rig(start=False)
    assert rig.bridge.stream_sid is None
    rig.created()
    rig.audio()
    assert rig.to_caller == []
    assert rig.bridge.get_timer() is None
    rig.bridge.handle_timer(1e9)
    rig.start()
    assert rig.bridge.stream_sid == STREAM
    assert rig.media_ms() == 100


def test_the_caller_is_held_until_the_model_listens() -> None:
    rig = Rig(connect=False)
    for number in range(3):
        rig.media(20, 20 * number)
    assert rig.to_model == []
    rig.connect()
    assert len(rig.sent(AudioAppend)) == 3
    rig.media(20, 60)
    assert len(rig.sent(AudioAppend)) == 4


def test_events_of_a_model_that_is_not_there_are_nothing() -> None:
    rig = Rig(connect=False)
    rig.created()
    rig.audio()
    assert rig.bridge.floor() is Floor.OPEN


@pytest.mark.parametrize("start_first", [True, False])
def test_the_greeting_is_asked_for_when_both_sides_are_there(start_first: bool) -> None:
    rig = Rig(start=start_first, connect=not start_first, greeting=GREETING)
    assert rig.creates == []
    rig.connect() if start_first else rig.start()
    assert len(rig.creates) == 1
    assert GREETING in rig.prompts[0]


def test_without_a_greeting_the_caller_begins(rig: Rig) -> None:
    assert rig.to_model == []
    assert rig.bridge.floor() is Floor.OPEN


def test_a_call_is_greeted_once() -> None:
    rig = Rig(greeting=GREETING)
    rig.says(ours=True)
    rig.wait(1.1)
    rig.hear()
    rig.connect()
    assert len(rig.creates) == 1


# --- bad input from the caller's side ---


def messages(sid: str) -> list[Any]:
    return [
        mediastream.Media(stream_sid=sid, media=mediastream.MediaDetails(payload=ulaw(20))),
        mediastream.Mark(stream_sid=sid, mark=mediastream.MarkDetails(name="1.1")),
        mediastream.Dtmf(stream_sid=sid, dtmf=mediastream.DtmfDetails(digit="5")),
        mediastream.Start(stream_sid=sid, start=mediastream.StartDetails(account_sid="AC2", call_sid="CA2")),
        mediastream.Stop(stream_sid=sid),
    ]


@pytest.mark.parametrize("kind", range(5))
def test_messages_of_another_stream_change_nothing_and_are_told_once(rig: Rig, kind: int) -> None:
    rig.created()
    rig.audio()
    for _ in range(3):
        rig.caller(messages("MZother")[kind])
    assert rig.bridge.stream_sid == STREAM
    assert rig.ended is None
    assert rig.sent(AudioAppend) == []
    assert rig.events(KeyPressed) == []
    assert rig.bridge.floor() is Floor.AGENT
    assert len(rig.troubles) == 1


@pytest.mark.parametrize("kind", [0, 1, 2, 4])
def test_messages_before_start_change_nothing(kind: int) -> None:
    rig = Rig(start=False)
    rig.caller(messages(STREAM)[kind])
    assert rig.to_model == []
    assert rig.ended is None
    assert len(rig.troubles) == 1


def test_a_second_start_changes_nothing(rig: Rig) -> None:
    rig.wait(1)
    rig.start()
    rig.model(realtime.SpeechStarted())
    assert rig.events(CallerSpoke)[0].at_ms == 1000
    assert len(rig.troubles) == 1


def test_what_twilio_may_add_is_ignored(rig: Rig) -> None:
    rig.caller(mediastream.Ignored("video"))
    rig.caller(mediastream.Connected())
    assert rig.troubles == []


def test_keys_are_told(rig: Rig) -> None:
    rig.caller(messages(STREAM)[2])
    assert [event.digit for event in rig.events(KeyPressed)] == ["5"]


# --- the floor ---


def test_the_floor_goes_round(rig: Rig) -> None:
    assert rig.bridge.floor() is Floor.OPEN
    rig.speech()
    assert rig.bridge.floor() is Floor.CALLER
    rig.turn()
    assert rig.bridge.floor() is Floor.THINKING
    rig.created(ours=False)
    assert rig.bridge.floor() is Floor.THINKING
    rig.audio()
    assert rig.bridge.floor() is Floor.AGENT
    rig.audio_done()
    rig.done()
    assert rig.bridge.floor() is Floor.AGENT
    rig.hear()
    assert rig.bridge.floor() is Floor.OPEN


def test_a_running_tool_is_thinking(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    assert rig.bridge.floor() is Floor.THINKING


def test_audio_that_waits_for_the_socket_is_the_agents_floor(rig: Rig) -> None:
    rig.stalled = True
    rig.says(ours=None)
    assert rig.to_caller == []
    assert rig.bridge.floor() is Floor.AGENT


# --- audio and marks ---


def test_media_and_marks_of_several_items(rig: Rig) -> None:
    rig.created()
    rig.audio(60, "i1")
    rig.audio(60, "i2")
    rig.audio_done("i1")
    rig.audio_done("i2")
    rig.done()
    assert [type(message) for message in rig.to_caller] == [Audio, Audio, SendMark]
    rig.hear()
    assert [(event.turn.item_id, event.turn.heard_ms) for event in rig.events(TurnEnded)] == [("i1", 60), ("i2", 60)]


def test_the_end_of_a_response_is_the_end_of_its_items(rig: Rig) -> None:
    rig.created()
    rig.audio(30)
    rig.done()
    rig.hear()
    assert rig.bridge.floor() is Floor.OPEN
    assert len(rig.events(TurnEnded)) == 1


def test_a_mark_that_was_cleared_proves_nothing(rig: Rig) -> None:
    rig.says()
    old = rig.sent(SendMark)
    rig.speech()
    rig.turn()
    rig.says(1000, "i2", "r2", ours=False)
    told = len(rig.told)
    for mark in old:
        rig.mark(mark.name)
    assert rig.bridge.floor() is Floor.AGENT
    assert len(rig.told) == told
    rig.speech()
    assert rig.truncations[-1] == ("i2", 0)


def test_mark_names_are_unique_in_a_call(rig: Rig) -> None:
    for number in range(4):
        rig.says(500, f"i{number}", f"r{number}")
        rig.speech()
        rig.turn(f"u{number}")
    names = [mark.name for mark in rig.sent(SendMark)]
    assert len(set(names)) == len(names) >= 20


def test_audio_of_a_response_that_nobody_announced_is_heard(rig: Rig) -> None:
    rig.audio(100, "i1", "r7")
    assert rig.media_ms() == 100
    rig.created("r8")
    rig.audio(100, "i2", "r7")
    assert rig.media_ms() == 200
    rig.done("r8")
    assert len(rig.creates) == 1  # r8 itself was empty


def test_audio_that_the_caller_does_not_take_is_dropped_at_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback_module, "MAX_WAITING_BYTES", 1600)
    rig.stalled = True
    rig.created()
    for _ in range(4):
        rig.audio(100)
    assert rig.bridge.playback.unsent_ms == 200
    assert len(rig.troubles) == 1


# --- interruption ---


def test_a_barge_in_clears_cancels_and_truncates(rig: Rig) -> None:
    rig.created()
    rig.audio(1000)
    rig.wait(0.0501)
    before = len(rig.to_model)
    rig.speech()
    assert isinstance(rig.to_caller[-1], Clear)
    assert [type(event).__name__ for event in rig.to_model[before:]] == ["ResponseCancel", "ItemTruncate"]
    assert rig.cancels == ["r1"]
    assert rig.truncations == [("i1", 50)]
    (event,) = rig.events(BargeIn)
    assert (event.item_id, event.audio_end_ms, event.said_ms, event.at_ms) == ("i1", 50, 1000, 50)


def test_after_the_response_there_is_nothing_to_cancel(rig: Rig) -> None:
    rig.says()
    rig.speech()
    assert rig.cancels == []
    assert rig.truncations == [("i1", 0)]
    assert isinstance(rig.to_caller[-1], Clear)


def test_before_any_audio_there_is_nothing_to_clear_or_truncate(rig: Rig) -> None:
    rig.created()
    rig.audio(0)
    rig.speech()
    assert rig.cancels == ["r1"]
    assert rig.truncations == []
    assert rig.to_caller == []


@pytest.mark.parametrize("heard", [False, True])
def test_there_is_nothing_to_interrupt_when_nobody_speaks(rig: Rig, heard: bool) -> None:
    if heard:
        rig.says()
        rig.wait(1.1)
        rig.hear()
    rig.speech()
    rig.interrupt()
    assert (rig.cancels, rig.truncations, rig.sent(Clear)) == ([], [], [])


def test_what_was_not_sent_is_dropped_and_truncated_at_zero(rig: Rig) -> None:
    rig.stalled = True
    rig.says()
    rig.speech()
    rig.stalled = False
    rig.flush()
    assert rig.to_caller == []
    assert rig.truncations == [("i1", 0)]


def test_every_item_that_was_received_and_not_heard_is_truncated(rig: Rig) -> None:
    rig.created()
    for item in ("i1", "i2", "i3"):
        rig.audio(100, item)
        rig.audio_done(item)
    rig.mark("1.1")
    rig.wait(0.0501)
    rig.speech()
    assert rig.truncations == [("i2", 50), ("i3", 0)]
    assert [event.turn.item_id for event in rig.events(TurnEnded)] == ["i1", "i2", "i3"]


def test_an_item_that_was_heard_to_its_last_mark_is_left_alone(rig: Rig) -> None:
    rig.created()
    rig.audio(100)
    rig.hear()
    rig.audio_done()
    rig.speech()
    assert rig.truncations == []
    assert rig.cancels == ["r1"]


def test_an_item_that_may_go_on_is_truncated_where_it_is(rig: Rig) -> None:
    rig.created()
    rig.audio(100)
    rig.hear()
    rig.speech()
    assert rig.truncations == [("i1", 100)]
    assert rig.sent(Clear) == []


def test_all_that_still_comes_of_an_interrupted_response_is_dropped(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.audio()
    rig.audio(item="i2")
    rig.model(words("secret", "i2"), TranscriptDone(response_id="r1", item_id="i1", transcript="All of it."))
    rig.audio_done()
    rig.done(status="cancelled")
    assert rig.media_ms() == 100
    assert all(event.turn.text == "" for event in rig.events(TurnEnded))


def test_the_next_response_is_heard_again(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.done(status="cancelled")
    rig.turn()
    rig.says(100, "i2", "r2", ours=False)
    assert rig.media_ms() == 200
    rig.hear()
    assert rig.bridge.floor() is Floor.OPEN


def test_a_thinking_agent_can_be_interrupted(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.speech()
    rig.turn()
    rig.created("r2", ours=False)
    rig.returns()
    rig.audio(response="r2")
    rig.done("r2")
    assert len(rig.creates) == 1  # for the tool, which r2 did not know of


def test_code_may_interrupt_as_a_caller_does(rig: Rig) -> None:
    rig.created()
    rig.audio(1000)
    rig.wait(0.0501)
    rig.interrupt()
    assert rig.cancels == ["r1"]
    assert rig.truncations == [("i1", 50)]
    rig.done(status="cancelled")
    assert rig.bridge.floor() is Floor.OPEN
    assert rig.creates == []


def test_without_barge_in_the_agent_finishes_and_answers_after_it() -> None:
    rig = Rig(barge_in=False)
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    assert (rig.cancels, rig.truncations, rig.sent(Clear)) == ([], [], [])
    rig.done()
    assert len(rig.creates) == 1


def test_what_was_heard_of_the_words(rig: Rig) -> None:
    rig.created()
    rig.model(words("one two three four "))
    rig.audio(1000)
    rig.model(TranscriptDone(response_id="r1", item_id="i1", transcript="one two three four"))
    rig.audio_done()
    rig.done()
    for mark in rig.sent(SendMark)[:5]:
        rig.mark(mark.name)
    rig.speech()
    (event,) = rig.events(TurnEnded)
    assert event.turn.interrupted
    assert (event.turn.text, event.turn.heard_text) == ("one two three four", "one two")


# --- refused truncations and other errors ---


def test_a_refused_truncation_is_asked_again_once(rig: Rig) -> None:
    rig.says()
    rig.wait(0.0501)
    rig.speech()
    refusal = "Audio content of 40ms is already shorter than 50ms"
    rig.error("invalid_value", "truncate_1", refusal)
    rig.error("invalid_value", "truncate_2", refusal)
    assert rig.truncations == [("i1", 50), ("i1", 40)]
    assert len(rig.troubles) == 1
    assert rig.ended is None


def test_a_cancel_that_came_too_late_is_no_trouble(rig: Rig) -> None:
    rig.error("response_cancel_not_active")
    assert rig.troubles == []


def test_any_other_error_is_told_and_the_call_goes_on(rig: Rig) -> None:
    rig.model(realtime.Error(error=realtime.Failure(type="invalid_request_error", param="x", event_id="event_7")))
    rig.error("input_audio_buffer_commit_empty")
    assert len(rig.troubles) == 2
    assert "x" in rig.troubles[0]
    assert rig.ended is None


def test_events_that_a_call_does_not_need_change_nothing(rig: Rig) -> None:
    rig.model(realtime.SessionCreated(session={}), realtime.SessionUpdated(session={}), realtime.Unknown("x"))
    rig.model(realtime.ItemAdded(item=realtime.Item(type="message")))
    rig.model(realtime.OutputItemDone(item=realtime.Item(type="message")))
    rig.added("nobody")
    assert (rig.to_model, rig.to_caller, rig.told, rig.asked) == ([], [], [], [])


# --- the greeting ---


def test_the_greeting_is_protected_until_it_was_heard_and_the_caller_answered_after_it() -> None:
    rig = Rig(greeting=GREETING)
    rig.speech()
    rig.created("r1", ours=True)
    rig.audio(100)
    rig.speech()
    rig.audio_done()
    rig.done("r1")
    rig.speech()
    assert (rig.cancels, rig.truncations, rig.sent(Clear)) == ([], [], [])
    rig.turn()
    rig.created("r2", ours=False)
    rig.audio(100, "i2", "r2")
    rig.mark("1.1")
    rig.speech()
    assert rig.cancels == ["r2"]
    assert rig.truncations == [("i2", 0)]


def test_a_greeting_that_was_all_heard_before_its_end_came_is_over() -> None:
    rig = Rig(greeting=GREETING)
    rig.created("r1", ours=True)
    rig.audio(100)
    rig.hear()
    rig.audio_done()
    rig.done("r1")
    rig.turn()
    rig.created("r2", ours=False)
    rig.speech()
    assert rig.cancels == ["r2"]


def test_an_interruptible_greeting_is_interrupted() -> None:
    rig = Rig(greeting=GREETING, greeting_interruptible=True)
    rig.created("r1", ours=True)
    rig.audio()
    rig.speech()
    assert rig.cancels == ["r1"]
    assert rig.truncations == [("i1", 0)]


def test_code_may_interrupt_the_greeting() -> None:
    rig = Rig(greeting=GREETING)
    rig.created("r1", ours=True)
    rig.audio()
    rig.interrupt()
    assert rig.cancels == ["r1"]


# --- the caller's turns ---


def test_a_turn_of_the_caller_with_its_late_text(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    rig.says(ours=False)
    rig.model(InputTranscript(item_id="u1", transcript="A table, please."))
    rig.model(realtime.InputTranscriptFailed(item_id="u2"))
    assert [event.turn.text for event in rig.events(TurnEnded)] == ["A table, please."]
    assert len(rig.events(AgentAnswered)) == 1


def test_a_turn_nobody_understood_is_a_turn(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    rig.model(realtime.InputTranscriptFailed(item_id="u1"))
    assert [event.turn.text for event in rig.events(TurnEnded)] == [""]


def test_what_was_said_before_is_no_answer() -> None:
    rig = Rig(barge_in=False)
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    rig.audio()
    assert rig.events(AgentAnswered) == []


def test_a_line_that_stalls_in_the_middle_of_speech_is_filled(rig: Rig) -> None:
    rig.media()
    rig.speech()
    rig.wait(1.0)
    assert len(rig.sent(AudioAppend)) == 1 + 3
    rig.turn()
    rig.wait(1.0)
    assert len(rig.sent(AudioAppend)) == 1 + 3


# --- tools ---


def test_a_tool_runs_once_whatever_says_that_it_is_called(rig: Rig) -> None:
    rig.created()
    rig.calls("c1")
    rig.calls("c1")
    rig.done(output=[function_call("c1"), function_call("c2")])
    assert rig.asked == [RunTool("c1", "look_up", '{"a": 1}'), RunTool("c2", "look_up", '{"a": 1}')]


@pytest.mark.parametrize(
    "item",
    [
        realtime.Item(type="message", status="completed"),
        realtime.Item(type="function_call", status="incomplete", call_id="c1", name="f"),
        realtime.Item(type="function_call", status="completed", name="f"),
        realtime.Item(type="function_call", status="completed", call_id="c1"),
    ],
)
def test_half_a_call_is_none(rig: Rig, item: realtime.Item) -> None:
    rig.created()
    rig.model(realtime.OutputItemDone(item=item))
    assert rig.asked == []


def test_a_call_without_arguments_or_status(rig: Rig) -> None:
    rig.created()
    rig.model(realtime.OutputItemDone(item=realtime.Item(type="function_call", call_id="c1", name="f")))
    assert rig.asked == [RunTool("c1", "f", "{}")]


def test_the_calls_of_a_response_that_was_cut_are_not_taken_from_its_end(rig: Rig) -> None:
    rig.created()
    rig.done(status="incomplete", output=[function_call()])
    assert rig.asked == []


def test_an_output_is_posted_at_once_and_answered_after_the_response(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.returns()
    (item,) = rig.sent(ItemCreate)
    assert item.item == {"type": "function_call_output", "call_id": "c1", "output": "42"}
    assert rig.creates == []
    rig.done()
    assert len(rig.creates) == 1
    assert [(event.name, event.output) for event in rig.events(ToolReturned)] == [("look_up", "42")]


def test_several_outputs_are_one_answer(rig: Rig) -> None:
    rig.created()
    for call in ("c1", "c2", "c3"):
        rig.calls(call)
    rig.done()
    rig.returns("c2")
    rig.returns("c1")
    assert len(rig.sent(ItemCreate)) == 2
    rig.returns("c3")
    rig.says(100, "i1", "r2", ours=True)
    rig.wait(6)
    assert len(rig.creates) == 1


def test_an_output_is_owed_until_a_response_that_knows_it(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.turn()
    rig.returns(added=False)
    rig.created("r2", ours=False)  # begun before the output came
    rig.added()
    rig.audio(response="r2")
    rig.done("r2")
    assert len(rig.creates) == 1


def test_a_response_that_began_after_the_output_was_added_is_its_answer(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.speech()
    rig.returns()
    rig.turn()
    rig.says(100, "i2", "r2", ours=False)
    rig.wait(6)
    assert rig.creates == []


def test_a_tool_that_returns_twice_or_unasked_is_nothing(rig: Rig) -> None:
    rig.returns("c9")
    rig.created()
    rig.calls()
    rig.returns()
    rig.returns()
    assert len(rig.sent(ItemCreate)) == 1


def test_a_call_without_words_is_no_empty_response(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.talk(6)
    assert rig.creates == []


def test_a_loop_of_calls_is_ended(rig: Rig) -> None:
    rig.created()
    for number in range(MAX_TOOL_CALLS + 2):
        rig.calls(f"c{number}")
    assert len(rig.asked) == MAX_TOOL_CALLS
    assert "too many" in rig.sent(ItemCreate)[-1].item["output"]
