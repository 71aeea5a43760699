"""WAV files of all kinds become telephone audio, and what is none is named."""

from __future__ import annotations

import io
import math
import struct
import wave

import pytest

from phoneagent.protocol.audio import decode_ulaw, encode_ulaw
from phoneagent.protocol.wav import HEAD_BYTES, MAX_DATA_BYTES, WavError, stereo_head, ulaw_of_wav


def sine(hz: float, rate: int, seconds: float = 0.25, amplitude: float = 8000) -> list[int]:
    return [round(amplitude * math.sin(2 * math.pi * hz * n / rate)) for n in range(int(seconds * rate))]


def pcm(samples: list[int], rate: int, channels: int = 1, width: int = 2) -> bytes:
    """A WAV file; with two channels the second one is silent."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        scale = 256 ** (width - 2) if width > 1 else 1 / 256
        frames = []
        for sample in samples:
            value = round(sample * scale) + (128 if width == 1 else 0)
            one = value.to_bytes(width, "little", signed=width > 1)
            rest = (128 if width == 1 else 0).to_bytes(width, "little")
            frames.append(one + rest * (channels - 1))
        out.writeframes(b"".join(frames))
    return file.getvalue()


def riff(
    kind: int, channels: int, rate: int, bits: int, audio: bytes, *, before: bytes = b"", more: bytes = b""
) -> bytes:
    head = struct.pack("<HHIIHH", kind, channels, rate, rate, bits // 8 * channels, bits) + more
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", len(audio)) + audio
    return b"RIFF" + struct.pack("<I", len(body)) + body


def level(ulaw: bytes, hz: float) -> float:
    """The amplitude of one frequency."""
    samples = struct.unpack(f"<{len(ulaw)}h", decode_ulaw(ulaw))[80:-80]
    turn = 2 * math.pi * hz / 8000
    return (
        2
        * math.hypot(*(sum(s * f(turn * n) for n, s in enumerate(samples)) for f in (math.sin, math.cos)))
        / len(samples)
    )


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000])
def test_any_rate_keeps_what_a_telephone_carries(rate: int) -> None:
    ulaw = ulaw_of_wav(pcm(sine(1000, rate), rate), max_seconds=10)
    assert len(ulaw) == pytest.approx(2000, abs=12)
    assert level(ulaw, 1000) == pytest.approx(8000, rel=0.12 if rate > 4000 else 0.5)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_what_it_does_not_carry_does_not_come_back_as_another_tone(rate: int) -> None:
    ulaw = ulaw_of_wav(pcm(sine(5000, rate), rate), max_seconds=10)
    assert level(ulaw, 3000) < 8000 * 0.03


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_any_width(width: int) -> None:
    ulaw = ulaw_of_wav(pcm(sine(500, 8000), 8000, width=width), max_seconds=10)
    assert level(ulaw, 500) == pytest.approx(8000, rel=0.05)


def test_stereo_is_the_mean_of_both() -> None:
    ulaw = ulaw_of_wav(pcm(sine(500, 44100), 44100, channels=2), max_seconds=10)
    assert level(ulaw, 500) == pytest.approx(4000, rel=0.05)


def test_mu_law_stays_as_it_is_and_a_law_does_not() -> None:
    ulaw = bytes(range(256))
    assert ulaw_of_wav(riff(7, 1, 8000, 8, ulaw, before=b"LIST\x03\x00\x00\x00abc\x00"), max_seconds=1) == ulaw
    alaw = ulaw_of_wav(riff(6, 1, 8000, 8, b"\xd5" * 800), max_seconds=1)
    assert set(decode_ulaw(alaw)) <= {0, 8}
    assert len(ulaw_of_wav(riff(7, 2, 16000, 8, ulaw * 4), max_seconds=1)) == 256


def test_an_extensible_file_names_its_format_further_on() -> None:
    ulaw = bytes(range(256))
    more = struct.pack("<HHIH", 22, 8, 4, 7) + bytes.fromhex("000000001000800000aa00389b71")
    assert ulaw_of_wav(riff(0xFFFE, 1, 8000, 8, ulaw, more=more), max_seconds=1) == ulaw


def test_a_file_that_is_longer_than_it_says_ends_with_its_last_whole_sample() -> None:
    assert len(ulaw_of_wav(riff(1, 1, 8000, 16, b"\0" * 321), max_seconds=1)) == 160


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a WAV file"),
        (b"ID3\x04" * 10, "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE", "no sound"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "no sound"),
        (riff(1, 1, 8000, 16, b""), "no audio"),
        (riff(3, 1, 8000, 32, b"\0" * 8), "format 3 with 32 bits and 1 channels"),
        (riff(1, 0, 8000, 16, b"\0" * 8), "0 channels"),
        (riff(1, 1, 8000, 12, b"\0" * 8), "12 bits"),
        (riff(1, 1, 1, 16, b"\0" * 8), "its sample rate is 1 Hz"),
        (riff(1, 1, 2**32 - 1, 16, b"\0" * 8), "its sample rate is"),
        (riff(7, 1, 8000, 8, b"\xff" * 8000 * 3600), "it lasts 3600 s, and at most 300 s"),
    ],
    ids=["empty", "mp3", "no chunks", "no format", "no audio", "float", "none", "12 bits", "slow", "fast", "hour"],
)  # fmt: skip
def test_what_cannot_be_played_is_named(data: bytes, why: str) -> None:
    with pytest.raises(WavError) as error:
        ulaw_of_wav(data, max_seconds=300)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_the_head_of_a_recording_is_a_wav_file_s() -> None:
    with wave.open(io.BytesIO(stereo_head(8) + b"\1\0\2\0\3\0\4\0")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth(), file.getnframes()) == (2, 8000, 2, 2)
        assert file.readframes(2) == b"\1\0\2\0\3\0\4\0"
    assert len(stereo_head(0)) == HEAD_BYTES
    assert len(stereo_head(MAX_DATA_BYTES)) == HEAD_BYTES


def test_silence_is_silence() -> None:
    assert set(encode_ulaw(decode_ulaw(ulaw_of_wav(pcm([0] * 4410, 44100), max_seconds=1)))) == {0xFF}
