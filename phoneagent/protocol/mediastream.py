"""Twilio Media Streams: the codec of a call's media socket.

Text frames of JSON. Numbers arrive as strings. Unknown events and fields are tolerated on the way in; on the way out
only the documented fields are sent, because Twilio warns about anything else.

Source: Twilio's "Media Streams: WebSocket messages".
"""

from __future__ import annotations

import re
from typing import TypeAlias, assert_never

import msgspec

from phoneagent.errors import ProtocolError
from phoneagent.protocol.audio import is_base64
from phoneagent.protocol.carrier import (
    Audio,
    AudioIn,
    Clear,
    FromCarrier,
    Key,
    Played,
    SendMark,
    Started,
    Stopped,
    ToCarrier,
)

_MILLISECONDS = re.compile(r"[0-9]{1,15}")

MAX_MESSAGE_BYTES = 64 * 1024
"""A media message is under half a kilobyte, a `start` a few: anything longer is not Twilio's."""


# --- Twilio's messages ----------------------------------------------------------------------------------------------


class _FromTwilio(msgspec.Struct, tag_field="event", rename="camel"):
    pass


class _Connected(_FromTwilio, tag="connected"):
    """The first message; it carries nothing that a call needs."""


class _MediaFormat(msgspec.Struct, rename="camel"):
    encoding: str = "audio/x-mulaw"
    sample_rate: int = 8000
    channels: int = 1


class _StartDetails(msgspec.Struct, rename="camel"):
    account_sid: str
    call_sid: str
    media_format: _MediaFormat = msgspec.field(default_factory=_MediaFormat)
    custom_parameters: dict[str, str] = msgspec.field(default_factory=dict)


class _Start(_FromTwilio, tag="start"):
    """The stream begins; its sid must be in every message we send."""

    stream_sid: str
    start: _StartDetails


class _MediaDetails(msgspec.Struct):
    payload: str
    timestamp: str = "0"
    """Milliseconds since the stream began."""


class _Media(_FromTwilio, tag="media"):
    stream_sid: str
    media: _MediaDetails


class _DtmfDetails(msgspec.Struct):
    digit: str


class _Dtmf(_FromTwilio, tag="dtmf"):
    stream_sid: str
    dtmf: _DtmfDetails


class _MarkDetails(msgspec.Struct):
    name: str


class _Mark(_FromTwilio, tag="mark"):
    stream_sid: str
    mark: _MarkDetails


class _Stop(_FromTwilio, tag="stop"):
    stream_sid: str = ""


_Wire: TypeAlias = _Connected | _Start | _Media | _Dtmf | _Mark | _Stop
_decoder: msgspec.json.Decoder[_Wire] = msgspec.json.Decoder(_Wire)


class _Head(msgspec.Struct):
    event: str


_head_decoder = msgspec.json.Decoder(_Head)
_KNOWN = frozenset({"connected", "start", "media", "dtmf", "mark", "stop"})
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


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


_encode = msgspec.json.Encoder().encode


# --- the codec ------------------------------------------------------------------------------------------------------


class MediaStream:
    """The codec of one media stream. It learns the stream's sid from `start`, and refuses messages of any other."""

    def __init__(self, stream_sid: str | None = None) -> None:
        self.stream_sid = stream_sid

    def decode(self, text: str) -> FromCarrier | None:
        """Read one message; None for one that carries nothing a call needs, as an event of a newer Twilio.

        Raises:
            ProtocolError: not JSON, no `event`, a known event that lacks what it must have, or one of another stream.
        """
        if len(text) > MAX_MESSAGE_BYTES:
            raise ProtocolError(
                f"Media Streams message of {len(text)} characters ignored: the limit is {MAX_MESSAGE_BYTES}"
            )
        try:
            message = _decoder.decode(text)
        except _UNREADABLE as error:
            _check_unknown(text, error)
            return None
        match message:
            case _Media(stream_sid=sid, media=media) if sid == self.stream_sid:
                # A frame is checked, never decoded: its text goes to the model as it is.
                if not is_base64(media.payload):
                    raise ProtocolError("Media Streams `media` ignored: its payload is not base64")
                if not _MILLISECONDS.fullmatch(media.timestamp):
                    raise ProtocolError("Media Streams `media` ignored: its timestamp is not a number of milliseconds")
                return AudioIn(media.payload, int(media.timestamp))
            case _Mark(stream_sid=sid, mark=mark) if sid == self.stream_sid:
                return Played(mark.name)
            case _Dtmf(stream_sid=sid, dtmf=dtmf) if sid == self.stream_sid:
                return Key(dtmf.digit)
            case _Start() if self.stream_sid is None:
                return self._started(message)
            case _Stop(stream_sid=sid) if self.stream_sid is not None and sid in ("", self.stream_sid):
                return Stopped()
            case _Connected():
                return None
            case _Media() | _Mark() | _Dtmf() | _Start() | _Stop():
                event = message.__struct_config__.tag
                where = "before `start`" if self.stream_sid is None else "of another stream, or twice"
                raise ProtocolError(f"Media Streams `{event}` ignored: it came {where}")
            case _:
                assert_never(message)

    def _started(self, message: _Start) -> Started:
        self.stream_sid = message.stream_sid
        details = message.start
        format_ = details.media_format
        return Started(
            stream_sid=message.stream_sid,
            call_sid=details.call_sid,
            account_sid=details.account_sid,
            parameters=details.custom_parameters,
            audio=(format_.encoding, format_.sample_rate, format_.channels),
        )

    def encode(self, message: ToCarrier) -> str:
        """Write one message, as the text of a text frame (Twilio refuses binary ones). `start` has come before."""
        stream_sid = self.stream_sid or ""
        match message:
            case Audio(payload=payload):
                return _encode(_SendMedia(stream_sid, _Payload(payload))).decode()
            case SendMark(name=name):
                return _encode(_SendMark(stream_sid, _Name(name))).decode()
            case Clear():
                return _encode(_SendClear(stream_sid)).decode()
            case _:
                assert_never(message)


def _check_unknown(text: str, error: Exception) -> None:
    """Raise unless it is an event that this version does not know."""
    try:
        event = _head_decoder.decode(text).event
    except _UNREADABLE:
        raise ProtocolError(f"Media Streams message ignored: {error}") from None
    if event in _KNOWN:
        raise ProtocolError(f"Media Streams `{event}` ignored: {error}") from None
