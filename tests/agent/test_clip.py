"""Clips: made once, so that a file that cannot be played is found before any call."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from phoneagent import Clip, DefinitionError
from phoneagent.agent.clip import MAX_CLIP_BYTES
from tests.protocol.test_wav import pcm, riff, sine


def test_a_clip_of_a_file_is_named_after_it(tmp_path: Path) -> None:
    path = tmp_path / "legal line.wav"
    path.write_bytes(pcm(sine(440, 44100, 1.0), 44100, channels=2))
    clip = Clip(path, text="This call is recorded.")
    assert (clip.name, clip.text) == ("legal line", "This call is recorded.")
    assert clip.seconds == pytest.approx(1, abs=0.01)
    assert repr(clip) == "Clip('legal line', 1.0 s)"
    assert Clip(str(path), name="other").name == "other"


def test_a_clip_of_bytes() -> None:
    clip = Clip(riff(7, 1, 8000, 8, b"\x55" * 1600))
    assert (clip.name, base64.b64decode(clip.payload)) == ("clip", b"\x55" * 1600)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"not one", "clip 'clip' cannot be played: it is not a WAV file"),
        (riff(7, 1, 8000, 8, b"\xff" * 8000 * 3600), "lasts 3600 s"),
        (b"RIFF" + bytes(MAX_CLIP_BYTES), "more than 67108864 bytes"),
    ],
    ids=["no WAV", "an hour", "an hour in stereo"],
)
def test_what_cannot_be_played_is_a_mistake(data: bytes, why: str) -> None:
    with pytest.raises(DefinitionError) as error:
        Clip(data)
    assert why in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="clip 'none' cannot be read: No such file"):
        Clip(tmp_path / "none.wav")


def test_words_are_text() -> None:
    with pytest.raises(DefinitionError, match="text="):
        Clip(riff(7, 1, 8000, 8, b"\xff"), text=None)  # type: ignore[arg-type]
