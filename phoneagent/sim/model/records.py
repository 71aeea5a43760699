"""The records that the simulated Realtime server keeps of a session.

Times are in seconds of `time.monotonic()`. The caller's `*_ms` count input audio, and an item's `*_ms` its own audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


def words_within(text: str, part: int, whole: int) -> str:
    """Return the whole words in this part of a text, as its audio is cut: `part` of `whole` bytes."""
    return text if part >= whole else text[: len(text) * part // whole].rpartition(" ")[0]


@dataclass(slots=True)
class AudioItem:
    """One spoken message of the assistant."""

    item_id: str
    response_id: str
    text: str
    """The whole planned transcript, including the part never spoken. A brain's grows with each sentence."""
    bytes_per_ms: int = 8
    """Bytes per ms of `audio`: 8 for µ-law and A-law, 48 for PCM at 24 kHz."""
    audio: bytearray = field(default_factory=bytearray)
    """The audio sent in deltas, in the session's output format. A truncation does not shorten it."""
    delta_log: list[tuple[float, int]] = field(default_factory=list)
    """For each delta, when it was sent and the item's total bytes by then."""
    interrupted: bool = False
    """The response was canceled before this item was complete."""
    truncated_ms: int | None = None
    """The heard audio in ms, from the last accepted truncation."""
    parts: list[tuple[str, int]] = field(default_factory=list)
    """The sentences of `text`, each with the bytes of its audio, including what was never sent."""

    @property
    def sent_ms(self) -> int:
        """The audio sent, in whole ms."""
        return len(self.audio) // self.bytes_per_ms

    @property
    def held_ms(self) -> int:
        """The audio that the conversation still holds, in whole ms."""
        return self.sent_ms if self.truncated_ms is None else self.truncated_ms

    def text_until(self, end_ms: int) -> str:
        """Return the words within the first `end_ms`, followed by "…" if there are more."""
        left, found = end_ms * self.bytes_per_ms, ""
        for text, size in self.parts:
            if left < size:
                words = words_within(text, left, size)
                found = " ".join(part for part in (found, words) if part)
                return f"{found}…" if found else ""
            found = " ".join(part for part in (found, text) if part)
            left -= size
        return found


@dataclass(frozen=True, slots=True)
class Truncation:
    """A `conversation.item.truncate` and whether it was accepted."""

    item_id: str
    audio_end_ms: int
    at: float
    ok: bool


@dataclass(slots=True)
class ToolCallRecord:
    """A function call by the model. `arguments` is the JSON text that was sent."""

    name: str
    call_id: str
    arguments: str
    called_at: float
    output: str | None = None
    returned_at: float | None = None


@dataclass(slots=True)
class McpCallRecord:
    """A call of an MCP server's tool by the model. `output` and `error` are both None until the call is settled."""

    server: str
    name: str
    arguments: str
    approved: bool | None = None
    """The client's decision, if its approval was requested."""
    output: str | None = None
    error: str | None = None
    """Why the call failed, or why the client refused it."""


@dataclass(slots=True)
class CommittedTurn:
    """One committed turn of the caller's audio. `text` is what the model understood, from the audio or the script."""

    item_id: str
    speech_start_ms: int
    speech_end_ms: int
    started_at: float
    text: str = ""
    audio: bytes = b""
    """The turn as µ-law, with its prefix padding and closing silence."""


@dataclass(slots=True)
class ResponseRecord:
    """One response, from `response.created` to `response.done`."""

    id: str
    by: Literal["vad", "client", "server"]
    """The cause: turn detection, the client, or the `server` itself, which reports an MCP call's outcome."""
    created_at: float
    status: str = "in_progress"
    reason: str | None = None
    """Why it was canceled or cut: `turn_detected`, `client_cancelled`, `max_output_tokens`."""
    first_audio_at: float | None = None
    done_at: float | None = None
    metadata: Mapping[str, str] | None = None
    instructions: str | None = None
    """The response's own instructions, in place of the session's."""
    out_of_band: bool = False
    """Created with `conversation: "none"`: not stored in the conversation, and allowed alongside another response."""


class SessionRecord:
    """The record of one session; each list is in chronological order."""

    def __init__(self) -> None:
        self.closed = False
        self.violations: list[str] = []
        """Rules that the client broke, one line each."""
        self.races: list[str] = []
        """Refusals without blame: client and server acted at the same time."""
        self.events_in: list[tuple[float, str]] = []
        """The time and type of each client event except audio."""
        self.append_log: list[tuple[float, int]] = []
        """For each append, its time and the total bytes of input audio by then."""
        self.brought: list[dict[str, Any]] = []
        """Items that the client added: a replayed history, tool outputs, instructions."""
        self.audio_items: list[AudioItem] = []
        self.tool_calls: list[ToolCallRecord] = []
        """Calls that the model made in this session; calls of a replayed history are in `brought`."""
        self.mcp_calls: list[McpCallRecord] = []
        self.caller_turns: list[CommittedTurn] = []
        self.responses: list[ResponseRecord] = []

    @property
    def said(self) -> list[str]:
        """The lines that the model began to say, whole even if interrupted."""
        return [item.text for item in self.audio_items]

    @property
    def heard(self) -> list[str]:
        """The text of the caller's turns, understood or scripted."""
        return [turn.text for turn in self.caller_turns]

    @property
    def told(self) -> list[tuple[str, str]]:
        """The items that the client added, as (role or type, text): `("user", "A table, please.")`."""
        return [(str(item.get("role", item["type"])), _words(item)) for item in self.brought]


def _words(item: Mapping[str, Any]) -> str:
    if item["type"] == "function_call":
        return f"{item['name']}({item['arguments']})"
    if item["type"] == "function_call_output":
        return str(item["output"])
    return " ".join(str(part.get("text", "")) for part in item.get("content", []))
