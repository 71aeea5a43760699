"""Which audio is noise to a caller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.model.audio import from_ulaw
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.noise import is_pcm16
from tests.recordings import read_wav

DATA = Path(__file__).parents[2] / "data"
SPOKEN = {
    "murmur": Murmur().render("A table for four at half past seven, please."),
    "a voice": read_wav((DATA / "jfk.ulaw.wav").read_bytes()),
    "another voice": read_wav((DATA / "librivox-0880.ulaw.wav").read_bytes()),
}


@pytest.mark.parametrize("ulaw", SPOKEN.values(), ids=SPOKEN)
def test_speech_as_pcm_and_as_ulaw(ulaw: bytes):
    assert not is_pcm16(ulaw)
    pcm = from_ulaw(ulaw, {"type": "audio/pcm", "rate": 24000})
    assert is_pcm16(pcm)
    assert is_pcm16(silence(100) + pcm), "an even number of bytes before it"


@pytest.mark.parametrize(
    "audio", [b"", silence(9000), tone(440, 9000), tone(500, 9000), tone(1000, 9000), os.urandom(20000), bytes(20000)]
)
def test_what_is_not_pcm(audio: bytes):
    assert not is_pcm16(audio)


def test_a_short_piece_is_not_judged():
    assert not is_pcm16(from_ulaw(SPOKEN["a voice"], {"type": "audio/pcm", "rate": 24000})[:7000])
