"""Twilio Media Streams: the codec of a call's media socket.

Messages are JSON in text frames, and numbers arrive as strings. Unknown events and odd fields are tolerated on the way
in; on the way out only the documented fields are sent, because Twilio warns about anything else.

Source: Twilio's "Media Streams: WebSocket messages".
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias, assert_never

import msgspec

from phoneagent.errors import ProtocolError
from phoneagent.protocol.audio import is_base64, repaired_base64
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
from phoneagent.protocol.lenient import UNREADABLE, Base64, Wire

MAX_MESSAGE_BYTES = 64 * 1024
"""A media message has less than half a kilobyte, a `start` a few: anything longer is not from Twilio."""
MAX_TIMESTAMP_DIGITS = 8
"""A stream began at most a day ago."""

CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")
"""Twilio's id of a call."""


# --- Twilio's messages ----------------------------------------------------------------------------------------------


class _FromTwilio(msgspec.Struct, tag_field="event", rename="camel"):
    """A message from Twilio. Every field has a default: an odd field is left out, and the message counts."""

    stream_sid: str = ""


class _Connected(_FromTwilio, tag="connected"):
    """The first message; it carries nothing that a call needs."""


class _MediaFormat(msgspec.Struct, rename="camel"):
    encoding: str = "audio/x-mulaw"
    sample_rate: int = 8000
    channels: int = 1


class _StartDetails(msgspec.Struct, rename="camel"):
    stream_sid: str = ""
    account_sid: str = ""
    call_sid: str = ""
    tracks: list[str] = []
    media_format: _MediaFormat = msgspec.field(default_factory=_MediaFormat)
    custom_parameters: dict[str, str] = {}


class _Start(_FromTwilio, tag="start"):
    """The stream begins; its sid must be in every message we send."""

    start: _StartDetails = msgspec.field(default_factory=_StartDetails)


class _MediaDetails(msgspec.Struct):
    payload: Base64 = ""
    timestamp: str = "0"
    """Milliseconds since the stream began. Checking a pattern would take as long as the rest of a message."""
    track: str = ""


class _Media(_FromTwilio, tag="media"):
    media: _MediaDetails = msgspec.field(default_factory=_MediaDetails)


class _DtmfDetails(msgspec.Struct):
    digit: Annotated[str, msgspec.Meta(pattern=r"^[0-9*#A-D]\Z")] = ""


class _Dtmf(_FromTwilio, tag="dtmf"):
    dtmf: _DtmfDetails = msgspec.field(default_factory=_DtmfDetails)


class _MarkDetails(msgspec.Struct):
    name: str = ""


class _Mark(_FromTwilio, tag="mark"):
    mark: _MarkDetails = msgspec.field(default_factory=_MarkDetails)


class _Stop(_FromTwilio, tag="stop"):
    pass


_Wire: TypeAlias = _Connected | _Start | _Media | _Dtmf | _Mark | _Stop
KNOWN: dict[str, type[_Wire]] = {
    "connected": _Connected,
    "start": _Start,
    "media": _Media,
    "dtmf": _Dtmf,
    "mark": _Mark,
    "stop": _Stop,
}
"""The messages that this version knows, by their `event`."""

_wire: Wire[_Wire] = Wire("Media Streams message", "event", KNOWN)
_OUTBOUND = frozenset({"outbound", "outbound_track"})


class _ToTwilio(msgspec.Struct, tag_field="event", rename="camel"):
    pass


class _Name(msgspec.Struct):
    name: str


class _SendMark(_ToTwilio, tag="mark"):
    stream_sid: str
    mark: _Name


class _SendClear(_ToTwilio, tag="clear"):
    stream_sid: str


_encode = msgspec.json.Encoder().encode
_MEDIA_TAIL = b'"}}'


# --- the codec ------------------------------------------------------------------------------------------------------


class MediaStream:
    """The codec of one media stream. It learns the stream's sid from `start`, and refuses other streams' messages."""

    def __init__(self, stream_sid: str | None = None) -> None:
        self._name(stream_sid)
        self.takes_outbound = False
        """Whether audio of the outbound track is accepted too. To an agent it would be its own voice."""
        self._outbound = False

    def _name(self, stream_sid: str | None) -> None:
        self.stream_sid = stream_sid
        self._media_head = b'{"event":"media","streamSid":%b,"media":{"payload":"' % _encode(stream_sid or "")

    def decode(self, text: str | bytes) -> FromCarrier | None:
        """Read one message; None if it carries nothing a call needs, like an event of a newer Twilio.

        Twilio sends text frames, so bytes are a binary frame.

        An odd field is left out, and the message counts. A message that names no stream belongs to this one.

        Raises:
            ProtocolError: not JSON, no `event`, or a message that is not of this stream or not of the caller.
        """
        if isinstance(text, bytes):
            raise ProtocolError("Media Streams message ignored: a binary frame")
        if len(text) > MAX_MESSAGE_BYTES:
            raise ProtocolError(
                f"Media Streams message of {len(text)} characters ignored: the limit is {MAX_MESSAGE_BYTES}"
            )
        try:
            message = _wire.strict(text)
        except UNREADABLE:
            read = _wire.read(text)
            if isinstance(read, str):
                return None
            message = read
        sid = message.stream_sid or self.stream_sid
        if isinstance(message, _Media) and sid == self.stream_sid is not None:
            # A frame is checked, but never decoded: its text goes to the model as it is.
            media = message.media
            payload, time = media.payload, media.timestamp
            if not is_base64(payload):
                payload = repaired_base64(payload) or ""
            outbound = media.track in _OUTBOUND or (self._outbound and not media.track)
            if outbound and not self.takes_outbound:
                raise ProtocolError("Media Streams `media` ignored: the outbound track is not the caller")
            odd = len(time) > MAX_TIMESTAMP_DIGITS or not (time.isdecimal() and time.isascii())
            return AudioIn(payload, 0 if odd else int(time), outbound)
        match message:
            case _Mark(mark=mark) if sid == self.stream_sid is not None:
                return Played(mark.name)
            case _Dtmf(dtmf=dtmf) if sid == self.stream_sid is not None:
                return Key(dtmf.digit) if dtmf.digit else None
            case _Start() if self.stream_sid is None:
                return self._started(message)
            case _Stop() if sid == self.stream_sid is not None:
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
        details = message.start
        stream_sid = message.stream_sid or details.stream_sid
        self._name(stream_sid)
        self._outbound = bool(details.tracks) and _OUTBOUND.issuperset(details.tracks)
        format_ = details.media_format
        return Started(
            stream_sid=stream_sid,
            call_sid=details.call_sid,
            account_sid=details.account_sid,
            parameters=details.custom_parameters,
            audio=(format_.encoding, format_.sample_rate, format_.channels),
            both_tracks=not self._outbound and not _OUTBOUND.isdisjoint(details.tracks),
        )

    def encode(self, message: ToCarrier) -> bytes:
        """Write one message, as the UTF-8 of a text frame (Twilio refuses binary ones). `start` must have arrived."""
        if isinstance(message, Audio):  # base64, which JSON writes as it is
            return self._media_head + message.payload.encode() + _MEDIA_TAIL
        stream_sid = self.stream_sid or ""
        match message:
            case SendMark(name=name):
                return _encode(_SendMark(stream_sid, _Name(name)))
            case Clear():
                return _encode(_SendClear(stream_sid))
            case _:
                assert_never(message)
