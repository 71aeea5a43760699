"""The Realtime events that a phone call needs.

The vocabulary is GA's; the retired beta interface, still spoken by gateways and emulators, is another spelling of it.
Both spellings are always understood; `Dialect`, learned from `session.created`, chooses which one is written. Unknown
events and fields are tolerated.

Source: OpenAI's Realtime API reference, "client events" and "server events".
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeAlias, assert_never, get_args

import msgspec

from phoneagent.errors import shown
from phoneagent.events import RateLimit
from phoneagent.protocol.audio import is_base64
from phoneagent.protocol.beta import beta_item, beta_response, beta_session
from phoneagent.protocol.lenient import UNREADABLE, Base64, JsonText, Milliseconds, Wire, Word, finite_json
from phoneagent.protocol.providers import Dialect as Dialect

MAX_LIMIT_NAME_CHARS = 100
FATAL_CODES = frozenset(
    {
        "beta_api_shape_disabled",
        "invalid_api_key",
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "account_deactivated",
        "model_not_found",
    }
)
"""Errors after which the session is useless; no other error affects the call."""


# --- from the model -------------------------------------------------------------------------------------------------


class _FromModel(msgspec.Struct, tag_field="type"):
    """A server event. Every field has a default: an odd field is left out, and the event counts (see `lenient`)."""


class SessionCreated(_FromModel, tag="session.created"):
    session: dict[str, Any] = {}


class SessionUpdated(_FromModel, tag="session.updated"):
    session: dict[str, Any] = {}


class SpeechStarted(_FromModel, tag="input_audio_buffer.speech_started"):
    """The server's VAD heard the caller begin to speak. `item_id` is the user item to come."""

    item_id: str | None = None
    audio_start_ms: Milliseconds = 0


class SpeechStopped(_FromModel, tag="input_audio_buffer.speech_stopped"):
    item_id: str | None = None
    audio_end_ms: Milliseconds = 0


class Committed(_FromModel, tag="input_audio_buffer.committed"):
    """The caller's turn is complete and became the user item `item_id`."""

    item_id: str = ""


class Item(msgspec.Struct):
    """A conversation item; only function calls matter in full."""

    id: str | None = None
    type: Word | None = None
    status: Word | None = None
    role: Word | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: JsonText = None

    def __post_init__(self) -> None:
        self.id, self.call_id, self.name = self.id or None, self.call_id or None, self.name or None
        self.arguments = finite_json(self.arguments)
        if self.type is None and self.call_id is not None:  # no other kind has a `call_id`
            self.type = "function_call_output" if self.name is None else "function_call"


class ItemAdded(_FromModel, tag="conversation.item.added"):
    item: Item = msgspec.field(default_factory=Item)


class ItemDone(_FromModel, tag="conversation.item.done"):
    """An item is complete: for a tool of an MCP server, its output is now available."""

    item: Item = msgspec.field(default_factory=Item)


class InputTranscript(_FromModel, tag="conversation.item.input_audio_transcription.completed"):
    """What the caller said, from a side recognizer; it may be late, out of order, or missing."""

    item_id: str = ""
    transcript: str = ""
    usage: Any = None
    """See `usage`; whatever shape it has, the event counts."""


class InputTranscriptFailed(_FromModel, tag="conversation.item.input_audio_transcription.failed"):
    item_id: str = ""


class Failure(msgspec.Struct):
    """What the server says about an error; every field may be missing. `code` is its name, wherever it was given."""

    IN_TEXT: ClassVar[str] = "message"

    type: str | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None
    event_id: str | None = None

    def __post_init__(self) -> None:
        self.event_id = self.event_id or None
        for field in ("type", "code", "param", "message"):
            if (words := getattr(self, field)) is not None:
                setattr(self, field, shown(words))
        name = self.type if self.type != "error" else None  # the name of the event itself
        if not self.code or (name and self.code.isdecimal()):  # an HTTP status says less than a name
            self.code = name or self.code or None


class StatusDetails(msgspec.Struct):
    reason: Word | None = None
    error: Failure | None = None


