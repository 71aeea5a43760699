"""Offline voices and ears: text to telephone audio, and back.

All audio is G.711 µ-law at 8 kHz, mono, eight bytes per millisecond. A base installation has `Murmur`, which voices any
text as a murmur of the right length, and `ClipVoice`, which plays lines that were rendered earlier. The extra `demo`
adds a real voice (`HibariVoice`) and a real ear (`MoonshineEar`). Both are imported late, so this module does not need
them.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import re
import sys
import threading
import zlib
from array import array
from functools import cache, lru_cache
from importlib.resources.abc import Traversable
from typing import Any, Protocol

from phoneagent.protocol.audio import FRAME_BYTES, SILENCE, encode_ulaw, silence

LONGEST_TEXT = 2000
"""The maximum length of a line in characters, about two and a half minutes of speech; the rest is cut."""

PAUSE_MS = 250
"""The pause between two sentences. The engine's own pauses exceed the silence that ends a turn by default."""

log = logging.getLogger(__name__)


class Voice(Protocol):
    """A text-to-speech engine."""

    def render(self, text: str) -> bytes:
        """Return `text` as speech in µ-law. May take about 100 ms (call it in a thread). No text makes it raise."""
        ...


class Ear(Protocol):
    """A speech recognizer."""

    async def hear(self, ulaw: bytes) -> str:
        """Return the words in `ulaw`; empty if there are none or they were not recognized in time."""
        ...


