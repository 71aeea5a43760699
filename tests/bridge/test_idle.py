"""Idle lines: a caller who says nothing, and an agent that says goodbye and does not hang up."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.idle import PAUSE_SECONDS, says_goodbye
from phoneagent.bridge.policy import Policy, Silence
from phoneagent.events import CallEnded
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Audio
from tests.bridge.rig import Rig, ulaw

IDLE, GOODBYE = 10.0, 6.0


def idle(*, keys: str = "tell", **options: Any) -> Rig:
    rules = {"dead_air_ms": 0, "idle_seconds": IDLE, "closing_silence_seconds": GOODBYE}
    return Rig(keys=keys, silence=Silence(**{**rules, **options}))  # type: ignore[arg-type]


@pytest.fixture
def rig() -> Rig:
    return idle()


def asked(rig: Rig) -> int:
    return sum("still there" in prompt for prompt in rig.prompts)


def says(rig: Rig, words: str = "Well?", *, ours: bool = True) -> None:
    """The agent says something, and it is heard."""
    number = len(rig.sent(Audio))
    rig.created(f"r{number}", ours=ours)
    rig.audio(100, f"i{number}", f"r{number}")
    rig.model(realtime.TranscriptDone(response_id=f"r{number}", item_id=f"i{number}", transcript=words))
    rig.audio_done(f"i{number}", f"r{number}")
    rig.done(f"r{number}")
    rig.wait(0.2)
    rig.hear()


def turn(rig: Rig, item: str, words: str) -> None:
    rig.speech()
    rig.turn(item)
    rig.model(realtime.InputTranscript(item_id=item, transcript=words))


# --- a silent caller ---


def test_a_turn_that_user_code_holds_open_is_no_silence() -> None:
    rig = Rig(manual_turns=True, server_answers=False, silence=Silence(idle_seconds=IDLE, closing_silence_seconds=0))
    says(rig, ours=False)
    rig.talk(IDLE - 2)
    rig.bridge.push_to_talk.clear()
    rig.flush()
    rig.talk(IDLE)
    assert asked(rig) == 0


def test_they_are_asked_twice_and_then_the_agent_says_goodbye(rig: Rig) -> None:
    turn(rig, "u1", "Hello?")
    says(rig, ours=False)
    for number in (1, 2):
        rig.talk(IDLE - 0.3)
        assert asked(rig) == number - 1
        rig.talk(0.5)
        assert asked(rig) == number
        says(rig, "Are you still there?")
    rig.talk(IDLE)
    assert asked(rig) == 2
    assert any("short goodbye" in prompt for prompt in rig.prompts)
    says(rig, "Goodbye!")
    rig.talk(2)
    rig.assert_over("agent")
    assert rig.events(CallEnded)[0].reason == "the caller was silent"


def test_a_caller_who_never_says_anything_is_asked_too(rig: Rig) -> None:
    rig.talk(IDLE + 0.1)
    assert asked(rig) == 1


@pytest.mark.parametrize("sign", ["words", "key", "failed"])
def test_a_sign_of_life_restarts_the_count(sign: str) -> None:
    rig = idle(keys="ignore")
    for number in range(4):
        rig.talk(IDLE + 0.1)
        assert asked(rig) == number + 1
        says(rig, "Are you still there?")
        if sign == "words":
            turn(rig, f"u{number}", "Yes, I am looking for my card.")
            says(rig, ours=False)
        elif sign == "failed":
            rig.speech()
            rig.turn(f"u{number}")
            rig.model(realtime.InputTranscriptFailed(item_id=f"u{number}"))
            says(rig, ours=False)
        else:
            rig.talk(IDLE - 1)
            rig.key("5")
            rig.talk(IDLE - 1)
            assert asked(rig) == number + 1
    assert rig.ended is None


def test_noise_is_none(rig: Rig) -> None:
    """A radio makes turns without words all the time, and the agent answers each of them."""
    for number in range(40):
        rig.talk(4)
        if rig.bridge.closing.active:
            break
        if rig.bridge.responses.busy:
            says(rig, "Are you still there?")
            continue
        turn(rig, f"u{number}", " ")
        says(rig, "Pardon?", ours=False)
    assert asked(rig) == 2
    assert rig.bridge.closing.reason == "the caller was silent"


def test_after_an_answer_to_noise_there_is_a_pause(rig: Rig) -> None:
    rig.talk(IDLE - 1)
    turn(rig, "u1", "")
    says(rig, "Pardon?", ours=False)
    rig.talk(PAUSE_SECONDS - 0.5)
    assert asked(rig) == 0
    rig.talk(0.6)
    assert asked(rig) == 1


def test_a_person_who_talks_is_never_cut_off(rig: Rig) -> None:
    rig.speech()
    rig.bridge.conversation.alive(rig.now)
    for _ in range(12):
        rig.talk(IDLE)
    assert asked(rig) == 0
    assert rig.ended is None


def test_the_caller_is_not_asked_while_the_agent_speaks_or_a_tool_runs(rig: Rig) -> None:
    turn(rig, "u1", "Hello?")
    rig.created("r1", ours=False)
    rig.audio(30_000)
    rig.calls()
    rig.done("r1")
    rig.talk(29)
    assert asked(rig) == 0
    rig.talk(40)
    assert asked(rig) == 0


def test_the_caller_is_not_asked_while_digits_are_gathered(rig: Rig) -> None:
    rig.bridge.silence._gathering = lambda: True
    rig.talk(60)
    assert asked(rig) == 0


def test_the_caller_is_not_asked_while_there_is_no_session() -> None:
    bridge_policy = Policy(silence=Silence(idle_seconds=IDLE))
    assert Bridge(bridge_policy).get_timer() is None
    rig = idle(retry_seconds=0, give_up_seconds=0)
    rig.bridge.conversation.disconnect()
    rig.talk(60)
    assert asked(rig) == 0


def test_without_a_time_the_caller_is_not_asked() -> None:
    rig = idle(idle_seconds=0)
    rig.talk(100)
    assert asked(rig) == 0


# --- a goodbye without a hang-up ---


def goodbye(rig: Rig, words: str = "Thank you for calling. Goodbye!") -> None:
    turn(rig, "u1", "That is all.")
    says(rig, words, ours=False)


def test_an_agent_that_said_goodbye_is_taken_at_its_word(rig: Rig) -> None:
    goodbye(rig)
    rig.talk(GOODBYE - 0.2)
    assert rig.ended is None
    rig.talk(0.3)
    rig.assert_over("agent")
    assert rig.events(CallEnded)[0].reason == "the agent said goodbye, and neither side spoke for 6 s"
    assert rig.creates == []  # no second goodbye


def test_a_caller_who_goes_on_is_listened_to(rig: Rig) -> None:
    goodbye(rig)
    rig.talk(GOODBYE - 1)
    rig.speech()
    rig.talk(3)
    rig.turn("u2")
    rig.model(realtime.InputTranscript(item_id="u2", transcript="One more thing."))
    says(rig, "Of course, what is it?", ours=False)
    rig.talk(IDLE - 1)
    assert rig.ended is None


def test_a_goodbye_that_was_cut_off_is_none(rig: Rig) -> None:
    turn(rig, "u1", "That is all.")
    rig.created("r1", ours=False)
    rig.audio(1000)
    rig.model(realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="Goodbye!"))
    rig.speech()
    rig.model(realtime.SpeechStopped())
    rig.done("r1", "cancelled")
    rig.talk(GOODBYE + 1)
    assert rig.ended is None


def test_an_agent_that_greets_with_such_words_has_not_parted(rig: Rig) -> None:
    says(rig, "Have a nice day!", ours=False)
    rig.talk(GOODBYE + 1)
    assert rig.ended is None


def test_without_a_time_it_is_not_taken_at_its_word() -> None:
    rig = idle(closing_silence_seconds=0)
    goodbye(rig)
    rig.talk(GOODBYE + 1)
    assert rig.ended is None


@pytest.mark.parametrize(
    "words",
    [
        "Goodbye!",
        "Your table is booked. Have a lovely evening.",
        "Bye-bye.",
        "Take care!",
        "I hope you have a great day ahead.",
        "Have a safe trip home.",
        "Que tengas un buen día.",
        "Tenha uma ótima tarde!",
        "Vielen Dank für Ihren Anruf. Auf Wiederhören!",
        "Merci de votre appel. Bonne journée !",
        "Gracias por llamar, hasta luego.",
        "Grazie, arrivederci!",
        "ありがとうございました。さようなら。",
        "谢谢，再见！",
    ],
)
def test_words_with_which_a_conversation_ends(words: str) -> None:
    assert says_goodbye(words)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "Shall I say goodbye to her for you?",
        "Goodbye is the name of the song. It was written in 1968 by two brothers, and it is still often played.",
        "Let me look that up.",
        "The bypass is closed.",
        "Okay, I'll take care of that for you.",
        "Yes, we have a nice table by the window at eight.",
        "We have a great selection of wines.",
        "We have a lovely evening menu.",
        "Puede que tengas un buen seguro.",
        "さようならと言いますか？",
    ],
)
def test_words_with_which_it_goes_on(words: str) -> None:
    assert not says_goodbye(words)


@pytest.mark.parametrize("noise", [False, True])
def test_after_a_key_the_time_begins_anew_whatever_was_before(noise: bool) -> None:
    rig = idle()
    turn(rig, "u1", "Hello?")
    says(rig, "Press one for the opening hours.", ours=False)
    if noise:
        turn(rig, "u2", "")
        says(rig, "Sorry?", ours=False)
    rig.talk(2)
    rig.key("1")
    rig.talk(2.5)
    rig.created("rk", ours=True)
    rig.audio(9000, "ik", "rk")
    rig.audio_done("ik", "rk")
    rig.done("rk")
    rig.talk(9.1)
    rig.hear()
    rig.talk(IDLE - 0.5)
    assert asked(rig) == 0
    rig.talk(1)
    assert asked(rig) == 1


@pytest.mark.parametrize("early_ms", [-30, 1, 15])
def test_the_time_begins_with_the_last_mark_even_if_it_comes_early(early_ms: int) -> None:
    rig = Rig()
    rig.created("r1", ours=False)
    rig.audio(1000)
    rig.audio_done()
    rig.done("r1")
    rig.wait(1.0 - early_ms / 1000)
    rig.hear()
    assert rig.bridge.playback.dry_at <= rig.now


def test_sounds_of_ours_are_no_turn_of_the_agent() -> None:
    rig = Rig(silence=Silence(filler=ulaw(100), idle_seconds=IDLE, closing_silence_seconds=GOODBYE))
    goodbye(rig)
    rig.say("Wait.")
    rig.wait(3)
    says(rig, "Wait.")
    rig.talk(GOODBYE + 1)
    assert rig.ended is None
