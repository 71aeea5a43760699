"""Stand-ins: how other servers that speak the Realtime protocol differ from OpenAI's, as a table of facts.

    async with Model(dialect="localai") as model: ...

Each fact is marked with its source: *read* in the server's own source, *documented* by its maker, *seen* by a client
that was written for it, or *UNSURE*. If nothing is known, a stand-in does what OpenAI does, including the checks: it
accepts no more than all of them accept.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from phoneagent.errors import DefinitionError
from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.service import ANY, AZURE, BETA_GATEWAY, OPENAI, Service

NewId = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """A server's differences from OpenAI's. The defaults are OpenAI's."""

    service: Service = OPENAI
    opening: tuple[str, ...] = ("session.created",)
    """The events that greet a client before it has configured the session."""
    acknowledges: Literal["whole", "echo", "never"] = "whole"
    """The session in `session.updated`: all of it, the content of the update, or no such event."""
    formats: Literal["all", "pcm, others ignored", "pcm, others refused"] = "all"
    """The audio formats. `pcm` is 16 bits at 24 kHz, both ways."""
    semantic_turns: bool = True
    obeys_turns: bool = True
    """Whether the session decides. If not, speech always interrupts, and a turn is always answered."""
    transcribes: Literal["on request", "always", "never"] = "on request"
    one_response: bool = True
    """Whether a request during an active response is refused; otherwise it replaces that response."""
    complains_of: frozenset[str] = frozenset()
    """Fields of a session or response, dotted, that get an error event while the rest still takes effect."""
    ignores: frozenset[str] = frozenset()
    """Client events that are accepted without effect."""
    drops_roles: frozenset[str] = frozenset()
    """Messages of these roles never become items."""
    unknown: frozenset[str] = frozenset()
    """Client events that are answered with an error."""
    model_by_update: bool = False
    """Whether `session.update` may name another model."""
    own_names: bool = False
    """Whether it has its own voices and recognizers, under any name."""
    refuses_recognisers: bool = False
    """Whether an update that names a recognizer is refused, by an error without details."""
    flat: tuple[tuple[str, ...], ...] = ()
    """Parts of the session that a client may write at its top level, as in the beta; its type may then be missing."""
    close_code: int | None = None
    """The close code that a client sees, whatever the reason for the close."""

    # its events
    renames: Mapping[str, str] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    """Server events that are never sent."""
    leaves_out: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Fields that are missing, by event; `*` stands for every event."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that always hold the same value."""
    response_fields: frozenset[str] | None = None
    """The fields of a response; None is all of them."""
    session_lacks: frozenset[str] = frozenset()
    """Fields that are missing in a session, dotted."""
    strange_ids: frozenset[str] = frozenset()
    """Events whose `item_id` belongs to no item."""
    object_arguments: bool = False
    """Whether a call's arguments are an object, not text with JSON in it."""
    errors: Literal["openai", "anonymous", "no code", "code as type"] = "openai"
    """The shape of errors. An `anonymous` one does not say which client event it is about."""
    fails_by_error: bool = False
    """Whether a failed response ends with only an error event."""

    # -- client events --

    def check(self, kind: str) -> bool:
        """Return whether a client event has an effect. Raises `EventRefused` if it is unknown here."""
        if kind in self.unknown:
            message = f"Unknown or invalid event: {kind}"
            raise EventRefused(message, code="unknown_or_invalid_event", blame="fault")
        return kind not in self.ignores

    def prepare(self, update: Any) -> Any:
        """Return a session update in OpenAI's form, for OpenAI's checks."""
        if not isinstance(update, dict):
            return update
        update = copy.deepcopy(update)
        for path in self.flat:
            if path[-1] in update:
                _put(update, path, update.pop(path[-1]))
                update.setdefault("type", "realtime")
        if self.own_names:
            for holder in (_inner(update, "audio", "output"), update):
                if isinstance(holder.get("voice"), str):
                    holder["voice"] = {"id": holder["voice"]}
            hearing = _inner(update, "audio", "input", "transcription")
            if "model" in hearing:
                hearing["model"] = "whisper-1"  # stands for any other
        return update

    def take_update(self, update: Json) -> Json:
        """Return the part of a checked session update that takes effect.

        Raises `EventRefused` if this server refuses the whole update.
        """
        audio = update.get("audio") or {}
        sides = {side: dict(audio[side]) for side in ("input", "output") if side in audio}
        for side, fields in sides.items():
            wanted = fields.get("format")
            if self.formats == "all" or wanted is None:
                continue
            if wanted["type"] != "audio/pcm" and self.formats == "pcm, others refused":
                message = f"Only 24 kHz PCM16 {side} audio is supported"
                raise EventRefused(message, code="unsupported_audio_format", blame="fault")
            if wanted["type"] != "audio/pcm":
                del fields["format"]
        hearing = sides.get("input", {})
        if not self.semantic_turns and (hearing.get("turn_detection") or {}).get("type") == "semantic_vad":
            message = "Only server_vad turn detection is supported"
            raise EventRefused(message, code="unsupported_turn_detection", blame="fault")
        if self.refuses_recognisers and (hearing.get("transcription") or {}).get("model"):
            raise EventRefused("Failed to update session", code="session_update_error", blame="fault")
        if self.transcribes == "never":
            hearing.pop("transcription", None)
            hearing.pop("noise_reduction", None)
        return {**update, "audio": {**audio, **sides}} if sides else update

    def transcription(self, wanted: Json | None) -> Json | None:
        """Return the recognizer of a session that asked for `wanted`."""
        if self.transcribes == "never":
            return None
        return {"model": "whisper-1"} if wanted is None and self.transcribes == "always" else wanted

    def complaints(self, **written: Any) -> list[EventRefused]:
        """Return the complaints about a `session` or `response` as the client wrote it."""
        return [_not_supported(path) for path in sorted(self.complains_of) if _has(written, path)]

    # -- server events --

    def spell(self, event: Json, new_id: NewId) -> Json | None:
        """Return an event as this server sends it, or None if it does not send it."""
        kind = event["type"]
        if kind in self.lacks:
            return None
        if kind == "response.done" and self.fails_by_error and event["response"]["status"] == "failed":
            event = {"event_id": event["event_id"], "error": event["response"]["status_details"]["error"]}
            event["type"] = kind = "error"
        missing = self.leaves_out.get(kind, frozenset()) | self.leaves_out.get("*", frozenset())
        spelled = {name: value for name, value in event.items() if name not in missing}
        spelled["type"] = self.renames.get(kind, kind)
        spelled |= {name: value for name, value in self.fixed.items() if name in spelled}
        if kind in self.strange_ids:
            spelled["item_id"] = new_id("item")
        if "session" in spelled:
            spelled["session"] = _without(spelled["session"], self.session_lacks)
        if kind == "error":
            spelled["error"] = self._error(spelled["error"])
        if "response" in spelled and self.response_fields is not None:
            kept = self.response_fields
            spelled["response"] = {name: value for name, value in spelled["response"].items() if name in kept}
        if self.object_arguments:
            spelled = _with_objects(spelled)
        return spelled

    def _error(self, error: Json) -> Json:
        if self.errors == "openai":
            return error
        if self.errors == "anonymous":
            return {**error, "param": "", "event_id": ""}
        kind = error["code"] if self.errors == "code as type" and error.get("code") else error["type"]
        return {"type": kind, "message": error["message"]}


