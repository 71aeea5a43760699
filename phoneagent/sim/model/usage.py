"""Token figures, plausible rather than exact: an audio token is 100 ms of the caller or 50 ms of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.conversation import Conversation

CALLER_TOKEN_MS = 100
MODEL_TOKEN_MS = 50
CHARACTERS_A_TOKEN = 4


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_A_TOKEN)


def input_tokens(wanted: Json, items: Sequence[Json], conversation: Conversation) -> tuple[int, int]:
    """Return the text and audio tokens of a response's input: its configuration, and items that it is given."""
    text = _tokens(wanted["instructions"]) + _tokens(json.dumps(wanted["tools"]))
    audio = 0
    for item in items:
        if turn := conversation.turns.get(item["id"]):
            audio += len(turn.audio) // BYTES_PER_MS // CALLER_TOKEN_MS
        elif said := conversation.spoken.get(item["id"]):
            audio += said.held_ms // MODEL_TOKEN_MS
        text += _text_tokens(item)
    return text, audio


def _text_tokens(item: Json) -> int:
    parts = [str(part.get("text") or "") for part in item.get("content", [])]
    return sum(map(_tokens, (*parts, item.get("arguments") or "", item.get("output") or "")))


def usage(given: tuple[int, int], cached: int, output: Sequence[Json], audio_ms: int) -> Json:
    """Return the `usage` of a response. `given` are its text and audio input tokens, about `cached` of them cached."""
    text, audio = given
    cached_text = min(text, cached)
    cached_audio = min(audio, cached - cached_text)
    spoken = sum(_tokens(str(part.get("transcript") or "")) for item in output for part in item.get("content", []))
    text_out = spoken + sum(_text_tokens(item) for item in output)
    audio_out = -(-audio_ms // MODEL_TOKEN_MS)
    return {
        "total_tokens": text + audio + text_out + audio_out,
        "input_tokens": text + audio,
        "output_tokens": text_out + audio_out,
        "input_token_details": {
            "text_tokens": text,
            "audio_tokens": audio,
            "image_tokens": 0,
            "cached_tokens": cached_text + cached_audio,
            "cached_tokens_details": {"text_tokens": cached_text, "audio_tokens": cached_audio, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": text_out, "audio_tokens": audio_out},
    }
