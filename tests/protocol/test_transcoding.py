from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.protocol.audio import SILENCE, decode_ulaw, rms, tone
from phoneagent.protocol.transcoding import PCM_BYTES_PER_MS, PCM_RATE, ToPcm, ToUlaw

SECOND = 1000
LEVEL = 0.3


def sine(hz: float, ms: int = SECOND) -> bytes:
    """Return a sine as PCM at 24 kHz, as loud as a `tone`."""
    samples = (round(32767 * LEVEL * math.sin(2 * math.pi * hz * n / PCM_RATE)) for n in range(ms * PCM_RATE // 1000))
    return b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples)


def strength(pcm: bytes, hz: float, rate: int) -> float:
    """Return the amplitude of one frequency in 16-bit PCM, 0 to 1 of full scale; the first 100 ms are left out."""
    samples = memoryview(pcm).cast("h")[rate // 10 :]
    turn = 2 * math.pi * hz / rate
    real = sum(sample * math.cos(turn * n) for n, sample in enumerate(samples))
    imaginary = sum(sample * math.sin(turn * n) for n, sample in enumerate(samples))
    return 2 * math.hypot(real, imaginary) / len(samples) / 32767


@pytest.mark.parametrize("hz", [300, 1000, 2000, 3000])
def test_the_voice_keeps_its_strength_both_ways(hz: int) -> None:
    up = ToPcm().feed(tone(hz, SECOND, level=LEVEL))
    assert len(up) == SECOND * PCM_BYTES_PER_MS
    assert strength(up, hz, PCM_RATE) == pytest.approx(LEVEL, rel=0.06)
    down = ToUlaw().feed(sine(hz))
    assert len(down) == SECOND * 8
    assert strength(decode_ulaw(down), hz, 8000) == pytest.approx(LEVEL, rel=0.06)


@pytest.mark.parametrize("hz", [5000, 6000, 7000, 11_000])
def test_what_a_telephone_cannot_carry_does_not_fold_into_the_voice(hz: int) -> None:
    assert rms(ToUlaw().feed(sine(hz))[800:]) < rms(tone(1000, SECOND, level=LEVEL)) / 100


@pytest.mark.parametrize("hz", [500, 2000, 3000])
def test_going_up_adds_no_images(hz: int) -> None:
    up = ToPcm().feed(tone(hz, SECOND, level=LEVEL))
    for image in (8000 - hz, 8000 + hz):
        assert strength(up, image, PCM_RATE) < LEVEL / 100


def test_there_and_back_is_the_same_but_for_a_moment() -> None:
    said = decode_ulaw(tone(700, 500, level=LEVEL))
    back = decode_ulaw(ToUlaw().feed(ToPcm().feed(tone(700, 500, level=LEVEL))))
    delay = 19  # samples at 8 kHz: the filter, twice
    differences = [
        abs(a - b)
        for a, b in zip(memoryview(said).cast("h")[400:-delay], memoryview(back).cast("h")[400 + delay :], strict=True)
    ]
    assert max(differences) < 32767 * LEVEL * 0.12


def test_silence_stays_silence() -> None:
    assert set(ToPcm().feed(SILENCE * 800)) == {0}
    assert set(ToUlaw().feed(bytes(4800))) == {0xFF}


def test_the_loudest_is_cut_and_does_not_wrap() -> None:
    loud = b"\x80" * 80 + b"\x00" * 80
    up = memoryview(ToPcm().feed(loud)).cast("h")
    assert max(up[120:220]) > 30_000
    assert min(up[120:220]) > 0
    back = memoryview(decode_ulaw(ToUlaw().feed(b"\xff\x7f" * 4800))).cast("h")
    assert min(back[100:]) > 30_000


@given(st.binary(min_size=1, max_size=600), st.lists(st.integers(0, 600), max_size=6))
def test_a_stream_may_be_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(borders)]
    up, down = ToPcm(), ToUlaw()
    assert b"".join(map(up.feed, pieces)) == ToPcm().feed(data)
    assert b"".join(map(down.feed, pieces)) == ToUlaw().feed(data)
    assert len(ToUlaw().feed(data)) == len(data) // 6