class Response(msgspec.Struct):
    id: str | None = None
    status: Word | None = None
    status_details: StatusDetails | None = None
    output: list[Item] | None = None
    metadata: dict[str, str] | None = None
    usage: Any = None
    """See `usage`; whatever shape it has, the response counts."""
    output_modalities: list[Word] | None = None

    def __post_init__(self) -> None:
        self.id = self.id or None


class ResponseCreated(_FromModel, tag="response.created"):
    response: Response = msgspec.field(default_factory=Response)


class ResponseDone(_FromModel, tag="response.done"):
    """A response ended: completed, canceled, incomplete or failed. There is no `response.cancelled`."""

    response: Response = msgspec.field(default_factory=Response)


class OutputItemDone(_FromModel, tag="response.output_item.done"):
    """An output item is complete; for a function call this is the moment to run it."""

    item: Item = msgspec.field(default_factory=Item)
    response_id: str | None = None


class OutputItemAdded(_FromModel, tag="response.output_item.added"):
    """An output item begins; for a function call, this gives the name."""

    item: Item = msgspec.field(default_factory=Item)
    response_id: str = ""


class ArgumentsDone(_FromModel, tag="response.function_call_arguments.done"):
    """The arguments of a function call, as far as they arrived, even if it was cut off. The beta gives no `name`."""

    response_id: str = ""
    item_id: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: JsonText = None

    def __post_init__(self) -> None:
        self.arguments = finite_json(self.arguments)


class AudioDelta(_FromModel, tag="response.output_audio.delta"):
    """Audio of the agent: `delta` is base64 in the session's output format, "" if what came is not base64."""

    response_id: str = ""
    item_id: str = ""
    delta: Base64 = ""
    content_index: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0


class AudioDone(_FromModel, tag="response.output_audio.done"):
    response_id: str = ""
    item_id: str = ""


class TranscriptDelta(_FromModel, tag="response.output_audio_transcript.delta"):
    """Words of the agent; they run ahead of their audio."""

    response_id: str = ""
    item_id: str = ""
    delta: str = ""


class TranscriptDone(_FromModel, tag="response.output_audio_transcript.done"):
    response_id: str = ""
    item_id: str = ""
    transcript: str = ""


class TextDelta(_FromModel, tag="response.output_text.delta"):
    """Words of an agent that writes."""

    response_id: str = ""
    item_id: str = ""
    delta: str = ""


class RateLimits(_FromModel, tag="rate_limits.updated"):
    rate_limits: list[RateLimit] = []

    def __post_init__(self) -> None:
        self.rate_limits = [replace(limit, name=shown(limit.name, MAX_LIMIT_NAME_CHARS)) for limit in self.rate_limits]


class Error(_FromModel, tag="error"):
    """The server refused a message, or has a problem. Most errors are not fatal.

    Some servers write next to `error` what belongs inside it.
    """

    error: Failure = msgspec.field(default_factory=Failure)
    code: str | None = None
    message: str | None = None
    param: str | None = None

    def __post_init__(self) -> None:
        if self.error == Failure():
            self.error = Failure(code=self.code, message=self.message, param=self.param)


class Unknown(msgspec.Struct):
    """An event that a call does not need."""

    type: str


MCP_FAILURES = {
    "mcp_list_tools.failed": "an MCP server could not be asked for its tools by the model's provider",
    "response.mcp_call.failed": "a tool of an MCP server failed, called by the model's provider",
}
"""Failures at the model's provider, by event type: they are reported, and the call goes on."""


FromModel: TypeAlias = (
    SessionCreated
    | SessionUpdated
    | SpeechStarted
    | SpeechStopped
    | Committed
    | ItemAdded
    | ItemDone
    | InputTranscript
    | InputTranscriptFailed
    | ResponseCreated
    | ResponseDone
    | OutputItemAdded
    | OutputItemDone
    | ArgumentsDone
    | AudioDelta
    | AudioDone
    | TranscriptDelta
    | TranscriptDone
    | TextDelta
    | RateLimits
    | Error
    | Unknown
)
_OTHER_SPELLINGS: dict[str, type[_FromModel]] = {
    "conversation.item.created": ItemAdded,  # the beta's; some GA servers send it as well
    "response.audio.delta": AudioDelta,
    "response.audio.done": AudioDone,
    "response.audio_transcript.delta": TranscriptDelta,
    "response.audio_transcript.done": TranscriptDone,
    "response.text.delta": TextDelta,
}
KNOWN: dict[str, type[FromModel]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        *(kind for kind in get_args(FromModel) if kind is not Unknown),
        *(types.new_class(kind.__name__, (kind,), {"tag": tag}) for tag, kind in _OTHER_SPELLINGS.items()),
    )
}
"""The event types that a call needs, in either spelling."""

