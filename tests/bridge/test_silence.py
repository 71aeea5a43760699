"""Silence: the caller hears something in time, whatever keeps an answer from coming."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.caller import REPLAY_SECONDS
from phoneagent.bridge.policy import Silence
from phoneagent.bridge.requests import Renew
from phoneagent.errors import DefinitionError
from phoneagent.events import AgentAnswered, BargeIn, CallEnded, CallHandedOver, SilenceFilled, Turn, TurnEnded
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Audio, Clear
from tests.bridge.rig import Rig, ulaw

FILLER, DELAY, SORRY = ulaw(100, 0x11), ulaw(150, 0x22), ulaw(130, 0x33)
DEAD_AIR = 2.5
RULES = Silence(filler=FILLER, apology=DELAY, idle_seconds=0)


def watched(**options: Any) -> Rig:
    return Rig(**{"renews": True, "silence": RULES, "apology": SORRY, **options})


@pytest.fixture
def rig() -> Rig:
    return watched()


def sounds(rig: Rig) -> list[str]:
    return [event.sound for event in rig.events(SilenceFilled)]


def renewals(rig: Rig) -> int:
    return sum(isinstance(request, Renew) for request in rig.asked)


def played(rig: Rig, clip: str) -> int:
    return sum(message.payload == clip for message in rig.sent(Audio))


def agent_turns(rig: Rig) -> list[Turn]:
    return [event.turn for event in rig.events(TurnEnded) if event.turn.role == "agent"]


def asks(rig: Rig, item: str = "u1") -> None:
    rig.speech()
    rig.turn(item)
    rig.model(realtime.InputTranscript(item_id=item, transcript="A table?"))


# --- what is due, and not heard ---


def no_response(rig: Rig) -> None:
    asks(rig)


def no_audio(rig: Rig) -> None:
    asks(rig)
    rig.created("r1", ours=False)


def empty(rig: Rig) -> None:
    no_audio(rig)
    rig.done("r1")


def hangs_in_the_middle(rig: Rig) -> None:
    no_audio(rig)
    rig.audio(1000)
    rig.wait(1.0)


def tool(rig: Rig) -> None:
    no_audio(rig)
    rig.calls()
    rig.done("r1")


def not_committed(rig: Rig) -> None:
    rig.speech()
    rig.model(realtime.SpeechStopped())


def session_lost(rig: Rig) -> None:
    asks(rig)
    rig.bridge.model_away(rig.now, "1006")
    rig.flush()


def rate_limit(rig: Rig) -> None:
    asks(rig)
    rig.model(
        realtime.RateLimits(rate_limits=[realtime.RateLimit(name="requests", limit=9, remaining=0, reset_seconds=9)])
    )
    rig.created("r1", ours=False)
    rig.done("r1", "failed", "rate_limit_exceeded")


CAUSES = [no_response, no_audio, empty, hangs_in_the_middle, tool, not_committed, session_lost, rate_limit]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: str(cause.__name__))
def test_the_caller_hears_something_in_time(rig: Rig, cause: Any) -> None:
    cause(rig)
    rig.wait(DEAD_AIR - 0.01)
    assert sounds(rig) == []
    rig.wait(0.02)
    assert sounds(rig) == ["filler"]
    assert played(rig, FILLER) == 1
    assert rig.events(SilenceFilled)[0].silent_ms == 2500
    rig.wait(DEAD_AIR + 0.1)
    assert sounds(rig) == ["filler", "filler"]


def test_a_session_that_never_comes() -> None:
    rig = watched(connect=False)
    rig.wait(DEAD_AIR)
    assert sounds(rig) == ["filler"]


def test_a_greeting_that_each_session_leaves_out() -> None:
    rig = watched(greeting="Hello!")
    rig.bridge.model_away(rig.now, "1006")
    rig.flush()
    rig.talk(DEAD_AIR)
    assert sounds(rig) == ["filler"]


def test_where_nothing_is_due_nothing_is_heard(rig: Rig) -> None:
    rig.talk(60)
    asks(rig)
    rig.says(500, ours=False)
    rig.wait(0.5)
    rig.hear()
    rig.talk(60)
    assert rig.events(SilenceFilled) == []


def test_nothing_is_due_while_the_caller_speaks(rig: Rig) -> None:
    asks(rig)
    rig.wait(2)
    rig.speech()
    line(rig, 30, loud=True)
    assert sounds(rig) == []
    rig.turn("u2")
    rig.wait(DEAD_AIR)
    assert sounds(rig) == ["filler"]


def test_the_silence_begins_where_the_caller_stopped(rig: Rig) -> None:
    for number in range(40):
        rig.media(100, number * 100)
        rig.wait(0.1)
    rig.model(realtime.SpeechStarted(audio_start_ms=1000))
    rig.model(realtime.SpeechStopped(audio_end_ms=3000), realtime.Committed(item_id="u1"))
    rig.wait(1.49)
    assert sounds(rig) == []
    rig.wait(0.02)
    assert sounds(rig) == ["filler"]


def test_what_the_model_took_to_be_sure_of_the_end_counts(rig: Rig) -> None:
    line(rig, 1, loud=True)
    rig.speech()
    line(rig, 0.8, loud=False)
    asks(rig)
    rig.wait(1.6)
    assert sounds(rig) == []
    rig.wait(0.2)
    assert sounds(rig) == ["filler"]


def test_an_answer_to_no_speech_is_due_from_when_it_was_asked_for(rig: Rig) -> None:
    asks(rig)
    rig.says(100, ours=False)
    rig.wait(0.1)
    rig.hear()
    rig.wait(5)
    rig.say()
    rig.wait(DEAD_AIR - 0.01)
    assert sounds(rig) == []
    rig.wait(0.02)
    assert sounds(rig) == ["filler"]


def test_audio_that_the_line_does_not_take_is_no_silence_of_ours(rig: Rig) -> None:
    asks(rig)
    rig.created("r1", ours=False)
    rig.stalled = True
    rig.audio(100)
    rig.wait(4)
    assert sounds(rig) == []


# --- the sounds ---


def test_a_filler_is_no_turn_and_no_answer(rig: Rig) -> None:
    no_audio(rig)
    rig.wait(DEAD_AIR)
    assert rig.events(AgentAnswered) == agent_turns(rig) == []
    rig.audio(500)
    (answered,) = rig.events(AgentAnswered)
    assert answered.latency_ms == 2500
    rig.audio_done()
    rig.done()
    rig.wait(0.7)
    rig.hear()
    assert rig.bridge.playback.idle
    assert [turn.said_ms for turn in agent_turns(rig)] == [500]


def test_an_answer_that_comes_first_takes_its_place(rig: Rig) -> None:
    no_audio(rig)
    rig.stalled = True
    rig.wait(DEAD_AIR)
    rig.audio(500)
    rig.stalled = False
    rig.flush()
    assert played(rig, FILLER) == 0
    assert rig.media_ms() == 500


def test_the_caller_may_interrupt_it(rig: Rig) -> None:
    no_audio(rig)
    rig.wait(DEAD_AIR + 0.05)
    rig.speech()
    assert len(rig.sent(Clear)) == 1
    assert rig.cancels == ["r1"]
    assert rig.events(BargeIn) == []
    assert rig.truncations == []


def test_without_a_sound_or_a_time_none_comes() -> None:
    for rules in (Silence(), Silence(dead_air_ms=0, filler=FILLER)):
        rig = watched(silence=rules)
        asks(rig)
        rig.wait(7)
        assert sounds(rig) == []


# --- the wait ---


def test_an_apology_and_the_next_session_then_the_end(rig: Rig) -> None:
    no_audio(rig)
    rig.talk(7.4)
    assert sounds(rig) == ["filler", "filler"]
    assert renewals(rig) == 0
    rig.talk(0.2)
    assert sounds(rig)[2:] == ["apology"]
    assert played(rig, DELAY) == renewals(rig) == 1
    rig.connect()
    assert rig.creates
    rig.talk(7.5)
    assert renewals(rig) == 2
    rig.connect()
    rig.talk(5)
    assert rig.given_up == "the caller waited 20 s for an answer"
    assert played(rig, SORRY) == 1
    (ended,) = rig.events(CallEnded)
    assert 2500 <= ended.dead_air_ms <= 2600


def test_an_answer_that_breaks_off_each_time_is_asked_for_three_times(rig: Rig) -> None:
    asks(rig)
    rig.created("r0", ours=False)
    for number in range(3):
        rig.audio(500, f"i{number}", f"r{number}")
        assert rig.ended is None
        rig.talk(8.2)
        assert renewals(rig) == min(number + 1, 2)
        if number < 2:
            rig.connect()
            rig.created(f"r{number + 1}", ours=True)
    assert rig.given_up == "no complete answer came in 3 tries"


def test_the_answer_of_the_next_session_ends_the_wait(rig: Rig) -> None:
    no_audio(rig)
    rig.talk(7.6)
    rig.connect()
    rig.says(1000, "i2", "r2", ours=True)
    rig.talk(30)
    assert renewals(rig) == 1
    assert rig.ended is None


def test_a_tool_has_its_own_limit(rig: Rig) -> None:
    tool(rig)
    rig.talk(40)
    assert renewals(rig) == 0
    assert set(sounds(rig)) == {"filler"}
    assert len(sounds(rig)) >= 14
    rig.returns()
    rig.talk(7.3)
    assert renewals(rig) == 0
    rig.talk(0.3)
    assert renewals(rig) == 1


def test_a_rate_limit_is_waited_for_where_it_is(rig: Rig) -> None:
    rate_limit(rig)
    rig.talk(8)
    assert sounds(rig)[-1] == "apology"
    assert renewals(rig) == 0


def test_a_session_that_is_being_opened_is_not_renewed(rig: Rig) -> None:
    session_lost(rig)
    rig.talk(9)
    assert sounds(rig) == ["filler", "filler", "apology"]
    assert renewals(rig) == 0


def test_where_no_other_session_can_be_opened_none_is_tried() -> None:
    rig = watched(renews=False)
    no_audio(rig)
    rig.talk(19)
    assert set(sounds(rig)) == {"filler"}
    rig.talk(2)
    assert rig.given_up


def test_what_was_said_is_heard_by_the_next_session_if_no_turn_came_of_it(rig: Rig) -> None:
    rig.media(500)
    not_committed(rig)
    rig.talk(7.6)
    assert renewals(rig) == 1
    assert rig.bridge.dialogue.heard_again
    before = rig.given_bytes()
    rig.connect()
    assert rig.given_bytes() > before
    rig.wait(REPLAY_SECONDS + 0.1)
    assert rig.creates  # that session found no turn in it, and is to say so


def test_a_silence_that_the_caller_ends_counts(rig: Rig) -> None:
    asks(rig)
    rig.wait(2)
    rig.speech()
    rig.stop()
    assert rig.events(CallEnded)[0].dead_air_ms == 2000


def test_what_was_heard_before_a_cut_is_no_silence(rig: Rig) -> None:
    no_audio(rig)
    rig.audio(4000)
    rig.wait(3)
    rig.speech()
    rig.stop()
    assert rig.events(CallEnded)[0].dead_air_ms == 0
    rig = watched()
    no_audio(rig)
    rig.audio(4000)
    rig.wait(3)
    rig.stop()
    assert rig.events(CallEnded)[0].dead_air_ms == 0


def test_a_silence_that_an_answer_ends_counts(rig: Rig) -> None:
    asks(rig)
    rig.wait(1.5)
    rig.says(1000, ours=False)
    rig.wait(1)
    rig.hear()
    rig.talk(10)
    rig.stop()
    assert rig.events(CallEnded)[0].dead_air_ms == 1500


def test_the_silence_of_a_stream_whose_call_goes_on_is_told(rig: Rig) -> None:
    asks(rig)
    rig.wait(1.2)
    rig.bridge.end(rig.now, None, "this process ends")
    rig.flush()
    (handed_over,) = rig.events(CallHandedOver)
    assert handed_over.dead_air_ms == 1200


def test_the_silence_at_the_end_counts(rig: Rig) -> None:
    asks(rig)
    rig.wait(1.2)
    rig.stop()
    assert rig.events(CallEnded)[0].dead_air_ms == 1200


class _Clip:
    payload = ulaw(40, 0x33)


def test_the_sounds_may_be_clips() -> None:
    rig = Rig(silence=Silence(filler=_Clip(), apology=_Clip(), dead_air_ms=500, retry_seconds=1.2), renews=True)
    asks(rig)
    rig.wait(1.5)
    assert {event.sound for event in rig.events(SilenceFilled)} == {"filler", "apology"}
    assert {audio.payload for audio in rig.sent(Audio)} == {_Clip.payload}


@pytest.mark.parametrize("wrong", ["sorry.wav", None, b"RIFF", 7])
@pytest.mark.parametrize("name", ["filler", "apology", "farewell"])
def test_a_sound_that_is_none_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(DefinitionError, match=rf"Silence\.{name} is .*: make it a Clip"):
        Silence(**{name: wrong})


@pytest.mark.parametrize("wrong", [-1, True, 2.5, "2", 1e9])
def test_a_time_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(DefinitionError, match=r"Silence\.dead_air_ms is .*: it must be a whole number from 0"):
        Silence(dead_air_ms=wrong)
    if wrong != 2.5:
        with pytest.raises(DefinitionError, match=r"Silence\.retry_seconds .* a number from 0"):
            Silence(retry_seconds=wrong)


# --- a model that does not tell of the caller's speech ---


def line(rig: Rig, seconds: float, *, loud: bool) -> None:
    """Let the line deliver, as Twilio does."""
    for _ in range(round(seconds * 10)):
        rig.wait(0.1)
        rig.media(100, round((rig.now - 100) * 1000), byte=0x55 if loud else 0xFF)


def questions(rig: Rig) -> int:
    return len(rig.sent(realtime.SessionUpdate))


def answers(rig: Rig) -> None:
    rig.model(realtime.SessionUpdated(session={}))


@pytest.mark.parametrize("told", [False, True])
def test_speech_that_a_frozen_model_does_not_tell_of_is_found(rig: Rig, told: bool) -> None:
    line(rig, 3, loud=False)
    if told:
        rig.speech()
    line(rig, 2, loud=True)
    line(rig, 1.2, loud=False)
    assert questions(rig) == 0
    line(rig, 0.2, loud=False)
    assert questions(rig) == 1
    assert sounds(rig) == []
    line(rig, 1.3, loud=False)
    assert sounds(rig) == ["filler"]
    assert 2400 <= rig.events(SilenceFilled)[0].silent_ms <= 2700
    line(rig, 5.2, loud=False)
    assert sounds(rig)[-1] == "apology"
    assert renewals(rig) == 1
    before = rig.given_bytes()
    rig.connect()
    assert rig.given_bytes() >= before + 2000 * 8  # the next session hears it


def test_a_model_that_lives_is_right(rig: Rig) -> None:
    for number in range(1, 4):
        line(rig, 0.5, loud=True)
        line(rig, 1.5, loud=False)
        assert questions(rig) == number
        answers(rig)
        line(rig, 5, loud=False)
    assert rig.events(SilenceFilled) == []
    assert rig.troubles == []


def test_a_model_that_waits_for_more_of_a_sentence_is_asked_again(rig: Rig) -> None:
    rig.speech()
    line(rig, 1, loud=True)
    for number in (1, 2, 3):
        line(rig, 1.3, loud=False)
        assert questions(rig) == number
        answers(rig)
    assert sounds(rig) == []
    line(rig, 2, loud=False)
    assert sounds(rig) == ["filler"]
    assert rig.events(SilenceFilled)[0].silent_ms >= 4000


def test_speech_that_never_ends_and_that_we_do_not_hear_is_asked_about(rig: Rig) -> None:
    line(rig, 3, loud=False)
    rig.speech()
    line(rig, 2.4, loud=False)
    assert questions(rig) == 1
    line(rig, 2, loud=False)
    assert sounds(rig) == ["filler"]
    line(rig, 10, loud=False)
    rig.hang_up()  # the end is near
    assert rig.given_up == ""
    rig.talk(9)
    rig.assert_over("agent")


def test_a_model_that_tells_of_anything_is_not_asked(rig: Rig) -> None:
    line(rig, 1, loud=True)
    line(rig, 0.5, loud=False)
    answers(rig)
    line(rig, 9, loud=False)
    assert questions(rig) == 0


def test_neither_a_knock_nor_a_sound_that_goes_on_is_a_question(rig: Rig) -> None:
    for _ in range(6):
        line(rig, 0.2, loud=True)
        line(rig, 1, loud=False)
    line(rig, 30, loud=True)
    assert questions(rig) == 0
    assert sounds(rig) == []


def test_a_model_that_wakes_up_is_waited_for_no_more(rig: Rig) -> None:
    line(rig, 1, loud=True)
    line(rig, 3, loud=False)
    assert sounds(rig) == ["filler"]
    answers(rig)
    line(rig, 10, loud=False)
    assert sounds(rig) == ["filler"]
    assert renewals(rig) == 0


def test_without_a_session_the_caller_s_speech_is_found_too(rig: Rig) -> None:
    line(rig, 3, loud=False)
    rig.bridge.model_away(rig.now, "1006")
    rig.flush()
    line(rig, 1, loud=False)
    assert sounds(rig) == []
    line(rig, 1, loud=True)
    line(rig, 2.7, loud=False)
    assert sounds(rig) == ["filler"]
    assert questions(rig) == 0


def test_nothing_is_listened_to_while_the_agent_speaks(rig: Rig) -> None:
    rig.created("r1", ours=False)
    rig.audio(3000)
    rig.audio_done()
    rig.done()
    line(rig, 2.5, loud=True)  # its echo
    line(rig, 0.5, loud=False)
    rig.hear()
    line(rig, 9, loud=False)
    assert questions(rig) == 0


def talks_to(rig: Rig, seconds: float, *, byte: int = 0xFF) -> None:
    """Let the line deliver, and let the model live: it answers whenever it is asked."""
    for _ in range(round(seconds * 50)):
        rig.wait(0.02)
        rig.media(20, byte=byte)
        rig.model(*([realtime.SessionUpdated()] if rig.sent(realtime.SessionUpdate) else []))


@pytest.mark.parametrize("renews", [True, False])
def test_speech_that_never_ends_on_a_silent_line_takes_another_session(renews: bool) -> None:
    rig = watched(renews=renews)
    talks_to(rig, 0.1, byte=0x20)
    rig.speech()
    talks_to(rig, 0.3, byte=0x20)
    talks_to(rig, 11)
    assert renewals(rig) == 0
    talks_to(rig, 3)
    assert renewals(rig) == int(renews)
    assert rig.ended is None


def test_the_session_that_hears_such_speech_once_more_has_its_time(rig: Rig) -> None:
    talks_to(rig, 0.4, byte=0x20)
    rig.speech()
    talks_to(rig, 14)
    assert renewals(rig) == 1
    rig.connect()
    rig.speech()
    talks_to(rig, 11)
    assert renewals(rig) == 1
    talks_to(rig, 3)
    assert renewals(rig) == 2


def test_what_the_caller_says_long_after_their_latest_sound_is_no_such_speech(rig: Rig) -> None:
    rig.speech()
    talks_to(rig, 2, byte=0x20)  # looked at, because the model tells of nothing else
    talks_to(rig, 0.5)
    rig.turn("u1")
    rig.created("r1", ours=False)
    rig.audio(14_000)
    rig.audio_done()
    rig.done()
    talks_to(rig, 14)
    rig.hear()
    rig.speech()
    talks_to(rig, 0.1, byte=0x20)
    assert renewals(rig) == 0
