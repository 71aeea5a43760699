"""A muted agent: nothing of it is heard, and nothing is asked of the model until it is unmuted."""

from __future__ import annotations

import pytest

from phoneagent.bridge.policy import Floor, Silence
from phoneagent.bridge.prompts import Sound
from phoneagent.bridge.steps import Transfer
from phoneagent.events import AgentAnswered, BargeIn, SilenceFilled, TurnEnded
from phoneagent.protocol.carrier import Audio, Clear
from tests.bridge.rig import Rig, ulaw

FILLED = Silence(dead_air_ms=1000, filler=ulaw(300), apology=ulaw(300), idle_seconds=5, closing_silence_seconds=5)


def mute(rig: Rig, muted: bool = True) -> None:
    rig.bridge.mute(rig.now, muted=muted)
    rig.flush()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_it_stops_at_once_and_the_model_learns_how_much_was_heard(rig: Rig) -> None:
    rig.says(1000)
    rig.wait(0.3)
    mute(rig)
    assert rig.sent(Clear)
    assert rig.truncations[0][0] == "i1"
    (ended,) = rig.events(TurnEnded)
    assert ended.turn.interrupted
    assert ended.turn.heard_ms < 1000
    assert len(rig.events(BargeIn)) == 1


def test_what_is_protected_stops_as_well(rig: Rig) -> None:
    rig.bridge.sounds.play(Sound(ulaw(1000), "This call is recorded.", protected=True))
    rig.bridge.move_on(rig.now)
    rig.flush()
    mute(rig)
    assert rig.sent(Clear)
    assert rig.bridge.floor() is Floor.OPEN


def test_an_answer_that_the_server_begins_is_cancelled_and_not_heard(rig: Rig) -> None:
    mute(rig)
    rig.speech()
    rig.turn()
    rig.created("r1", ours=False)
    rig.audio(500)
    rig.wait(1)
    assert rig.cancels == ["r1"]
    assert rig.sent(Audio) == []
    assert rig.events(AgentAnswered) == []
    assert rig.events(TurnEnded) == []


def test_what_the_caller_said_meanwhile_is_answered_once_it_is_unmuted(rig: Rig) -> None:
    mute(rig)
    rig.speech()
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1", "cancelled")
    rig.talk(30)
    assert rig.creates == []
    mute(rig, False)
    assert len(rig.creates) == 1
    rig.says(200, "i2", "r2", ours=True)
    assert rig.media_ms() == 200
    assert rig.events(AgentAnswered) == []  # it would be 30 s late


def test_without_an_open_question_it_says_nothing_when_it_is_unmuted(rig: Rig) -> None:
    mute(rig)
    rig.wait(5)
    mute(rig, False)
    assert rig.creates == []
    rig.speech()
    rig.turn()
    rig.says(200, ours=False)
    assert rig.media_ms() == 200


def test_what_it_is_to_say_waits(rig: Rig) -> None:
    mute(rig)
    assert rig.say("The manager is here.")
    rig.bridge.sounds.play(Sound(ulaw(300), "A clip."))
    rig.bridge.move_on(rig.now)
    rig.flush()
    assert (rig.creates, rig.sent(Audio)) == ([], [])
    mute(rig, False)
    assert "The manager is here." in rig.prompts[0]
    rig.says(100, ours=True)
    rig.wait(0.2)
    assert rig.media_ms() == 400


def test_no_sound_fills_the_silence_and_the_caller_is_not_asked_whether_they_are_there() -> None:
    rig = Rig(silence=FILLED, renews=True)
    mute(rig)
    rig.speech()
    rig.turn()
    rig.talk(60)
    assert rig.events(SilenceFilled) == []
    assert rig.sent(Audio) == []
    assert rig.creates == []
    assert rig.ended is None
    mute(rig, False)
    rig.talk(2)
    assert rig.events(SilenceFilled)  # an answer is due again, and its silence counts from now on


