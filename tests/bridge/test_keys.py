"""The caller's keys: what the model learns of them, and what of gathered ones nothing but their owner does."""

from __future__ import annotations

import base64

import pytest

from phoneagent.bridge.keys import MAX_TOLD, PAUSE_SECONDS, Gather
from phoneagent.bridge.policy import Floor, Silence
from phoneagent.bridge.toolcalls import Filler
from phoneagent.events import KeyPressed, MessageAdded, SilenceFilled
from phoneagent.protocol.realtime import AudioAppend
from tests.bridge.rig import Rig, ulaw


@pytest.fixture
def rig() -> Rig:
    return Rig()


def keys(rig: Rig, digits: str, gap: float = 0.3) -> None:
    for digit in digits:
        rig.key(digit)
        rig.wait(gap)


def gather(rig: Rig, digits: int = 4, timeout: float = 5, finish_on: str = "#") -> tuple[Gather, list[str]]:
    """Begin to gather; the list has the digits once they are complete."""
    done: list[str] = []
    asked = Gather(digits, timeout, finish_on, lambda: done.append(asked.typed))
    assert rig.bridge.keys.begin(asked, rig.now)
    rig.bridge.move_on(rig.now)
    rig.flush()
    return asked, done


def seen(rig: Rig) -> str:
    """Everything that left the bridge, but for audio."""
    return "".join(map(repr, (*rig.told, *rig.asked, *rig.to_model, *rig.to_caller)))


# --- told ---


def test_keys_are_told_after_a_pause_and_answered_once(rig: Rig) -> None:
    keys(rig, "123")
    assert rig.prompts == []
    rig.wait(PAUSE_SECONDS)
    assert rig.prompts == ["The caller pressed keys on their telephone: 123"]
    assert len(rig.creates) == 1
    assert [event.role for event in rig.events(MessageAdded)] == ["user"]


def test_a_hash_needs_no_pause(rig: Rig) -> None:
    rig.key("7")
    rig.key("#")
    assert rig.prompts == ["The caller pressed keys on their telephone: 7#"]
    assert len(rig.creates) == 1


def test_two_hundred_keys_are_one_item(rig: Rig) -> None:
    keys(rig, "1" * 200, 0.01)
    rig.wait(PAUSE_SECONDS)
    (text,) = rig.prompts
    assert text.endswith("1" * MAX_TOLD + " and 100 more")


def test_keys_that_are_ignored_are_for_hooks_alone() -> None:
    rig = Rig(keys="ignore")
    rig.says(1000)
    rig.key("5")
    rig.wait(3)
    assert [event.digit for event in rig.events(KeyPressed)] == ["5"]
    assert (rig.prompts, rig.cancels, rig.creates) == ([], [], [])
    assert not any(type(each).__name__ == "Clear" for each in rig.to_caller)


def test_an_agent_by_hand_is_told_and_answers_when_asked() -> None:
    rig = Rig(manual_turns=True)
    rig.key("#")
    assert len(rig.prompts) == 1
    assert rig.creates == []


def test_a_key_stops_the_agent_and_nothing_is_said_while_the_caller_types(rig: Rig) -> None:
    rig.created()
    rig.audio(2000)
    rig.key("1")
    assert rig.cancels == ["r1"]
    assert [item for item, _ in rig.truncations] == ["i1"]
    rig.done(status="cancelled")
    rig.say("Hello?")
    assert rig.creates == []
    rig.wait(PAUSE_SECONDS)
    assert len(rig.creates) == 1


@pytest.mark.parametrize("barge_in", [True, False])
def test_a_protected_voice_is_not_stopped_by_a_key(barge_in: bool) -> None:
    rig = Rig(greeting="Welcome!", barge_in=barge_in)
    rig.created(ours=True)
    rig.audio(1000)
    keys(rig, "12#", 0.1)
    assert rig.cancels == []
    assert any("12#" in prompt for prompt in rig.prompts)
    rig.audio_done()
    rig.done()
    assert len(rig.creates) == 2  # and it is answered afterwards


