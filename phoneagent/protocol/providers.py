"""Facts about Realtime servers: where each one is, how it spells its events, and what it does not know.

A server that is not in the table works too: what it speaks and refuses shows while the session is opened. The table
saves that time, and has what cannot be discovered, like the scheme of a key. Each entry says how sure it is:
`documented` by the provider, read in the server's `source`, `reported` by other projects that use it.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


class Dialect(enum.Enum):
    """How a server spells its events: `GA`, or `BETA` (flat sessions, `response.audio.delta`)."""

    GA = "ga"
    BETA = "beta"


Audio: TypeAlias = Literal["pcmu", "pcm16"]
"""The audio of a session: a telephone's µ-law at 8 kHz, or linear PCM at 24 kHz, which is converted."""

OPENAI_VOICES = frozenset({"alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar"})
"""The voices that only OpenAI's models have; agents name them by default or out of habit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What is known about a kind of server. The defaults describe an unknown server."""

    url: str | None = None
    """The address before the path `/realtime`; None if each customer has their own."""
    dialect: Dialect | None = None
    """The spelling of its events; None if it shows in the server's first session object."""
    announces: bool = True
    """Whether it sends `session.created` before it is configured."""
    audio: Audio | None = None
    """What to ask for, and to assume if the server names no format; None: ask for µ-law, and assume nothing."""
    key_header: str = "Authorization"
    key_scheme: str = "Bearer"
    needs_key: bool = False
    model: str | None = None
    """The model, if OPENAI_MODEL names none."""
    model_in_session: bool = False
    """Whether the session names the model, and not the address."""
    query: Mapping[str, str] = field(default_factory=dict)
    """What else the address must have."""
    session_key: str | None = None
    """The name of a part of the query that has a new value for each session."""
    transcription_models: tuple[str, ...] | None = None
    """The recognizers it has; None for OpenAI's, () if it transcribes by itself or not at all."""
    has_openai_voices: bool = True
    flat: tuple[tuple[str, ...], ...] = ()
    """Parts of the session that it expects at the top level, like the beta."""
    unsupported: tuple[tuple[str, ...], ...] = ()
    """Parts of the session that it does not know. They are left out, because some servers would refuse the rest too."""

    def session(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """Return a session in GA's shape, or part of one, in the form that this server accepts."""
        shaped = copy.deepcopy(dict(session))
        for path in self.unsupported:
            take(shaped, path)
        if not self.has_openai_voices and str(at(shaped, _VOICE)) in OPENAI_VOICES:
            take(shaped, _VOICE)
        for path in self.flat:
            if has(shaped, path):
                shaped[path[-1]] = take(shaped, path)
        return shaped


def has(session: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    """Return whether a session has something at a path, even null."""
    node: Any = session
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True


def at(session: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return what a session has at a path; None if there is nothing."""
    node: Any = session
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def take(session: dict[str, Any], path: tuple[str, ...]) -> Any:
    """Remove what a session has at a path, and return it; None if there is nothing."""
    return at(session, path[:-1]).pop(path[-1]) if has(session, path) else None


_VOICE = ("audio", "output", "voice")
_NOISE_REDUCTION = ("audio", "input", "noise_reduction")
_TURNS = ("audio", "input", "turn_detection")
_OF_OPENAI_S_MODELS = (_NOISE_REDUCTION, ("reasoning",), ("truncation",), ("tracing",), ("parallel_tool_calls",))

ANY = Provider()
"""A server about which nothing is known."""

PROVIDERS: Mapping[str, Provider] = {
    # documented
    "openai": Provider(url="https://api.openai.com/v1", needs_key=True),
    # documented; the recognizer is reported: others need a deployment of their name, or never transcribe
    "azure": Provider(key_header="api-key", needs_key=True, transcription_models=("whisper-1",)),
    # source: it requests the beta interface from its provider, whatever the client requests
    "helicone": Provider(url="https://api.helicone.ai/v1/gateway/oai", dialect=Dialect.BETA, needs_key=True),
    # documented and source: it passes GA through, so audio and voices are those of the provider behind it
    "litellm": Provider(url="ws://127.0.0.1:4000/v1", dialect=Dialect.GA),
    # documented: address, key, formats, voice and turn detection at the top level, and that it finds turns by silence
    # only. Reported: GA's event names; a first event `conversation.created` and no `session.created` until mid-2026;
    # that it transcribes unasked, and if a model is named, sends an event other than `completed`
    "xai": Provider(
        url="wss://api.x.ai/v1",
        dialect=Dialect.GA,
        announces=False,
        audio="pcmu",
        needs_key=True,
        model="grok-voice-latest",
        transcription_models=(),
        has_openai_voices=False,
        flat=(_VOICE, _TURNS),
        unsupported=(_NOISE_REDUCTION, ("truncation",), ("tracing",), ("parallel_tool_calls",)),
    ),
    # documented: address, Basic with the key as it is issued, the model in the session. Reported: µ-law both ways, the
    # recognizer's name, and that any new value works for `key`
    "inworld": Provider(
        url="wss://api.inworld.ai/api/v1/realtime/session",
        dialect=Dialect.GA,
        audio="pcmu",
        key_scheme="Basic",
        needs_key=True,
        model="openai/gpt-4.1-mini",
        model_in_session=True,
        query={"protocol": "realtime"},
        session_key="key",
        transcription_models=("inworld/inworld-stt-1",),
        has_openai_voices=False,
        unsupported=_OF_OPENAI_S_MODELS,
    ),
    # source: GA, PCM at 24 kHz, `session.created` once its models are loaded; if it cannot load a recognizer, it
    # refuses the whole update, with an error that names nothing
    "localai": Provider(
        url="ws://127.0.0.1:8080/v1",
        dialect=Dialect.GA,
        audio="pcm16",
        transcription_models=(),
        has_openai_voices=False,
        unsupported=_OF_OPENAI_S_MODELS,
    ),
    # source: the beta, PCM only. A format or a padding in the update causes an error that names nothing, although the
    # rest is applied and `session.updated` follows
    "speaches": Provider(
        url="ws://127.0.0.1:8000/v1",
        dialect=Dialect.BETA,
        audio="pcm16",
        transcription_models=(),
        has_openai_voices=False,
        unsupported=(
            ("audio", "input", "format"),
            ("audio", "output", "format"),
            (*_TURNS, "prefix_padding_ms"),
            *_OF_OPENAI_S_MODELS,
        ),
    ),
    # source: GA; it applied updates without a `session.updated` until August 2026. Reported: PCM only
    "speech-to-speech": Provider(
        url="ws://127.0.0.1:8765/v1",
        dialect=Dialect.GA,
        audio="pcm16",
        transcription_models=(),
        has_openai_voices=False,
        unsupported=_OF_OPENAI_S_MODELS,
    ),
    # documented, for vLLM-Omni: a part of GA, PCM only, turns by silence. vLLM itself only transcribes here
    "vllm": Provider(
        url="ws://127.0.0.1:8000/v1",
        dialect=Dialect.GA,
        audio="pcm16",
        transcription_models=(),
        has_openai_voices=False,
        unsupported=_OF_OPENAI_S_MODELS,
    ),
}
"""The known servers, by their names in REALTIME_PROVIDER."""