def test_a_caller_hears_nothing_of_a_muted_agent_whose_model_is_dead() -> None:
    rig = Rig(silence=FILLED, renews=True)
    rig.talk(1)
    mute(rig)
    for frame in range(50):
        rig.media(timestamp=1000 + 20 * frame, byte=0x10)  # loud
        rig.wait(0.02)
    rig.talk(40)
    assert rig.sent(Audio) == []
    assert rig.events(SilenceFilled) == []
    assert rig.ended is None


@pytest.mark.parametrize("created", [False, True])
def test_an_answer_of_which_nothing_was_heard_comes_once_it_is_unmuted(rig: Rig, created: bool) -> None:
    rig.speech()
    rig.turn()
    if created:
        rig.created("r1", ours=False)
    mute(rig)
    if not created:
        rig.created("r1", ours=False)
    rig.done("r1", "cancelled")
    rig.talk(3)
    assert rig.creates == []
    mute(rig, False)
    assert len(rig.creates) == 1


@pytest.mark.parametrize("created", [False, True])
def test_prescribed_words_of_which_nothing_was_heard_are_said_once_it_is_unmuted(rig: Rig, created: bool) -> None:
    rig.say("Your code is 42.")
    if created:
        rig.created("r1", ours=True)
    mute(rig)
    if not created:
        rig.created("r1", ours=True)
    rig.done("r1", "cancelled")
    rig.talk(3)
    assert len(rig.creates) == 1
    mute(rig, False)
    assert len(rig.creates) == 2
    assert rig.creates[0].response["metadata"] != rig.creates[1].response["metadata"]
    rig.says(500, "i2", "r2", ours=True)
    rig.talk(3)
    assert len(rig.creates) == 2


def test_a_request_that_is_unmuted_in_time_is_heard(rig: Rig) -> None:
    rig.say("Your code is 42.")
    mute(rig)
    mute(rig, False)
    rig.says(500, "i1", "r1", ours=True)
    rig.wait(1)
    assert len(rig.creates) == 1
    assert rig.cancels == []
    assert rig.sent(Audio)


def test_a_transfer_of_a_muted_call_waits_for_no_announcement(rig: Rig) -> None:
    mute(rig)
    rig.bridge.transfer(rig.now, Transfer(to="+15550100001", name="billing"))
    rig.flush()
    rig.wait(0.5)
    assert rig.creates == []
    assert rig.ended is not None
    assert rig.ended.reason == "transferred to billing"


def test_a_tool_runs_on_and_its_output_is_answered_once_it_is_unmuted(rig: Rig) -> None:
    rig.speech()
    rig.turn()
    rig.created("r1", ours=False)
    rig.calls("c1")
    mute(rig)
    rig.done("r1", "cancelled")
    rig.returns("c1")
    rig.wait(3)
    assert rig.creates == []
    mute(rig, False)
    assert len(rig.creates) == 1


def test_a_call_that_is_hung_up_while_muted_ends_without_a_goodbye(rig: Rig) -> None:
    mute(rig)
    rig.hang_up(goodbye=True)
    rig.wait(2)
    assert rig.creates == []
    rig.assert_over("agent")


def test_a_call_that_is_about_to_end_is_not_muted(rig: Rig) -> None:
    rig.hang_up(goodbye=True)
    mute(rig)
    assert not rig.bridge.responses.muted
    assert len(rig.creates) == 1


def test_it_lasts_over_a_new_model_session(rig: Rig) -> None:
    rig = Rig(renews=True)
    mute(rig)
    rig.speech()
    rig.turn()
    assert rig.bridge.model_away(rig.now, "gone")
    rig.flush()
    rig.connect()
    rig.wait(10)
    assert rig.creates == []
    assert rig.sent(Audio) == []


def test_muting_twice_is_muting_once(rig: Rig) -> None:
    rig.says(1000)
    mute(rig)
    told = len(rig.told)
    mute(rig)
    assert len(rig.told) == told
