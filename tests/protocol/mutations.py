"""Good messages of both far ends, one of each type, and what becomes of them when one field is odd."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import msgspec

SID = "MZ" + "1" * 32
AUDIO = "VVVV" * 400  # 150 ms
ITEM = {"id": "i1", "object": "realtime.item", "type": "message", "status": "completed", "role": "assistant"}
CALL = {
    "id": "f1",
    "object": "realtime.item",
    "type": "function_call",
    "status": "completed",
    "call_id": "c1",
    "name": "look_up",
    "arguments": '{"a": 1}',
}
FAILURE = {
    "type": "invalid_request_error",
    "code": "invalid_value",
    "message": "no",
    "param": "response",
    "event_id": "e1",
}
SESSION = {"type": "realtime", "audio": {"output": {"format": {"type": "audio/pcmu"}}}, "expires_at": 1_800_000_000}
OUTPUT = {"response_id": "r1", "item_id": "i1", "output_index": 0, "content_index": 0}
DONE = {
    "id": "r1",
    "object": "realtime.response",
    "status": "completed",
    "status_details": {"type": "completed", "reason": "x", "error": FAILURE},
    "output": [ITEM, CALL],
    "metadata": {"phoneagent": "1"},
    "usage": {"total_tokens": 3, "input_tokens": 1, "output_tokens": 2},
}
CREATED = DONE | {"status": "in_progress", "status_details": None, "output": [], "usage": None}
_BUFFER, _ITEMS = "input_audio_buffer", "conversation.item"

SERVER_EVENTS: dict[str, dict[str, Any]] = {
    "session.created": {"session": SESSION},
    "session.updated": {"session": SESSION},
    f"{_BUFFER}.speech_started": {"item_id": "u1", "audio_start_ms": 500},
    f"{_BUFFER}.speech_stopped": {"item_id": "u1", "audio_end_ms": 1500},
    f"{_BUFFER}.committed": {"item_id": "u1", "previous_item_id": "i0"},
    f"{_ITEMS}.added": {"item": ITEM, "previous_item_id": None},
    f"{_ITEMS}.created": {"item": ITEM, "previous_item_id": None},
    f"{_ITEMS}.done": {"item": ITEM, "previous_item_id": None},
    f"{_ITEMS}.input_audio_transcription.completed": {
        "item_id": "u1",
        "content_index": 0,
        "transcript": "Hello",
        "usage": {"type": "duration", "seconds": 1},
    },
    f"{_ITEMS}.input_audio_transcription.failed": {"item_id": "u1", "content_index": 0, "error": FAILURE},
    "response.created": {"response": CREATED},
    "response.done": {"response": DONE},
    "response.output_item.added": {"response_id": "r1", "output_index": 0, "item": ITEM},
    "response.output_item.done": {"response_id": "r1", "output_index": 0, "item": CALL},
    "response.function_call_arguments.done": OUTPUT | {"call_id": "c1", "name": "look_up", "arguments": '{"a": 1}'},
    "response.output_audio.delta": OUTPUT | {"delta": AUDIO},
    "response.audio.delta": OUTPUT | {"delta": AUDIO},
    "response.output_audio.done": OUTPUT,
    "response.audio.done": OUTPUT,
    "response.output_audio_transcript.delta": OUTPUT | {"delta": "Hel"},
    "response.audio_transcript.delta": OUTPUT | {"delta": "Hel"},
    "response.output_audio_transcript.done": OUTPUT | {"transcript": "Hello"},
    "response.audio_transcript.done": OUTPUT | {"transcript": "Hello"},
    "response.output_text.delta": OUTPUT | {"delta": "Hel"},
    "response.text.delta": OUTPUT | {"delta": "Hel"},
    "rate_limits.updated": {"rate_limits": [{"name": "tokens", "limit": 1000, "remaining": 900, "reset_seconds": 1.5}]},
    "error": {"error": FAILURE},
}
"""By type; `server_event` makes the message."""

TWILIO_MESSAGES: dict[str, dict[str, Any]] = {
    "connected": {"protocol": "Call", "version": "1.0.0"},
    "start": {
        "sequenceNumber": "1",
        "streamSid": SID,
        "start": {
            "accountSid": "AC1",
            "callSid": "CA1",
            "streamSid": SID,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"token": "t"},
        },
    },
    "media": {
        "sequenceNumber": "2",
        "streamSid": SID,
        "media": {"track": "inbound", "chunk": "1", "timestamp": "57", "payload": AUDIO},
    },
    "dtmf": {"sequenceNumber": "3", "streamSid": SID, "dtmf": {"track": "inbound_track", "digit": "5"}},
    "mark": {"sequenceNumber": "4", "streamSid": SID, "mark": {"name": "1.1"}},
    "stop": {"sequenceNumber": "5", "streamSid": SID, "stop": {"accountSid": "AC1", "callSid": "CA1"}},
}
"""By event; `twilio_message` makes the message."""

_MISSING = object()
_HUGE, _BEYOND = "~huge~", "~beyond~"  # what no Python value is written as
ODD: dict[str, Any] = {
    "missing": _MISSING,
    "null": None,
    "number": 7,
    "fraction": 1.5,
    "negative": -1,
    "large": 1e300,
    "huge": _HUGE,
    "beyond": _BEYOND,
    "NaN": math.nan,
    "infinite": -math.inf,
    "text": "odd",
    "empty": "",
    "digits": "12",
    "object": {"a": 1},
    "list": [1, "a", None],
    "true": True,
}

Path = tuple[str | int, ...]


def _copied(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))  # many times as fast as `copy.deepcopy`, and often used


def server_event(kind: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": kind, "event_id": "event_1", **_copied(SERVER_EVENTS[kind] if fields is None else fields)}


def twilio_message(kind: str) -> dict[str, Any]:
    return {"event": kind, **_copied(TWILIO_MESSAGES[kind])}


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Every field of a message, whole ones and their parts."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(each, dict | list):
            yield from paths(each, (*at, key))


def without(value: Any, path: Path) -> Any:
    """A copy without that field, of which nothing may be there."""
    value = _copied(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if isinstance(inner, dict):
        inner.pop(path[-1], None)
    elif isinstance(inner, list):
        del inner[path[-1] :]
    return value


def mutated(message: dict[str, Any], path: Path, odd: str) -> str:
    """The message as text, with an odd value at that place."""
    message = _copied(message)
    inner: Any = message
    for key in path[:-1]:
        inner = inner[key]
    if ODD[odd] is _MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = ODD[odd]
    return json.dumps(message).replace(f'"{_HUGE}"', "1" * 5000).replace(f'"{_BEYOND}"', "1e999")


def mutations(message: dict[str, Any], tag: str) -> Iterator[tuple[Path, str, str]]:
    """Every field but the one that names the type, with every odd value: the field, what it is, and the text."""
    for path in paths(message):
        if path != (tag,):
            for odd in ODD:
                yield path, odd, mutated(message, path, odd)
