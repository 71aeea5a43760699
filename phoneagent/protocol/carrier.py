"""The messages between a carrier and the bridge, in a carrier-neutral form.

A carrier's codec (`mediastream` for Twilio) converts its wire format to these and back, so that no rule of a call knows
a wire format. Audio is always base64 of µ-law at 8 kHz: it passes from socket to socket as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

# --- from the caller's side -----------------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The media stream of a call begins."""

    stream_sid: str
    call_sid: str
    account_sid: str
    parameters: Mapping[str, str] = {}
    """The parameters that the webhook's answer gave the stream."""
    audio: tuple[str, int, int] = ("audio/x-mulaw", 8000, 1)
    """Encoding, samples a second, channels."""
    both_tracks: bool = False
    """Whether the stream also carries what the caller hears, and accepts no audio."""


class AudioIn(msgspec.Struct):
    """Audio from the caller (`payload`, usually 20 ms), and its time on the stream's own clock."""

    payload: str
    at_ms: int
    outbound: bool = False
    """Whether it is what the caller hears; only in a transcribed stream."""


class Played(msgspec.Struct):
    """All audio sent before the mark of that name was played, or a `Clear` returned the mark."""

    mark: str


class Key(msgspec.Struct):
    """The caller pressed a key: 0-9, *, #, A-D."""

    digit: str


class Stopped(msgspec.Struct):
    """The media stream ended: the caller hung up, or the call was changed from outside."""


FromCarrier: TypeAlias = Started | AudioIn | Played | Key | Stopped


# --- to the caller's side -------------------------------------------------------------------------------------------


class Audio(msgspec.Struct):
    """Audio for the caller, any length."""

    payload: str


class SendMark(msgspec.Struct):
    """A request for `Played(name)` once everything before it was played. `name` is unique within the call."""

    name: str


class Clear(msgspec.Struct):
    """Drop what was not yet played. Every pending mark comes back at once, which proves nothing about playback."""


ToCarrier: TypeAlias = Audio | SendMark | Clear