def test_keys_in_a_goodbye_are_not_answered(rig: Rig) -> None:
    rig.hang_up()
    rig.key("#")
    rig.wait(1)
    assert len(rig.creates) == 1


def test_what_was_typed_when_the_stream_ends_is_told_in_the_next(rig: Rig) -> None:
    keys(rig, "12")
    assert rig.bridge.floor() is Floor.CALLER
    assert not rig.bridge.quiet(rig.now)
    rig.hand_over()
    assert [event.text for event in rig.events(MessageAdded)] == ["The caller pressed keys on their telephone: 12"]
    assert "pending='answer'" in repr(rig.asked)


def test_keys_before_there_is_a_model_reach_it() -> None:
    rig = Rig(connect=False)
    rig.key("#")
    rig.wait(1)
    rig.connect()
    assert "The caller pressed keys on their telephone: #" in rig.prompts


# --- gathered ---


def test_digits_are_gathered_and_nothing_else_learns_them(rig: Rig) -> None:
    asked, done = gather(rig)
    keys(rig, "1973")
    assert done == ["1973"]
    assert [event.digit for event in rig.events(KeyPressed)] == [""] * 4
    rig.wait(10)
    assert rig.prompts == []
    assert "1973" not in seen(rig) + repr(asked)


def test_the_finish_key_ends_it_and_is_not_among_them(rig: Rig) -> None:
    _, done = gather(rig, digits=64)
    keys(rig, "*42#")
    assert done == ["*42"]
    _, done = gather(rig, digits=3, finish_on="")
    keys(rig, "1#2")
    assert done == ["1#2"]


def test_the_time_counts_from_the_last_key(rig: Rig) -> None:
    _, done = gather(rig, timeout=5)
    rig.wait(4.9)
    keys(rig, "1", 4.9)
    keys(rig, "2", 4.9)
    assert done == []
    rig.wait(0.2)
    assert done == ["12"]


def test_before_the_first_key_the_time_counts_from_the_agents_last_word(rig: Rig) -> None:
    rig.created()
    rig.audio(4000)
    _, done = gather(rig, timeout=1)
    rig.audio_done()
    rig.done()
    rig.wait(4.9)  # heard after 4 s; no mark came back
    assert done == []
    rig.wait(0.2)
    assert done == [""]


def test_what_is_to_be_said_first_is_waited_for(rig: Rig) -> None:
    rig.created()
    rig.audio(100)
    rig.say("Type your PIN.")
    _, done = gather(rig, timeout=1)
    rig.wait(3)
    rig.done()
    rig.says(500, response="r2", item="i2", ours=True)
    rig.wait(1.4)
    assert done == []
    rig.wait(0.2)
    assert done == [""]


def test_the_first_key_stops_the_agent(rig: Rig) -> None:
    rig.created()
    rig.audio(4000)
    _, done = gather(rig, digits=2)
    rig.key("1")
    assert rig.cancels == ["r1"]
    rig.key("2")
    assert done == ["12"]


def test_the_model_hears_silence_until_the_caller_has_stopped_typing(rig: Rig) -> None:
    rig.media(timestamp=0)
    gather(rig, digits=2)
    for number, digit in enumerate("12#"):  # the last one is a digit too many
        rig.media(timestamp=20 + 20 * number)
        rig.key(digit)
    rig.wait(PAUSE_SECONDS - 0.1)
    rig.media(timestamp=80)
    rig.wait(0.2)
    rig.media(timestamp=100)
    heard = [base64.b64decode(message.audio) for message in rig.sent(AudioAppend)]
    assert [set(frame) for frame in heard] == [{0x55}, *[{0xFF}] * 4, {0x55}]
    assert [len(frame) for frame in heard] == [160] * 6
    assert [event.digit for event in rig.events(KeyPressed)] == ["", "", ""]
    assert rig.prompts == []


def test_another_session_hears_silence_too(rig: Rig) -> None:
    rig.speech()
    gather(rig)
    rig.media(200)
    keys(rig, "12")
    assert rig.bridge.model_away(rig.now, "gone")
    rig.media(200, timestamp=200)
    rig.to_model.clear()
    rig.connect()
    frames = b"".join(base64.b64decode(message.audio) for message in rig.sent(AudioAppend))
    assert set(frames) == {0xFF}
    assert len(frames) >= 3200


