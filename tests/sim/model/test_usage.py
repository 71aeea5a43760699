"""Token figures of responses."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phoneagent.sim.model.conversation import Conversation
from phoneagent.sim.model.records import AudioItem, CommittedTurn
from phoneagent.sim.model.usage import input_tokens, usage
from tests.sim.model.scripts import SCRIPT

pytestmark = pytest.mark.anyio


async def test_usage_grows_with_the_conversation(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        first = (await client.until("response.done"))["response"]["usage"]
        said_ms = len(client.audio()) / 8
        await client.speak()
        second = (await client.until("response.done"))["response"]["usage"]

    assert first["input_token_details"]["audio_tokens"] == 9
    assert first["output_token_details"]["audio_tokens"] == math.ceil(said_ms / 50)
    assert first["input_token_details"]["cached_tokens"] == 0
    details = second["input_token_details"]
    assert details["audio_tokens"] == pytest.approx(9 + 9 + said_ms / 50, abs=2)
    assert details["cached_tokens"] == first["input_tokens"]
    assert second["total_tokens"] == second["input_tokens"] + second["output_tokens"]


async def test_a_response_with_its_own_input_reads_nothing_else(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(output_modalities=["text"], instructions="1234")
        await client.add("A table, please, by the window.")
        before = (await client.answer())["usage"]
        empty = (await client.answer(input=[]))["usage"]
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "12345678"}]}
        own = (await client.answer(input=[item], conversation="none"))["usage"]
        after = (await client.answer())["usage"]

    assert (empty["input_tokens"], own["input_tokens"]) == (2, 4)
    assert own["input_token_details"]["cached_tokens"] == 0
    assert after["input_token_details"]["cached_tokens"] == before["input_tokens"]


def silent(kind: str, **fields: Any) -> None:
    """Send nothing."""


def message(item_id: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": "user", "content": list(parts)}


def test_text_is_counted_in_fours_and_tools_as_json() -> None:
    conversation = Conversation(silent)
    assert input_tokens({"instructions": "", "tools": []}, conversation.items, conversation) == (1, 0)  # the brackets
    conversation.add(message("1", {"text": "12345678"}, {"text": "9"}))
    conversation.add({"id": "2", "type": "function_call", "arguments": "{}", "name": "x", "call_id": "c"})
    conversation.add({"id": "3", "type": "function_call_output", "output": "four", "call_id": "c"})

    assert input_tokens({"instructions": "1234", "tools": []}, conversation.items, conversation) == (
        1 + 1 + 2 + 1 + 1 + 1,
        0,
    )


def test_audio_is_counted_by_its_length_and_after_a_truncation_by_what_is_held() -> None:
    conversation = Conversation(silent)
    conversation.turns["1"] = CommittedTurn("1", 0, 950, 0.0, audio=bytes(950 * 8))
    conversation.spoken["2"] = said = AudioItem("2", "r", "x", audio=bytearray(1000 * 8))
    conversation.add(message("1", {"type": "input_audio", "transcript": None}))
    conversation.add({**message("2", {"type": "output_audio"}), "role": "assistant"})

    assert input_tokens({"instructions": "", "tools": []}, conversation.items, conversation) == (1, 9 + 20)
    said.truncated_ms = 149
    assert input_tokens({"instructions": "", "tools": []}, conversation.items, conversation) == (1, 9 + 2)


@pytest.mark.parametrize(
    ("read_before", "text", "audio"), [(0, 0, 0), (30, 30, 0), (100, 100, 0), (110, 100, 10), (9999, 100, 50)]
)
def test_text_is_cached_before_audio_and_never_more_than_was_given(read_before: int, text: int, audio: int) -> None:
    details = usage((100, 50), read_before, [], 0)["input_token_details"]

    assert details["cached_tokens_details"] == {"text_tokens": text, "audio_tokens": audio, "image_tokens": 0}
    assert details["cached_tokens"] == text + audio


def test_what_was_said_costs_words_and_audio_and_the_sums_are_right() -> None:
    output = [
        {"type": "message", "content": [{"type": "output_audio", "transcript": "12345"}]},
        {"type": "function_call", "arguments": "12345678"},
    ]
    figures = usage((10, 0), 0, output, audio_ms=51)

    assert figures["output_token_details"] == {"text_tokens": 2 + 2, "audio_tokens": 2}
    assert figures["output_tokens"] == 6
    assert figures["total_tokens"] == 16
