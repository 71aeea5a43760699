"""Recordings that a call plays word for word: a legal line, an announcement, hold music."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from phoneagent.agent.call import is_text
from phoneagent.errors import DefinitionError
from phoneagent.protocol.audio import BYTES_PER_MS, base64_bytes
from phoneagent.protocol.wav import WavError, ulaw_of_wav

MAX_CLIP_SECONDS = 300.0

MAX_CLIP_BYTES = 64 * 1024 * 1024
"""Five minutes in stereo at 48 kHz."""


class Clip:
    """A recording that `call.play` plays: a WAV file, as its path or its bytes. Make it once, next to your agent.

    The file may have any rate, be mono or stereo, with 8 to 32 bits, µ-law or A-law, and last at most five minutes. It
    is converted to telephone audio here.

    `text` is what the clip says; the model and the transcript get it. Without `text`, they get `name`, which defaults
    to the file's name.

    Raises:
        DefinitionError: the file cannot be read, is not a WAV file that can be played, or is too long.
    """

    __slots__ = ("name", "payload", "text")

    def __init__(self, wav: str | os.PathLike[str] | bytes, *, text: str = "", name: str = "") -> None:
        self.name = name or ("clip" if isinstance(wav, bytes) else Path(wav).stem)
        self.text = text
        for each in ("name", "text"):
            if not is_text(value := getattr(self, each)):
                raise DefinitionError(f"a clip has {each}={value!r}: write text")
        owner = f"clip {self.name!r}"
        try:
            data = wav if isinstance(wav, bytes) else _read(Path(wav))
            if len(data) > MAX_CLIP_BYTES:
                raise WavError(f"it has more than {MAX_CLIP_BYTES} bytes: cut it, or save it at 8000 Hz in mono")
            ulaw = ulaw_of_wav(data, max_seconds=MAX_CLIP_SECONDS)
        except OSError as error:
            raise DefinitionError(f"{owner} cannot be read: {error.strerror or error}: name a WAV file") from None
        except WavError as error:
            raise DefinitionError(f"{owner} cannot be played: {error}") from None
        self.payload = base64.b64encode(ulaw).decode()

    def __repr__(self) -> str:
        return f"Clip({self.name!r}, {self.seconds:.1f} s)"

    @property
    def seconds(self) -> float:
        """How long the clip lasts."""
        return base64_bytes(self.payload) / BYTES_PER_MS / 1000


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CLIP_BYTES + 1)
