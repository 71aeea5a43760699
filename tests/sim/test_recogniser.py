"""The recogniser of English telephone speech. What needs the extra `demo` is skipped without it."""

from __future__ import annotations

import importlib.util
import time
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim import recogniser
from phoneagent.sim.recogniser import MoonshineEar, without_loops
from phoneagent.sim.speech import agent_voice, caller_voice, default_ear, normalised
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

LINE = "Good evening, I would like a table for four, please."
ears = pytest.mark.skipif(not MoonshineEar.available(), reason="the extra `demo` is not installed")


@ears
async def test_ear_understands_what_the_voice_says():
    assert isinstance(default_ear(), MoonshineEar)
    ear = MoonshineEar(limit_seconds=HANG_SECONDS)
    assert normalised(await ear.hear(caller_voice().render("What are your opening hours on Saturday?"))) == (
        "what are your opening hours on saturday"
    )


@ears
@pytest.mark.parametrize("ulaw", [b"", tone(440, 100), silence(2000)], ids=["nothing", "too short", "silence"])
async def test_ear_hears_no_words_where_none_are(ulaw):
    assert await MoonshineEar().hear(ulaw) == ""


@ears
async def test_ear_gives_up_in_time(caplog):
    ear = MoonshineEar(limit_seconds=0.001)
    assert await ear.hear(agent_voice().render(LINE)) == ""
    assert "not understood within" in caplog.messages[0]


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([9, 1, 2, 1, 2, 1, 2, 1, 2], [9, 1, 2]),
        ([5, 5, 5], [5, 5, 5]),  # a telephone number
        ([5] * 6, [5]),
        ([1, 2, 1, 2], [1, 2, 1, 2]),
        ([1, 2, 3, 4] * 3 + [7], [1, 2, 3, 4]),
        ([], []),
    ],
)
def test_loops_are_cut(tokens, kept):
    assert without_loops(tokens) == kept


def test_a_phrase_is_cut_at_its_first_repetition_and_what_came_before_stays():
    assert without_loops([8, 9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 7]) == [8, 9, 1, 2, 3]


def test_a_vocabulary_has_pieces_with_their_length_before_them():
    long = b"x" * 200
    data = bytes([3]) + b"abc" + bytes([0]) + bytes([128 | 200 & 127, 200 >> 7]) + long + bytes([1]) + b"z"
    assert recogniser._read_vocabulary(data) == [b"abc", b"", long, b"z"]


def test_without_the_package_there_are_no_weights(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not MoonshineEar.available()
    assert default_ear() is None


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A `moonshine_voice` whose files are in `tmp_path`, with every other module installed."""

    def find(name):
        spec = ModuleSpec(name, None, origin=str(tmp_path / "__init__.py"))
        return spec if name == "moonshine_voice" else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return tmp_path


def test_a_package_without_the_weights_does_not_count(package: Path):
    assert not MoonshineEar.available()

    folder = package / "assets" / "tiny-en"
    folder.mkdir(parents=True)
    (folder / "tokenizer.bin").write_bytes(b"")
    assert MoonshineEar.available()


async def test_warming_up_without_the_weights_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    recogniser._moonshine.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'phoneagent\[demo\]'"):
        await MoonshineEar().warm_up()


async def test_a_turn_that_takes_too_long_is_empty(monkeypatch, caplog):
    def slow(ulaw: bytes, deadline: float) -> str:
        assert deadline > began
        time.sleep(0.05)
        return "too late"

    began = time.monotonic()
    monkeypatch.setattr(recogniser, "_transcribe", slow)
    assert await MoonshineEar(limit_seconds=0.01).hear(silence(100)) == ""
    assert "100 ms was not understood within" in caplog.messages[0]
    assert await MoonshineEar(limit_seconds=10).hear(silence(100)) == "too late"
