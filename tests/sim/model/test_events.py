"""Client events and items, checked field by field."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.events import check_event, check_item, decode_audio

Json = dict[str, Any]


def image(url: str) -> Json:
    return {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": url}]}


def test_an_image_is_taken() -> None:
    check_item(image("data:image/png;base64,iVBORw0KGgo="))
    check_item(image("data:image/jpeg;base64,/9j/4AAQ"))


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({}, "item.type"),
        ({"type": "song"}, "item.type"),
        ({"type": "message", "content": []}, "item.role"),
        ({"type": "message", "role": "user"}, "item.content"),
        ({"type": "message", "role": "user", "content": [{"type": "text", "text": ""}]}, "item.content[0].type"),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "audio": ""}]},
            "item.content[0].type",
        ),
        (image("https://x.example/a.png"), "item.content[0].image_url"),
        (image("data:image/gif;base64,R0lGODlh"), "item.content[0].image_url"),
        (image("data:image/png;base64,R0lGODlh"), "item.content[0].image_url"),
        (image("data:image/png;base64,iVBOR!"), "item.content[0].image_url"),
        ({**image("data:image/png;base64,iVBORw0KGgo="), "role": "system"}, "item.content[0].type"),
        ({"type": "function_call_output", "call_id": "c", "output": {"ok": True}}, "item.output"),
        ({"type": "function_call_output", "output": ""}, "item.call_id"),
        ({"id": "x" * 33, "type": "message", "role": "user", "content": []}, "item.id"),
    ],
)
def test_items_are_checked(item: Json, param: str) -> None:
    with pytest.raises(EventRefused) as caught:
        check_item(item)

    assert caught.value.param == param


@pytest.mark.parametrize(
    "event",
    [
        [],
        {},
        {"type": "response.begin"},
        {"type": "output_audio_buffer.clear"},
        {"type": "input_audio_buffer.append"},
        {"type": "input_audio_buffer.append", "audio": "", "format": "pcm"},
        {"type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": 1.5},
        {"type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": -1},
        {"type": "conversation.item.truncate", "item_id": "i", "audio_end_ms": 1},
        {"type": "response.cancel", "event_id": 4},
    ],
)
def test_events_are_checked(event: Any) -> None:
    with pytest.raises(EventRefused):
        check_event(event)


@pytest.mark.parametrize("audio", ["a", "====", "AAA", "/w==\n", "ÿ" * 4, "A" * (21 << 20)])
def test_audio_is_base64_of_a_bounded_size(audio: str) -> None:
    with pytest.raises(EventRefused) as caught:
        decode_audio(audio)

    assert caught.value.param == "audio"
    assert len(str(caught.value)) < 200


def test_a_part_may_name_the_fields_of_other_parts_as_null() -> None:
    part = {"type": "input_text", "text": "Hello", "audio": None, "transcript": None, "image_url": None, "detail": None}
    check_item({"type": "message", "role": "user", "content": [part], "id": None, "status": None})
    with pytest.raises(EventRefused) as caught:
        check_item({"type": "message", "role": "user", "content": [{**part, "audio": ""}]})
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "item.content[0].audio")
