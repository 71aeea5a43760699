"""An agent's options for its model session: voice, turn-taking, hearing and limits.

Each option is a small value that is checked where it is written; a mistake is a `DefinitionError`. Each writes its own
part of the session in GA's shape. Fields that a model or the beta dialect does not accept are left out when the session
opens, and that is reported.

Source: OpenAI's Realtime API reference, `session.update`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from phoneagent.agent.call import is_text
from phoneagent.errors import DefinitionError

Detection = Literal["server_vad", "semantic_vad", "manual"]
Eagerness = Literal["auto", "low", "medium", "high"]
NoiseReduction = Literal["near_field", "far_field"]
Truncation = Literal["auto", "disabled"]
Effort = Literal["minimal", "low", "medium", "high", "xhigh"]

_SERVER_VAD = {"threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
"""Sent in full, because servers' defaults differ from their documentation."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True, slots=True)
class Voice:
    """The agent's voice.

    `name` is one of the model's voices, or the id of a custom one (`voice_…`). `speed` is a factor from 0.25 to 1.5.
    """

    name: str = "marin"
    speed: float | None = None

    def __post_init__(self) -> None:
        _is_text(self, "name")
        if self.name != self.name.strip():
            raise _wrong(self, "name", "remove the spaces around it")
        _is_number(self, "speed", 0.25, 1.5)

    def session(self) -> dict[str, Any]:
        """Return `audio.output`, without its format."""
        named: dict[str, Any] = {"voice": {"id": self.name} if self.name.startswith("voice_") else self.name}
        return named | _given(speed=self.speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Turn detection: how the model finds the end of the caller's turn.

    - `server_vad`: by silence. `threshold` is 0 to 1 (default 0.5; higher for noisy lines). The turn includes
      `prefix_padding_ms` of audio before the detected start (300) and ends after `silence_duration_ms` without speech
      (500). If the caller says nothing for `idle_timeout_ms` (5000 to 30000), the agent asks whether they are still
      there.
    - `semantic_vad`: by the words. With `eagerness` "low" the model waits at most 8 s, "medium" 4 s, "high" 2 s.
    - `manual`: not at all, as for push-to-talk. Your code calls `call.clear()`, `call.commit()`, `call.respond()` and
      `call.interrupt()`.
    """

    detection: Detection = "server_vad"
    threshold: float | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None
    idle_timeout_ms: int | None = None
    eagerness: Eagerness | None = None

    def __post_init__(self) -> None:
        _is_one_of(self, "detection", get_args(Detection))
        _is_number(self, "threshold", 0, 1)
        _is_number(self, "prefix_padding_ms", 0, 10_000, whole=True)
        _is_number(self, "silence_duration_ms", 0, 10_000, whole=True)
        _is_number(self, "idle_timeout_ms", 5_000, 30_000, whole=True)
        _is_one_of(self, "eagerness", (None, *get_args(Eagerness)))
        for name in (*_SERVER_VAD, "idle_timeout_ms"):
            _belongs(self, name, "server_vad")
        _belongs(self, "eagerness", "semantic_vad")

    def session(self, *, create_response: bool) -> dict[str, Any] | None:
        """Return `audio.input.turn_detection`.

        `interrupt_response` is off because the server does not know how much the caller heard; the bridge interrupts.
        """
        if self.detection == "manual":
            return None
        ours = {"create_response": create_response, "interrupt_response": False}
        if self.detection == "semantic_vad":
            return {"type": "semantic_vad", **_given(eagerness=self.eagerness), **ours}
        figures = _given(**{name: getattr(self, name) for name in (*_SERVER_VAD, "idle_timeout_ms")})
        return {"type": "server_vad", **_SERVER_VAD, **figures, **ours}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """The transcription of the caller's speech, and noise reduction.

    The model hears the audio itself; the transcript comes from a separate recognizer.

    `models` are recognizers to try in order. None uses the endpoint's. An empty sequence uses none: then no record has
    the caller's words, and if the model session is lost, the next one does not get them.

    `language` (ISO 639-1) helps the recognizer; give several if the caller may speak any of them. `prompt` is a text in
    the expected style; `keywords` are expected words, such as names.

    `noise_reduction` is applied before the model hears the audio: "near_field" for a handset, "far_field" for a
    speakerphone.
    """

    models: str | Sequence[str] | None = None
    language: str | Sequence[str] | None = None
    prompt: str | None = None
    keywords: Sequence[str] = ()
    noise_reduction: NoiseReduction | None = None

    def __post_init__(self) -> None:
        for name in ("models", "language", "keywords"):
            value = getattr(self, name)
            if name == "keywords" and isinstance(value, str):
                raise _wrong(self, name, "write a sequence of words")
            if value is not None and not isinstance(value, str):
                if not isinstance(value, Sequence):
                    raise _wrong(self, name, "write text, or a sequence of texts")
                object.__setattr__(self, name, tuple(value))  # a list that changes later would change sessions
            if not all(is_text(each) and each.strip() for each in _several(value)):
                raise _wrong(self, name, "each entry must be text that is not empty")
        if not all(_LANGUAGE.fullmatch(each) for each in _several(self.language)):
            raise _wrong(self, "language", 'write codes of ISO 639-1, like "fr"')
        if self.prompt is not None:
            _is_text(self, "prompt")
        _is_one_of(self, "noise_reduction", (None, *get_args(NoiseReduction)))

    @property
    def transcription_models(self) -> tuple[str, ...] | None:
        """The recognizers to try in order; None uses the endpoint's."""
        return None if self.models is None else _several(self.models)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the caller may speak; empty if unknown."""
        return _several(self.language)

    def session(self) -> dict[str, Any]:
        """Return the parts of `audio.input`, without the recognizer's name, which comes with the endpoint."""
        several = self.language is not None and not isinstance(self.language, str)
        transcription = _given(
            language=None if several else self.language,
            languages=list(_several(self.language)) if several else None,
            prompt=self.prompt,
            keywords=list(self.keywords) or None,
        )
        noise = None if self.noise_reduction is None else {"type": self.noise_reduction}
        wanted = transcription and self.transcription_models != ()
        return _given(transcription=transcription if wanted else None, noise_reduction=noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a response and of the conversation that the model sees. None leaves a limit to the server.

    `max_output_tokens` (1 to 4096) limits one response, tool calls and audio included; a longer sentence is cut off.

    When a call outgrows the model's context, `truncation` "auto" drops its oldest items, and "disabled" fails.
    `retention_ratio` (0 to 1) instead drops items until only that share is left: fewer truncations keep more of the
    conversation cached, which is cheaper. With it, `post_instructions_tokens` is the maximum number of tokens besides
    the instructions.

    `reasoning_effort` and `parallel_tool_calls` apply to models that reason.
    """

    max_output_tokens: int | None = None
    truncation: Truncation | None = None
    retention_ratio: float | None = None
    post_instructions_tokens: int | None = None
    reasoning_effort: Effort | None = None
    parallel_tool_calls: bool | None = None

    def __post_init__(self) -> None:
        _is_number(self, "max_output_tokens", 1, 4096, whole=True)
        _is_one_of(self, "truncation", (None, *get_args(Truncation)))
        _is_number(self, "retention_ratio", 0, 1)
        _is_number(self, "post_instructions_tokens", 1, 1_000_000, whole=True)
        _is_one_of(self, "reasoning_effort", (None, *get_args(Effort)))
        _is_one_of(self, "parallel_tool_calls", (None, True, False))
        if self.truncation is not None and self.retention_ratio is not None:
            raise _wrong(self, "truncation", "it conflicts with retention_ratio: leave one of them out")
        if self.post_instructions_tokens is not None and self.retention_ratio is None:
            raise _wrong(self, "post_instructions_tokens", "it needs a retention_ratio, like 0.8")

    def session(self) -> dict[str, Any]:
        """Return the parts of the session that these limits set."""
        truncation: Any = self.truncation
        if self.retention_ratio is not None:
            tokens = _given(post_instructions=self.post_instructions_tokens)
            truncation = {"type": "retention_ratio", "retention_ratio": self.retention_ratio}
            truncation |= _given(token_limits=tokens or None)
        return _given(
            max_output_tokens=self.max_output_tokens,
            truncation=truncation,
            reasoning=None if self.reasoning_effort is None else {"effort": self.reasoning_effort},
            parallel_tool_calls=self.parallel_tool_calls,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The recording of an agent's calls, at the place that the setting RECORD_AUDIO names.

    `consent` is said first in the call, word for word, and the caller cannot interrupt it. The recording starts once
    the caller has heard it. With `start=False`, both wait for `call.start_recording()`.
    """

    consent: str | None = None
    start: bool = True

    def __post_init__(self) -> None:
        if self.consent is not None:
            _is_text(self, "consent")
        _is_one_of(self, "start", (True, False))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


# --- checks: each names the field, its value and the remedy -----------------------------------------------------------


def _wrong(owner: object, name: str, remedy: str) -> DefinitionError:
    value = repr(getattr(owner, name))
    shown = value if len(value) <= 80 else value[:77] + "..."
    return DefinitionError(f"{type(owner).__name__}.{name} is {shown}: {remedy}")


def _is_text(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if not is_text(value) or not value.strip():
        raise _wrong(owner, name, "write text that is not empty")


def _is_one_of(owner: object, name: str, allowed: tuple[object, ...]) -> None:
    value = getattr(owner, name)
    if not any(value is each or (isinstance(value, str) and value == each) for each in allowed):
        raise _wrong(owner, name, f"choose one of {', '.join(map(repr, allowed))}")


def _is_number(owner: object, name: str, low: float, high: float, *, whole: bool = False) -> None:
    value = getattr(owner, name)
    if value is None:
        return
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise _wrong(owner, name, f"it must be {'a whole' if whole else 'a'} number from {low:g} to {high:g}")


def _belongs(turns: Turns, name: str, detection: Detection) -> None:
    if getattr(turns, name) is not None and turns.detection != detection:
        raise _wrong(turns, name, f"it applies to detection={detection!r}, not {turns.detection!r}: leave one out")
