"""TwiML as Twilio reads it: the answer to a voice webhook, checked against the schema.

As at Twilio, a document that is not TwiML fails the call; each unknown verb, attribute or value raises an alert (12200)
and is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from xml.etree import ElementTree

from phoneagent.sim.twilio.alerts import CallFailed, alert

MAX_DOCUMENT_BYTES = 64 * 1024
"""The maximum size of a TwiML document."""

MAX_PARAMETER_CHARS = 500
"""A Parameter's name and value must have fewer characters than this together."""

_SPEECH_MARKUP = frozenset({"break", "emphasis", "lang", "p", "phoneme", "prosody", "s", "say-as", "sub", "w"})
_DIALLED = frozenset({"Application", "Client", "Conference", "Number", "Queue", "Sim", "Sip", "WhatsApp"})

_LEG = (
    "statusCallbackEvent statusCallback statusCallbackMethod machineDetection machineDetectionTimeout "
    "machineDetectionSpeechThreshold machineDetectionSpeechEndThreshold machineDetectionSilenceTimeout "
    "amdStatusCallback amdStatusCallbackMethod"
)
_ATTRIBUTES: Mapping[str, frozenset[str]] = {
    name: frozenset(attributes.split())
    for name, attributes in {
        "Say": "voice loop language",
        "Play": "loop digits",
        "Pause": "length",
        "Redirect": "method",
        "Reject": "reason",
        "Hangup": "",
        "Connect": "action method",
        "Start": "action method",
        "Stream": "name connectorName url track statusCallback statusCallbackMethod audioFormat sampleRate",
        "Parameter": "name value",
        "Dial": "action method timeout hangupOnStar timeLimit callerId record trim recordingStatusCallback "
        "recordingConfigurationId recordingStatusCallbackMethod recordingStatusCallbackEvent answerOnBridge ringTone "
        "recordingTrack sequential referUrl referMethod events passports",
        "Number": f"sendDigits url method byoc {_LEG}",
        "Client": f"url method {_LEG}",
        "Sip": f"username password url method codecs {_LEG}",
        "Conference": "muted beep startConferenceOnEnter endConferenceOnExit waitUrl waitMethod maxParticipants record "
        "region coach trim statusCallback statusCallbackMethod statusCallbackEvent recordingStatusCallback "
        "recordingStatusCallbackMethod recordingStatusCallbackEvent eventCallbackUrl jitterBufferSize participantLabel",
        "Gather": "input action method timeout finishOnKey numDigits actionOnEmptyResult language hints speechTimeout "
        "maxSpeechTime profanityFilter partialResultCallback partialResultCallbackMethod bargeIn debug speechModel "
        "enhanced",
    }.items()
}
"""The elements that the phone carries out, and the attributes of each."""

_WITH_TEXT = frozenset({"Say", "Play", "Redirect", "Dial", "Number", "Client", "Sip", "Conference"})
_NOUNS = frozenset({"Stream", "Parameter", "Number", "Client", "Sip", "Conference"})
"""The elements of `_ATTRIBUTES` that are inside a verb."""

_UNSIMULATED_VERBS = "Echo Enqueue Leave Pay Prompt Queue Record Refer Siprec Sms Stop"
_UNSIMULATED_NOUNS = (
    "AiSession Autopilot Conversation ConversationRelay ConversationRelaySession Room VirtualAgent"  # inside Connect
)
_UNSIMULATED = frozenset(f"{_UNSIMULATED_VERBS} {_UNSIMULATED_NOUNS}".split())
"""Valid TwiML that this phone cannot carry out. It fails the call for that reason, without an alert."""

_CHILDREN: Mapping[str, frozenset[str]] = {
    "Say": _SPEECH_MARKUP,
    "Dial": _DIALLED,
    "Connect": frozenset({"Stream", *_UNSIMULATED_NOUNS.split()}),
    "Start": frozenset({"Stream", "Siprec"}),
    "Stream": frozenset({"Parameter"}),
    "Gather": frozenset({"Say", "Play", "Pause"}),
}

TRACKS: Mapping[str, tuple[str, ...]] = {
    "inbound_track": ("inbound",),
    "outbound_track": ("outbound",),
    "both_tracks": ("inbound", "outbound"),
}
"""The values of a Stream's `track`, and the tracks that each names."""

_METHODS = re.compile("GET|POST")
_NUMBER = re.compile("[0-9]{1,5}")
_BOOLEAN = re.compile("true|false")
_VALUES = {
    "method": _METHODS,
    "statusCallbackMethod": _METHODS,
    "reason": re.compile("busy|rejected"),
    "length": _NUMBER,
    "loop": _NUMBER,
    "timeout": _NUMBER,
    "timeLimit": _NUMBER,
    "numDigits": _NUMBER,
    "finishOnKey": re.compile("[0-9*#]?"),
    "beep": re.compile("true|false|onEnter|onExit"),
    **dict.fromkeys(
        ("answerOnBridge", "startConferenceOnEnter", "endConferenceOnExit", "actionOnEmptyResult"), _BOOLEAN
    ),
}


