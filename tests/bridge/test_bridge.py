"""The rules of the conversation: the start, bad input, the floor, audio, the caller's turns. More of them next door."""

from __future__ import annotations

import pytest

from phoneagent.bridge import playback as playback_module
from phoneagent.bridge.playback import MARK_SECONDS
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.requests import SessionChanged
from phoneagent.events import AgentAnswered, KeyPressed, TurnEnded
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.carrier import Audio, SendMark
from phoneagent.protocol.realtime import AudioAppend, InputTranscript
from tests.bridge.rig import STREAM, Rig, ulaw

GREETING = "Chez Nous, good evening!"


@pytest.fixture
def rig() -> Rig:
    return Rig()


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


def test_a_session_that_opens_names_its_model_and_voids_what_the_one_before_was_asked() -> None:
    rig = Rig(connect=False)
    change_id = rig.bridge.conversation.change_session({"type": "realtime"})
    rig.bridge.model_opened({"model": "gpt-realtime-2.1"}, rig.now)
    rig.connect()
    assert rig.bridge.budget.model == "gpt-realtime-2.1"
    assert rig.asked == [SessionChanged(change_id, "the connection was lost")]
    assert rig.sent(realtime.SessionUpdate) == []


def test_what_does_not_belong_in_a_call_changes_nothing() -> None:
    rig = Rig()
    rig.model(
        realtime.SessionCreated(session={}),
        realtime.TextDelta(response_id="r1", item_id="i1", delta="Hello"),
        realtime.Unknown("conversation.updated"),
    )
    assert (rig.told, rig.asked, rig.to_caller, rig.to_model) == ([], [], [], [])


def test_what_goes_wrong_with_a_hosted_server_is_a_trouble() -> None:
    rig = Rig()
    rig.model(realtime.Unknown("mcp_list_tools.failed"))
    assert rig.troubles == ["an MCP server could not be asked for its tools by the model's provider"]


def test_only_what_moves_a_timer_says_so() -> None:
    """The shell sets its timer again when a message says so, which a frame of audio need not."""
    rig = Rig()
    audio = carrier.AudioIn(ulaw(20), 0)
    delta = realtime.AudioDelta(response_id="r1", item_id="i1", delta=ulaw(20))
    assert rig.bridge.receive_from_caller(audio, rig.now)  # from the first frame on, the line can stall
    assert not rig.bridge.receive_from_caller(audio, rig.now)
    assert rig.bridge.receive_from_model(delta, rig.now)  # the first one begins a response
    assert not rig.bridge.receive_from_model(delta, rig.now)
    rig.speech()
    rig.wait(1)  # the line stalls
    assert rig.bridge.receive_from_caller(carrier.AudioIn(ulaw(20), 1020), rig.now)
    assert rig.bridge.receive_from_caller(carrier.Key("1"), rig.now)
    rig.hang_up()
    assert rig.bridge.receive_from_model(delta, rig.now)  # a closing call ends once that is heard
    rig.stop()
    assert rig.bridge.receive_from_caller(audio, rig.now)
    assert rig.bridge.receive_from_model(delta, rig.now)


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


# --- keys ---


def test_keys_are_told(rig: Rig) -> None:
    rig.key("5")
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


def test_the_floor_is_free_again_if_the_last_mark_is_lost(rig: Rig) -> None:
    rig.says(1000)
    rig.mark("1.1")  # the others never come back
    rig.wait(1 + MARK_SECONDS - 0.1)
    assert rig.bridge.floor() is Floor.AGENT
    rig.wait(0.2)
    assert rig.bridge.floor() is Floor.OPEN
    assert [(each.turn.heard_ms, each.turn.interrupted) for each in rig.events(TurnEnded)] == [(1000, False)]


def test_mark_names_are_unique_in_a_call(rig: Rig) -> None:
    for number in range(4):
        rig.says(500, f"i{number}", f"r{number}")
        rig.speech()
        rig.turn(f"u{number}")
    names = [mark.name for mark in rig.sent(SendMark)]
    assert len(set(names)) == len(names) >= 20


def test_audio_of_an_unannounced_response_is_heard(rig: Rig) -> None:
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


# --- the caller's turns ---


def test_a_turn_of_the_caller_with_its_late_text(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    rig.says(ours=False)
    rig.model(InputTranscript(item_id="u1", transcript="A table, please."))
    rig.model(realtime.InputTranscriptFailed(item_id="u2"))
    assert [event.turn.text for event in rig.events(TurnEnded)] == ["A table, please."]
    assert len(rig.events(AgentAnswered)) == 1


def test_a_turn_whose_transcription_failed_is_a_turn(rig: Rig) -> None:
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
