"""The state of one call in a load: its two flows, and the measured moments."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from benchmarks.flow import Flow

ACCOUNT_SID = "AC" + "b" * 32


@dataclass(slots=True)
class Call:
    """One call. Moments are in seconds of `time.perf_counter`, None until they happen."""

    up: Flow
    """From the caller to the model."""
    down: Flow
    """From the model to the caller."""
    sid: str = field(default_factory=lambda: "CA" + secrets.token_hex(16))
    stream_sid: str = field(default_factory=lambda: "MZ" + secrets.token_hex(16))
    number: str = field(default_factory=lambda: f"+1555{secrets.randbelow(10_000_000):07d}")
    dialed_at: float | None = None
    """When the webhook's request was written."""
    connecting_seconds: float = 0.0
    """Twilio's own time between the webhook's answer and the media socket."""
    accepted_at: float | None = None
    """When the model got the caller's first audio."""
    asked_at: float | None = None
    """When the model got the first `response.create`."""
    spoke_at: float | None = None
    """When the model wrote its first audio."""
    greeted_at: float | None = None
    """When the phone got the agent's first audio."""
    speech_at: float | None = None
    """When the model wrote `speech_started`; None once the `clear` has come."""
    resumed_at: float | None = None
    """When the phone got audio of the answer to the interrupting turn."""
    reactions: list[float] = field(default_factory=list)
    """From each `speech_started` to its `clear`, in seconds."""
    speaking: bool = False
    """Whether the caller speaks."""
    talking: bool = False
    """Whether the agent has answered the caller's first turn, and keeps speaking."""
    over: bool = False
    """Whether the phone has hung up, so the sockets are meant to close."""
    fault: str | None = None
    """Why the call is useless, if it is."""

    def fail(self, why: str) -> None:
        """Note the first fault of a call that should still be up."""
        if not self.over and self.fault is None:
            self.fault = why

    def cleared(self, now: float) -> None:
        """Note a `clear`, which answers the caller's speech."""
        if self.speech_at is not None:
            self.reactions.append(now - self.speech_at)
            self.speech_at, self.resumed_at = None, None

    @property
    def accept_seconds(self) -> float | None:
        """From the webhook to the first audio at the model, without Twilio's own time."""
        if self.dialed_at is None or self.accepted_at is None:
            return None
        return self.accepted_at - self.dialed_at - self.connecting_seconds

    @property
    def greeting_seconds(self) -> float | None:
        """From the webhook to the first audio at the phone, without Twilio's own time and the model's."""
        dialed_at, asked_at, spoke_at, greeted_at = self.dialed_at, self.asked_at, self.spoke_at, self.greeted_at
        if dialed_at is None or asked_at is None or spoke_at is None or greeted_at is None:
            return None
        return greeted_at - dialed_at - self.connecting_seconds - (spoke_at - asked_at)
