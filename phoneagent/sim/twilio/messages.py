"""The messages of Media Streams, as Twilio sends and accepts them.

This codec is independent of the product's: a fake that shared it would repeat its mistakes.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from phoneagent.protocol.audio import FRAME_BYTES, SILENCE
from phoneagent.sim.twilio.alerts import alert

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""The maximum size of a message: more than six minutes of audio. Twilio documents no limit."""


class Media(NamedTuple):
    """Audio to play."""

    audio: bytes


class Mark(NamedTuple):
    """A name to send back once everything before it has been played."""

    name: str


class Wipe(NamedTuple):
    """The server's `clear`: drop the queued audio."""


_SHAPES: dict[str, dict[str, frozenset[str]]] = {
    "media": {"media": frozenset({"payload"})},
    "mark": {"mark": frozenset({"name"})},
    "clear": {},
}


def read(message: str | bytes, stream_sid: str) -> Media | Mark | Wipe | str:
    """Read a message from the server. Returns a violation (a line of text) if Twilio would warn and ignore it."""
    if isinstance(message, bytes):
        return alert(31950, "a binary frame; only text frames are taken")
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return _invalid("a message that is not JSON")
    if not isinstance(data, dict):
        return _invalid("a message that is not a JSON object")
    event = data.get("event")
    shape = _SHAPES.get(event) if isinstance(event, str) else None
    if shape is None:
        return _invalid(f"the event {_short(event)}; only media, mark and clear are taken")
    problem = _fields(data, {"event", "streamSid", *shape}, f"a {event} message")
    for key, inner in shape.items():
        if not problem:
            problem = _fields(data[key], inner, f"a {event} message's {key!r}")
    if problem:
        return _invalid(problem)
    if data["streamSid"] != stream_sid:
        return _invalid(f"a {event} message with a streamSid that is not this stream's")
    if event == "clear":
        return Wipe()
    return _media(data["media"]["payload"]) if event == "media" else _mark(data["mark"]["name"])


def _media(payload: object) -> Media | str:
    if isinstance(payload, str):
        try:
            return Media(binascii.a2b_base64(payload, strict_mode=True))
        except ValueError:
            pass
    return _invalid("a media message whose payload is not base64")


def _mark(name: object) -> Mark | str:
    return Mark(name) if isinstance(name, str) and name else _invalid("a mark message whose name is not a text")


def _fields(data: object, wanted: set[str] | frozenset[str], what: str) -> str | None:
    if not isinstance(data, dict):
        return f"{what} is not an object"
    missing, extra = sorted(wanted - data.keys()), sorted(data.keys() - wanted)
    if missing:
        return f"{what} without {', '.join(missing)}"
    return f"{what} with the extra field {_short(', '.join(extra))}" if extra else None


def _invalid(detail: str) -> str:
    return alert(31951, detail)


def _short(value: object) -> str:
    return repr(value)[:60]


class Writer:
    """Writes Twilio's messages on one stream. Numbers are strings; `sequenceNumber` skips only `connected`."""

    def __init__(self, stream_sid: str, call_sid: str, account_sid: str) -> None:
        self._stream_sid, self._call_sid, self._account_sid = stream_sid, call_sid, account_sid
        self._sequence = 0
        # Nearly all messages are media, 50 per second in each call, so the JSON around the numbers is prepared.
        self._tail = f'"}},"streamSid":"{stream_sid}"}}'
        self._silence = base64.b64encode(SILENCE * FRAME_BYTES).decode() + self._tail

    def connected(self) -> str:
        return json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})

    def start(self, parameters: dict[str, str], tracks: Iterable[str] = ("inbound",)) -> str:
        return self._numbered(
            "start",
            {
                "accountSid": self._account_sid,
                "streamSid": self._stream_sid,
                "callSid": self._call_sid,
                "tracks": list(tracks),
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": parameters,
            },
        )

    def media(self, payload: str | None, chunk: int, timestamp: int, track: str = "inbound") -> str:
        """Return a frame: base64 in `payload`, None for silence.

        `chunk` counts the frames of a track from 1, `timestamp` is in ms.
        """
        self._sequence += 1
        return (
            f'{{"event":"media","sequenceNumber":"{self._sequence}","media":{{"track":"{track}","chunk":"{chunk}",'
            f'"timestamp":"{timestamp}","payload":"{self._silence if payload is None else payload + self._tail}'
        )

    def dtmf(self, digit: str) -> str:
        return self._numbered("dtmf", {"track": "inbound_track", "digit": digit})

    def mark(self, name: str) -> str:
        return self._numbered("mark", {"name": name})

    def stop(self) -> str:
        return self._numbered("stop", {"accountSid": self._account_sid, "callSid": self._call_sid})

    def _numbered(self, event: str, body: dict[str, Any]) -> str:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), event: body, "streamSid": self._stream_sid}
        return json.dumps(message)
