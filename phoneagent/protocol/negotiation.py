"""Session negotiation: bringing a model session into the shape a call needs, whatever the far end refuses.

A server refuses a `session.update` as a whole if one field of it is unknown or invalid. The refused field is dropped
(the transcription model is replaced by the next one first, a refused tool is left out) and the rest is sent again, down
to what a call cannot do without.

Not every server opens a session as OpenAI does. If it does not announce the session, it is configured anyway; if it
does not acknowledge the update, it counts as configured; and an error refuses the update only if it names it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import msgspec

from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from phoneagent.protocol.providers import ANY, Audio, Provider, at, has, take
from phoneagent.protocol.realtime import (
    FATAL_CODES,
    Dialect,
    Error,
    Failure,
    FromModel,
    ResponseCreate,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    ToModel,
)
from phoneagent.protocol.session_object import dialect_of, formats_of

MAX_ATTEMPTS = 12
"""After this many updates, everything optional is dropped at once."""

ANNOUNCED_SECONDS = 1.0
"""How long a server may take to announce the session before it is configured anyway. Servers announce it with the
handshake, so half a second is long even from another continent. During a longer wait the caller would wait too; after a
shorter one, a server that first loads its models would get the update before it names its own dialect.
"""

ACKNOWLEDGED_SECONDS = 1.5
"""How long a server may take to acknowledge the configuration. It takes some 100 ms; with many tools, a busy server
once took a second. Together with `ANNOUNCED_SECONDS` this ends before a caller wonders (3 s), and before an opening
that could be tried elsewhere is given up (`FAILOVER_SECONDS` of calls/opening)."""

REFUSED_SECONDS = 0.5
"""How long after an error that names nothing an acknowledgment may still come: both answer the same message."""

_OF_THE_KEY = frozenset({"authentication_error", "permission_error", "unauthorized", "forbidden", "401", "403"})
"""Other servers' names for `invalid_api_key`."""

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
"""Fields that are dropped as a whole: without the refused part, the rest means nothing."""

_SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
_FORMATS = (("audio", "input", "format"), ("audio", "output", "format"))
"""Without these, a server chooses the formats that it hears and speaks; its session names them."""

PHONE_FORMAT, PCM_FORMAT = "audio/pcmu", "audio/pcm"
"""The format of a call, and the one that it can be converted to (see `transcoding`)."""

