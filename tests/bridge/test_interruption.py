"""Whether a sound of the caller stops the agent: the pause, and what follows it."""

from __future__ import annotations

import base64
import math
import random
from typing import Any

import pytest

from phoneagent.bridge import prompts
from phoneagent.bridge.held_turns import ANSWER_SECONDS
from phoneagent.bridge.interruption import (
    BLIND_SECONDS,
    CHECK_SECONDS,
    ENDING_MS,
    MAX_PAUSE_SECONDS,
    WARY_SECONDS,
)
from phoneagent.bridge.policy import Floor, Interruption, Silence
from phoneagent.bridge.requests import RunTool
from phoneagent.errors import DefinitionError
from phoneagent.events import (
    AgentAnswered,
    AgentPaused,
    AgentResumed,
    BargeIn,
    Pause,
    SilenceFilled,
    ToolCalled,
    TurnEnded,
)
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.audio import audioop, decode_ulaw, encode_ulaw
from phoneagent.protocol.realtime import InputTranscript, ItemDelete
from tests.bridge.rig import Rig, function_call, ulaw
from tests.bridge.test_budget import CHEAP, LIMIT

LOUD, QUIET = 0x10, 0xFF


class Talk(Rig):
    """A call in which the caller makes sounds, 20 ms at a time."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(min_speech_ms=policy.pop("min_speech_ms", 500), **policy)
        self.ms = self._seen = 0
        self.played = bytearray()
        """What the phone has played, with silence where it had nothing."""
        self._phone: list[bytes | str] = []  # what the phone has to play, and marks in between

    def sound(self, ms: int, byte: int = LOUD) -> None:
        self.line(bytes([byte]) * (ms * 8))

    def line(self, ulaw: bytes) -> None:
        """The caller's line delivers this, while their phone plays."""
        for at in range(0, len(ulaw), 160):
            self.wait(0.02)
            self._play(160)
            self.caller(carrier.AudioIn(base64.b64encode(ulaw[at : at + 160]).decode(), self.ms))
            self.ms += 20

    def _play(self, size: int) -> None:
        for message in self.to_caller[self._seen :]:
            match message:
                case carrier.Audio(payload=payload):
                    self._phone.append(base64.b64decode(payload))
                case carrier.SendMark(name=name):
                    self._phone.append(name)
                case carrier.Clear():
                    self._phone.clear()
        self._seen = len(self.to_caller)
        while self._phone and (size or isinstance(self._phone[0], str)):
            first = self._phone.pop(0)
            if isinstance(first, str):
                self.mark(first)
            else:
                self.played += first[:size]
                if len(first) > size:
                    self._phone.insert(0, first[size:])
                size -= min(size, len(first))
        self.played += b"\xff" * size

    def silence(self, ms: int) -> None:
        self.sound(ms, QUIET)

    def speaks(self, ms: int = 5000, **options: Any) -> None:
        """The agent speaks, and has been heard for 300 ms."""
        self.silence(1000)
        self.says(ms, **options)
        self.silence(300)

    def begins(self, ms: int = 100) -> None:
        """The caller makes a sound, and the server reports it after so long."""
        self.sound(ms)
        self.speech()

    def over(self, item: str = "u1") -> None:
        """Half a second later, the server reports its end."""
        self.silence(500)
        self.turn(item)

    def transcribed(self, text: str, item: str = "u1") -> None:
        self.model(InputTranscript(item_id=item, transcript=text))

    @property
    def paused(self) -> bool:
        return self.bridge.playback.paused_at is not None

    @property
    def deleted(self) -> list[str]:
        return [message.item_id for message in self.sent(ItemDelete)]

    @property
    def causes(self) -> list[str]:
        return [event.cause for event in self.events(AgentResumed)]

    def assert_went_on(self, cause: str) -> None:
        assert not self.paused
        assert self.causes == [cause]
        assert (self.cancels, self.truncations, self.events(BargeIn)) == ([], [], [])
        sent_ms = self.media_ms()
        assert 5000 <= sent_ms <= 10_000, "what was not heard is sent again"
        assert self.bridge.playback.unheard_ms(self.now) < 5000


@pytest.fixture
def talk() -> Talk:
    return Talk()


# --- the pause ---


