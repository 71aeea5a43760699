"""WAV files in and out."""

from __future__ import annotations

import io
import struct
import wave
from array import array
from math import pi, sin
from pathlib import Path

import pytest

from phoneagent.protocol.audio import decode_ulaw, rms, tone
from phoneagent.sim.recording import RecordingError, read_wav, write_stereo

DATA = Path(__file__).parents[1] / "data"


def pcm_wav(rate: int, *tracks: list[int]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(len(tracks))
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(
            struct.pack(f"<{len(tracks) * len(tracks[0])}h", *(s for frame in zip(*tracks, strict=True) for s in frame))
        )
    return file.getvalue()


def sine(rate: int, hz: float, ms: int) -> list[int]:
    return [round(10000 * sin(2 * pi * hz * n / rate)) for n in range(rate * ms // 1000)]


def test_telephone_speech_is_taken_as_it_is():
    data = (DATA / "librivox-0880.ulaw.wav").read_bytes()
    audio = read_wav(data)
    assert audio in data
    assert 23_000 < len(audio) < 24_000
    assert rms(audio) > 300


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_pcm_comes_down_to_8_khz_with_its_tone_and_without_what_would_fold_back(rate: int):
    low = read_wav(pcm_wav(rate, sine(rate, 1000, 300)))
    assert len(low) == 2400
    assert rms(low[400:-400]) == pytest.approx(7071, rel=0.03)
    if rate > 8000:
        # 5 kHz would fold to 3 kHz.
        assert rms(read_wav(pcm_wav(rate, sine(rate, 5000, 300)))[400:-400]) < 100


def test_stereo_is_mixed():
    left, right = sine(8000, 500, 100), [0] * 800
    assert rms(read_wav(pcm_wav(8000, left, right))) == pytest.approx(rms(read_wav(pcm_wav(8000, left))) / 2, rel=0.03)


def test_chunks_before_the_sound_are_passed_over_and_a_cut_file_is_read():
    wav = pcm_wav(8000, sine(8000, 500, 100))
    odd = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"
    assert read_wav(wav[:12] + odd + wav[12:]) == read_wav(wav)
    assert len(read_wav(wav[: 44 + 201])) == 100


def test_extensible_pcm():
    audio = struct.pack("<100h", *range(100))
    guid = struct.pack("<H", 1) + bytes(14)
    shape = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 8000, 16000, 2, 16, 22, 16, 0) + guid
    chunks = b"WAVEfmt " + len(shape).to_bytes(4, "little") + shape + b"data" + (200).to_bytes(4, "little") + audio
    assert len(read_wav(b"RIFF" + len(chunks).to_bytes(4, "little") + chunks)) == 100


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a WAV file"),
        (b"ID3\x04" + bytes(100), "not a WAV file"),
        (pcm_wav(8000, [0] * 8)[:36], "without sound"),
        (pcm_wav(44100, [0] * 8), "44100 Hz"),
        (pcm_wav(8000, [0], [0], [0]), "3 channels"),
    ],
)
def test_other_files_are_refused(data: bytes, words: str):
    with pytest.raises(RecordingError, match=words):
        read_wav(data)


def test_a_stereo_file_has_both_tracks_in_step():
    left, right = tone(400, 100), tone(900, 50)
    with wave.open(io.BytesIO(write_stereo(left, right))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        both = array("h", file.readframes(10_000))
    assert both[0::2].tobytes() == decode_ulaw(left)
    assert both[1::2].tobytes() == decode_ulaw(right + b"\xff" * 400)