def _put(session: Json, path: tuple[str, ...], value: Any) -> None:
    """Put a value into a session that is not checked yet. The check refuses what is in the place of an object."""
    holder: Any = session
    for name in path[:-1]:
        if holder.get(name) is None:
            holder[name] = {}
        holder = holder[name]
        if not isinstance(holder, dict):
            return
    holder[path[-1]] = value


def _inner(session: Json, *path: str) -> Json:
    """Return an object in a session that is not checked yet; {} if there is none."""
    holder: Any = session
    for name in path:
        holder = holder.get(name)
        if not isinstance(holder, dict):
            return {}
    found: Json = holder
    return found


def _has(written: Any, path: str) -> bool:
    for name in path.split("."):
        written = written.get(name) if isinstance(written, dict) else None
    return written is not None


def _not_supported(name: str) -> EventRefused:
    """Return the refusal of speaches, in its words, for a field that it does not accept."""
    message = f"Specifying `{name}` is not supported. "
    message += "The server either does not support this field or it is not configurable."
    return EventRefused(message, code=None, blame="fault")


def _without(session: Json, paths: frozenset[str]) -> Json:
    inner: dict[str, set[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        inner.setdefault(name, set()).add(rest)
    kept: Json = {}
    for name, value in session.items():
        if "" in inner.get(name, ()):
            continue
        nested = name in inner and isinstance(value, dict)
        kept[name] = _without(value, frozenset(inner[name])) if nested else value
    return kept


def _with_objects(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_objects(each) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {name: _with_objects(each) for name, each in value.items()}
    if isinstance(changed.get("arguments"), str) and changed["arguments"]:
        with suppress(ValueError, RecursionError):  # a client or a brain may have written anything
            changed["arguments"] = json.loads(changed["arguments"])
    return changed


_BEARER = frozenset[Any]({"bearer"})
_ITEM_EVENTS = frozenset(
    {
        *("response.output_item.added", "response.output_item.done"),
        *("response.content_part.added", "response.content_part.done"),
    }
)
_EXTRAS = frozenset({"rate_limits.updated"})
"""Events that no server but OpenAI's and Azure's is known to send."""

_HELICONE = StandIn(
    # Read: it forces the beta header on its provider, so a client gets the beta. Documented: both keys. Read:
    # the provider's close code never reaches the client. The provider behind this one still speaks the beta.
    service=replace(BETA_GATEWAY, paths={"/v1/gateway/oai/realtime": "beta"}, headers=("Helicone-Auth",)),
    close_code=1000,
)
_LITELLM = StandIn(
    # Documented: the proxy's key as bearer or api-key. Read in its changes of 2026: it passes GA on unchanged; the
    # client's beta header also goes to the provider, which refuses it; since September the provider's close code and
    # reason reach the client.
    service=replace(
        ANY,
        paths={"/v1/realtime": "ga"},
        keys=frozenset({"bearer", "api-key"}),
        model=("model",),
        openai_models=frozenset(),
    ),
)
_XAI = StandIn(
    # Documented: bearer or subprotocol, GA's names of events, µ-law and A-law. Seen in spring 2026 (and what its guide
    # says): conversation.created comes first, and session.created only after the session is configured. Newer servers
    # also send session.created.
    service=replace(OPENAI, beta_header="ignored", openai_models=frozenset()),
    opening=("conversation.created",),
    # Documented: the voice and the turn detection are at the top level of the session. UNSURE whether OpenAI's places
    # for them work too; here they do. Seen: session.updated repeats the request, in the same shape.
    acknowledges="echo",
    own_names=True,
    flat=(("audio", "output", "voice"), ("audio", "input", "turn_detection")),
    # Seen: every turn is transcribed, whether or not a session asks for it.
    transcribes="always",
    # Seen: these events and fields are in no client's model of the server. UNSURE whether it sends them now.
    lacks=_EXTRAS | {"conversation.item.done", "conversation.item.input_audio_transcription.delta"},
    leaves_out={
        "input_audio_buffer.speech_started": frozenset({"audio_start_ms"}),
        "input_audio_buffer.speech_stopped": frozenset({"audio_end_ms"}),
        "response.function_call_arguments.done": frozenset({"response_id", "item_id", "output_index"}),
        "response.output_audio_transcript.done": frozenset({"transcript"}),
    },
    response_fields=frozenset({"id", "object", "status", "status_details", "output", "usage"}),
)
_INWORLD = StandIn(
    # Documented: the path, both query parameters, Basic for servers, and that the session names the model.
    service=Service(
        paths={"/api/v1/realtime/session": "ga"},
        keys=frozenset({"basic", "bearer"}),
        model=(),
        query=(("key", None), ("protocol", "realtime")),
    ),
    model_by_update=True,
    own_names=True,
    # Seen: an object where OpenAI has text. UNSURE whether always.
    object_arguments=True,
    # Seen: speech events have no times. UNSURE: conversation.item.done is in no client's model of the server.
    lacks=_EXTRAS | {"conversation.item.done"},
    leaves_out={
        "input_audio_buffer.speech_started": frozenset({"audio_start_ms"}),
        "input_audio_buffer.speech_stopped": frozenset({"audio_end_ms"}),
    },
)
_LOCALAI = StandIn(
    # All read in the source of spring 2026.
    service=Service(paths={"/v1/realtime": "ga"}, keys=_BEARER),
    # A telephone format is not an error: it is ignored, and the audio stays PCM. The session names no format.
    own_names=True,
    formats="pcm, others ignored",
    session_lacks=frozenset(
        {
            *("audio.input.format", "audio.input.noise_reduction", "audio.output.format", "audio.output.speed"),
            *("expires_at", "tracing", "truncation", "prompt", "include", "reasoning"),
        }
    ),
    obeys_turns=False,
    # A recognizer is loaded at once; if it is not installed, the whole update fails.
    refuses_recognisers=True,
    transcribes="always",
    one_response=False,
    # They are parsed, but no case of the switch handles them; only deleting is refused with an error.
    ignores=frozenset({"conversation.item.truncate", "input_audio_buffer.clear"}),
    unknown=frozenset({"conversation.item.delete"}),
    lacks=_EXTRAS | {"conversation.item.done", "input_audio_buffer.cleared", "conversation.item.truncated"},
    leaves_out={
        "input_audio_buffer.speech_started": frozenset({"item_id"}),
        "input_audio_buffer.speech_stopped": frozenset({"item_id"}),
    },
    # It really sends these words.
    fixed={"event_id": "event_TODO", "previous_item_id": "TODO"},
    # The committed item, its transcript and the item in the conversation have different ids.
    strange_ids=frozenset(
        {
            "input_audio_buffer.committed",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
        }
    ),
    response_fields=frozenset({"id", "object", "status"}),
    errors="anonymous",
    fails_by_error=True,
)
_SPEACHES = StandIn(
    # All read in the source of 2026: it is built on the beta's types.
    service=replace(BETA_GATEWAY, keys=_BEARER),
    # One error event for each format, without a code, a parameter or the id of the client's event; after them
    # session.updated, with the rest applied.
    own_names=True,
    formats="pcm, others ignored",
    transcribes="always",
    one_response=False,
    complains_of=frozenset(
        {
            *("session.input_audio_format", "session.output_audio_format", "session.turn_detection.prefix_padding_ms"),
            *("response.conversation", "response.input", "response.metadata", "response.output_audio_format"),
        }
    ),
    ignores=frozenset({"conversation.item.retrieve"}),
    lacks=_EXTRAS,
    leaves_out={
        "*": frozenset({"output_index"}),
        "response.output_item.added": frozenset({"output_index"}),
    },
    response_fields=frozenset({"id", "object", "status", "output", "modalities"}),
    session_lacks=frozenset({"expires_at", "tracing", "speed", "input_audio_noise_reduction"}),
    errors="no code",
)
_SPEECH_TO_SPEECH = StandIn(
    # All read in the source before August 2026; since then it acknowledges updates and sends output items.
    service=Service(paths={"/v1/realtime": "ga"}, keys=_BEARER, model=()),
    acknowledges="never",
    # It resamples from the rate that the format names, and µ-law has none: audio is PCM whatever the update says.
    own_names=True,
    formats="pcm, others ignored",
    transcribes="always",
    unknown=frozenset(
        {
            *("conversation.item.truncate", "conversation.item.delete", "conversation.item.retrieve"),
            "input_audio_buffer.clear",
        }
    ),
    drops_roles=frozenset({"system"}),
    renames={"conversation.item.added": "conversation.item.created"},
    # A turn is not an item; a call is announced only by its arguments; words come once, when the item is over.
    lacks=_EXTRAS
    | _ITEM_EVENTS
    | {
        *("input_audio_buffer.committed", "conversation.item.done", "response.function_call_arguments.delta"),
        "response.output_audio_transcript.delta",
    },
    response_fields=frozenset(
        {"id", "object", "status", "status_details", "audio", "conversation_id", "metadata", "usage"}
    ),
    errors="code as type",
)
_VLLM = StandIn(
    # All read in vLLM-Omni's turn-based handler of autumn 2026. vLLM itself only transcribes.
    service=Service(paths={"/v1/realtime": "ga"}, keys=_BEARER, model=()),
    opening=("session.created", "conversation.created"),
    own_names=True,
    formats="pcm, others refused",
    semantic_turns=False,
    # A recognizer may be named, but the effective session has none.
    transcribes="never",
    one_response=False,
    lacks=_EXTRAS,
)

STAND_INS: Mapping[str, StandIn] = {
    "openai": StandIn(),
    "azure": StandIn(service=AZURE),
    "helicone": _HELICONE,
    "litellm": _LITELLM,
    "xai": _XAI,
    "inworld": _INWORLD,
    "localai": _LOCALAI,
    "speaches": _SPEACHES,
    "speech-to-speech": _SPEECH_TO_SPEECH,
    "vllm": _VLLM,
}


def stand_in(name: str) -> StandIn:
    """Return a stand-in by its name. Raises `DefinitionError`."""
    if name not in STAND_INS:
        raise DefinitionError(f"there is no stand-in {name!r}; the dialects are {', '.join(STAND_INS)}")
    return STAND_INS[name]