_wire: Wire[FromModel] = Wire("Realtime event", "type", KNOWN)


def decode(raw: bytes | str) -> FromModel:
    """Read one server event. An odd field is left out, and the event counts.

    Raises:
        ProtocolError: not JSON, or no `type`.
    """
    try:
        event = _wire.strict(raw)
        if not isinstance(event, AudioDelta) or is_base64(event.delta):
            return event
    except UNREADABLE:
        pass
    read = _wire.read(raw)
    return Unknown(read) if isinstance(read, str) else read


def as_dict(raw: bytes | str) -> dict[str, Any]:
    """Return an event that `decode` has read, with everything in it."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except UNREADABLE:
        return _wire.parse(raw)


# --- to the model ---------------------------------------------------------------------------------------------------


class _ToModel(msgspec.Struct, tag_field="type", omit_defaults=True, kw_only=True):
    event_id: str | None = None


class SessionUpdate(_ToModel, tag="session.update"):
    """Configure the session; `session` is in GA's shape."""

    session: dict[str, Any]


class AudioAppend(msgspec.Struct, tag_field="type", tag="input_audio_buffer.append"):
    """Audio of the caller: base64, in the session's input format."""

    audio: str


class AudioCommit(_ToModel, tag="input_audio_buffer.commit"):
    """The audio so far is the caller's turn; needed only if the server does not detect turns itself."""


class AudioClear(_ToModel, tag="input_audio_buffer.clear"):
    """Discard the audio that is not yet in a turn."""


class ItemCreate(_ToModel, tag="conversation.item.create"):
    item: dict[str, Any]


class ItemTruncate(_ToModel, tag="conversation.item.truncate"):
    """Tell the model how much of an item was heard, in ms of that item's audio."""

    item_id: str
    content_index: int = msgspec.field(name="content_index")
    audio_end_ms: int


class ItemDelete(_ToModel, tag="conversation.item.delete"):
    """Remove an item from the conversation."""

    item_id: str


class ResponseCreate(_ToModel, tag="response.create"):
    response: dict[str, Any] | None = None


class ResponseCancel(_ToModel, tag="response.cancel"):
    response_id: str | None = None


class OutputAudioClear(_ToModel, tag="output_audio_buffer.clear"):
    """Stop what the server plays into a WebRTC call. Sent after `response.cancel`; other connections refuse it."""


ToModel: TypeAlias = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ItemCreate
    | ItemTruncate
    | ItemDelete
    | ResponseCreate
    | ResponseCancel
    | OutputAudioClear
)
_encode = msgspec.json.Encoder().encode
encode_audio: Callable[[bytes], bytes] = b'{"type":"input_audio_buffer.append","audio":"%b"}'.__mod__
"""Write an `AudioAppend` of this base64, which JSON takes as it is. There are fifty a second, in both dialects."""


def encode(message: ToModel, dialect: Dialect) -> bytes:
    """Write one client event, as the UTF-8 of a text frame."""
    return _encode(message if dialect is Dialect.GA else _in_beta(message))


def _in_beta(message: ToModel) -> ToModel:
    match message:
        case SessionUpdate(session=session):
            return msgspec.structs.replace(message, session=beta_session(session))
        case ResponseCreate(response=response):
            return message if response is None else msgspec.structs.replace(message, response=beta_response(response))
        case ItemCreate(item=item):
            return msgspec.structs.replace(message, item=beta_item(item))
        case AudioAppend() | AudioCommit() | AudioClear() | OutputAudioClear():
            return message
        case ItemTruncate() | ItemDelete() | ResponseCancel():
            return message
        case _:
            assert_never(message)
