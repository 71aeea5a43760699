"""Twilio Media Streams: what Twilio sends on the socket of a call, and the three messages it takes.

Text frames of JSON. Numbers arrive as strings. Unknown events and unknown fields are tolerated on the way in; on the
way out nothing but the documented fields is sent, because Twilio warns about anything else.

Source: Twilio's "Media Streams: WebSocket messages".
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from phoneagent.errors import ProtocolError
from phoneagent.protocol.audio import is_base64

_MILLISECONDS = re.compile(r"[0-9]{1,15}")

MAX_MESSAGE_BYTES = 64 * 1024
"""A media message is under half a kilobyte, a `start` a few: anything beyond this is not Twilio."""


class _FromTwilio(msgspec.Struct, tag_field="event", rename="camel"):
    pass


class Connected(_FromTwilio, tag="connected"):
    """The first message; it carries nothing a call needs."""


class MediaFormat(msgspec.Struct, frozen=True, rename="camel"):
    encoding: str = "audio/x-mulaw"
    sample_rate: int = 8000
    channels: int = 1


class StartDetails(msgspec.Struct, rename="camel"):
    account_sid: str
    call_sid: str
    media_format: MediaFormat = MediaFormat()
    custom_parameters: dict[str, str] = msgspec.field(default_factory=dict)


class Start(_FromTwilio, tag="start"):
    """The stream begins: from here on `stream_sid` must be in every message we send."""

    stream_sid: str
    start: StartDetails


class MediaDetails(msgspec.Struct):
    payload: str
    timestamp: str = "0"


class Media(_FromTwilio, tag="media"):
    """20 ms of the caller: base64 of µ-law, and `media.timestamp`, milliseconds since the stream began."""

    stream_sid: str
    media: MediaDetails


class DtmfDetails(msgspec.Struct):
    digit: str


class Dtmf(_FromTwilio, tag="dtmf"):
    """The caller pressed a key: 0-9, *, #, A-D."""

    stream_sid: str
    dtmf: DtmfDetails


class MarkDetails(msgspec.Struct):
    name: str


class Mark(_FromTwilio, tag="mark"):
    """All audio sent before the mark of that name was played, or a `clear` gave it back."""

    stream_sid: str
    mark: MarkDetails


class Stop(_FromTwilio, tag="stop"):
    """The stream ended: the caller hung up, or the call was changed from outside."""

    stream_sid: str = ""


class Ignored(msgspec.Struct):
    """An event that this version does not know. Twilio may add some at any time."""

    event: str


Message: TypeAlias = Connected | Start | Media | Dtmf | Mark | Stop
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class _Head(msgspec.Struct):
    event: str


_head_decoder = msgspec.json.Decoder(_Head)
_KNOWN = frozenset({"connected", "start", "media", "dtmf", "mark", "stop"})


_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def decode(text: str) -> Message | Ignored:
    """Read one message from Twilio.

    Raises:
        ProtocolError: not JSON, no `event`, or a known event that lacks what it must have.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise ProtocolError(
            f"Media Streams message of {len(text)} characters ignored: the limit is {MAX_MESSAGE_BYTES}"
        )
    try:
        message = _decoder.decode(text)
    except _UNREADABLE as error:
        return _decode_unknown(text, error)
    if isinstance(message, Media):
        # A frame is checked, never decoded: its text goes to the model as it is.
        if not is_base64(message.media.payload):
            raise ProtocolError("Media Streams `media` ignored: its payload is not base64")
        if not _MILLISECONDS.fullmatch(message.media.timestamp):
            raise ProtocolError("Media Streams `media` ignored: its timestamp is not a number of milliseconds")
    return message


def _decode_unknown(text: str, error: Exception) -> Ignored:
    try:
        event = _head_decoder.decode(text).event
    except _UNREADABLE:
        raise ProtocolError(f"Media Streams message ignored: {error}") from None
    if event in _KNOWN:
        raise ProtocolError(f"Media Streams `{event}` ignored: {error}") from None
    return Ignored(event)


class _ToTwilio(msgspec.Struct, tag_field="event", rename="camel"):
    pass


class _Payload(msgspec.Struct):
    payload: str


class _Name(msgspec.Struct):
    name: str


class _SendMedia(_ToTwilio, tag="media"):
    stream_sid: str
    media: _Payload


class _SendMark(_ToTwilio, tag="mark"):
    stream_sid: str
    mark: _Name


class _SendClear(_ToTwilio, tag="clear"):
    stream_sid: str


class Audio(msgspec.Struct):
    """Audio for the caller: base64 of raw µ-law, any length."""

    payload: str


class SendMark(msgspec.Struct):
    """Ask to be told when everything before was played. `name` is unique within the call."""

    name: str


class Clear(msgspec.Struct):
    """Drop what was not played yet. Every pending mark comes back at once, which proves nothing about playback."""


ToCaller: TypeAlias = Audio | SendMark | Clear
_encode = msgspec.json.Encoder().encode


def encode(message: ToCaller, stream_sid: str) -> str:
    """Write one message for Twilio, as the text of a text frame (binary frames are refused there)."""
    if isinstance(message, Audio):
        wire: _ToTwilio = _SendMedia(stream_sid, _Payload(message.payload))
    elif isinstance(message, SendMark):
        wire = _SendMark(stream_sid, _Name(message.name))
    else:
        wire = _SendClear(stream_sid)
    return _encode(wire).decode()
