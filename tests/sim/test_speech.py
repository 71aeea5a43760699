from __future__ import annotations

import importlib.util
import json

import pytest

from phoneagent.protocol.audio import FRAME_BYTES, decode_ulaw, rms, tone
from phoneagent.sim import speech
from phoneagent.sim.recogniser import MoonshineEar
from phoneagent.sim.speech import ClipVoice, HibariVoice, Murmur, agent_voice, caller_voice, default_ear, normalised

pytestmark = pytest.mark.anyio

LINE = "Good evening, I would like a table for four, please."
ODD = ["", "  \n", "\x00", "?!…", "日本語", "🙂" * 50, "a" * 5000, "7:30 pm £5 <b>", "\ud800"]
neural = pytest.mark.skipif(importlib.util.find_spec("hibari") is None, reason="the extra `demo` is not installed")
ears = pytest.mark.skipif(not MoonshineEar.available(), reason="the extra `demo` is not installed")


def test_murmur_lasts_as_long_as_the_words():
    seconds = len(Murmur().render(LINE)) / 8000
    assert seconds == pytest.approx(len(LINE) / 14, rel=0.1)


def test_murmur_is_the_same_for_the_same_text_and_other_for_another():
    assert Murmur().render(LINE) == Murmur().render(LINE)
    spoken = {Murmur().render(text) for text in (LINE, LINE.upper(), LINE[::-1], "No.", "On.")}
    assert len(spoken) == 5
    assert Murmur(pitch_hz=120).render(LINE) != Murmur(pitch_hz=200).render(LINE)


def test_murmur_is_soft_but_loud_enough_for_a_detector():
    spoken = Murmur().render(LINE)
    assert 800 < rms(spoken) < 3000
    loudest = max(abs(sample) for sample in memoryview(decode_ulaw(spoken)).cast("h"))
    assert loudest < 16000


def test_murmur_never_pauses_as_long_as_a_turn_ends():
    spoken = Murmur().render(LINE + " " + LINE)
    quiet = longest = 0
    for index in range(0, len(spoken), 80):
        quiet = 0 if rms(spoken[index : index + 80]) > 300 else quiet + 10
        longest = max(longest, quiet)
    assert longest < 300


@pytest.mark.parametrize("text", ODD)
def test_murmur_takes_any_text(text):
    spoken = Murmur().render(text)
    assert 0 < len(spoken) <= 160 * 8000


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"hello there its me": "hello.ulaw"}))
    (tmp_path / "hello.ulaw").write_bytes(tone(440, 100))
    return tmp_path


@pytest.mark.parametrize("text", ["Hello there! It's me.", "hello there, its me", " HELLO THERE — IT’S ME "])
def test_clip_voice_finds_a_line_whatever_its_punctuation(clips, text):
    assert ClipVoice(clips, Murmur()).render(text) == tone(440, 100)


def test_clip_voice_leaves_other_lines_to_its_fallback(clips):
    assert ClipVoice(clips, Murmur()).render("Hello there!") == Murmur().render("Hello there!")


def test_clip_voice_needs_an_index(tmp_path):
    with pytest.raises(OSError, match=r"index\.json"):
        ClipVoice(tmp_path, Murmur())


def test_normalized():
    assert normalised("Chez Nous, good evening! It's 7:30.") == "chez nous good evening its 7 30"


def test_base_installation_murmurs_and_does_not_hear(monkeypatch, clips):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    agent, caller = agent_voice(), caller_voice()
    assert (type(agent), type(caller)) == (Murmur, Murmur)
    assert agent.render(LINE) != caller.render(LINE)
    assert default_ear() is None
    assert isinstance(agent_voice(clips), ClipVoice)
    assert isinstance(caller_voice(clips), ClipVoice)


@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0x9A, 0xE5, 0xFF])
def test_peak_is_that_of_the_samples(byte):
    sample = memoryview(decode_ulaw(bytes([byte]))).cast("h")[0]
    assert speech._peak(bytes([0xFF, byte])) == abs(sample)


@neural
def test_hibari_speaks_trimmed_frames_at_a_good_level():
    spoken = HibariVoice().render(LINE)
    assert len(spoken) % FRAME_BYTES == 0
    assert 2 < len(spoken) / 8000 < 6
    assert 1200 < rms(spoken) < 5000
    voiced = [index for index in range(0, len(spoken), 80) if rms(spoken[index : index + 80]) > 200]
    assert voiced[0] <= 100 * 8
    assert len(spoken) - voiced[-1] <= 250 * 8


@neural
def test_hibari_is_deterministic_and_its_caller_is_another_person():
    agent, caller = agent_voice(), caller_voice()
    assert agent.render(LINE) == HibariVoice().render(LINE)
    assert agent.render(LINE) != caller.render(LINE)


@neural
def test_hibari_pauses_between_sentences_less_than_a_turn_ends():
    spoken = HibariVoice().render("Good evening! Do you have a table?")
    quiet = longest = 0
    for index in range(0, len(spoken), 80):
        quiet = 0 if rms(spoken[index : index + 80]) > 200 else quiet + 10
        longest = max(longest, quiet)
    assert 200 <= longest < 480


@neural
@pytest.mark.parametrize("text", ODD)
def test_hibari_takes_any_text(text):
    assert 0 < len(HibariVoice().render(text)) <= 160 * 8000


@neural
def test_hibari_murmurs_what_its_engine_stumbles_over(monkeypatch, caplog):
    def stumble():
        raise RuntimeError("no")

    monkeypatch.setattr(speech, "_hibari", stumble)
    assert HibariVoice().render(LINE) == Murmur(pitch_hz=170.0).render(LINE)
    assert LINE not in caplog.messages[0]
    assert "murmured" in caplog.messages[0]
