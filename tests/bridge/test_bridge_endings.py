"""How a call ends by itself: goodbyes, and bounds for everything."""

from __future__ import annotations

import pytest

from phoneagent.bridge.closing import GOODBYE_SECONDS
from phoneagent.bridge.policy import Silence
from phoneagent.bridge.requests import EndCall, NoteStep, RunTool
from phoneagent.bridge.responses import MAX_WANTED
from phoneagent.bridge.steps import HangUp, Transfer
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Clear, SendMark
from tests.bridge.rig import STREAM, Rig, ulaw

APOLOGY = ulaw(730, 0x22)


@pytest.fixture
def rig() -> Rig:
    return Rig(apology=APOLOGY)


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
    rig.assert_over("agent")


def test_words_that_come_after_the_call_of_hang_up_are_the_goodbye(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.hang_up()
    rig.audio(500)
    rig.done()
    rig.hear()
    assert rig.creates == []
    rig.assert_over("agent")


def test_without_words_one_goodbye_is_asked_for(rig: Rig) -> None:
    called_hang_up(rig)
    assert len(rig.creates) == 1
    assert "goodbye" in rig.prompts[0]
    assert (rig.creates[0].response or {})["tool_choice"] == "none"
    rig.says(500, "i2", "r2", ours=True)
    assert rig.ended is None
    rig.hear()
    assert len(rig.creates) == 1
    rig.assert_over("agent")


def test_without_a_goodbye_the_call_ends_when_all_was_heard(rig: Rig) -> None:
    rig.says(500)
    rig.hang_up(goodbye=False)
    assert rig.ended is None
    rig.hear()
    rig.assert_over("agent")


def test_with_nothing_to_be_heard_it_ends_at_once(rig: Rig) -> None:
    rig.hang_up(goodbye=False)
    rig.assert_over("agent")


def test_words_that_are_still_to_come_are_waited_for(rig: Rig) -> None:
    rig.created()
    rig.hang_up(goodbye=False)
    assert rig.ended is None
    rig.audio(500)
    rig.audio_done()
    rig.done()
    assert rig.ended is None
    rig.hear()
    rig.assert_over("agent")


def test_an_answer_in_the_middle_of_which_code_hangs_up_was_no_goodbye(rig: Rig) -> None:
    rig.created()
    rig.audio(500)
    rig.hang_up()
    rig.audio(500)
    rig.done()
    assert "goodbye" in rig.prompts[-1]


def test_words_before_a_tool_that_is_done_were_no_goodbye(rig: Rig) -> None:
    rig.created("r1", ours=False)
    rig.audio(500)
    rig.audio_done()
    rig.calls("c1")
    rig.done("r1")
    rig.bridge.conversation.tool_returned("c1", "ok", rig.now, respond=False)
    rig.bridge.move_on(rig.now)
    rig.hear()
    rig.talk(10)
    rig.hang_up()
    assert len(rig.creates) == 1


def test_words_before_a_tool_that_runs_when_the_time_is_up_were_no_goodbye() -> None:
    rig = Rig(max_call_seconds=100.0)
    rig.heard("r0", ours=False)
    rig.talk(75)
    rig.heard("announced")
    rig.talk(20)
    rig.speech()
    rig.turn("u1")
    rig.created("r1", ours=False)
    rig.audio(500)
    rig.audio_done()
    rig.calls("c1")
    rig.done("r1")
    rig.hear()
    before = len(rig.creates)
    rig.talk(6)
    assert len(rig.creates) == before + 1
    assert any("short goodbye" in each for each in rig.prompts)


def test_words_that_were_cut_off_were_no_goodbye(rig: Rig) -> None:
    rig.created()
    rig.audio(500)
    rig.calls()
    rig.speech()
    rig.hang_up()
    rig.done(status="cancelled")
    assert "goodbye" in rig.prompts[-1]


def test_words_of_an_earlier_response_were_no_goodbye(rig: Rig) -> None:
    rig.says(500)
    rig.turn()
    rig.created("r2", ours=False)
    rig.calls("c1", "r2")
    rig.hang_up()
    rig.returns("c1", "ok")
    rig.done("r2")
    assert "goodbye" in rig.prompts[-1]


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
    rig.assert_over("agent")


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
    rig.hear()  # its end is not waited for
    assert rig.creates == []
    rig.assert_over("agent")


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
    rig.model(realtime.Committed(item_id="u1"))
    rig.calls("c1")
    rig.calls("c2")
    rig.hang_up()
    rig.returns("c1")
    rig.returns("c2")
    rig.done()
    assert rig.creates == []
    rig.hear()
    rig.assert_over("agent")


def test_what_was_in_line_is_not_said_any_more(rig: Rig) -> None:
    rig.created()
    for _ in range(MAX_WANTED + 1):
        rig.say()
    rig.hang_up()
    rig.done()
    assert len(rig.creates) == 1
    assert "goodbye" in rig.prompts[-1]


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
    rig.bridge.hang_up(rig.now, goodbye=False, reason="again")
    assert rig.ended is None
    rig.says(100, ours=True)
    rig.hear()
    assert rig.ended == EndCall("agent", "the agent hung up", HangUp(stream_sid=STREAM))


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
    rig.assert_over("agent")


def test_a_goodbye_that_the_server_cancelled_was_the_goodbye(rig: Rig) -> None:
    rig.hang_up()
    rig.created("r1", ours=True)
    rig.audio(300)
    rig.done("r1", "cancelled")
    assert rig.sent(Clear) == []
    rig.hear()
    rig.assert_over("agent")


def test_an_apology_stands_in_for_a_goodbye_that_cannot_come(rig: Rig) -> None:
    rig.hang_up()
    rig.lose_model()
    assert rig.media_ms() == 730
    rig.hear()
    rig.assert_over("agent")


def test_a_goodbye_that_was_begun_needs_no_apology(rig: Rig) -> None:
    rig.hang_up()
    rig.created(ours=True)
    rig.audio(300)
    rig.lose_model()
    assert rig.media_ms() == 300
    rig.hear()
    rig.assert_over("agent")


def test_a_goodbye_that_was_said_needs_no_apology(rig: Rig) -> None:
    called_hang_up(rig, words_ms=500)
    rig.lose_model()
    assert rig.media_ms() == 500
    rig.hear()
    rig.assert_over("agent")


# --- bounds ---


def test_the_last_mark_may_be_a_second_late(rig: Rig) -> None:
    called_hang_up(rig, words_ms=500)
    rig.wait(1.45)
    assert rig.ended is None
    rig.wait(0.1)
    rig.assert_over("agent")


def test_a_goodbye_that_the_socket_does_not_take_is_not_waited_for_forever(rig: Rig) -> None:
    rig.stalled = True
    called_hang_up(rig, words_ms=500)
    rig.wait(1.4)
    assert rig.ended is None
    rig.wait(0.2)
    rig.assert_over("agent")


def test_a_model_that_is_silent_in_closing_is_not_waited_for(rig: Rig) -> None:
    rig.hang_up()
    rig.talk(4.5)
    assert rig.ended is None
    rig.talk(2)
    rig.assert_over("agent")


def test_a_caller_who_talks_on_does_not_keep_the_call_open(rig: Rig) -> None:
    rig.hang_up()
    for number in range(20):
        rig.speech()
        rig.talk(1)
        rig.turn(f"u{number}")
        rig.talk(0.5)
    rig.assert_over("agent")


def test_a_model_that_brings_nothing_is_not_given_up_in_closing(rig: Rig) -> None:
    rig.created(ours=False)
    rig.talk(Silence().give_up_seconds - 1)
    rig.hang_up()
    rig.talk(GOODBYE_SECONDS - 0.5)
    assert (rig.troubles, rig.ended) == ([], None)
    rig.talk(1)
    assert rig.media_ms() == 0  # no apology
    rig.assert_over("agent")


def test_a_model_that_begins_no_goodbye_is_not_given_up_in_closing(rig: Rig) -> None:
    rig.hang_up()
    for _ in range(14):
        rig.talk(1)
        rig.model(realtime.SpeechStarted())  # so it is alive
    assert len(rig.creates) == 3
    assert (rig.troubles, rig.ended) == ([], None)
    rig.talk(1.5)
    assert rig.media_ms() == 0
    rig.assert_over("agent")


def test_a_call_has_a_longest_duration_and_a_goodbye() -> None:
    rig = Rig(max_call_seconds=120)
    rig.says()
    rig.talk(89)
    rig.hear()
    assert rig.prompts == []
    rig.talk(1.1)
    (announcement,) = rig.prompts
    assert "less than half a minute" in announcement
    rig.says(500, "i2", "r2", ours=True)
    rig.hear()
    rig.talk(30)
    assert "goodbye" in rig.prompts[1]
    rig.says(500, "i3", "r3", ours=True)
    rig.hear()
    assert rig.ended == EndCall("agent", "the call reached its maximum duration", HangUp(stream_sid=STREAM))
    rig.assert_over("agent")


def test_a_tool_that_runs_when_the_call_ends_posts_nothing(rig: Rig) -> None:
    rig.created()
    rig.calls("c1")
    rig.stop()
    assert [type(request) for request in rig.asked] == [RunTool, EndCall]
    rig.assert_over("caller")


def test_marks_that_come_after_the_end_are_nothing(rig: Rig) -> None:
    rig.says()
    marks = rig.sent(SendMark)
    rig.stop()
    told = len(rig.told)
    for mark in marks:
        rig.mark(mark.name)
    assert len(rig.told) == told


def test_of_two_transfers_the_first_counts() -> None:
    rig = Rig()
    rig.bridge.transfer(rig.now, Transfer(to="client:anna", name="Anna"), announce=False)
    rig.bridge.transfer(rig.now, Transfer(to="client:ben", name="Ben"))
    rig.flush()
    steps = [request.step for request in rig.asked if isinstance(request, NoteStep)]
    assert [step.name for step in steps if isinstance(step, Transfer)] == ["Anna"]
    assert rig.bridge.closing.active


def test_a_line_of_consent_is_said_before_the_greeting_and_protected() -> None:
    rig = Rig(greeting="Hello!")
    wanted = rig.bridge.conversation.ask_consent("This call is recorded.")
    assert wanted is not None
    assert (wanted.kind, wanted.protected) == ("consent", True)
