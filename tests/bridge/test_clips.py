"""Audio of our own: it is played in its turn, and is a turn of the agent's."""

from __future__ import annotations

import pytest

from phoneagent.bridge.playback import MAX_WAITING_BYTES
from phoneagent.bridge.prompts import Sound
from phoneagent.bridge.responses import MAX_WANTED
from phoneagent.events import TurnEnded
from phoneagent.protocol.carrier import Audio, Clear, SendMark
from tests.bridge.rig import Rig, ulaw


@pytest.fixture
def rig() -> Rig:
    return Rig()


def clip(ms: float = 1000, text: str = "This call is recorded.", **options: bool) -> Sound:
    return Sound(ulaw(ms, 0x33), text, f"A recording: {text}", **options)


def play(rig: Rig, sound: Sound) -> bool:
    accepted = rig.bridge.sounds.play(sound)
    rig.bridge.move_on(rig.now)
    rig.flush()
    return accepted


def order(rig: Rig) -> str:
    """The audio that went out, in order: the model's (m) or our own (o)."""
    letters = ["o" if each.payload[:4] == ulaw(20, 0x33)[:4] else "m" for each in rig.sent(Audio)]
    return "".join(letter for index, letter in enumerate(letters) if letters[index - 1 : index] != [letter])


def test_it_is_played_at_once_and_is_a_turn(rig: Rig) -> None:
    assert play(rig, clip())
    assert rig.media_ms() == 1000
    assert rig.prompts == ["A recording: This call is recorded."]
    assert rig.creates == []
    rig.wait(1)
    rig.hear()
    (ended,) = rig.events(TurnEnded)
    turn = ended.turn
    assert (turn.role, turn.heard_text, turn.heard_ms, turn.interrupted) == (
        "agent", "This call is recorded.", 1000, False,
    )  # fmt: skip


def test_the_model_learns_only_of_what_it_is_to_know(rig: Rig) -> None:
    assert play(rig, Sound(ulaw(500, 0x33), "(a key)", ""))
    assert rig.media_ms() == 500
    assert rig.prompts == []


def test_it_keeps_its_place_among_the_agents_words(rig: Rig) -> None:
    rig.created()
    rig.audio(200)
    rig.say("Before.")
    play(rig, clip())
    rig.say("After.")
    rig.audio(200)
    rig.audio_done()
    rig.done()
    assert order(rig) == "m"
    rig.says(100, "i2", "r2", ours=True)
    assert order(rig) == "mo"
    rig.says(100, "i3", "r3", ours=True)
    assert order(rig) == "mom"
    assert [prompt for prompt in rig.prompts if "After" in prompt]


def test_the_caller_stops_it_and_what_they_heard_of_it_is_known(rig: Rig) -> None:
    play(rig, clip(2000))
    rig.wait(1)
    rig.mark(rig.sent(SendMark)[7].name)
    rig.speech()
    assert rig.sent(Clear)
    (ended,) = rig.events(TurnEnded)
    assert ended.turn.interrupted
    assert 900 <= ended.turn.heard_ms <= 1100
    assert rig.truncations == []  # the model has no item of it
    assert rig.prompts[-1].startswith("The caller interrupted you.")


def test_nothing_stops_a_protected_one(rig: Rig) -> None:
    play(rig, clip(2000, protected=True))
    rig.speech()
    rig.interrupt()
    rig.key("1")
    assert not rig.sent(Clear)
    rig.turn()
    rig.created("r1")
    rig.audio(1000)
    rig.interrupt()
    assert rig.cancels == ["r1"]
    assert not rig.sent(Clear)
    rig.done(status="cancelled")
    rig.wait(3)
    rig.hear()
    assert not any(each.turn.interrupted for each in rig.events(TurnEnded) if each.turn.text)
    rig.says(500, "i2", "r2")
    rig.speech()
    assert rig.sent(Clear)


def test_it_waits_for_silence_unless_it_may_play_over_speech(rig: Rig) -> None:
    rig.speech()
    play(rig, clip())
    assert rig.media_ms() == 0
    rig.turn()
    rig.says(100, "i1", "r1")
    assert order(rig) in ("om", "mo")
    rig = Rig()
    rig.speech()
    play(rig, clip(over_speech=True, protected=True))
    assert rig.media_ms() == 1000


def test_it_waits_for_a_model_and_for_the_greeting() -> None:
    rig = Rig(connect=False, greeting="Hello!")
    play(rig, clip())
    assert rig.media_ms() == 0
    rig.connect()
    assert rig.media_ms() == 0
    rig.says(100, ours=True)
    assert order(rig) == "mo"


def test_it_plays_on_while_the_session_is_replaced() -> None:
    rig = Rig(renews=True)
    play(rig, clip(2000))
    rig.created()  # nothing more is played of this one
    play(rig, clip(500, "Later."))
    assert rig.bridge.model_away(rig.now, "gone")
    rig.connect()
    assert not rig.sent(Clear)
    assert any("This call is recorded." in prompt for prompt in rig.prompts)
    rig.wait(1)


def test_too_many_and_too_much_are_refused(rig: Rig) -> None:
    rig.created()
    assert all(play(rig, clip()) for _ in range(MAX_WANTED))
    assert not play(rig, clip())
    rig = Rig()
    rig.stalled = True
    play(rig, clip(MAX_WAITING_BYTES / 8))
    play(rig, clip())
    assert rig.troubles == ["a sound was not played: the caller's socket is not accepting audio"]


def test_a_call_about_to_end_plays_no_more(rig: Rig) -> None:
    rig.hang_up()
    assert not play(rig, clip())
