"""The setup of a simulated Realtime server: the options that its sessions share, and the faults to simulate."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.service import Service
from phoneagent.sim.model.standins import StandIn
from phoneagent.sim.model.vad import Vad
from phoneagent.sim.speech import Ear


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of the server. Times count from the start of each session. The defaults are a healthy server."""

    # the connection
    refuse_status: int | None = None
    """Refuse the handshake with this HTTP status (429, 503, ...)."""
    slow_start_seconds: float = 0
    """Wait before `session.created`."""
    no_created: bool = False
    """Accept the socket and never send `session.created`."""
    drop_after_seconds: float | None = None
    """Cut the connection after this time, without a closing handshake unless `drop_code` is set."""
    drop_code: int | None = None
    """Close with this code at `drop_after_seconds`."""
    stall_after_seconds: float | None = None
    """Keep the socket open, but send nothing after this time."""
    error_events: tuple[tuple[float, Mapping[str, Any]], ...] = ()
    """`error` objects to send, each with its time in seconds."""

    # what the server accepts
    refuse_fields: frozenset[str] | set[str] = frozenset()
    """Session parameters that this server does not know, dotted: `audio.input.transcription`."""
    refuse_models: frozenset[str] | set[str] = frozenset()
    """Models that do not exist: for speech (refused after the handshake) or for transcription (a refused update)."""
    shutdown_date: str | None = None
    """The models' shutdown date, YYYY-MM-DD, in the answer to `GET /v1/models/{model}`."""

    # responses
    fail_responses: int = 0
    """The number of first responses that end `failed` with a server_error."""
    rate_limit_resets_seconds: float | None = None
    """Failing responses hit a rate limit instead, which resets after this time."""
    silent_response: int = 0
    """The number of responses, after the failing ones, that end `completed` without any output."""
    cancel_without_asking: bool = False
    """Speech cancels the response even if `interrupt_response` is false."""
    stray_deltas: int = 0
    """The number of audio deltas that a canceled response still sends."""
    slow_cancel_seconds: float = 0
    """Time from a cancellation to its `response.done`; until then the response stays active."""
    overlap_items: bool = False
    """Announce the end of an audio item only after the first audio of the next one, as newer models do."""
    no_transcription: bool = False
    """Every input transcription ends `failed`."""

    # MCP servers
    mcp_unreachable: frozenset[str] | set[str] = frozenset()
    """Labels of servers whose tools cannot be listed."""
    mcp_inline: bool = False
    """Calls run inside their response, and the next response follows by itself; see `phoneagent.sim.model.mcp`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The options that all sessions of a server share."""

    script: Script
    ear: Ear | None
    make_vad: Callable[[float], Vad]
    voiced: Callable[..., Coroutine[Any, Any, bytes]]
    """`voiced(text, audio_format)` renders a line of speech. Without a format it only renders ahead of time."""
    speed: float
    think_ms: float
    delta_ms: int
    session_seconds: float
    faults: Faults
    stand_in: StandIn
    changed: Callable[[], None]
    """Called after every event and change."""
    brain: Brain | None = None
    """The brain that answers instead of the script."""

    @property
    def service(self) -> Service:
        """The rules for handshakes."""
        return self.stand_in.service
