"""Listening in: both sides of a live call, as the caller says and hears them.

Frames cost nothing as long as there is no listener. The first listener puts a tap in place of the caller's socket. The
agent's side needs none: the playback ledger knows what was heard of it, and when.

A listener has no queue. It has a position on each track, and reads on from there.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable
from typing import Protocol

from phoneagent.calls.writer import CallerSocket, TappedSocket
from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, SILENCE
from phoneagent.protocol.carrier import AudioIn, FromCarrier

KEPT_BYTES = 1_000 * BYTES_PER_MS
"""How far a listener may fall behind: one second."""

SLACK_BYTES = 100 * BYTES_PER_MS

CALLER, AGENT = b"\x00", b"\x01"
"""The tracks: the first byte of each frame."""


class _CallerAudio(Protocol):
    muted: bool


class _Playback(Protocol):
    generation: int

    @property
    def idle(self) -> bool: ...
    def heard(self, now: float) -> float: ...
    def heard_from(self, position: int, now: float) -> bytes: ...


class Tap(TappedSocket):
    """A caller's socket that keeps the latest audio of the caller for listeners.

    They hear what the model hears: silence while digits are gathered, because a keypad's tones may be in the audio.
    """

    def __init__(self, socket: CallerSocket, caller_audio: _CallerAudio) -> None:
        super().__init__(socket)
        self.listeners = 0
        self._caller_audio = caller_audio
        self._kept = bytearray()
        self.received = 0
        """How many bytes have arrived so far."""

    def decode(self, raw: str | bytes) -> FromCarrier | None:
        """Return a message, and keep its audio."""
        message = self.socket.decode(raw)
        if isinstance(message, AudioIn):
            audio = a2b_base64(message.payload)
            self._kept += SILENCE * len(audio) if self._caller_audio.muted else audio
            self.received += len(audio)
            if len(self._kept) > KEPT_BYTES + SLACK_BYTES:
                del self._kept[:-KEPT_BYTES]
        return message

    def after(self, position: int) -> bytes | None:
        """Return the audio after a position; None if some of it is no longer kept."""
        missing = self.received - position
        if missing > len(self._kept):
            return None
        return bytes(self._kept[-missing:]) if missing else b""


class Listener:
    """One listener of a media stream. `over` tells whether that has ended, and `clock` returns the bridge's time."""

    def __init__(self, tap: Tap, playback: _Playback, clock: Callable[[], float], over: Callable[[], bool]) -> None:
        self._tap = tap
        self._playback = playback
        self._clock = clock
        self._over = over
        self._caller_from = tap.received
        self._generation = playback.generation
        self._agent_from = int(playback.heard(clock()))
        self._caller = bytearray()
        self._agent = bytearray()

    @property
    def over(self) -> bool:
        """Whether the media stream has ended."""
        return self._over()

    def frames(self) -> list[bytes] | None:
        """Return the frames since the last time: a byte for the track, and 20 ms of µ-law.

        None if the listener was too slow, so that audio is missing.
        """
        heard = self._tap.after(self._caller_from)
        if heard is None:
            return None
        self._caller_from += len(heard)
        self._caller += heard
        self._hear_agent()
        return [*_frames(CALLER, self._caller), *_frames(AGENT, self._agent)]

    def _hear_agent(self) -> None:
        playback, now = self._playback, self._clock()
        if playback.generation != self._generation:  # unheard audio was cleared
            self._generation, self._agent_from = playback.generation, 0
            self._fill()
        heard = playback.heard_from(self._agent_from, now)
        self._agent_from = max(self._agent_from, int(playback.heard(now)))
        self._agent += heard
        if not heard and playback.idle:
            self._fill()

    def _fill(self) -> None:
        """Fill up the agent's last frame with silence."""
        self._agent += SILENCE * (-len(self._agent) % FRAME_BYTES)


def _frames(track: bytes, audio: bytearray) -> list[bytes]:
    """Take the whole frames out of the audio of a track."""
    whole = len(audio) // FRAME_BYTES * FRAME_BYTES
    frames = [track + bytes(audio[start : start + FRAME_BYTES]) for start in range(0, whole, FRAME_BYTES)]
    del audio[:whole]
    return frames
