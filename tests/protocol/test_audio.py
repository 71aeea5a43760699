from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.protocol import audio


def test_silence_is_ff_at_eight_bytes_a_millisecond() -> None:
    assert audio.silence(20) == b"\xff" * 160
    assert audio.rms(audio.silence(20)) == 0


def test_the_zero_byte_is_the_loudest_sample() -> None:
    assert audio.rms(b"\x00") == 32124


def test_the_levels_of_pieces_are_counted_from_the_end() -> None:
    loud, soft = audio.tone(440, 20, level=0.5), audio.tone(440, 20, level=0.1)
    pieces = [b"\x00" * 7 + soft, loud, audio.silence(20)]
    assert audio.piece_levels(b"".join(pieces), 160) == [audio.rms(soft), audio.rms(loud), 0]
    assert audio.piece_levels(b"\x00" * 159, 160) == audio.piece_levels(b"", 160) == []


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_a_tone_has_its_length_and_its_level(level: float) -> None:
    tone = audio.tone(440, 100, level=level)
    assert len(tone) == 800
    assert audio.rms(tone) == pytest.approx(32767 * level / 2**0.5, rel=0.05)


def test_a_tone_has_its_pitch() -> None:
    pcm = audio.decode_ulaw(audio.tone(440, 1000))
    samples = [int.from_bytes(pcm[at : at + 2], "little", signed=True) for at in range(0, len(pcm), 2)]
    rises = sum(before < 0 <= after for before, after in itertools.pairwise(samples))
    assert abs(rises - 440) <= 1


def test_every_ulaw_byte_survives_the_way_through_linear() -> None:
    once = audio.encode_ulaw(audio.decode_ulaw(bytes(range(256))))
    changed = [byte for byte in range(256) if once[byte] != byte]
    assert changed == [0x7F]  # the second zero


@given(st.binary(max_size=400))
def test_base64_is_counted_without_decoding_it(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert audio.is_base64(text)
    assert audio.base64_bytes(text) == len(data)


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAA",
        "AA=A",
        "A===",
        "====",
        "AA-A",
        "AA_A",
        "AAA\n",
        "AAAA\n\n\n\n",
        "ÄAAA",
        "AA A",
        "A=A=",
        "=AAA",
        "AA==AAAA",
        "AAAA====",
    ],
)
def test_what_is_not_padded_base64_is_told(text: str) -> None:
    assert not audio.is_base64(text)
