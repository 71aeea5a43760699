"""The setup of a simulated Realtime server: what its sessions share, and the faults that a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from phoneagent.sim.model.script import Script
from phoneagent.sim.model.service import Service
from phoneagent.sim.model.vad import Vad
from phoneagent.sim.speech import Ear


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. All of it counts from the opening of each session; the defaults are a healthy server."""

    # the connection
    refuse_status: int | None = None
    """Refuse the handshake with this HTTP status (429, 503, ...)."""
    slow_start_seconds: float = 0
    """Wait before `session.created`."""
    no_created: bool = False
    """Accept the socket and then say nothing at all."""
    drop_after_seconds: float | None = None
    """Break the connection off, without a closing handshake unless there is a `drop_code`."""
    drop_code: int | None = None
    """Close with this code at `drop_after_s`."""
    stall_after_seconds: float | None = None
    """Keep the socket, but send nothing more."""
    error_events: tuple[tuple[float, Mapping[str, Any]], ...] = ()
    """`error` objects to send, each after so many seconds."""

    # what it accepts
    refuse_beta: bool = False
    """Answer the beta dialect as OpenAI does since May 2026: an error, and close 4000."""
    refuse_fields: frozenset[str] | set[str] = frozenset()
    """Session parameters that this server has never heard of, dotted: `audio.input.transcription`."""
    refuse_models: frozenset[str] | set[str] = frozenset()
    """Models that do not exist here, of speech (refused after the handshake) or of transcription (refused update)."""
    shutdown_date: str | None = None
    """The day, YYYY-MM-DD, on which the models are switched off, as `GET /v1/models/{model}` tells it."""

    # its answers
    fail_responses: int = 0
    """The first so many responses end `failed` with a server_error."""
    rate_limit_resets_seconds: float | None = None
    """They fail for a rate limit instead, which resets after so many seconds."""
    silent_response: int = 0
    """The first so many responses (after the failing ones) end `completed` without any output."""
    cancel_without_asking: bool = False
    """Speech cancels the response even if `interrupt_response` is false."""
    stray_deltas: int = 0
    """Audio deltas that a cancelled response still sends."""
    slow_cancel_seconds: float = 0
    """Time from a cancellation to its `response.done`; the response stays active meanwhile."""
    overlap_items: bool = False
    """The end of an audio item is announced only after the first audio of the next, as newer models do."""
    no_transcription: bool = False
    """Every input transcription ends `failed`."""

    # the MCP servers that it calls
    mcp_unreachable: frozenset[str] | set[str] = frozenset()
    """Labels of servers that cannot be asked for their tools."""
    mcp_inline: bool = False
    """Calls run inside their response, and what follows is said without being asked for; see `model_mcp`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all sessions of a server share."""

    script: Script
    ear: Ear | None
    make_vad: Callable[[float], Vad]
    voiced: Callable[..., Coroutine[Any, Any, bytes]]
    """`voiced(text, audio_format)` renders a line; without a format it only prepares it."""
    speed: float
    think_ms: float
    delta_ms: int
    session_seconds: float
    faults: Faults
    service: Service
    changed: Callable[[], None]
    """Called after everything that happened."""
