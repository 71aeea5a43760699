"""How a call ends: goodbyes, lost sides, limits."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.events import CallEnded, EndedBy
from phoneagent.protocol import mediastream, realtime
from phoneagent.protocol.mediastream import Clear, SendMark
from phoneagent.protocol.policy import FATAL_CODES, EndCall, Floor, RunTool
from phoneagent.protocol.responses import MAX_ASKS

from .rig import STREAM, Rig, ulaw

APOLOGY = ulaw(700, 0x22)


@pytest.fixture
def rig() -> Rig:
    return Rig(apology=APOLOGY)


def stop(rig: Rig) -> None:
    rig.caller(mediastream.Stop(stream_sid=STREAM))


def assert_over(rig: Rig, by: EndedBy) -> None:
    """The call ended once, told it last, and takes and sends nothing more."""
    assert rig.ended is not None
    assert rig.ended.ended_by == by
    assert rig.bridge.ended
    assert isinstance(rig.told[-1], CallEnded)
    assert rig.told[-1].ended_by == by
    before = (len(rig.to_caller), len(rig.to_model), len(rig.asked), len(rig.told))
    stop(rig)
    rig.caller(mediastream.Dtmf(stream_sid=STREAM, dtmf=mediastream.DtmfDetails(digit="1")))
    rig.caller(mediastream.Dtmf(stream_sid="MZother", dtmf=mediastream.DtmfDetails(digit="1")))
    rig.media()
    rig.mark("1.1")
    rig.created("r99")
    rig.audio(100, "i99", "r99")
    rig.calls("c99", "r99")
    rig.speech()
    rig.turn("u99")
    rig.model(realtime.InputTranscript(item_id="u99", transcript="?"))
    rig.done("r99")
    rig.returns("c1")
    rig.error("session_expired")
    rig.lose_model()
    rig.connect()
    rig.interrupt()
    assert rig.say() is False
    rig.hang_up()
    rig.bridge.caller_gone(rig.now)
    rig.bridge.handle_timer(rig.now + 1e6)
    rig.flush()
    assert rig.bridge.get_timer() is None
    assert (len(rig.to_caller), len(rig.to_model), len(rig.asked), len(rig.told)) == before


# --- the caller's side ends ---


@pytest.mark.parametrize("sid", [STREAM, ""])
def test_the_caller_hangs_up(rig: Rig, sid: str) -> None:
    rig.created()
    rig.audio(1000)
    rig.caller(mediastream.Stop(stream_sid=sid))
    assert_over(rig, "caller")
    (turn,) = rig.events(CallEnded)[0].transcript
    assert (turn.interrupted, turn.said_ms) == (True, 1000)


def test_the_socket_closes_without_a_stop(rig: Rig) -> None:
    rig.bridge.caller_gone(rig.now)
    rig.flush()
    assert_over(rig, "line")


def test_a_line_that_delivers_nothing_is_lost(rig: Rig) -> None:
    rig.talk(20)
    assert rig.ended is None
    rig.wait(14.9)
    assert rig.ended is None
    rig.wait(0.2)
    assert_over(rig, "line")


def test_a_line_may_be_lost_in_closing_too(rig: Rig) -> None:
    rig.stalled = True
    rig.created()
    for _ in range(40):
        rig.audio(1000)
    rig.hang_up()
    rig.wait(15.1)
    assert_over(rig, "line")


# --- the model is lost ---


def floors() -> dict[str, Any]:
    def caller(rig: Rig) -> None:
        rig.speech()

    def thinking(rig: Rig) -> None:
        rig.created()
        rig.calls()

    def agent(rig: Rig) -> None:
        rig.created()
        rig.audio(1000)

    return {"open": lambda rig: None, "caller": caller, "thinking": thinking, "agent": agent}


@pytest.mark.parametrize("reach", floors().values(), ids=floors().keys())
def test_a_model_that_is_lost_is_apologised_for_on_any_floor(rig: Rig, reach: Any) -> None:
    reach(rig)
    spoken = rig.media_ms()
    rig.lose_model("gone away")
    assert rig.media_ms() == spoken + 700
    assert rig.bridge.floor() is Floor.CLOSING
    rig.hear()
    assert rig.ended is not None
    assert rig.ended.reason == "gone away"
    assert_over(rig, "error")


def test_a_model_that_never_came_is_apologised_for() -> None:
    rig = Rig(connect=False, apology=APOLOGY)
    rig.media()
    rig.lose_model()
    assert rig.media_ms() == 700
    rig.wait(0.69)
    assert rig.ended is None
    rig.wait(1.2)
    assert_over(rig, "error")


def test_a_model_that_was_lost_before_the_call_began_is_apologised_for_when_it_does() -> None:
    rig = Rig(start=False, connect=False, apology=APOLOGY)
    rig.lose_model()
    assert rig.ended is None
    rig.start()
    assert rig.media_ms() == 700
    rig.hear()
    assert_over(rig, "error")


def test_a_model_that_is_lost_twice_is_apologised_for_once(rig: Rig) -> None:
    rig.lose_model()
    rig.lose_model()
    assert rig.media_ms() == 700


def test_without_an_apology_the_call_just_ends() -> None:
    rig = Rig()
    rig.lose_model()
    rig.wait(1.1)
    assert_over(rig, "error")


def test_what_the_agent_had_said_is_heard_before_the_apology(rig: Rig) -> None:
    rig.says(1000)
    rig.lose_model()
    assert rig.sent(Clear) == []
    rig.wait(1.6)
    assert rig.ended is None
    rig.hear()
    assert [turn.interrupted for turn in rig.events(CallEnded)[0].transcript] == [False]


@pytest.mark.parametrize("code", sorted(FATAL_CODES))
def test_some_errors_end_the_session(rig: Rig, code: str) -> None:
    rig.error(code)
    assert code in rig.given_up


def test_a_response_of_which_nothing_comes_is_given_up(rig: Rig) -> None:
    rig.created()
    rig.audio(100)
    rig.talk(14)
    assert rig.ended is None
    rig.talk(3)
    assert "nothing came" in rig.given_up


def test_a_response_that_plays_or_runs_a_tool_is_not_given_up(rig: Rig) -> None:
    rig.created()
    rig.audio(20_000)
    rig.talk(20)
    rig.calls()
    rig.talk(20)
    assert rig.ended is None
    assert rig.bridge.floor() is not Floor.CLOSING


# --- goodbyes ---


def called_hang_up(rig: Rig, *, words_ms: int = 0) -> None:
    """A response calls `hang_up`, with words before it or without."""
    rig.created()
    if words_ms:
        rig.audio(words_ms)
        rig.audio_done()
    rig.calls("c1")
    rig.hang_up()
    rig.returns("c1", "ok")
    rig.done()


def test_a_response_that_said_goodbye_is_heard_and_then_the_call_ends(rig: Rig) -> None:
    called_hang_up(rig, words_ms=500)
    rig.wait(0.49)
    assert rig.ended is None
    rig.hear()
    assert rig.creates == []
    assert_over(rig, "agent")


def test_words_that_come_after_the_call_of_hang_up_are_the_goodbye(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.hang_up()
    rig.audio(500)
    rig.done()
    rig.hear()
    assert rig.creates == []
    assert_over(rig, "agent")


def test_without_words_one_goodbye_is_asked_for(rig: Rig) -> None:
    called_hang_up(rig)
    assert len(rig.creates) == 1
    assert "goodbye" in rig.prompts[0]
    assert (rig.creates[0].response or {})["tool_choice"] == "none"
    rig.says(500, "i2", "r2", ours=True)
    assert rig.ended is None
    rig.hear()
    assert len(rig.creates) == 1
    assert_over(rig, "agent")


def test_without_a_goodbye_the_call_ends_when_all_was_heard(rig: Rig) -> None:
    rig.says(500)
    rig.hang_up(goodbye=False)
    assert rig.ended is None
    rig.hear()
    assert_over(rig, "agent")


def test_with_nothing_to_be_heard_it_ends_at_once(rig: Rig) -> None:
    rig.hang_up(goodbye=False)
    assert_over(rig, "agent")


def test_an_answer_long_ago_was_no_goodbye(rig: Rig) -> None:
    rig.says(500)
    rig.wait(0.6)
    rig.hear()
    rig.talk(5)
    rig.hang_up()
    assert rig.ended is None
    assert "goodbye" in rig.prompts[-1]


def test_the_goodbye_cannot_be_interrupted(rig: Rig) -> None:
    called_hang_up(rig)
    rig.created("r2", ours=True)
    rig.audio(500, "i2", "r2")
    rig.speech()
    rig.interrupt()
    assert (rig.cancels, rig.truncations, rig.sent(Clear)) == ([], [], [])
    rig.turn()
    rig.done("r2")
    assert len(rig.creates) == 1
    rig.hear()
    assert_over(rig, "agent")


def test_a_goodbye_is_asked_for_while_the_caller_speaks(rig: Rig) -> None:
    rig.speech()
    rig.hang_up()
    assert len(rig.creates) == 1


def test_a_response_that_the_server_begins_in_closing_is_cancelled(rig: Rig) -> None:
    called_hang_up(rig, words_ms=500)
    rig.turn()
    rig.created("vad", ours=False)
    rig.audio(500, "i9", "vad")
    assert rig.cancels == ["vad"]
    assert rig.media_ms() == 500
    rig.done("vad", "cancelled")
    rig.hear()
    assert rig.creates == []
    assert_over(rig, "agent")


def test_a_goodbye_comes_after_the_servers_response_was_cancelled(rig: Rig) -> None:
    rig.turn()
    rig.hang_up()
    rig.created("vad", ours=False)
    assert rig.cancels == ["vad"]
    assert rig.creates == []
    rig.done("vad", "cancelled")
    assert len(rig.creates) == 1


def test_a_goodbye_that_lost_the_race_is_asked_for_again(rig: Rig) -> None:
    called_hang_up(rig)
    rig.turn()
    rig.created("vad", ours=False)
    rig.error("conversation_already_has_active_response", "create_1")
    rig.done("vad", "cancelled")
    assert len(rig.creates) == 2
    assert len(rig.prompts) == 1


def test_hang_up_starts_no_other_continuation(rig: Rig) -> None:
    rig.created()
    rig.audio(100)
    rig.turn()
    rig.calls("c1")
    rig.calls("c2")
    rig.hang_up()
    rig.returns("c1")
    rig.returns("c2")
    rig.done()
    assert rig.creates == []
    rig.hear()
    assert_over(rig, "agent")


def test_what_was_in_line_is_not_said_any_more(rig: Rig) -> None:
    rig.created()
    while rig.say():
        pass
    rig.hang_up()
    rig.done()
    assert len(rig.creates) == 1
    assert "goodbye" in rig.prompts[-1]
    assert MAX_ASKS > 1


@pytest.mark.parametrize("how", ["refused", "lost the race", "not answered"])
def test_what_was_asked_for_before_is_not_asked_for_again_in_closing(rig: Rig, how: str) -> None:
    rig.say()
    rig.hang_up()
    match how:
        case "refused":
            rig.error("invalid_value", "create_1")
        case "lost the race":
            rig.error("conversation_already_has_active_response", "create_1")
            rig.done("r9")
        case _:
            rig.talk(5.1)
    assert len(rig.creates) <= 2
    assert all("goodbye" in prompt for prompt in rig.prompts[1:])
    assert len(rig.creates) == len(rig.prompts) or rig.ended


def test_a_call_that_was_hung_up_before_it_began_is_not_greeted() -> None:
    rig = Rig(start=False, greeting="Hello", apology=APOLOGY)
    rig.hang_up()
    rig.start()
    assert not any("Hello" in prompt for prompt in rig.prompts)
    rig.talk(12)
    assert rig.ended is not None


def test_hang_up_twice_is_hang_up_once(rig: Rig) -> None:
    rig.hang_up()
    rig.wait(2)
    rig.hang_up(goodbye=False)
    assert rig.ended is None
    rig.says(100, ours=True)
    rig.hear()
    assert_over(rig, "agent")


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_goodbye_that_failed_is_asked_for_once_more(rig: Rig, status: str) -> None:
    rig.hang_up()
    rig.created("r1", ours=True)
    rig.done("r1", status)
    assert len(rig.creates) == 2
    assert len(rig.prompts) == 1
    rig.created("r2", ours=True)
    rig.done("r2", status)
    rig.talk(3)
    assert len(rig.creates) == 2
    assert_over(rig, "agent" if status == "completed" else "error")


def test_a_goodbye_that_the_server_cancelled_was_the_goodbye(rig: Rig) -> None:
    rig.hang_up()
    rig.created("r1", ours=True)
    rig.audio(300)
    rig.done("r1", "cancelled")
    assert rig.sent(Clear) == []
    rig.hear()
    assert_over(rig, "agent")


def test_an_apology_stands_in_for_a_goodbye_that_cannot_come(rig: Rig) -> None:
    rig.hang_up()
    rig.lose_model()
    assert rig.media_ms() == 700
    rig.hear()
    assert_over(rig, "error")


def test_a_goodbye_that_was_said_needs_no_apology(rig: Rig) -> None:
    called_hang_up(rig, words_ms=500)
    rig.lose_model()
    assert rig.media_ms() == 500
    rig.hear()
    assert_over(rig, "agent")


# --- bounds ---


def test_the_last_mark_may_be_a_second_late(rig: Rig) -> None:
    called_hang_up(rig, words_ms=500)
    rig.wait(1.45)
    assert rig.ended is None
    rig.wait(0.1)
    assert_over(rig, "agent")


def test_a_goodbye_that_the_socket_does_not_take_is_not_waited_for_for_ever(rig: Rig) -> None:
    rig.stalled = True
    called_hang_up(rig, words_ms=500)
    rig.wait(1.4)
    assert rig.ended is None
    rig.wait(0.2)
    assert_over(rig, "agent")


def test_a_model_that_is_silent_in_closing_is_not_waited_for(rig: Rig) -> None:
    rig.hang_up()
    rig.talk(4.5)
    assert rig.ended is None
    rig.talk(2)
    assert_over(rig, "agent")


def test_a_caller_who_talks_on_does_not_keep_the_call_open(rig: Rig) -> None:
    rig.hang_up()
    for number in range(20):
        rig.speech()
        rig.talk(1)
        rig.turn(f"u{number}")
        rig.talk(0.5)
    assert_over(rig, "agent")


def test_a_call_has_a_longest_duration_and_a_goodbye() -> None:
    rig = Rig(max_call_seconds=60)
    rig.says()
    rig.talk(59)
    rig.hear()
    assert rig.prompts == []
    rig.talk(1.1)
    assert "goodbye" in rig.prompts[0]
    rig.says(500, "i2", "r2", ours=True)
    rig.hear()
    assert rig.ended == EndCall("agent", "the call reached its longest duration")
    assert_over(rig, "agent")


def test_a_tool_that_runs_when_the_call_ends_posts_nothing(rig: Rig) -> None:
    rig.created()
    rig.calls("c1")
    stop(rig)
    assert [type(request) for request in rig.asked] == [RunTool, EndCall]
    assert_over(rig, "caller")


def test_marks_that_come_after_the_end_are_nothing(rig: Rig) -> None:
    rig.says()
    marks = rig.sent(SendMark)
    stop(rig)
    told = len(rig.told)
    for mark in marks:
        rig.mark(mark.name)
    assert len(rig.told) == told