_GA_ONLY = frozenset({("type",), ("audio",), ("output_modalities",)})
"""What a beta server refuses first in a session in GA's spelling."""

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

    `session` is in GA's shape; `transcription_models` are tried in turn, after any that the session names. `audio` is
    the format to ask for, also assumed if the server does not name one. When `done`, `effective` is the session as the
    server reports it, `dialect` its spelling, and `dropped` lists what the session lacks, one line each.

    A session that is done without an acknowledgment may still get one: `receive` takes it, or the late refusal.
    """

    def __init__(
        self,
        session: dict[str, Any],
        *,
        transcription_models: Sequence[str] = (),
        dialect: Dialect | None = None,
        provider: Provider = ANY,
        audio: Audio | None = None,
    ) -> None:
        self._session = copy.deepcopy(session)
        self._provider = provider
        self._audio = audio
        if audio == "pcm16":
            self._ask_for_pcm()
        named = (at(self._session, _TRANSCRIPTION) or {}).pop("model", None)
        self._models = [model for model in transcription_models if model != named]
        if named is not None:
            self._models.insert(0, named)
        self._attempt = 0
        self._minimal = False
        self._removed: list[tuple[str, ...]] = []
        self._refused_tools: set[str] = set()
        self._heard = False  # anything but an error: it shows that a Realtime server is there
        self._held: Failure | None = None  # an error, since the last update, that names nothing
        self._due: float | None = None
        self.dialect = dialect
        self.done = False
        self.acknowledged = False
        self.effective: dict[str, Any] = {}
        self.dropped: list[str] = []
        self.last_error: Failure | None = None
        """The last error that ended nothing."""
        self.last_refusal: str | None = None
        """The text of the last error that refused a part of the session."""
        self.hears_pcm = self.speaks_pcm = False
        """Whether the far end uses linear PCM at 24 kHz instead of a telephone's µ-law."""

    @classmethod
    def joined(cls) -> Negotiation:
        """Return the negotiation with a session that another client has configured: there is nothing to agree on."""
        joined = cls({}, dialect=Dialect.GA)
        joined.done = joined.acknowledged = True
        return joined

    def start(self, now: float) -> None:
        """Start when the connection is open: the server announces the session, or is configured anyway."""
        self._due = now + (ANNOUNCED_SECONDS if self._provider.announces else 0.0)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, or None if only an event can change anything."""
        return self._due

    def handle_timer(self, now: float) -> SessionUpdate | None:
        """Go on without what did not arrive; return the update to send, if one is due. Raises the same as `receive`."""
        if self._due is None or now < self._due:
            return None
        self._due = None
        if not self._attempt:
            return self._update(now)
        if self._held is not None:
            return self._refused(self._held, now)
        if self._heard:
            self._go_on_unacknowledged()
        elif self.last_error is not None:
            raise _error_of(self.last_error)
        return None  # a server that says nothing at all is not one: the opening's time limit ends this

    def receive(self, event: FromModel, now: float) -> SessionUpdate | None:
        """Handle an event; return the update to send, if one is due.

        Raises:
            EndpointRefused: the far end refuses what a call cannot do without, or any session at all.
            EndpointUnreachable: it refuses for a reason that will pass.
        """
        if isinstance(event, Error):
            return self._failed(event.error, now)
        self._heard = True
        if self._attempt and self._due is None and not self.done:  # it was silent until now
            self._due = now + REFUSED_SECONDS
        if not isinstance(event, SessionCreated | SessionUpdated) or self.acknowledged:
            return None
        match event:
            case SessionCreated(session=session):
                return self._created(session, now)
            case SessionUpdated(session=session):
                return self._updated(session, now) if self._attempt else None
            case _:
                assert_never(event)

    def adapt(self, message: ToModel) -> ToModel:
        """Return a message to an open session, without the tools that were refused and what the server does not know.

        Other fields are tried again: the server may have another agent's voice.
        """
        if isinstance(message, SessionUpdate):
            session = self._without_tools(message.session)
            return msgspec.structs.replace(message, session=self._provider.session(session))
        if isinstance(message, ResponseCreate) and message.response is not None:
            return msgspec.structs.replace(message, response=self._without_tools(message.response))
        return message

    def _created(self, session: dict[str, Any], now: float) -> SessionUpdate | None:
        if self.done:
            return None
        dialect = dialect_of(session)
        if self._attempt and (self.dialect is not None or dialect is not Dialect.BETA):
            return None  # otherwise the update used the wrong spelling
        self.effective = session
        self.dialect = self.dialect or dialect
        return self._update(now)

    def _updated(self, session: dict[str, Any], now: float) -> SessionUpdate | None:
        if self.dialect is None and dialect_of(session) is Dialect.BETA and not self.done:
            self.dialect = Dialect.BETA
            return self._update(now)
        self.effective = session
        self.done = True
        self.acknowledged = formats_of(session) != ("unknown", "unknown")  # else an update that names them may follow
        self._due = None
        self._settle_audio(formats_of(session))
        return None

    def _go_on_unacknowledged(self) -> None:
        self.done = True
        last = "" if self.last_error is None else f", and its last error was {words_of(self.last_error)}"
        self.dropped.append(
            f"an acknowledgement (no session.updated came within {ACKNOWLEDGED_SECONDS:g} s{last}): "
            "it counts as configured"
        )
        self._settle_audio(formats_of(self._session))  # as requested

    def _settle_audio(self, said: tuple[str, str]) -> None:
        """Decide on the formats: what the server says comes first, then the setting, then the Realtime default."""
        if said == ("unknown", "unknown") and self._audio is None:
            self.dropped.append(
                "its server's word on audio formats: audio/pcm at 24 kHz is assumed, the Realtime default "
                "(REALTIME_AUDIO=pcmu assumes the telephone's)"
            )
        formats = [
            each if each != "unknown" else self._assumed(path, other)
            for each, other, path in zip(said, reversed(said), _FORMATS, strict=True)
        ]
        hears, speaks = formats
        if not {hears, speaks} <= {PHONE_FORMAT, PCM_FORMAT}:
            raise EndpointRefused(
                f"the model would hear {hears} and speak {speaks}: a phone call needs audio/pcmu (g711_ulaw), "
                "or audio/pcm at 24000 Hz (pcm16) to make that of",
                code="format",
            )
        self.hears_pcm, self.speaks_pcm = hears == PCM_FORMAT, speaks == PCM_FORMAT

    def _assumed(self, path: tuple[str, ...], other: str) -> str:
        """Return the format of a direction that the server does not name; `other` is the other direction's."""
        if path in self._removed:
            return PCM_FORMAT  # it refused the request for another
        if self._audio is not None:
            return PHONE_FORMAT if self._audio == "pcmu" else PCM_FORMAT
        return PCM_FORMAT if other == "unknown" else other

    def _failed(self, failure: Failure, now: float) -> SessionUpdate | None:
        if self.acknowledged:
            return None
        if {failure.code, failure.type} & (_PASSING | FATAL_CODES | _OF_THE_KEY):
            raise _error_of(failure)
        ours = failure.event_id == self._event_id
        if self.done:  # other messages of the call may cause errors too
            return self._refused(failure, now) if ours else None
        if failure.event_id in {f"session_{attempt}" for attempt in range(1, self._attempt)}:
            return None  # it is already answered
        if self._attempt and (ours or self._names_the_session(failure.param or "")):
            return self._refused(failure, now)
        self.last_error = failure
        if self._attempt:
            self._held = failure
            self._due = now + REFUSED_SECONDS if self._due is None else min(self._due, now + REFUSED_SECONDS)
        return None

    def _names_the_session(self, param: str) -> bool:
        path = _path(param)
        if self.dialect is Dialect.BETA and path in _GA_ONLY:
            return False  # it answers an update that went out in GA's spelling
        return param.startswith("session") or (path or ("",))[0] in self._session

    def _refused(self, failure: Failure, now: float) -> SessionUpdate:
        """Remove what an error refuses, and send the rest again."""
        path, why = _path(failure.param or ""), words_of(failure)
        self.last_refusal = why
        if self.dialect is None and path in _GA_ONLY:
            self.dialect = Dialect.BETA
        elif (tool := self._refused_tool(path, failure.message or "")) is not None:
            self._refused_tools.add(tool)
            self._session = self._without_tools(self._session)
            self.dropped.append(f"the tool {tool} ({why})")
        else:
            self._drop(path, why)
        self.done = False
        return self._update(now)

    def _refused_tool(self, path: tuple[str, ...], message: str) -> str | None:
        """Return the name of the tool that an error is about: the error has its index, its name, or quotes it."""
        offered = [
            each for each in self._session.get("tools") or () if self.dialect is not Dialect.BETA or "name" in each
        ]  # the others are not sent to a beta server
        if path[:1] == ("tools",) and len(path) > 1 and path[1].isdecimal():
            return _name(offered[int(path[1])]) if int(path[1]) < len(offered) else None
        if path[:1] not in ((), ("tools",)):
            return None
        names = {_name(each) for each in offered}
        quoted = (set(path[1:2]) | set(re.findall(r"['\"`]([^'\"`]+)['\"`]", message))) & names
        return quoted.pop() if len(quoted) == 1 else None

    def _without_tools(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a session, or of a response, that offers no tool that was refused."""
        kept = copy.deepcopy(dict(session))
        if self._refused_tools and "tools" in kept:
            kept["tools"] = [each for each in kept["tools"] if _name(each) not in self._refused_tools]
        choice = kept.get("tool_choice")
        if isinstance(choice, Mapping) and _name(choice) in self._refused_tools:
            kept["tool_choice"] = "auto"
        return kept

    @property
    def _event_id(self) -> str:
        return f"session_{self._attempt}"

    def _update(self, now: float) -> SessionUpdate:
        self._attempt += 1
        self._held = None
        self._due = now + ACKNOWLEDGED_SECONDS
        session = self._session
        if self._models:
            session = copy.deepcopy(session)
            hearing = session["audio"]["input"]
            hearing["transcription"] = {"model": self._models[0], **(hearing.get("transcription") or {})}
        elif session.get("type") == "transcription":
            why = "" if self.last_refusal is None else f": {self.last_refusal}"
            words = f"no recognizer is left for a session that only transcribes{why}"
            raise EndpointRefused(f"{words}: check PHONEAGENT_TRANSCRIPTION_MODELS", code="session")
        else:
            self._remove(_TRANSCRIPTION)  # a language without a recognizer is refused
        return SessionUpdate(event_id=self._event_id, session=self._provider.session(session))

    def _drop(self, path: tuple[str, ...], why: str) -> None:
        """Remove what was refused; raise if that was vital."""
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
        if (self._minimal or "format" in why.lower()) and self._ask_for_pcm():
            self.dropped.append(f"{PHONE_FORMAT} ({why}): audio is converted")
            return
        if self._minimal:
            raise EndpointRefused(f"the model refused the session: {why}", code="session")
        self._minimal = True
        self._models.clear()
        self._reduce(self._session, ())
        self.dropped.append(f"everything optional ({why})")

    def _remove(self, path: tuple[str, ...]) -> bool:
        if not has(self._session, path):
            return path[:3] == _TRANSCRIPTION
        take(self._session, path)
        self._removed.append(path)
        return True

    def _ask_for_pcm(self) -> bool:
        """Ask for linear PCM instead of a telephone's format; return whether that had been asked for."""
        asked = [path for path in _FORMATS if at(self._session, (*path, "type")) == PHONE_FORMAT]
        for path in asked:
            at(self._session, path[:-1])["format"] = {"type": PCM_FORMAT, "rate": 24_000}
        return bool(asked)

    def _find_turns_by_silence(self) -> bool:
        detection = at(self._session, _TURNS)
        if not isinstance(detection, dict) or detection.get("type") != "semantic_vad":
            return False
        kept = {name: detection[name] for name in ("create_response", "interrupt_response") if name in detection}
        self._session["audio"]["input"]["turn_detection"] = _SERVER_VAD | kept
        return True

    def _reduce(self, node: dict[str, Any], path: tuple[str, ...]) -> None:
        for key in list(node):
            here = (*path, key)
            if here not in _VITAL:
                self._remove(here)
            elif isinstance(node[key], dict) and here in (("audio",), ("audio", "input"), ("audio", "output")):
                self._reduce(node[key], here)


def _name(tool: Mapping[str, Any]) -> str:
    """Return the name of a tool or of a choice of one; for an MCP server, its label."""
    return str(tool.get("name") or tool.get("server_label"))


def words_of(failure: Failure) -> str:
    """Return what an error says, with its name first."""
    return f"{failure.code or failure.type or 'error'}: {failure.message}"


def _error_of(failure: Failure) -> EndpointError:
    names = {failure.code, failure.type}
    kind = EndpointUnreachable if names & _PASSING else EndpointRefused
    code = "401" if names & _OF_THE_KEY else failure.code or failure.type
    return kind(f"the model refused the session: {words_of(failure)}", code=code)


def _path(param: str) -> tuple[str, ...]:
    """Turn `session.audio.output.voice`, `session.tools[3].name` or a beta spelling into a path in the GA session."""
    keys = tuple(re.findall(r"[^.\[\]/]+", param))
    if keys[:1] == ("session",):
        keys = keys[1:]
    if keys and keys[0] in _BETA_PATHS:
        keys = (*_BETA_PATHS[keys[0]], *keys[1:])
    return next((whole for whole in _WHOLE if keys[: len(whole)] == whole), keys)