@dataclass(frozen=True, slots=True)
class Verb:
    """One TwiML element. The repr leaves out text and attributes: they may hold phone numbers and tokens."""

    name: str
    attributes: Mapping[str, str] = field(repr=False)
    text: str = field(repr=False)
    children: tuple[Verb, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether the phone can carry out this element."""
        return self.name not in _UNSIMULATED and all(child.simulated for child in self.children)


@dataclass(frozen=True, slots=True)
class Document:
    """The verbs of one answer, in order, and the alerts that reading it raised."""

    verbs: tuple[Verb, ...]
    alerts: tuple[str, ...]


def parse(body: bytes, content_type: str) -> Document:
    """Read the answer to a voice webhook; `content_type` is the header, empty if there was none.

    Raises:
        CallFailed: the answer is not TwiML: too large (11750), of a wrong type (12300), or not well-formed (12100).
    """
    kind = content_type.partition(";")[0].strip().lower()
    if len(body) > MAX_DOCUMENT_BYTES:
        raise CallFailed(f"the answer has more than {MAX_DOCUMENT_BYTES} bytes; send less TwiML", code=11750)
    if kind.startswith("audio/"):
        return Document((Verb("Play", {}, ""),), ())
    if kind == "text/plain":
        try:
            return _read(body)
        except CallFailed:
            return Document((Verb("Say", {}, body.decode(errors="replace").strip()),), ())
    if kind not in {"text/xml", "application/xml", "text/html"}:
        raise CallFailed(f"the answer's type is {kind or 'missing'}; send text/xml or application/xml", code=12300)
    return _read(body)


def _read(body: bytes) -> Document:
    if b"<!DOCTYPE" in body:
        # TwiML needs none, and its entities could expand 64 KB without bound.
        raise CallFailed("the document has a DOCTYPE; remove it", code=12100)
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - short, and without a DOCTYPE there are no entities
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise CallFailed(f"the document is not well-formed XML: {error}", code=12100) from None
    if root.tag != "Response":
        raise CallFailed(f"the root element is <{root.tag}>; it must be <Response>", code=12100)
    reader = _Reader()
    verbs = reader.children(root, frozenset(_ATTRIBUTES) - _NOUNS | frozenset(_UNSIMULATED_VERBS.split()))
    return Document(verbs, tuple(reader.alerts))


class _Reader:
    """Walks one document. Anything that the schema does not know is left out and added to `alerts`."""

    def __init__(self) -> None:
        self.alerts: list[str] = []

    def children(self, parent: ElementTree.Element, allowed: frozenset[str]) -> tuple[Verb, ...]:
        verbs = []
        for element in parent:
            name = element.tag
            if name in _SPEECH_MARKUP and name in allowed:
                continue  # its text is part of the parent's
            if name in allowed:
                verbs.append(self._verb(element))
            else:
                self._warn(f"<{name}> is not known inside <{parent.tag}>; names are case-sensitive")
        stray = [parent.text or "", *(element.tail or "" for element in parent)]
        if parent.tag not in _WITH_TEXT and any(text.strip() for text in stray):
            self._warn(f"<{parent.tag}> holds text, and may not")
        return tuple(verbs)

    def _verb(self, element: ElementTree.Element) -> Verb:
        name = element.tag
        if name not in _ATTRIBUTES:
            return Verb(name, dict(element.attrib), "".join(element.itertext()).strip())
        attributes = {}
        for key, value in element.attrib.items():
            pattern = _VALUES.get(key)
            if key not in _ATTRIBUTES[name]:
                self._warn(f"<{name}> has no attribute {key!r}")
            elif pattern is not None and not pattern.fullmatch(value):
                self._warn(f"<{name} {key}={value[:40]!r}> is not a value it takes")
            else:
                attributes[key] = value
        verb = Verb(
            name,
            attributes,
            "".join(element.itertext()).strip(),
            self.children(element, _CHILDREN.get(name, frozenset())),
        )
        self._check_complete(verb)
        return verb

    def _check_complete(self, verb: Verb) -> None:
        """Warn if an element lacks something that it needs."""
        match verb.name:
            case "Connect" if len(verb.children) != 1:
                self._warn(f"<Connect> needs exactly one thing to connect to, and has {len(verb.children)}")
            case "Start" if len(verb.children) != 1:
                self._warn(f"<Start> needs exactly one thing to start, and has {len(verb.children)}")
            case "Redirect" if not verb.text:
                self._warn("<Redirect> names no URL")
            case "Parameter" if not {"name", "value"} <= verb.attributes.keys():
                self._warn("<Parameter> needs a name and a value")
            case "Parameter":
                size = len(verb.attributes["name"]) + len(verb.attributes["value"])
                if size >= MAX_PARAMETER_CHARS:
                    self._warn(f"a <Parameter> has {size} characters in name and value, it must have fewer than 500")

    def _warn(self, detail: str) -> None:
        self.alerts.append(alert(12200, detail))


def check_stream(stream: Verb, url: str, *, allow_ws: bool, started: bool = False) -> None:
    """Check a Stream inside Connect, or inside Start (`started`), before it is opened; `url` is its absolute address.

    `allow_ws` permits plain `ws:`, for a server on this machine; Twilio never does.

    Raises:
        CallFailed: Twilio would not open the stream.
    """
    track = stream.attributes.get("track", "inbound_track")
    parts = urlsplit(url)
    # The path may carry a token, so no message repeats it.
    if started and track not in TRACKS:
        raise CallFailed(f"track {track[:40]!r}; it is one of {', '.join(TRACKS)}", code=31941)
    if not started and track != "inbound_track":
        raise CallFailed(f"track {track[:40]!r} with <Connect>; only inbound_track is possible", code=31941)
    if not url or re.search(r"\s", stream.attributes.get("url", "")) or not parts.hostname:
        raise CallFailed("the Stream's url is missing, has white space in it or no host", code=31923)
    if parts.scheme != "wss" and not (allow_ws and parts.scheme == "ws"):
        raise CallFailed(f"the Stream's url begins with {parts.scheme}:, it must begin with wss:", code=31922)
    if parts.query or "?" in url:
        raise CallFailed("the Stream's url has a query string; use <Parameter> or the path", code=31920)
