"""The client events of the Realtime protocol, and the items that a client may add."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from phoneagent.sim.model.checks import (
    Check,
    EventRefused,
    any_object,
    boolean,
    by_key,
    function_name,
    integer,
    invalid_value,
    list_of,
    one_of,
    short_string,
    string,
    struct,
    unknown_parameter,
)

MAX_DEPTH = 100
"""How deep the objects and arrays of an event may be nested. The limit of the real server is not documented."""

MAX_APPEND_BYTES = 15 << 20
"""Decoded bytes of one `input_audio_buffer.append`."""

_ID = short_string(32)
"""The id of an item or call that the client chooses. The limit is undocumented; no known client exceeds it."""

_EVENT: dict[str, Check] = {"type": string, "event_id": short_string(512)}
_EVENTS: dict[str, Check] = {
    "session.update": struct({**_EVENT, "session": any_object}, "session"),
    "input_audio_buffer.append": struct({**_EVENT, "audio": string}, "audio"),
    "input_audio_buffer.commit": struct(_EVENT),
    "input_audio_buffer.clear": struct(_EVENT),
    "conversation.item.create": struct(
        {**_EVENT, "item": any_object, "previous_item_id": string},
        "item",
    ),
    "conversation.item.retrieve": struct({**_EVENT, "item_id": string}, "item_id"),
    "conversation.item.delete": struct({**_EVENT, "item_id": string}, "item_id"),
    "conversation.item.truncate": struct(
        {**_EVENT, "item_id": string, "content_index": integer(0, 0), "audio_end_ms": integer(0, 2**31)},
        "item_id",
        "content_index",
        "audio_end_ms",
    ),
    "response.create": struct({**_EVENT, "response": any_object}),
    "response.cancel": struct({**_EVENT, "response_id": string}),
}


def check_event(event: Any) -> None:
    """Check a decoded client event down to its own fields, not into `session`, `response` and `item`."""
    if not isinstance(event, dict):
        raise EventRefused("Invalid event: expected a JSON object.", code="invalid_event")
    check_depth(event)
    if event.get("type") == "output_audio_buffer.clear":
        raise invalid_value("output_audio_buffer.clear is for WebRTC and SIP connections only.", "type")
    by_key("type", _EVENTS)(event, "")


def check_depth(value: Any, room: int = MAX_DEPTH) -> None:
    """Refuse JSON that is nested too deeply for those who walk through it. Raises `EventRefused`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if inner and not room:
        raise EventRefused(f"Invalid JSON: nested more than {MAX_DEPTH} deep.", code="invalid_json")
    for each in inner:
        check_depth(each, room - 1)


def decode_audio(audio: str) -> bytes:
    """Return the audio of an append. Raises `EventRefused` if it is not base64 or too large."""
    try:
        data = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_value("Invalid 'audio': expected base64-encoded audio bytes.", "audio") from error
    if len(data) > MAX_APPEND_BYTES:
        raise invalid_value(f"Invalid 'audio': expected at most {MAX_APPEND_BYTES} bytes of audio.", "audio")
    return data


def encode_audio(audio: bytes | bytearray) -> str:
    return base64.b64encode(audio).decode("ascii")


_ITEM: dict[str, Check] = {
    "id": _ID,
    "type": string,
    "object": one_of("realtime.item"),
    "status": one_of("completed", "incomplete", "in_progress"),
}


def _absent(value: Any, at: str) -> None:
    raise unknown_parameter(at)


def _part(required: str, **fields: Check) -> Check:
    """Return a check of a content part. Fields of other parts may be present as null: the SDK has one class for all."""
    others = dict.fromkeys(("text", "audio", "transcript", "image_url", "detail"), _absent)
    return struct({**others, "type": string, **fields}, required)


_TEXT = _part("text", text=string)
_INPUT_AUDIO = _part("audio", audio=string, transcript=string)
_IMAGE_URL = re.compile(r"data:image/(?:png|jpe?g);base64,")
_IMAGE_BEGINS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def _image_url(value: Any, at: str) -> None:
    """Check an image. The real server's words are not documented."""
    string(value, at)
    found = _IMAGE_URL.match(value)
    if found is None:
        raise invalid_value(f"Invalid '{at}': expected a base64-encoded data URL of a PNG or JPEG image.", at)
    try:
        data = base64.b64decode(value[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_value(f"Invalid '{at}': expected base64-encoded image bytes.", at) from error
    if not data.startswith(_IMAGE_BEGINS):
        raise invalid_value(f"Invalid '{at}': the data are no PNG or JPEG image.", at)


_INPUT_IMAGE = _part("image_url", image_url=_image_url, detail=one_of("auto", "low", "high"))


def _message(**parts: Check) -> Check:
    content = list_of(by_key("type", parts))
    return struct({**_ITEM, "role": string, "content": content}, "role", "content")


_MESSAGE = by_key(
    "role",
    {
        "user": _message(input_text=_TEXT, input_audio=_INPUT_AUDIO, input_image=_INPUT_IMAGE),
        "system": _message(input_text=_TEXT),
        # A client cannot add the assistant's audio.
        "assistant": _message(output_text=_TEXT),
    },
)
_CALL = struct({**_ITEM, "call_id": _ID, "name": function_name, "arguments": string}, "name", "arguments")
_OUTPUT = struct({**_ITEM, "call_id": _ID, "output": string}, "call_id", "output")
_DECISION = struct(
    {**_ITEM, "approval_request_id": string, "approve": boolean, "reason": string},
    "approval_request_id",
    "approve",
)
_check_item = by_key(
    "type",
    {
        "message": _MESSAGE,
        "function_call": _CALL,
        "function_call_output": _OUTPUT,
        "mcp_approval_response": _DECISION,
    },
)


def check_item(item: Any, at: str = "item") -> None:
    """Check an item that a client wants to add. Raises `EventRefused`."""
    _check_item(item, at)
