"""Everything we send, in both spellings, against the official package's types: nothing missing or unknown."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest

from phoneagent import Agent, Call, Hearing, Limits, Turns, Voice, hang_up, tool
from phoneagent.protocol import realtime
from phoneagent.protocol.negotiation import Negotiation
from phoneagent.protocol.realtime import Dialect, encode
from tests.protocol.sdk import check

pytestmark = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)


@tool
async def book_table(call: Call, guests: int, time: str, note: str | None = None) -> str:
    """Book a table."""
    return f"{call.sid} {guests} {time} {note}"


EVERYTHING = Agent(
    instructions="Be brief.",
    voice=Voice("coral", speed=1.1),
    tools=[book_table, hang_up],
    tool_choice="book_table",
    turns=Turns(threshold=0.7, prefix_padding_ms=200, silence_duration_ms=400, idle_timeout_ms=6000),
    hearing=Hearing(language="fr", prompt="Orders.", keywords=["Chez Nous"], noise_reduction="far_field"),
    limits=Limits(
        max_output_tokens=500,
        retention_ratio=0.8,
        post_instructions_tokens=8000,
        reasoning_effort="low",
        parallel_tool_calls=True,
    ),
    extra={"include": ["item.input_audio_transcription.logprobs"], "tracing": "auto"},
)
SEMANTIC = Agent(
    instructions="Be brief.",
    turns=Turns(detection="semantic_vad", eagerness="low"),
    hearing=Hearing(models="gpt-live-transcribe", language=("fr", "de")),
    limits=Limits(truncation="disabled"),
    extra={"max_output_tokens": "inf"},
)
MANUAL = Agent(instructions="Be brief.", turns=Turns(detection="manual"), tools=[hang_up], tool_choice="required")
AGENTS = {
    "plain": Agent(instructions="x"),
    "everything": EVERYTHING,
    "semantic": SEMANTIC,
    "manual": MANUAL,
}


@pytest.mark.parametrize("written", [False, True], ids=["spoken", "written"])
@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS.keys())
def test_a_configuration(dialect: Dialect, agent: Agent, written: bool) -> None:
    check(configured(agent, dialect, written=written), dialect)


def test_a_custom_voice(dialect: Dialect) -> None:
    """The beta has voices of its own only: its servers refuse another, and it is left out then."""
    event = configured(Agent(instructions="Be brief.", voice="voice_1234"), dialect)
    with pytest.raises(ValueError, match="voice") if dialect is Dialect.BETA else nullcontext():
        check(event, dialect)


def configured(agent: Agent, dialect: Dialect, *, written: bool = False) -> Any:
    session = agent.session("Be brief.", written=written)
    configuring = Negotiation(session, transcription_models=["gpt-transcribe"], dialect=dialect)
    update = configuring.receive(realtime.SessionCreated(session={}), 0.0)
    assert update is not None
    return json.loads(encode(update, dialect))


def message(role: str, kind: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": "Hello."}]}


MESSAGES: dict[str, realtime.ToModel] = {
    "audio": realtime.AudioAppend("AAAA"),
    "commit": realtime.AudioCommit(),
    "clear": realtime.AudioClear(),
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
    "stop what is played": realtime.OutputAudioClear(event_id="e"),
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
