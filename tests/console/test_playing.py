"""The recordings that a request brings: what is played, and what is refused."""

from __future__ import annotations

import struct

import pytest

from phoneagent.cli.limits import MAX_HEAD_BYTES, MAX_REQUEST_BYTES
from phoneagent.console.playing import MAX_BODY_BYTES, Play, make_clip
from phoneagent.console.problems import BadRequest
from phoneagent.protocol.audio import SAMPLE_RATE


def wav(*, seconds: float, rate: int = SAMPLE_RATE, kind: int = 1, bits: int = 16) -> bytes:
    """Return a WAV file in mono: a square wave of 200 Hz."""
    half = rate // 400
    period = b"\x00\x20" * half + b"\x00\xe0" * half
    if bits == 8:
        period = period[1::2]
    audio = (period * (int(seconds * 200) + 1))[: int(seconds * rate) * bits // 8]
    shape = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, 1, rate, rate * bits // 8, bits // 8, bits)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(audio), b"WAVE")
        + shape
        + struct.pack("<4sI", b"data", len(audio))
        + audio
    )


def test_a_file_becomes_a_clip_with_its_words() -> None:
    clip, interruptible = make_clip(Play(wav=wav(seconds=1.5), text="A word from us.", interruptible=False))
    assert (round(clip.seconds, 2), clip.text, clip.name, interruptible) == (1.5, "A word from us.", "clip", False)
    assert make_clip(Play(wav=wav(seconds=1), name="jingle"))[0].name == "jingle"


def test_one_of_another_rate_is_converted() -> None:
    assert round(make_clip(Play(wav=wav(seconds=2, rate=44_100)))[0].seconds, 1) == 2.0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x", "it is not a WAV file"),
        (wav(seconds=1)[:20], "it has no sound"),
        (wav(seconds=0), "it has no audio"),
        (wav(seconds=1, kind=3, bits=16), "give PCM, µ-law or A-law"),
        (wav(seconds=301, kind=7, bits=8, rate=4000), "at most 300 s are played: cut it"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        make_clip(Play(wav=data))
    assert caught.value.status == 400


def test_the_largest_body_has_most_of_a_minute_and_passes_the_server() -> None:
    assert 46 <= MAX_BODY_BYTES * 3 / 4 / (2 * SAMPLE_RATE) < 47
    assert MAX_BODY_BYTES + MAX_HEAD_BYTES < MAX_REQUEST_BYTES