def test_a_sound_pauses_the_agent_and_takes_nothing_back(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    assert talk.paused
    assert isinstance(talk.to_caller[-1], carrier.Clear)
    assert (talk.cancels, talk.truncations) == ([], [])
    assert len(talk.events(AgentPaused)) == 1
    assert talk.bridge.floor() is Floor.AGENT


def test_speech_that_goes_on_interrupts_at_once(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(700)
    assert talk.paused
    talk.sound(200)
    assert not talk.paused
    ((item, ms),) = talk.truncations
    assert (item, talk.events(AgentResumed)) == ("i1", [])
    assert 300 <= ms <= 400, "what was heard until the pause"
    (event,) = talk.events(BargeIn)
    assert event.at_ms == talk.events(AgentPaused)[0].at_ms


def test_its_turn_is_answered_as_any(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(900)
    talk.over()
    talk.created("r2")
    talk.audio(100, "i2", "r2")
    assert talk.bridge.playback.unheard_ms(talk.now) == 100
    assert talk.cancels == []
    assert len(talk.events(AgentAnswered)) == 1


def test_a_cough_does_not_interrupt(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")  # the server answers it
    assert talk.paused
    talk.transcribed("")
    talk.silence(20)
    assert not talk.paused
    assert talk.cancels == ["r2"]
    assert talk.deleted == ["u1"]
    talk.audio(200, "i2", "r2")
    talk.done("r2", "cancelled", output=[realtime.Item(id="i2", type="message")])
    assert talk.deleted == ["u1", "i2"]
    assert talk.causes == ["noise"]
    assert (talk.truncations, talk.events(BargeIn), talk.events(AgentAnswered)) == ([], [], [])
    talk.silence(6000)
    talk.hear()
    (turn,) = [event.turn for event in talk.events(TurnEnded) if event.turn.role == "agent"]
    assert (turn.said_ms, turn.heard_ms, turn.interrupted) == (5000, 5000, False)
    (paused,), (resumed,) = talk.events(AgentPaused), talk.events(AgentResumed)
    assert turn.pauses == (Pause(start_ms=paused.at_ms, end_ms=resumed.at_ms, cause="noise"),)
    assert turn.end_ms - turn.start_ms == 5000 + resumed.paused_ms


def test_the_rest_is_played_from_where_it_stopped(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    (heard,) = [item.before for item in talk.bridge.playback._items.values()]
    assert 390 * 8 <= heard <= 400 * 8
    before = talk.media_ms()
    talk.silence(2000)
    talk.assert_went_on("noise")
    assert talk.media_ms() - before == pytest.approx(5000 - heard / 8, abs=1)


@pytest.mark.parametrize("freed_after_ms", [100, 3000])
def test_nothing_is_heard_twice_if_the_pause_does_not_reach_the_phone(talk: Talk, freed_after_ms: int) -> None:
    """The caller's socket takes no `clear` until the pause has lasted a while, or is over."""
    words = bytes(range(1, 255)) * 158  # 5 s, in which each stretch is another
    talk.silence(1000)
    talk.created()
    talk.model(realtime.AudioDelta(response_id="r1", item_id="i1", delta=base64.b64encode(words).decode()))
    talk.audio_done()
    talk.done()
    talk.silence(300)
    talk.stalled = True
    talk.begins(100)
    assert talk.paused
    talk.silence(freed_after_ms)
    talk.stalled = False
    talk.silence(8000)
    assert talk.causes == ["noise"]
    heard = bytes(talk.played).replace(b"\xff", b"")
    assert heard.endswith(words[-1000:])
    assert len(words) <= len(heard) <= len(words) + 20 * 8, "once, but for what the phone played before it knew"
    assert [event.turn.heard_ms for event in talk.events(TurnEnded) if event.turn.role == "agent"] == [len(words) // 8]


def test_a_click_is_no_word_and_waits_for_none(talk: Talk) -> None:
    talk.speaks()
    talk.begins(60)
    talk.silence(400)
    talk.assert_went_on("noise")


@pytest.mark.parametrize("text", ["Mhm.", "Yes", "Okay, okay!", "uh-huh", "Ja.", "Thank you."])
def test_a_back_channel_does_not_interrupt_and_stays(talk: Talk, text: str) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(300)
    talk.over()
    talk.transcribed(text)
    talk.silence(20)
    talk.assert_went_on("backchannel")
    assert talk.deleted == []
    assert talk.creates == []


@pytest.mark.parametrize("text", ["Stop!", "No.", "Wait", "How much?"])
def test_a_short_word_interrupts_once_it_is_understood(talk: Talk, text: str) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")
    talk.audio(200, "i2", "r2")
    assert talk.paused
    talk.transcribed(text)
    assert not talk.paused
    ((item, ms),) = talk.truncations
    assert item == "i1"
    assert 300 <= ms <= 410
    assert (talk.cancels, talk.deleted, talk.creates) == ([], [], [])
    assert talk.bridge.playback.unheard_ms(talk.now) == pytest.approx(200, abs=1), "the answer that was held"


def test_the_answer_to_a_turn_without_a_transcript_is_heard(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(600)
    talk.over()
    talk.says(1000, "i2", "r2", ours=False)
    talk.silence(1500)
    assert [item for item, _ in talk.truncations] == ["i1"]
    talk.silence(1000)
    talk.hear()
    assert [event.turn.heard_ms for event in talk.events(TurnEnded) if event.turn.item_id == "i2"] == [1000]


@pytest.mark.parametrize("ended", [False, True], ids=["in the middle of the answer", "after it"])
def test_the_tools_of_an_answer_run_once_its_turn_counts(talk: Talk, ended: bool) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")
    talk.audio(300, "i2", "r2")
    talk.calls("c1", "r2")
    if ended:
        talk.done("r2", output=[function_call("c1"), function_call("c2")])
    assert (talk.asked, talk.events(ToolCalled)) == ([], [])
    talk.transcribed("Stop!")
    assert [tool.call_id for tool in talk.asked if isinstance(tool, RunTool)] == ["c1", "c2"][: 1 + ended]
    talk.calls("c3", "r2")
    assert len(talk.asked) == 2 + ended, "nothing waits any longer"
    assert talk.deleted == []


@pytest.mark.parametrize("ended", [False, True], ids=["in the middle of the answer", "after it"])
def test_no_tool_runs_in_answer_to_a_cough(talk: Talk, ended: bool) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")
    talk.calls("c1", "r2")
    if ended:
        talk.done("r2", output=[function_call("c1")])
    talk.transcribed("")
    talk.calls("c2", "r2")
    if not ended:
        talk.done("r2", output=[function_call("c1"), function_call("c2"), function_call("c3")])
    talk.silence(3000)
    assert (talk.asked, talk.events(ToolCalled), talk.creates) == ([], [], [])
    assert {"u1", "item_c1"} <= set(talk.deleted)
    assert not talk.paused


def test_no_tool_runs_in_a_late_answer_to_a_cough(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.transcribed("")
    talk.created("r2")
    talk.calls("c1", "r2")
    talk.done("r2", output=[function_call("c1")])
    talk.silence(6000)  # the agent has finished
    assert (talk.asked, talk.creates) == ([], [])
    talk.speech()
    talk.turn("u2")
    talk.created("r3")
    talk.calls("c2", "r3")
    assert [tool.call_id for tool in talk.asked if isinstance(tool, RunTool)] == ["c2"]


def test_a_goodbye_that_is_held_is_heard_before_the_call_ends(talk: Talk) -> None:
    talk.speaks(2500)
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")
    talk.audio(1500, "i2", "r2")
    talk.calls("c1", "r2")
    talk.done("r2", output=[function_call("c1")])
    assert talk.asked == [], "the agent would hang up before it is known what the caller said"
    talk.transcribed("No thanks.")
    assert [tool.call_id for tool in talk.asked if isinstance(tool, RunTool)] == ["c1"]
    talk.hang_up()
    talk.returns("c1")
    talk.silence(4000)
    assert [event.turn.heard_ms for event in talk.events(TurnEnded) if event.turn.item_id == "i2"] == [1500]
    talk.assert_over("agent")


def test_an_answer_whose_tools_waited_is_owed_by_the_next_session() -> None:
    talk = Talk(renews=True)
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")
    talk.calls("c1", "r2")
    talk.bridge.model_away(talk.now, "gone")
    talk.connect()
    talk.silence(6000)
    assert [tool for tool in talk.asked if isinstance(tool, RunTool)] == []
    assert talk.creates


def test_user_code_stops_the_answer_that_is_held_as_well(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(600)
    talk.over()
    talk.created("r2")
    talk.audio(1000, "i2", "r2")
    talk.interrupt()
    assert talk.cancels == ["r2"]
    assert [item for item, _ in talk.truncations] == ["i1", "i2"]


def test_where_the_server_does_not_answer_we_ask(talk: Talk) -> None:
    talk = Talk(server_answers=False)
    talk.speaks(ours=None)
    talk.begins()
    talk.sound(200)
    talk.over()
    assert talk.creates == []
    talk.transcribed("Stop!")
    assert len(talk.creates) == 1


def test_a_yes_to_the_last_words_is_an_answer(talk: Talk) -> None:
    talk.speaks(300 + ENDING_MS)
    talk.silence(300)
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")
    talk.transcribed("Yes.")
    assert talk.cancels == []
    assert len(talk.truncations) == 1


def test_a_yes_in_the_middle_of_a_question_is_answered_after_it(talk: Talk) -> None:
    talk.silence(1000)
    talk.created()
    words = "We have a table at eight. Shall I book it for you?"
    talk.model(realtime.TranscriptDelta(response_id="r1", item_id="i1", delta=words))
    talk.audio(4000)
    talk.audio_done()
    talk.done()
    talk.silence(1400)
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2", ours=False)
    talk.transcribed("Yes.")
    talk.silence(20)
    assert talk.causes == ["backchannel"]
    assert talk.cancels == ["r2"]
    talk.done("r2", "cancelled")
    assert len(talk.creates) == 1
    talk.says(500, "i3", "r3", ours=True)
    talk.silence(4000)
    assert talk.truncations == []
    assert {event.turn.item_id for event in talk.events(TurnEnded)} >= {"i1", "i3"}


def test_a_text_too_long_for_its_sound_counts_as_noise(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.over()
    talk.transcribed("Thank you for watching, and see you next time.")
    talk.silence(20)
    talk.assert_went_on("noise")
    assert talk.deleted == ["u1"]


# --- what comes late, or never ---


def test_a_long_back_channel_is_told_by_its_words(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(600)
    talk.over()
    talk.transcribed("Right, I see.")
    talk.silence(20)
    talk.assert_went_on("backchannel")


@pytest.mark.parametrize("text", [None, "But how much is it?"])
def test_speech_that_is_too_long_for_a_noise_interrupts(talk: Talk, text: str | None) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(500)
    talk.over()
    assert talk.paused
    if text is not None:
        talk.transcribed(text)
    else:
        talk.silence(1200)
    assert len(talk.truncations) == 1


def test_without_a_recognizer_no_words_are_waited_for() -> None:
    talk = Talk(words_ms=0)
    talk.speaks(10_000)
    talk.begins()
    talk.sound(200)
    talk.silence(400)
    assert not talk.paused
    talk.turn()
    talk.begins()
    talk.sound(500)
    assert len(talk.truncations) == 1


def test_a_transcript_that_never_comes_is_not_waited_for(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.silence(2000)
    talk.assert_went_on("noise")
    assert talk.deleted == [], "it may have been a word"


def test_late_words_interrupt_all_the_same(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.created("r2")
    talk.silence(2000)
    assert talk.cancels == ["r2"]
    talk.done("r2", "cancelled")
    talk.transcribed("Stop!")
    assert [item for item, _ in talk.truncations] == ["i1"]
    assert len(talk.creates) == 1, "the server's answer was cancelled, so another is asked for"


def test_late_words_to_an_agent_that_has_finished_are_answered(talk: Talk) -> None:
    talk.speaks(2000)
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.silence(4000)
    talk.hear()
    talk.transcribed("Stop!")
    assert (talk.truncations, len(talk.creates)) == ([], 1)


def test_late_noise_is_deleted_and_a_late_back_channel_is_not(talk: Talk) -> None:
    talk.speaks(20_000)
    for item, text in (("u1", ""), ("u2", "Okay.")):
        talk.begins()
        talk.sound(200)
        talk.over(item)
        talk.silence(2000)
        talk.transcribed(text, item)
    assert talk.deleted == ["u1"]
    assert talk.causes == ["noise", "noise"]
    assert talk.truncations == []


def test_a_turn_that_is_committed_late_does_not_count_either(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(100)
    talk.silence(3000)  # a server that weighs the words waits
    assert not talk.paused
    talk.turn("u1")
    talk.created("r2")
    assert talk.cancels == ["r2"]
    talk.done("r2", "cancelled")
    assert talk.creates == []


def test_the_servers_answer_to_noise_may_come_after_the_decision(talk: Talk) -> None:
    talk.speaks(10_000)
    talk.begins()
    talk.over()
    talk.transcribed("")
    talk.silence(20)
    talk.created("r2")
    assert talk.cancels == ["r2"]
    talk.done("r2", "cancelled")
    talk.created("r3")
    assert talk.cancels == ["r2"], "only one is expected"


def test_an_answer_that_does_not_come_in_time_is_not_awaited(talk: Talk) -> None:
    talk.speaks(20_000)
    talk.begins()
    talk.over()
    talk.transcribed("")
    talk.silence(round(ANSWER_SECONDS * 1000) + 100)
    talk.created("r2")
    assert talk.cancels == []


def test_a_failed_transcript_counts_as_none(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over()
    talk.model(realtime.InputTranscriptFailed(item_id="u1"))
    talk.silence(20)
    talk.assert_went_on("noise")


@pytest.mark.parametrize("failed", [True, False])
def test_a_long_speech_interrupts_if_it_has_no_transcript(talk: Talk, failed: bool) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(600)
    talk.over()
    if failed:
        talk.model(realtime.InputTranscriptFailed(item_id="u1"))
    talk.silence(2000)
    assert len(talk.events(BargeIn)) == 1
    assert talk.deleted == []


@pytest.mark.parametrize(("more", "words"), [(60, "Wait a second."), (350, "Sorry, sorry, stop.")])
def test_words_in_several_stretches_are_measured_over_all_of_them(talk: Talk, more: int, words: str) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(600)
    talk.silence(300)
    talk.sound(more)
    talk.silence(500)
    talk.turn("u1")
    talk.silence(300)
    talk.transcribed(words)
    talk.silence(300)
    assert len(talk.events(BargeIn)) == 1
    assert talk.deleted == []


def test_a_cough_during_the_wrap_up_is_not_the_last_turn() -> None:
    talk = Talk(max_call_cost=LIMIT)
    talk.bridge.budget.new_session({"model": "gpt-realtime-2.1"}, talk.now)
    talk.silence(500)
    for number in (1, 2):
        talk.begins(300)
        talk.over(f"u{number}")
        talk.transcribed("Tell me more please", f"u{number}")
        talk.created(f"r{number}", ours=False)
        talk.audio(500, f"i{number}", f"r{number}")
        talk.audio_done(f"i{number}", f"r{number}")
        talk.done(f"r{number}", usage=CHEAP)
        talk.silence(900)
    assert "has to end soon" in talk.prompts[-1]
    talk.created("w", ours=True)
    talk.audio(1500, "iw", "w")
    talk.silence(300)
    talk.begins(60)
    talk.silence(500)
    talk.turn("u3")
    talk.transcribed("", "u3")
    talk.silence(100)
    talk.audio(1500, "iw", "w")
    talk.audio_done("iw", "w")
    talk.done("w", usage=CHEAP)
    talk.silence(500)
    assert "has to end soon" in talk.prompts[-1]
    assert talk.bridge.floor() is Floor.AGENT


def test_a_refused_deletion_is_no_trouble(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.over()
    talk.transcribed("")
    talk.error("item_delete_invalid_item_id", "delete_1")
    assert talk.troubles == []


# --- sounds that go on ---


def test_typing_pauses_but_does_not_interrupt(talk: Talk) -> None:
    talk.speaks()
    talk.begins(60)
    for _ in range(30):
        talk.silence(100)
        talk.sound(20)
    talk.assert_went_on("noise")
    assert talk.events(AgentResumed)[0].paused_ms >= 1000 * MAX_PAUSE_SECONDS - 200


def test_speech_after_a_resumed_pause_interrupts(talk: Talk) -> None:
    talk.speaks()
    talk.begins(60)
    talk.silence(500)
    assert not talk.paused
    talk.sound(700)  # the server has not reported an end
    assert [item for item, _ in talk.truncations] == ["i1"]
    assert len(talk.events(BargeIn)) == 1


def test_a_new_speech_in_a_resumed_pause_is_decided_on_by_itself(talk: Talk) -> None:
    talk.speaks()
    talk.begins(60)
    talk.over()
    talk.silence(500)
    talk.begins()
    assert talk.paused
    talk.sound(900)
    assert len(talk.truncations) == 1
    assert len(talk.events(AgentPaused)) == 2


def test_a_second_sound_in_a_pause_is_decided_on_with_the_first(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(200)
    talk.over("u1")
    talk.created("r2")
    talk.begins()
    talk.sound(900)
    assert len(talk.truncations) == 1
    assert len(talk.events(AgentPaused)) == 1
    assert talk.cancels == ["r2"], "the caller speaks on"


def test_sounds_that_follow_each_other_do_not_hold_the_agent_up(talk: Talk) -> None:
    talk.speaks(20_000)
    for number in range(12):
        talk.begins(100)
        talk.sound(200)
        talk.silence(500)
        talk.turn(f"u{number}")
        talk.silence(500)
    (pause,) = talk.events(AgentResumed)
    assert pause.paused_ms <= (MAX_PAUSE_SECONDS + CHECK_SECONDS) * 1000 + 1200
    assert not talk.paused
    talk.begins()
    talk.sound(800)
    assert [item for item, _ in talk.truncations] == ["i1"], "speech still interrupts"
    talk.speaks(20_000, item="i2", response="r2")
    talk.silence(round(WARY_SECONDS * 1000))
    talk.begins()
    assert talk.paused, "they are long over"


def test_an_end_of_speech_without_a_beginning_means_nothing(talk: Talk) -> None:
    talk.speaks()
    talk.bridge.interruptions.speech_stopped(talk.now)
    talk.silence(200)
    assert not talk.paused
    assert (talk.truncations, talk.cancels) == ([], [])


def test_another_voice_in_a_pause_does_not_prolong_it(talk: Talk) -> None:
    talk.silence(1000)
    talk.begins()
    talk.sound(800)
    talk.over("u1")
    talk.says(8000)
    talk.silence(2000)
    talk.begins()
    talk.sound(100)
    talk.over("u2")
    talk.sound(100, 0x60)
    talk.speech()
    talk.sound(round(MAX_PAUSE_SECONDS * 1000) + 200, 0x60)
    assert not talk.paused
    assert talk.truncations == []


def test_a_sound_after_words_does_not_undo_them(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(400)
    talk.over("u1")
    talk.begins()
    talk.sound(60)
    talk.transcribed("Hold on, please.", "u1")
    talk.silence(20)
    assert len(talk.truncations) == 1


def background(talk: Talk, ms: int) -> None:
    """The caller has spoken; now somebody in their room does, much softer, and the server hears it."""
    talk.silence(1000)
    talk.begins()
    talk.sound(800)
    talk.over("u1")
    talk.says(8000)
    talk.silence(2000)
    talk.sound(100, 0x60)
    talk.speech()
    talk.sound(ms, 0x60)


def test_others_in_the_room_do_not_even_pause_the_agent(talk: Talk) -> None:
    background(talk, 2800)
    assert (talk.truncations, talk.events(AgentPaused)) == ([], [])
    talk.over("u2")
    talk.created("r9")
    assert talk.cancels == ["r9"]
    talk.transcribed("", "u2")
    assert talk.deleted == ["u2"]


def test_a_caller_who_has_become_soft_is_understood_by_their_words(talk: Talk) -> None:
    background(talk, 1200)
    talk.over("u2")
    assert talk.truncations == []
    talk.transcribed("Excuse me, how much is it?", "u2")
    assert len(talk.truncations) == 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("窓際のお席を八時にご用意できます。", "窓際のお席"),
        ("我们有一张靠窗的桌子，八点可以。", "靠窗的桌子"),
        ("เรามีโต๊ะริมหน้าต่างตอนสองทุ่ม", "โต๊ะริมหน้าต่าง"),
        ("우리는 창가 자리가 여덟 시에 있습니다.", "창가 자리가"),
    ],
)
def test_a_transcript_repeats_the_agent_also_in_scripts_without_spaces(talk: Talk, said: str, words: str) -> None:
    talk.bridge.interruptions._ear.echoes = True
    talk.silence(1000)
    talk.created()
    talk.model(realtime.TranscriptDelta(response_id="r1", item_id="i1", delta=said))
    talk.audio(5000)
    talk.audio_done()
    talk.done()
    talk.silence(300)
    talk.begins()
    talk.sound(500)
    talk.over()
    talk.transcribed(words)
    talk.silence(40)
    talk.assert_went_on("noise")


@pytest.mark.parametrize("echoes", [True, False])
def test_a_transcript_that_repeats_the_agent_is_an_echo_on_a_line_that_has_one(talk: Talk, echoes: bool) -> None:
    talk.bridge.interruptions._ear.echoes = echoes
    talk.silence(1000)
    talk.created()
    talk.model(
        realtime.TranscriptDelta(response_id="r1", item_id="i1", delta="We have a table by the window, at eight.")
    )
    talk.audio(5000)
    talk.audio_done()
    talk.done()
    talk.silence(300)
    talk.begins()
    talk.sound(400)
    talk.over()
    talk.transcribed("By the window.")
    talk.silence(20)
    if echoes:
        talk.assert_went_on("noise")
        assert talk.deleted == ["u1"]
    else:  # the caller chooses
        assert len(talk.truncations) == 1
        assert talk.deleted == []


def test_a_speech_with_gaps_that_goes_on_and_on_interrupts(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    for _ in range(4):
        talk.sound(500)
        talk.silence(240)
    assert len(talk.truncations) == 1


def test_speech_too_soft_for_us_interrupts_when_the_server_hears_it_go_on(talk: Talk) -> None:
    talk.speaks()
    talk.speech()
    talk.silence(round(1000 * BLIND_SECONDS) - 100)
    assert talk.paused
    talk.silence(100 + round(2000 * CHECK_SECONDS))
    assert len(talk.truncations) == 1


def test_speech_too_soft_for_us_that_is_over_waits_for_its_words(talk: Talk) -> None:
    talk.speaks()
    talk.speech()
    talk.over()
    talk.transcribed("Stop!")
    assert len(talk.truncations) == 1


def test_the_noise_of_the_line_is_no_speech() -> None:
    noise, talk = random.Random(1), Talk()

    def hum(ms: int, level: int) -> None:
        for _ in range(ms // 20):
            pcm = b"".join(noise.randrange(-level, level).to_bytes(2, "little", signed=True) for _ in range(160))
            talk.line(encode_ulaw(pcm))

    hum(2000, 1500)
    talk.says(5000)
    hum(300, 1500)
    talk.speech()
    hum(1000, 1500)
    assert talk.truncations == []
    hum(1000, 12_000)
    assert len(talk.truncations) == 1


# --- who has the floor ---


def test_a_caller_who_speaks_in_a_silence_is_answered_at_once(talk: Talk) -> None:
    talk.silence(1000)
    talk.begins()
    talk.sound(100)
    talk.over()
    talk.created("r1")
    talk.audio(100)
    assert not talk.events(AgentPaused)
    assert talk.media_ms() == 100


def test_a_cough_while_the_agent_thinks_does_not_cost_the_answer(talk: Talk) -> None:
    talk.silence(1000)
    talk.begins()
    talk.sound(600)
    talk.over("u1")
    talk.created("r1")
    talk.begins()
    talk.audio(1000)
    assert talk.media_ms() == 0, "held until it is clear"
    talk.over("u2")
    talk.transcribed("", "u2")
    talk.silence(20)
    assert talk.media_ms() == 1000
    assert talk.cancels == []
    assert talk.events(AgentPaused) == [], "there was nothing to be heard"


def test_a_caller_who_goes_on_before_the_answer_is_heard_out(talk: Talk) -> None:
    talk.silence(1000)
    talk.begins()
    talk.sound(600)
    talk.over("u1")
    talk.created("r1")
    talk.begins()
    talk.audio(1000)
    talk.sound(900)
    assert talk.cancels == ["r1"]
    assert talk.media_ms() == 0


def test_a_response_without_sound_leaves_a_turn() -> None:
    talk = Talk(server_answers=False)
    talk.silence(1000)
    talk.begins()
    talk.sound(600)
    talk.over("u1")
    talk.created("r1")
    talk.begins()
    talk.calls()
    talk.done("r1")
    talk.over("u2")
    assert talk.paused, "a tool runs"
    talk.returns()
    assert not talk.paused
    assert len(talk.creates) == 2, "one for each turn, and the tool's output is in the second"


def test_the_greeting_is_not_paused() -> None:
    talk = Talk(greeting="Hello!")
    talk.says(2000, ours=True)
    talk.begins()
    talk.sound(600)
    assert not talk.paused
    talk.over()
    talk.silence(2000)
    talk.hear()
    assert len(talk.events(AgentPaused)) == 0
    assert talk.truncations == []


@pytest.mark.parametrize("heard", [False, True])
def test_protected_words_are_heard_to_their_end(talk: Talk, heard: bool) -> None:
    talk.silence(1000)
    talk.bridge.conversation.say("This call is recorded.", interruptible=False)
    talk.bridge.move_on(talk.now)
    talk.flush()
    if heard:
        talk.says(1000, ours=True)
    talk.begins()
    talk.sound(600)
    assert not talk.paused
    assert (talk.cancels, talk.truncations) == ([], [])


@pytest.mark.parametrize("least", [0, 500])
def test_speech_over_the_end_of_protected_words_stops_what_follows(least: int) -> None:
    talk = Talk(greeting="Hello!", min_speech_ms=least)
    talk.says(2000, ours=True)
    talk.silence(500)
    talk.begins()
    talk.sound(600)
    talk.over("u1")
    talk.says(8000, "i2", "r2")
    talk.begins()  # 300 ms before the end of the greeting
    talk.sound(400)
    talk.sound(2000)
    assert [item for item, _ in talk.truncations] == ["i2"]


@pytest.mark.parametrize("asked", [False, True])
def test_an_answer_to_noise_that_came_to_nothing_is_not_asked_for_again(talk: Talk, asked: bool) -> None:
    talk.speaks()
    talk.begins()
    talk.sound(100)
    talk.over("u1")
    talk.created("r2", ours=False)
    talk.done("r2", "failed")
    if asked:
        talk.created("r3", ours=True)
        talk.audio(200, "i3", "r3")
    talk.transcribed("")
    talk.silence(20)
    if not asked:
        talk.created("r3", ours=True)
    assert talk.cancels == ["r3"]
    before = talk.media_ms()
    talk.audio(1000, "i3", "r3")
    assert talk.media_ms() == before


def test_speech_that_goes_on_after_the_agent_has_finished_is_a_turn(talk: Talk) -> None:
    talk.speaks(1500)
    talk.begins(60)
    talk.silence(2500)
    talk.hear()
    talk.sound(2000)  # in the same speech, as the server hears it
    talk.over()
    talk.created("r2", ours=False)
    assert talk.cancels == []


@pytest.mark.parametrize("text", ["", "Mhm."])
def test_a_cough_before_the_answer_begins_does_not_cost_it(talk: Talk, text: str) -> None:
    talk.silence(1000)
    talk.begins()
    talk.sound(2000)
    talk.over("u1")
    talk.begins(60)
    talk.sound(140)
    talk.over("u2")
    talk.transcribed(text, "u2")
    talk.silence(40)
    talk.created("r2", ours=False)
    talk.audio(100, "i2", "r2")
    assert talk.cancels == []
    assert talk.media_ms() == 100


def test_words_that_are_not_protected_can_be_interrupted(talk: Talk) -> None:
    talk.silence(1000)
    talk.say("One moment.")
    talk.says(3000, ours=True)
    talk.begins()
    talk.sound(900)
    assert len(talk.truncations) == 1


def test_user_code_interrupts_in_a_pause(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.interrupt()
    assert not talk.paused
    assert len(talk.truncations) == 1


def test_a_call_that_is_about_to_end_goes_on_to_its_end(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.hang_up(goodbye=False)
    assert not talk.paused
    talk.silence(6000)
    talk.hear()
    talk.assert_over("agent")


def test_a_pause_is_not_filled() -> None:
    talk = Talk(silence=Silence(dead_air_ms=300, filler=ulaw(100)))
    talk.speaks()
    talk.begins()
    talk.sound(700)
    assert talk.paused
    assert talk.events(SilenceFilled) == []


# --- other sessions ---


def test_a_lost_session_ends_the_pause() -> None:
    talk = Talk(renews=True)
    talk.speaks()
    talk.begins()
    talk.bridge.model_away(talk.now, "gone")
    talk.flush()
    assert not talk.paused
    assert talk.causes == ["noise"]


def test_a_hand_over_in_a_pause_tells_what_was_heard(talk: Talk) -> None:
    talk.speaks()
    talk.begins()
    talk.hand_over()
    (turn,) = [event.turn for event in talk.events(TurnEnded)]
    assert turn.interrupted
    assert 390 <= turn.heard_ms <= 400


# --- the agent's own voice ---


def voice(ms: int, seed: int = 1) -> bytes:
    """Something like speech: syllables of changing pitch and loudness."""
    chance, samples, phase = random.Random(seed), list[int](), 0.0
    while len(samples) < ms * 8:
        pitch, level = chance.uniform(90, 260), chance.uniform(2_000, 9_000)
        length = chance.randrange(400, 1600)
        for n in range(length):
            phase += 2 * math.pi * pitch / 8000
            envelope = math.sin(math.pi * n / length)
            value = sum(math.sin(k * phase) / k for k in range(1, 12)) + chance.uniform(-0.3, 0.3)
            samples.append(round(level * envelope * value))
    clipped = (max(-32767, min(32767, each)) for each in samples[: ms * 8])
    return encode_ulaw(b"".join(each.to_bytes(2, "little", signed=True) for each in clipped))


def test_the_agents_own_voice_does_not_interrupt_and_later_does_not_even_pause(talk: Talk) -> None:
    def echo(ms: int) -> None:
        """The line brings back what the phone played 200 ms ago, 20 dB softer."""
        for _ in range(ms // 20):
            frame = bytes(talk.played[-200 * 8 : -180 * 8])
            talk.line(encode_ulaw(audioop.mul(decode_ulaw(frame), 2, 0.1)))

    talk.silence(1000)
    talk.created()
    talk.model(realtime.AudioDelta(response_id="r1", item_id="i1", delta=base64.b64encode(voice(8000)).decode()))
    talk.audio_done()
    talk.done()
    echo(700)
    talk.speech()
    assert talk.paused
    echo(600)
    assert talk.causes == ["echo"]
    talk.turn("u1")
    assert talk.deleted == ["u1"]
    echo(600)
    talk.speech()
    assert not talk.paused
    echo(1000)
    talk.turn("u2")
    talk.transcribed("Or in a week, if you like.", "u2")
    talk.transcribed("", "u1")
    assert talk.deleted == ["u1", "u2"], "once each"
    assert len(talk.events(AgentPaused)) == 1
    assert talk.truncations == []
    echo(300)
    talk.speech()
    talk.line(voice(300, seed=9))  # the caller speaks
    assert talk.paused
    talk.line(voice(900, seed=10))
    assert len(talk.truncations) == 1


# --- the policy ---


@pytest.mark.parametrize("value", [-1, 5001, 0.5, True, "500"])
@pytest.mark.parametrize("name", ["min_speech_ms", "backchannel_ms", "words_ms"])
def test_a_time_that_makes_no_sense_is_refused(name: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=f"Interruption has {name}="):
        Interruption(**{name: value})


def test_speech_interrupts_unless_it_is_switched_off() -> None:
    assert Rig().bridge.interruptions.allowed()
    assert not Rig(barge_in=False).bridge.interruptions.allowed()
    assert Interruption().server_may_answer
    assert not Interruption(enabled=False).server_may_answer


@pytest.mark.parametrize("greeting", [True, False])
def test_the_greeting_is_protected_until_it_was_heard(greeting: bool) -> None:
    rig = Rig(connect=False, greeting_interruptible=greeting)
    interruptions, gate = rig.bridge.interruptions, rig.bridge.responses
    gate.want(prompts.greeting("Hello!"))
    assert interruptions.allowed() is greeting  # in line
    rig.connect()
    assert interruptions.allowed() is greeting  # requested
    rig.says(1000, ours=True)
    rig.wait(0.5)
    assert interruptions.allowed() is greeting  # heard in part
    rig.wait(0.6)
    rig.hear()
    assert interruptions.allowed()


# --- short sounds over words that nothing stops ---


def over_the_greeting(text: str | None, *, sound_ms: int = 200, remaining_ms: int = 3000, **policy: Any) -> Talk:
    """The caller makes a sound while the greeting, which is protected, goes on; the server answers it."""
    talk = Talk(greeting="Hello!", **policy)
    talk.silence(1000)
    talk.says(1700 + remaining_ms, ours=True)
    talk.silence(1000)
    talk.begins()
    talk.sound(sound_ms - 100)
    talk.over()
    talk.created("r2", ours=False)
    if text is not None:
        talk.transcribed(text)
    talk.silence(40)
    return talk


@pytest.mark.parametrize("policy", [{}, {"barge_in": False}])
def test_a_cough_over_the_greeting_is_not_answered(policy: Any) -> None:
    talk = over_the_greeting("", **policy)
    assert (talk.cancels, talk.deleted, talk.creates[1:]) == (["r2"], ["u1"], [])
    talk.done("r2", "cancelled")
    talk.silence(6000)
    assert (talk.causes, talk.truncations, talk.creates[1:]) == ([], [], [])
    assert talk.bridge.floor() is Floor.OPEN


@pytest.mark.parametrize("text", ["Hello?", "Yes."])
def test_a_word_over_the_greeting_is_answered_after_it(text: str) -> None:
    talk = over_the_greeting(text)
    talk.done("r2", "cancelled")
    talk.silence(20)
    assert (talk.deleted, talk.truncations) == ([], [])
    assert len(talk.creates) == 2


@pytest.mark.parametrize(("sound_ms", "remaining_ms"), [(900, 3000), (200, 300)])
def test_what_is_longer_or_said_at_the_end_is_answered_as_any_turn(sound_ms: int, remaining_ms: int) -> None:
    talk = over_the_greeting(None, sound_ms=sound_ms, remaining_ms=remaining_ms)
    assert (talk.cancels, talk.deleted) == ([], [])


def test_without_transcripts_each_turn_over_the_greeting_is_answered() -> None:
    talk = over_the_greeting(None, words_ms=0)
    assert (talk.cancels, talk.deleted) == ([], [])
