"""The providers that the simulated Realtime server imitates: their paths, keys, queries and handshake quirks."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

from websockets.datastructures import Headers

from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.config import TRANSCRIPTION_MODELS

Dialect = Literal["ga", "beta"]
KeyPlace = Literal["bearer", "basic", "api-key", "query", "subprotocol"]

_USER_HEADERS = ("OpenAI-Safety-Identifier", "Helicone-User-Id")
_PHONE_NUMBER = re.compile(r"\+?[0-9 ()-]{7,20}")
_KEY_SUBPROTOCOL = "openai-insecure-api-key."
_BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
_ENDED = re.compile(r"gpt-4o(-mini)?-realtime-preview(-[0-9-]+)?")
"""OpenAI's models that were shut down in 2026."""


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """The refusal of a handshake, with its HTTP status."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A provider's rules for a handshake.

    `paths` are the paths of sessions, each with its default dialect. `keys`: where a client may put its key. `model`:
    the query parameters that may name the model; a single one is strictly required, none leaves the choice to the
    session. `query` and `headers` are also required.
    """

    paths: Mapping[str, Dialect]
    keys: frozenset[KeyPlace]
    model: tuple[str, ...] = ("model",)
    query: tuple[tuple[str, str | None], ...] = ()
    """Required query parameters, each with its value (None: any)."""
    headers: tuple[str, ...] = ()
    api_version: Literal["ignored", "refused", "demanded"] = "ignored"
    beta_header: Literal["obeyed", "refused", "ignored"] = "ignored"
    unknown_model: Literal["error event", "404"] = "error event"
    """The answer to a model that does not exist: an error after the handshake, or HTTP 404 in its place."""
    openai_models: frozenset[str] = frozenset()
    """The paths at which a model has OpenAI's own name. Elsewhere it may be a deployment, or an alias of any name."""
    voices_lacking: frozenset[str] = frozenset()
    transcribes: frozenset[str] | None = None
    """Transcription models that work (None: all). A session may name another; then every transcription fails."""

    @property
    def path(self) -> str:
        """The path to connect to."""
        return next(iter(self.paths))

    @property
    def base(self) -> str:
        """The base path, to which clients append their own."""
        return self.path.removesuffix("/realtime")

    def described(self, path: str) -> str | None:
        """Return the model that a path below `/models` describes; "" for the list of all."""
        for own in self.paths:
            models = own.removesuffix("realtime") + "models"
            if path == models or path.startswith(models + "/"):
                return path.removeprefix(models).removeprefix("/")
        return None

    def below(self, path: str) -> str | None:
        """Return the rest of a path below that of the sessions, such as "client_secrets" or "calls"."""
        found = (own for own in self.paths if path.startswith(own + "/"))
        return next((path.removeprefix(own + "/") for own in found), None)

    def named(self, url: SplitResult) -> str | None:
        """Return the model that the query names."""
        query = dict(parse_qsl(url.query))
        return next((query[name] for name in self.model if query.get(name)), None)

    def dialect(self, url: SplitResult, headers: Headers) -> Dialect:
        """Return the dialect of a session that is opened with this URL and these headers."""
        asked = self.beta_header == "obeyed" and asks_for_beta(headers)
        return "beta" if asked else self.paths[url.path]

    def refuses_beta(self, headers: Headers) -> bool:
        """Return whether the session ends at once because the client requests the retired beta."""
        return self.beta_header == "refused" and asks_for_beta(headers)

    def model_refusal(self, url: SplitResult, model: str) -> EventRefused | None:
        """Return why a session with this model ends right after its handshake; None to open it."""
        if url.path not in self.openai_models:
            return None
        if transcribes(url):
            message = "You must not provide a model parameter for transcription sessions."
            return EventRefused(message, code="invalid_model") if self.named(url) else None
        if model in TRANSCRIPTION_MODELS:
            message = f"Model {model} is a transcription model and cannot be used as the realtime session model. "
            message += "Pass this transcription model as audio.input.transcription.model instead."
            return EventRefused(message, code="invalid_model")  # UNSURE of the code; the words are the real server's
        return model_not_found(model) if _ENDED.fullmatch(model) else None

    def keys_offered(self, url: SplitResult, headers: Headers) -> list[str]:
        """Return the keys that a client presents where this provider looks for them."""
        subprotocols = [
            name.strip() for value in headers.get_all("Sec-WebSocket-Protocol") for name in value.split(",")
        ]
        authorizations = [value.partition(" ") for value in headers.get_all("Authorization")]
        offered: dict[KeyPlace, list[str]] = {
            "bearer": [key for scheme, _, key in authorizations if scheme.lower() == "bearer"],
            "basic": [key for scheme, _, key in authorizations if scheme.lower() == "basic"],
            "api-key": headers.get_all("api-key"),
            "query": [value for name, value in parse_qsl(url.query) if name == "api-key"],
            "subprotocol": [
                name.removeprefix(_KEY_SUBPROTOCOL) for name in subprotocols if name.startswith(_KEY_SUBPROTOCOL)
            ],
        }
        return [value for place in self.keys for value in offered[place]]

    def has_key(self, url: SplitResult, headers: Headers, key: str) -> bool:
        """Return whether a client presents this key."""
        offered = self.keys_offered(url, headers)
        return any(hmac.compare_digest(value.encode(), key.encode()) for value in offered)

    def refusal(self, url: SplitResult, headers: Headers, *, unknown: bool, chosen: bool) -> HandshakeRefusal | None:
        """Return the refusal of a session, None to open it.

        `unknown`: the model does not exist. `chosen`: an ephemeral key or the kind of session has already chosen it.
        """
        query = dict(parse_qsl(url.query))
        if "call_id" in query:
            message = f"No call with id '{query['call_id'][:80]}': it is over, or never was."
            return HandshakeRefusal(404, "call_not_found", message)
        for name, value in self.query:
            if name not in query or value not in (None, query[name]):
                return HandshakeRefusal(400, "bad_request", f"The query must have {name}={value or '…'}.")
        for name in self.headers:
            if name not in headers:
                return HandshakeRefusal(401, "unauthorized", f"The header {name} is missing.")
        versions = [value for name, value in parse_qsl(url.query) if name == "api-version"]
        if self.api_version == "refused" and versions:
            return HandshakeRefusal(401, "Unauthorized", "Access denied: this path takes no api-version.")
        if self.api_version == "demanded" and not any(value.endswith("-preview") for value in versions):
            return HandshakeRefusal(404, "NotFound", "Resource not found: api-version must be one of the previews.")
        if self.unknown_model == "404" and (unknown or (self.named(url) is None and not chosen)):
            return HandshakeRefusal(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        return None


def model_not_found(model: str) -> EventRefused:
    return EventRefused(f"The model `{model}` does not exist or you do not have access.", code="model_not_found")


def asks_for_beta(headers: Headers) -> bool:
    subprotocols = ", ".join(headers.get_all("Sec-WebSocket-Protocol"))
    return "realtime=v1" in ", ".join(headers.get_all("OpenAI-Beta")) or _BETA_SUBPROTOCOL in subprotocols


def transcribes(url: SplitResult) -> bool:
    """Return whether the query asks for a session that only transcribes."""
    return ("intent", "transcription") in parse_qsl(url.query)


def rules_broken(service: Service, target: str, headers: Headers, *, chosen: bool = False) -> list[str]:
    """Return the rules that a client broke in an accepted handshake, one line each. `chosen`: no model is needed."""
    named = chosen or not service.model or service.named(urlsplit(target))
    broken = [] if named else ["the connection names no model; add ?model= to the URL"]
    identifiers = [(name, value) for name in _USER_HEADERS for value in headers.get_all(name)]
    wrong = [name for name, value in identifiers if _PHONE_NUMBER.fullmatch(value) or len(value) > 64]
    return broken + [f"{name} must be a hash of at most 64 characters, never a phone number" for name in wrong]


ANY = Service(
    paths={"/v1/realtime": "ga", "/openai/v1/realtime": "ga"},
    keys=frozenset({"bearer", "api-key", "subprotocol"}),
    model=("model", "deployment"),
    beta_header="refused",
    openai_models=frozenset({"/v1/realtime"}),
)
"""No provider in particular: it accepts the clients of all others at their paths, except those of the retired beta."""

ANY_BETA = replace(
    ANY, paths={**ANY.paths, "/openai/realtime": "beta"}, beta_header="obeyed", openai_models=frozenset()
)
"""The same with clients of the beta, which gateways and emulators still speak."""

OPENAI = Service(
    paths={"/v1/realtime": "ga"},
    keys=frozenset({"bearer", "subprotocol"}),
    beta_header="refused",
    openai_models=frozenset({"/v1/realtime"}),
)
"""OpenAI since May 2026: a client that requests the beta gets an error event and close code 4000."""

AZURE = Service(
    paths={"/openai/v1/realtime": "ga"},
    keys=frozenset({"bearer", "api-key", "query"}),
    api_version="refused",
    unknown_model="404",
    transcribes=frozenset({"whisper-1"}),
)
"""Azure OpenAI: the model is a deployment, and so is every transcription model but one."""

AZURE_PREVIEW = Service(
    paths={"/openai/realtime": "beta"},
    keys=frozenset({"bearer", "api-key", "query"}),
    model=("deployment",),
    api_version="demanded",
    unknown_model="404",
    voices_lacking=frozenset({"marin", "cedar"}),
    transcribes=frozenset({"whisper-1"}),
)
"""Azure's retired preview, which speaks the beta dialect."""

BETA_GATEWAY = Service(paths={"/v1/realtime": "beta"}, keys=frozenset({"bearer"}))
"""A reseller or an emulator that speaks only the beta dialect, to every client."""