class Murmur:
    """Voices any text as a soft murmur: about one hum for each syllable, about 14 characters per second.

    The same text always gives the same bytes, and two texts give different ones. `pitch_hz` is the pitch of the voice.
    """

    def __init__(self, *, pitch_hz: float = 170.0) -> None:
        self._pitch_hz = pitch_hz

    def render(self, text: str) -> bytes:
        spoken = bytearray()
        for index, word in enumerate(text[:LONGEST_TEXT].split()):
            for start in range(0, len(word), 4):
                piece = word[start : start + 4]
                hue = zlib.crc32(f"{index} {word} {start}".encode(errors="replace"))
                spoken += _hum(self._pitch_hz, hue, len(piece) * 1000 // 14)
            spoken += silence(1000 // 14)
        return bytes(spoken) or silence(200)


@lru_cache(maxsize=2048)
def _hum(pitch_hz: float, hue: int, ms: int) -> bytes:
    """Return one syllable: a voiced tone that swells and fades. The number `hue` sets its pitch and vowel."""
    period = round(8000 / (pitch_hz * (0.85 + 0.3 * (hue & 0xFF) / 0xFF)))
    wave = _vowel(period, 350 + (hue >> 8 & 0xF) * 30, 900 + (hue >> 12 & 0xF) * 90)
    count = ms * 8
    swell = min(240, count // 2)
    samples = array("h")
    for n in range(count):
        edge = min(n, count - 1 - n)
        samples.append(int(wave[n % period] * (edge / swell if edge < swell else 1.0)))
    if sys.byteorder == "big":
        samples.byteswap()
    return encode_ulaw(samples.tobytes())


@cache
def _vowel(period: int, first_hz: int, second_hz: int) -> tuple[float, ...]:
    """Return one period of a hum, `period` samples long: harmonics that are strongest near two formants."""
    pitch = 8000 / period
    harmonics = []
    for number in range(1, int(3400 / pitch) + 1):
        near = max(math.exp(-(((number * pitch - formant) / 250) ** 2)) for formant in (first_hz, second_hz))
        harmonics.append((number, 0.15 / number + near))
    wave = [sum(a * math.sin(2 * math.pi * k * n / period) for k, a in harmonics) for n in range(period)]
    loudness = math.sqrt(sum(value * value for value in wave) / period)
    return tuple(1800 * value / loudness for value in wave)


class ClipVoice:
    """A voice that plays lines rendered earlier; `fallback` speaks lines without a clip.

    `folder` has an `index.json`, which maps each line (as `normalised` writes it) to a file of raw µ-law next to it.
    The case and punctuation of a line do not matter.

    Raises:
        OSError, ValueError: the folder has no readable index.
    """

    def __init__(self, folder: Traversable, fallback: Voice) -> None:
        self._folder = folder
        self._fallback = fallback
        self._files: dict[str, str] = json.loads(folder.joinpath("index.json").read_text(encoding="utf-8"))

    def murmurs(self, text: str) -> bool:
        """Return whether a line is murmured: it has no clip, and no real voice is installed."""
        return isinstance(self._fallback, Murmur) and normalised(text) not in self._files

    def render(self, text: str) -> bytes:
        name = self._files.get(normalised(text))
        return self._fallback.render(text) if name is None else self._folder.joinpath(name).read_bytes()


def normalised(text: str) -> str:
    """Return only the words of `text`: lower case, no punctuation, one space between them."""
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("’", "").replace("'", "")))


class HibariVoice:
    """Speaks any English text with hibari-tts, a small neural voice (needs the extra `demo`).

    Silence around the words is trimmed and the level set to about -20 dBFS. Two factors turn the voice into another
    person's: `size` below 1 lengthens the throat (the audio is read at a lower rate, and spoken faster to compensate),
    `pitch` scales the melody's pitch. The first line loads the model.
    """

    def __init__(self, *, size: float = 1.0, pitch: float = 1.0) -> None:
        self._size = size
        self._pitch = pitch
        self._fallback = Murmur(pitch_hz=170.0 * size * pitch)

    def render(self, text: str) -> bytes:
        try:
            spoken = self._speak(text[:LONGEST_TEXT])
        except Exception:  # a young library; a line that it cannot speak must not end the conversation
            log.warning("hibari-tts could not speak a line of %d characters; it is murmured", len(text), exc_info=True)
            spoken = b""
        return spoken or self._fallback.render(text)

    def _speak(self, text: str) -> bytes:
        import numpy
        import soxr
        from hibari import dsp

        engine, lock = _hibari()
        noise = numpy.random.default_rng(1)  # seeded: the same line always has the same bytes
        sentences = []
        with lock:
            for phonemes in engine.phonemize(text):
                inputs = {
                    "ids": numpy.asarray([engine.ids(phonemes)], numpy.int64),
                    "speed": numpy.asarray([1 / self._size], numpy.float32),
                }
                *spectrum, melody = (output[0] for output in engine.sess.run(None, inputs))
                audio = dsp.synth(*spectrum, melody * numpy.float32(self._pitch), noise)
                sentences.append(soxr.resample(audio, dsp.SR * self._size, 8000))
        if not sentences:
            return b""
        gain = _gain(numpy, numpy.concatenate(sentences))
        trimmed = [_trimmed(encode_ulaw((audio * gain * 32767).astype("<i2").tobytes())) for audio in sentences]
        spoken = silence(PAUSE_MS).join(part for part in trimmed if part)
        return spoken + SILENCE * (-len(spoken) % FRAME_BYTES)


@cache
def _hibari() -> tuple[Any, threading.Lock]:
    """Load the engine once per process, with the lock that admits one line at a time."""
    from hibari import Hibari

    return Hibari(), threading.Lock()


def _gain(numpy: Any, audio: Any) -> float:
    """Return the factor that brings the loud parts of float samples to about -20 dBFS, without clipping."""
    loud = audio[numpy.abs(audio) > 0.01]
    if not len(loud):
        return 1.0
    return min(0.1 / float(numpy.sqrt(numpy.mean(loud * loud))), 0.95 / float(numpy.abs(audio).max()))


def _trimmed(ulaw: bytes, *, keep_ms: int = 40) -> bytes:
    """Cut the silence before and after the words down to `keep_ms`."""
    loud = [index for index in range(0, len(ulaw), 80) if _peak(ulaw[index : index + 80]) > 300]
    if not loud:
        return b""
    return ulaw[max(loud[0] - keep_ms * 8, 0) : loud[-1] + 80 + keep_ms * 8]


def _peak(ulaw: bytes) -> int:
    """Return the largest magnitude in `ulaw`, 0 to 32124: µ-law's own order, the smaller the byte the louder."""
    least = min(byte & 0x7F for byte in ulaw)
    exponent, mantissa = (~least >> 4) & 7, ~least & 0xF
    return (((mantissa << 3) + 0x84) << exponent) - 0x84


def agent_voice(clips: Traversable | None = None) -> Voice:
    """Return the best installed voice for an agent. Lines with a clip in the folder `clips` are played from it."""
    voice: Voice = HibariVoice() if _installed("hibari", "onnxruntime", "soxr", "numpy") else Murmur(pitch_hz=200)
    return voice if clips is None else ClipVoice(clips, voice)


def caller_voice(clips: Traversable | None = None) -> Voice:
    """Return the best installed voice for a caller, clearly different from `agent_voice`."""
    voice: Voice = Murmur(pitch_hz=120)
    if _installed("hibari", "onnxruntime", "soxr", "numpy"):
        voice = HibariVoice(size=0.85, pitch=0.8)
    return voice if clips is None else ClipVoice(clips, voice)


def default_ear() -> Ear | None:
    """Return a real ear if the extra `demo` is installed, else None: hearing must then be scripted."""
    from phoneagent.sim.recogniser import MoonshineEar

    return MoonshineEar() if MoonshineEar.available() else None


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)
