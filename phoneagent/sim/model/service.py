"""The providers that the simulated Realtime server imitates: their paths, keys, queries and handshake quirks."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

from websockets.datastructures import Headers

Dialect = Literal["ga", "beta"]
KeyPlace = Literal["bearer", "api-key", "query"]

_USER_HEADERS = ("OpenAI-Safety-Identifier", "Helicone-User-Id")
_PHONE_NUMBER = re.compile(r"\+?[0-9 ()-]{7,20}")


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """The refusal of a handshake, with its HTTP status."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A provider's rules for a handshake.

    `paths` are the paths of sessions, each with the dialect spoken there by default. `keys`: where a client may put its
    key. `model`: the query parameters that may name the model; a single one is strictly required.
    """

    paths: Mapping[str, Dialect]
    keys: frozenset[KeyPlace]
    model: tuple[str, ...] = ("model",)
    api_version: Literal["ignored", "refused", "demanded"] = "ignored"
    beta_header: Literal["obeyed", "refused", "ignored"] = "ignored"
    unknown_model: Literal["error event", "404"] = "error event"
    """The answer to a model that does not exist: an error after the handshake, or HTTP 404 in its place."""
    voices_lacking: frozenset[str] = frozenset()
    transcribes: frozenset[str] | None = None
    """Transcription models that work (None: all). A session may name another; then every transcription fails."""

    @property
    def path(self) -> str:
        """The path to connect to."""
        return next(iter(self.paths))

    def described(self, path: str) -> str | None:
        """Return the model that a path below `/models/` describes."""
        for own in self.paths:
            models = own.removesuffix("realtime") + "models/"
            if path.startswith(models):
                return path.removeprefix(models)
        return None

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

    def refusal(
        self, url: SplitResult, headers: Headers, api_key: str | None, unknown: bool
    ) -> HandshakeRefusal | None:
        """Return the refusal of a handshake, None to accept it. `unknown`: the model does not exist."""
        if url.path not in self.paths and self.described(url.path) is None:
            return HandshakeRefusal(404, "not_found", f"Invalid URL (GET {url.path}); sessions are at {self.path}.")
        if api_key is not None and not self._has_key(url, headers, api_key):
            return HandshakeRefusal(401, "invalid_api_key", "Incorrect API key provided.")
        if url.path not in self.paths:
            return None
        versions = [value for name, value in parse_qsl(url.query) if name == "api-version"]
        if self.api_version == "refused" and versions:
            return HandshakeRefusal(401, "Unauthorized", "Access denied: this path takes no api-version.")
        if self.api_version == "demanded" and not any(value.endswith("-preview") for value in versions):
            return HandshakeRefusal(404, "NotFound", "Resource not found: api-version must be one of the previews.")
        if self.unknown_model == "404" and (unknown or self.named(url) is None):
            return HandshakeRefusal(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        return None

    def _has_key(self, url: SplitResult, headers: Headers, key: str) -> bool:
        offered = {
            "bearer": [value.removeprefix("Bearer ") for value in headers.get_all("Authorization")],
            "api-key": headers.get_all("api-key"),
            "query": [value for name, value in parse_qsl(url.query) if name == "api-key"],
        }
        values = [value for place in self.keys for value in offered[place]]
        return any(hmac.compare_digest(value.encode(), key.encode()) for value in values)


def asks_for_beta(headers: Headers) -> bool:
    return "realtime=v1" in ", ".join(headers.get_all("OpenAI-Beta"))


def rules_broken(service: Service, target: str, headers: Headers) -> list[str]:
    """Return the rules that a client broke in an accepted handshake, one line each."""
    broken = [] if service.named(urlsplit(target)) else ["the connection names no model; add ?model= to the URL"]
    identifiers = [(name, value) for name in _USER_HEADERS for value in headers.get_all(name)]
    wrong = [name for name, value in identifiers if _PHONE_NUMBER.fullmatch(value) or len(value) > 64]
    return broken + [f"{name} must be a hash of at most 64 characters, never a phone number" for name in wrong]


_ANYWHERE: dict[str, Dialect] = {"/v1/realtime": "ga", "/openai/v1/realtime": "ga", "/openai/realtime": "beta"}
ANY = Service(
    paths=_ANYWHERE, keys=frozenset({"bearer", "api-key"}), model=("model", "deployment"), beta_header="obeyed"
)
"""No provider in particular: it accepts the clients of all others, each at its path."""

OPENAI = Service(paths={"/v1/realtime": "ga"}, keys=frozenset({"bearer"}), beta_header="refused")
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
