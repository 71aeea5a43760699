"""Telephone audio: G.711 µ-law at 8 kHz, mono, one byte per sample.

Nothing is decoded on the path of a frame: a call passes base64 text through, and only checks and counts it. These
functions serve prompts, recordings, the simulators, and a call that is about to be handed over.
"""

from __future__ import annotations

import math
import warnings

with warnings.catch_warnings():
    # Up to 3.12 the standard library has audioop and warns at import; from 3.13 on audioop-lts brings the same module.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

SAMPLE_RATE = 8000
"""Samples a second, in Hz."""

BYTES_PER_MS = 8
"""µ-law is one byte a sample, so eight bytes are one millisecond."""

FRAME_MS = 20
FRAME_BYTES = FRAME_MS * BYTES_PER_MS
"""One frame of Media Streams."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PADDING = (b"", b"=", b"==")
_STANDARD = str.maketrans("-_", "+/")

SILENCE = b"\xff"
"""The µ-law byte of a zero sample. A zero *byte* is the loudest sample there is."""


def silence(ms: int) -> bytes:
    """Return `ms` milliseconds of µ-law silence."""
    return SILENCE * (ms * BYTES_PER_MS)


def tone(hz: float, ms: int, *, level: float = 0.3) -> bytes:
    """Return `ms` milliseconds of a sine at `hz`, as µ-law; `level` is the amplitude, 0 to 1 of full scale."""
    samples = (
        round(32767 * level * math.sin(2 * math.pi * hz * n / SAMPLE_RATE)) for n in range(ms * SAMPLE_RATE // 1000)
    )
    return encode_ulaw(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))


def decode_ulaw(ulaw: bytes) -> bytes:
    """Turn µ-law into 16-bit little-endian linear PCM, at the same rate."""
    return audioop.ulaw2lin(ulaw, 2)


def encode_ulaw(pcm: bytes) -> bytes:
    """Turn 16-bit little-endian linear PCM into µ-law, at the same rate."""
    return audioop.lin2ulaw(pcm, 2)


def rms(ulaw: bytes) -> int:
    """Return the root mean square of the samples, 0 to 32767."""
    return audioop.rms(decode_ulaw(ulaw), 2)


def piece_levels(ulaw: bytes, piece_bytes: int) -> list[int]:
    """Return the `rms` of each whole piece of that length, counting from the end, oldest first."""
    pcm, size = decode_ulaw(ulaw), 2 * piece_bytes
    return [audioop.rms(pcm[at : at + size], 2) for at in range(len(pcm) % size, len(pcm), size)]


def is_base64(text: str) -> bool:
    """Return whether `text` is padded base64, without decoding it."""
    if len(text) % 4 or not text.isascii():
        return False
    rest = text.encode().translate(None, _BASE64)  # twice as fast as a regular expression
    return rest in _PADDING and text.endswith(rest.decode())


def repaired_base64(text: str) -> str | None:
    """Return base64 text in the standard alphabet and with padding; `text` may lack padding or use the URL alphabet.

    It may have line breaks. None if it is not base64 at all.
    """
    joined = "".join(text.split()).translate(_STANDARD).rstrip("=")
    if len(joined) % 4 == 1 or not is_base64(padded := joined + "=" * (-len(joined) % 4)):
        return None
    return padded


def base64_bytes(text: str) -> int:
    """Return how many bytes a padded base64 text encodes, without decoding it."""
    return len(text) // 4 * 3 - text.count("=", -2)
