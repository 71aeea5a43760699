"""Session negotiation: bringing a model session into the shape a call needs, whatever the far end refuses.

A server refuses a `session.update` as a whole if one field of it is unknown or invalid. The refused field is dropped
(the transcription model is replaced by the next one first) and the rest is sent again, down to what a call cannot do
without.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, assert_never

from phoneagent.errors import EndpointRefused, EndpointUnreachable
from phoneagent.protocol.realtime import (
    FATAL_CODES,
    Dialect,
    Error,
    Failure,
    FromModel,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
)
from phoneagent.protocol.session_object import dialect_of, formats_of

MAX_ATTEMPTS = 12
"""After this many updates, everything optional is dropped at once."""

_PASSING = frozenset({"server_error", "rate_limit_exceeded", "inference_rate_limit_exceeded", "session_expired"})
_TRANSCRIPTION = ("audio", "input", "transcription")
_TURNS = ("audio", "input", "turn_detection")
_WHOLE = (
    ("audio", "input", "format"),
    ("audio", "output", "format"),
    ("audio", "input", "noise_reduction"),
    ("audio", "output", "voice"),
    ("reasoning",),
    ("truncation",),
    ("tool_choice",),
    ("tracing",),
)
"""Fields that are dropped as a whole: without the part that was refused, the rest of them says nothing."""

_SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
_FORMATS = frozenset({("audio", "input", "format"), ("audio", "output", "format")})
"""Without these a server hears and speaks in formats of its own choice, which its session names."""

PHONE_FORMAT, PCM_FORMAT = "audio/pcmu", "audio/pcm"
"""The format of a call, and the one that it can be converted to (see `transcoding`)."""

_VITAL = frozenset(
    {
        ("type",),
        ("output_modalities",),
        ("instructions",),
        ("tools",),
        ("audio",),
        ("audio", "input"),
        ("audio", "output"),
        ("audio", "input", "format"),
        ("audio", "output", "format"),
        _TURNS,
    }
)
_BETA_PATHS = {
    "input_audio_format": ("audio", "input", "format"),
    "output_audio_format": ("audio", "output", "format"),
    "input_audio_transcription": _TRANSCRIPTION,
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": _TURNS,
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "modalities": ("output_modalities",),
    "max_response_output_tokens": ("max_output_tokens",),
}


class Negotiation:
    """The first exchange with a model: `receive` takes each event and returns what to send next.

    `session` is in GA's shape; `transcription_models` are tried in turn, after one that the session names. When `done`,
    `effective` is the server's word for the session, `dialect` its spelling, and `dropped` lists what it refused, a
    line each.
    """

    def __init__(
        self, session: dict[str, Any], *, transcription_models: Sequence[str] = (), dialect: Dialect | None = None
    ) -> None:
        self._session = copy.deepcopy(session)
        named = (_at(self._session, _TRANSCRIPTION) or {}).pop("model", None)
        self._models = [model for model in transcription_models if model != named]
        if named is not None:
            self._models.insert(0, named)
        self._attempt = 0
        self._minimal = False
        self.dialect = dialect
        self.done = False
        self.effective: dict[str, Any] = {}
        self.dropped: list[str] = []
        self.hears_pcm = self.speaks_pcm = False
        """Whether the far end has linear PCM at 24 kHz instead of a telephone's µ-law."""

    def receive(self, event: FromModel) -> SessionUpdate | None:
        """Take an event; return the update to send, if one is due.

        Raises:
            EndpointRefused: the far end refuses what a call cannot do without, or any session at all.
            EndpointUnreachable: it refuses for a reason that will pass.
        """
        if not isinstance(event, SessionCreated | SessionUpdated | Error):
            return None
        match event:
            case SessionCreated(session=session):
                if self._attempt:
                    return None
                self.dialect = self.dialect or dialect_of(session)
                return self._update()
            case SessionUpdated(session=session):
                if self._attempt:
                    self._take(session)
                return None
            case Error(error=failure):
                return self._refused(failure)
            case _:
                assert_never(event)

    def _take(self, session: dict[str, Any]) -> None:
        self.effective = session
        self.done = True
        hears, speaks = formats_of(session)
        if speaks not in (PHONE_FORMAT, PCM_FORMAT) or hears not in (PHONE_FORMAT, PCM_FORMAT, "unknown"):
            raise EndpointRefused(
                f"the model would hear {hears} and speak {speaks}: a phone call needs audio/pcmu (g711_ulaw), "
                "or audio/pcm at 24000 Hz (pcm16) to make that of",
                code="format",
            )
        self.speaks_pcm = speaks == PCM_FORMAT
        self.hears_pcm = self.speaks_pcm if hears == "unknown" else hears == PCM_FORMAT

    def _refused(self, failure: Failure) -> SessionUpdate | None:
        codes = {failure.code, failure.type}
        if self._attempt == 0 or codes & (_PASSING | FATAL_CODES):
            code = failure.code or failure.type or "error"
            kind = EndpointUnreachable if codes & _PASSING else EndpointRefused
            raise kind(f"the model refused the session: {code}: {failure.message}", code=failure.code)
        if failure.event_id not in (None, self._event_id):
            return None
        self._drop(failure.param or "", f"{failure.code or failure.type}: {failure.message}")
        return self._update()

    @property
    def _event_id(self) -> str:
        return f"session_{self._attempt}"

    def _update(self) -> SessionUpdate:
        self._attempt += 1
        session = self._session
        if self._models:
            session = copy.deepcopy(session)
            hearing = session["audio"]["input"]
            hearing["transcription"] = {"model": self._models[0], **(hearing.get("transcription") or {})}
        else:
            self._remove(_TRANSCRIPTION)  # a language without a recogniser is refused
        return SessionUpdate(event_id=self._event_id, session=session)

    def _drop(self, param: str, why: str) -> None:
        """Take out what was refused; raise if that was vital."""
        path = _path(param)
        if path in (_TRANSCRIPTION, (*_TRANSCRIPTION, "model")) and self._models:
            refused = self._models.pop(0)
            instead = f"trying {self._models[0]}" if self._models else "going without"
            self.dropped.append(f"transcription by {refused} ({why}), {instead}")
            if not self._models:
                self._remove(_TRANSCRIPTION)
            return
        if (path in (_TURNS, (*_TURNS, "type")) or self._minimal) and self._find_turns_by_silence():
            self.dropped.append(f"semantic_vad ({why}), finding turns by silence")
            return
        if path in _FORMATS and self._remove(path):
            self.dropped.append(f"{'.'.join(path)} ({why}): audio is converted")
            return
        if path and path not in _VITAL and self._attempt < MAX_ATTEMPTS and self._remove(path):
            self.dropped.append(f"{'.'.join(path)} ({why})")
            return
        if self._minimal:
            raise EndpointRefused(f"the model refused the session: {why}", code="session")
        self._minimal = True
        self._models.clear()
        self._reduce(self._session, ())
        self.dropped.append(f"everything optional ({why})")

    def _remove(self, path: tuple[str, ...]) -> bool:
        node: Any = self._session
        for key in path[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or path[-1] not in node:
            return path[:3] == _TRANSCRIPTION
        del node[path[-1]]
        return True

    def _find_turns_by_silence(self) -> bool:
        detection = _at(self._session, _TURNS)
        if detection is None or detection.get("type") != "semantic_vad":
            return False
        kept = {name: detection[name] for name in ("create_response", "interrupt_response") if name in detection}
        self._session["audio"]["input"]["turn_detection"] = _SERVER_VAD | kept
        return True

    def _reduce(self, node: dict[str, Any], path: tuple[str, ...]) -> None:
        for key in list(node):
            here = (*path, key)
            if here not in _VITAL:
                del node[key]
            elif isinstance(node[key], dict) and here in (("audio",), ("audio", "input"), ("audio", "output")):
                self._reduce(node[key], here)


def _at(session: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the object at a path, None if there is none."""
    node: Any = session
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None


def _path(param: str) -> tuple[str, ...]:
    """Turn `session.audio.output.voice`, or its beta spelling, into a path in the GA session."""
    keys = tuple(key for key in param.split(".") if key)
    if keys[:1] == ("session",):
        keys = keys[1:]
    if keys and keys[0] in _BETA_PATHS:
        keys = (*_BETA_PATHS[keys[0]], *keys[1:])
    return next((whole for whole in _WHOLE if keys[: len(whole)] == whole), keys)
