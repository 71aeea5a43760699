"""Answers that a brain improvises: the session's instructions, conversation and tools in, lines and calls out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, assert_never

from phoneagent.sim.model.brain import Brain, CutShort, Prompt
from phoneagent.sim.model.chat_messages import chat_messages, chat_tool_choice, chat_tools, prescribed_words
from phoneagent.sim.model.chat_stream import ToolCall
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.replies import PlannedCall
from phoneagent.sim.model.sentences import Sentences
from phoneagent.sim.model.state import SessionState


async def improvise(
    brain: Brain, state: SessionState, params: Json, wanted: Json
) -> AsyncGenerator[str | PlannedCall | CutShort]:
    """Yield an answer: words as they come if it is written, whole sentences if it is spoken; then its calls.

    `params` are the response's own, `wanted` includes the session's. Words that the client prescribes exactly ("… with
    exactly these words: …") are said at once, without the brain: a speech model says them, a small model may not.

    Raises:
        BrainFailed: no answer comes, or it breaks off.
    """
    spoken = wanted["output_modalities"] == ["audio"]
    items: list[Json] = params["input"] if params.get("input") is not None else state.conversation.items
    if (prescribed := _prescribed(params, items)) is not None:
        yield prescribed
        return
    heard = await state.understood([item["id"] for item in items])
    messages = chat_messages(
        items,
        instructions=state.session.get("instructions") or "",
        asked=params.get("instructions"),
        spoken=spoken,
        said=state.conversation.spoken,
        heard=heard,
        idle=state.replies.idle,
    )
    limit = wanted["max_output_tokens"]
    prompt = Prompt(
        messages,
        tools=chat_tools(wanted["tools"]),
        tool_choice=chat_tool_choice(wanted["tool_choice"]),
        max_tokens=None if isinstance(limit, str) or spoken else limit,
    )
    sentences = Sentences()
    async with aclosing(brain.think(prompt)) as thought:
        async for piece in thought:
            match piece:
                case str():
                    for line in sentences.feed(piece) if spoken else [piece]:
                        yield line
                case ToolCall():
                    for line in sentences.rest():
                        yield line
                    if prompt.tool_choice != "none":  # some servers ignore it
                        yield PlannedCall(piece.name, piece.arguments.strip() or "{}")
                case CutShort():
                    for line in sentences.rest():
                        yield line
                    yield piece
                case _:
                    assert_never(piece)
    for line in sentences.rest():
        yield line


def _prescribed(params: Json, items: list[Any]) -> str | None:
    """Return the words that the client prescribes, by the response's instructions or by a system item at the end."""
    text = params.get("instructions") or ""
    if not text and items and items[-1].get("role") == "system":
        text = " ".join(str(part.get("text", "")) for part in items[-1].get("content", ()))
    return prescribed_words(text)
