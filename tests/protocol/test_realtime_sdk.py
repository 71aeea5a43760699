"""Everything we send, in both spellings, against the official package's types: nothing missing or unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phoneagent import Agent, Call, Turns, hang_up, tool
from phoneagent.protocol import realtime
from phoneagent.protocol.configuring import Configuring
from phoneagent.protocol.realtime import Dialect, encode
from tests.protocol.sdk import check

pytestmark = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)


@tool
async def book_table(call: Call, guests: int, time: str, note: str | None = None) -> str:
    """Book a table."""
    return f"{call.sid} {guests} {time} {note}"


EVERYTHING = Agent(
    instructions="Be brief.",
    voice="coral",
    language="fr",
    tools=[book_table, hang_up],
    turns=Turns(threshold=0.7),
    extra={
        "max_output_tokens": 500,
        "tool_choice": {"type": "function", "name": "book_table"},
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": True,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8},
        "include": ["item.input_audio_transcription.logprobs"],
        "tracing": "auto",
        "audio": {
            "input": {"noise_reduction": {"type": "far_field"}, "turn_detection": {"idle_timeout_ms": 6000}},
            "output": {"speed": 1.1},
        },
    },
)
SEMANTIC = Agent(
    instructions="Be brief.",
    extra={
        "max_output_tokens": "inf",
        "audio": {"input": {"turn_detection": None, "transcription": {"prompt": "names", "keywords": ["Chez Nous"]}}},
    },
)


@pytest.mark.parametrize(
    "agent", [Agent(instructions="x"), EVERYTHING, SEMANTIC], ids=["plain", "everything", "manual"]
)
def test_a_configuration(dialect: Dialect, agent: Agent) -> None:
    configuring = Configuring(agent.session("Be brief."), transcription_models=["gpt-transcribe"], dialect=dialect)
    update = configuring.receive(realtime.SessionCreated(session={}))
    assert update is not None
    check(json.loads(encode(update, dialect)), dialect)


def message(role: str, kind: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": "Hello."}]}


MESSAGES: dict[str, realtime.ToModel] = {
    "audio": realtime.AudioAppend("AAAA"),
    "user": realtime.ItemCreate(event_id="e", item={"id": "i1", **message("user", "input_text")}),
    "system": realtime.ItemCreate(item=message("system", "input_text")),
    "assistant": realtime.ItemCreate(item=message("assistant", "output_text")),
    "call": realtime.ItemCreate(
        item={"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"}
    ),
    "output": realtime.ItemCreate(item={"type": "function_call_output", "call_id": "c1", "output": '"done"'}),
    "truncate": realtime.ItemTruncate(event_id="e", item_id="i1", content_index=0, audio_end_ms=0),
    "create": realtime.ResponseCreate(),
    "create with options": realtime.ResponseCreate(
        event_id="e",
        response={
            "instructions": "Say hello.",
            "output_modalities": ["audio"],
            "tool_choice": "none",
            "tools": [book_table.definition()],
            "conversation": "none",
            "max_output_tokens": 100,
            "input": [message("assistant", "output_text")],
            "audio": {"output": {"voice": "coral", "format": {"type": "audio/pcmu"}}},
            "metadata": {"phoneagent": "1"},
        },
    ),
    "cancel": realtime.ResponseCancel(event_id="e", response_id="r1"),
    "cancel whatever there is": realtime.ResponseCancel(),
}


@pytest.mark.parametrize("sent", MESSAGES.values(), ids=MESSAGES.keys())
def test_every_message(dialect: Dialect, sent: realtime.ToModel) -> None:
    check(json.loads(encode(sent, dialect)), dialect)


WRONG: dict[str, dict[str, Any]] = {
    "unknown": {"type": "response.make"},
    "incomplete": {"type": "conversation.item.truncate", "item_id": "i", "content_index": 0},
    "unknown field": {"type": "response.cancel", "why": "because"},
    "unknown field inside": {"type": "session.update", "session": {"type": "realtime", "colour": "red"}},
}


@pytest.mark.parametrize("event", WRONG.values(), ids=WRONG.keys())
def test_the_check_can_fail(dialect: Dialect, event: dict[str, Any]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(event, dialect)