def test_a_lost_session_keeps_the_digits(rig: Rig) -> None:
    rig = Rig(renews=True)
    _, done = gather(rig)
    keys(rig, "12")
    assert rig.bridge.model_away(rig.now, "gone")
    keys(rig, "34")
    assert done == ["1234"]
    rig.connect()
    assert "12" not in seen(rig).replace(ulaw(20), "")


def test_one_is_gathered_at_a_time(rig: Rig) -> None:
    first, done = gather(rig)
    assert not rig.bridge.keys.begin(Gather(1, 5, "#", lambda: None), rig.now)
    rig.bridge.keys.give_up(first)
    assert not rig.bridge.keys.gathering
    gather(rig)
    rig.bridge.keys.give_up(first)  # it is no longer its own
    assert rig.bridge.keys.gathering
    assert done == []


def test_the_finish_key_of_the_one_before_ends_nothing(rig: Rig) -> None:
    _, first = gather(rig, digits=2)
    rig.key("1")
    rig.key("2")
    _, second = gather(rig, digits=2)
    keys(rig, "#34")
    assert (first, second) == (["12"], ["34"])
    rig.wait(PAUSE_SECONDS)
    _, third = gather(rig)
    rig.key("#")
    assert third == [""]


def test_keys_typed_for_the_agent_are_told_and_not_gathered(rig: Rig) -> None:
    rig.key("9")
    _, done = gather(rig, digits=1)
    assert rig.prompts == ["The caller pressed keys on their telephone: 9"]
    rig.key("1")
    assert done == ["1"]


def test_an_end_drops_what_was_gathered(rig: Rig) -> None:
    _, done = gather(rig)
    keys(rig, "12")
    rig.stop()
    assert done == []
    assert not rig.bridge.keys.gathering
    assert rig.events(MessageAdded) == []


def test_while_digits_are_gathered_the_call_stays_where_it_is(rig: Rig) -> None:
    rig.connect()
    rig.wait(5)
    assert rig.bridge.quiet(rig.now)
    asked, _ = gather(rig)
    assert rig.bridge.keys.gathering
    assert not rig.bridge.quiet(rig.now)
    rig.bridge.keys.give_up(asked)
    rig.wait(0.1)
    rig.bridge.move_on(rig.now)
    assert rig.bridge.quiet(rig.now)


def test_a_protected_agent_is_typed_over(rig: Rig) -> None:
    rig = Rig(barge_in=False)
    rig.created()
    rig.audio(3000)
    _, done = gather(rig, digits=2)
    keys(rig, "12")
    assert done == ["12"]
    assert rig.cancels == []


def test_keys_are_secret_while_they_are_gathered_and_a_moment_longer() -> None:
    rig = Rig()
    keys = rig.bridge.keys
    assert not keys.secret(rig.now)
    gather = Gather(1, 5.0, "#", lambda: None)
    assert keys.begin(gather, rig.now)
    assert keys.secret(rig.now)
    rig.key("4")
    assert keys.secret(rig.now)
    assert keys.secret(rig.now + PAUSE_SECONDS - 0.1)
    assert not keys.secret(rig.now + PAUSE_SECONDS)


@pytest.mark.parametrize("filler", ["", ulaw(400)])
def test_no_sound_comes_between_the_digits_and_keeps_their_time_from_passing(filler: str) -> None:
    rig = Rig(silence=Silence(idle_seconds=0, closing_silence_seconds=0, filler=filler))
    rig.heard("r0", ours=False)
    rig.speech()
    rig.turn("u1")
    rig.created("r1")
    rig.calls()  # the tool that gathers
    rig.done("r1")
    rig.bridge.conversation.tools.fill("c1", Filler("One moment, please.", 1.5))
    begun_at = rig.now
    made, done = gather(rig, timeout=5)
    while not done:
        rig.talk(0.25)
        assert rig.now < begun_at + 6
    assert rig.events(SilenceFilled) == []
    assert not any("One moment" in each for each in rig.prompts)
    assert made.typed == ""
