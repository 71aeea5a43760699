from __future__ import annotations

import itertools
from typing import Any

import pytest

from phoneagent.protocol.audio import decode_ulaw, encode_ulaw, rms, tone
from phoneagent.sim.model.audio import Intake, bytes_per_ms, from_ulaw

FORMATS: list[dict[str, Any]] = [{"type": "audio/pcmu"}, {"type": "audio/pcma"}, {"type": "audio/pcm", "rate": 24000}]


def crossings(ulaw: bytes) -> int:
    """Count the changes of sign: a measure of pitch."""
    pcm = memoryview(decode_ulaw(ulaw)).cast("h")
    return sum(before < 0 <= after for before, after in itertools.pairwise(pcm))


@pytest.mark.parametrize("audio_format", FORMATS, ids=lambda form: form["type"])
def test_a_tone_survives_the_way_out_and_back(audio_format: dict[str, Any]) -> None:
    out = from_ulaw(tone(440, 1000), audio_format)
    intake = Intake(audio_format)
    back = b"".join(intake.feed(out[at : at + 333]) for at in range(0, len(out), 333))  # samples cut in two, too

    assert len(out) == pytest.approx(1000 * bytes_per_ms(audio_format), rel=0.01)
    assert len(back) == pytest.approx(8000, rel=0.03)
    assert crossings(back) == pytest.approx(440, abs=15)
    assert rms(back) == pytest.approx(rms(tone(440, 1000)), rel=0.1)


def test_ulaw_passes_untouched() -> None:
    every = bytes(range(256))

    assert Intake({"type": "audio/pcmu"}).feed(every) == every == from_ulaw(every, {"type": "audio/pcmu"})


def test_without_soxr_the_standard_resampler_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    intake = Intake({"type": "audio/pcm", "rate": 24000})

    heard = intake.feed(from_ulaw(tone(440, 500), {"type": "audio/pcm", "rate": 24000}))

    assert len(heard) == pytest.approx(4000, abs=4)
    assert crossings(heard) == pytest.approx(220, abs=3)
    assert encode_ulaw(b"") == intake.feed(b"\x00") == b""
