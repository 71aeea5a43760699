"""The records that the simulated Realtime server keeps of a session.

Times are seconds of `time.monotonic()`. `*_ms` of the caller count input audio, `*_ms` of an item its own audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(slots=True)
class AudioItem:
    """One assistant message that was spoken."""

    item_id: str
    response_id: str
    text: str
    """The whole intended transcript, said or not."""
    bytes_per_ms: int = 8
    """Of `audio`: 8 for µ-law and A-law, 48 for PCM at 24 kHz."""
    audio: bytearray = field(default_factory=bytearray)
    """What was really sent in deltas, in the session's output format; a truncation does not shorten it."""
    delta_log: list[tuple[float, int]] = field(default_factory=list)
    """For each delta, when it was sent and the bytes of this item up to and with it."""
    interrupted: bool = False
    """The response was cancelled before this item was complete."""
    truncated_ms: int | None = None
    """What the client said was heard, after a truncation that was accepted."""

    @property
    def sent_ms(self) -> int:
        """How much audio was sent, in whole ms."""
        return len(self.audio) // self.bytes_per_ms

    @property
    def held_ms(self) -> int:
        """How much audio the conversation still holds, in whole ms."""
        return self.sent_ms if self.truncated_ms is None else self.truncated_ms


@dataclass(frozen=True, slots=True)
class Truncation:
    """A `conversation.item.truncate` and whether it was accepted."""

    item_id: str
    audio_end_ms: int
    at: float
    ok: bool


@dataclass(slots=True)
class ToolCallRecord:
    """A function call that the model made. `arguments` is the JSON text that was sent."""

    name: str
    call_id: str
    arguments: str
    called_at: float
    output: str | None = None
    returned_at: float | None = None


@dataclass(slots=True)
class McpCallRecord:
    """A call of a tool of an MCP server, by the model. It has neither `output` nor `error` until it was made."""

    server: str
    name: str
    arguments: str
    approved: bool | None = None
    """What the client said, if it was asked."""
    output: str | None = None
    error: str | None = None
    """Why it failed, or the reason for which it was refused."""


@dataclass(slots=True)
class CommittedTurn:
    """One committed stretch of the caller's audio. `text` is what the model understood, heard or scripted."""

    item_id: str
    speech_start_ms: int
    speech_end_ms: int
    started_at: float
    text: str = ""
    audio: bytes = b""
    """The turn as µ-law, padding and closing silence included."""


@dataclass(slots=True)
class ResponseRecord:
    """One response, from `response.created` to `response.done`."""

    id: str
    by: Literal["vad", "client", "server"]
    """Who asked for it; `server`: nobody, it tells what came of an MCP server's tool."""
    created_at: float
    status: str = "in_progress"
    reason: str | None = None
    """Why it was cancelled or cut: `turn_detected`, `client_cancelled`, `max_output_tokens`."""
    first_audio_at: float | None = None
    done_at: float | None = None
    metadata: Mapping[str, str] | None = None
    instructions: str | None = None
    """Its own, in place of the session's."""
    out_of_band: bool = False
    """It was created with `conversation: "none"`: stored nowhere, and allowed beside another response."""


class SessionRecord:
    """What is remembered of a session, each list in order of time."""

    def __init__(self) -> None:
        self.closed = False
        self.violations: list[str] = []
        """Rules that the client broke, a line each."""
        self.races: list[str] = []
        self.events_in: list[tuple[float, str]] = []
        """When each event but audio came, and its type."""
        self.append_log: list[tuple[float, int]] = []
        self.brought: list[dict[str, Any]] = []
        """Items that the client added: a replayed history, outputs of tools, wishes."""
        self.audio_items: list[AudioItem] = []
        self.tool_calls: list[ToolCallRecord] = []
        """Calls that the model made here; calls of a replayed history are in `brought`."""
        self.mcp_calls: list[McpCallRecord] = []
        self.caller_turns: list[CommittedTurn] = []
        self.responses: list[ResponseRecord] = []

    @property
    def said(self) -> list[str]:
        """The lines that the model began to say, whole even if it was cut."""
        return [item.text for item in self.audio_items]

    @property
    def heard(self) -> list[str]:
        """The caller's turns, as understood or scripted."""
        return [turn.text for turn in self.caller_turns]

    @property
    def told(self) -> list[tuple[str, str]]:
        """What the client added, as (role or type, text): `("user", "A table, please.")`."""
        return [(str(item.get("role", item["type"])), _words(item)) for item in self.brought]


def _words(item: Mapping[str, Any]) -> str:
    if item["type"] == "function_call":
        return f"{item['name']}({item['arguments']})"
    if item["type"] == "function_call_output":
        return str(item["output"])
    return " ".join(str(part.get("text", "")) for part in item.get("content", []))
