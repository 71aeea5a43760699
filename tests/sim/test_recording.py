"""The WAV file of a call."""

from __future__ import annotations

import io
import wave
from array import array

from phoneagent.protocol.audio import decode_ulaw, tone
from phoneagent.sim.recording import write_stereo


def test_a_stereo_file_has_both_tracks_in_step():
    left, right = tone(400, 100), tone(900, 50)
    with wave.open(io.BytesIO(write_stereo(left, right))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        both = array("h", file.readframes(10_000))
    assert both[0::2].tobytes() == decode_ulaw(left)
    assert both[1::2].tobytes() == decode_ulaw(right + b"\xff" * 400)
