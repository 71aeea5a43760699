"""Whose Realtime server the simulated one stands in for: paths, keys, query and quirks at the door."""

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

_NAMES_OF_PEOPLE = ("OpenAI-Safety-Identifier", "Helicone-User-Id")
_PHONE_NUMBER = re.compile(r"\+?[0-9 ()-]{7,20}")


@dataclass(frozen=True, slots=True)
class Turned:
    """A handshake that is turned away with an HTTP status."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a provider's door is like.

    `paths` are where sessions are, and the dialect spoken there without a header. `keys`: where a client may put its
    key. `model`: the query's parameters that may name the model, strictly demanded if there is only one.
    """

    paths: Mapping[str, Dialect]
    keys: frozenset[KeyPlace]
    model: tuple[str, ...] = ("model",)
    api_version: Literal["ignored", "refused", "demanded"] = "ignored"
    beta_header: Literal["obeyed", "refused", "ignored"] = "ignored"
    unknown_model: Literal["error event", "404"] = "error event"
    """How a model that does not exist is told: after the handshake, or in place of it."""
    voices_lacking: frozenset[str] = frozenset()
    transcribes: frozenset[str] | None = None
    """Recognisers that work; a session may name any other, and then every turn's transcription fails. None: all."""

    @property
    def path(self) -> str:
        """The path to connect to."""
        return next(iter(self.paths))

    def described(self, path: str) -> str | None:
        """Return the model that a path below `/models/` is about."""
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
        """Return the spelling of a session that is opened like this."""
        asked = self.beta_header == "obeyed" and asks_for_beta(headers)
        return "beta" if asked else self.paths[url.path]

    def refuses_beta(self, headers: Headers) -> bool:
        """Tell whether the session ends at once, because the client asks for the retired interface."""
        return self.beta_header == "refused" and asks_for_beta(headers)

    def turned_away(self, url: SplitResult, headers: Headers, api_key: str | None, unknown: bool) -> Turned | None:
        """Return why a handshake is refused, None if it is not. `unknown`: there is no such model."""
        if url.path not in self.paths and self.described(url.path) is None:
            return Turned(404, "not_found", f"Invalid URL (GET {url.path}); sessions are at {self.path}.")
        if api_key is not None and not self._has_key(url, headers, api_key):
            return Turned(401, "invalid_api_key", "Incorrect API key provided.")
        if url.path not in self.paths:
            return None
        versions = [value for name, value in parse_qsl(url.query) if name == "api-version"]
        if self.api_version == "refused" and versions:
            return Turned(401, "Unauthorized", "Access denied: this path takes no api-version.")
        if self.api_version == "demanded" and not any(value.endswith("-preview") for value in versions):
            return Turned(404, "NotFound", "Resource not found: api-version must be one of the previews.")
        if self.unknown_model == "404" and (unknown or self.named(url) is None):
            return Turned(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
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
    """Return what a client did at an open door that it should not, a line each."""
    broken = [] if service.named(urlsplit(target)) else ["the connection names no model; add ?model= to the URL"]
    told = [(name, value) for name in _NAMES_OF_PEOPLE for value in headers.get_all(name)]
    wrong = [name for name, value in told if _PHONE_NUMBER.fullmatch(value) or len(value) > 64]
    return broken + [f"{name} must be a hash of at most 64 characters, never a phone number" for name in wrong]


_ANYWHERE: dict[str, Dialect] = {"/v1/realtime": "ga", "/openai/v1/realtime": "ga", "/openai/realtime": "beta"}
ANY = Service(
    paths=_ANYWHERE, keys=frozenset({"bearer", "api-key"}), model=("model", "deployment"), beta_header="obeyed"
)
"""Nobody in particular: it takes clients of all the others, each at its path."""

OPENAI = Service(paths={"/v1/realtime": "ga"}, keys=frozenset({"bearer"}), beta_header="refused")
"""OpenAI since May 2026: who asks for the beta is let in, told so in an error, and closed with 4000."""

AZURE = Service(
    paths={"/openai/v1/realtime": "ga"},
    keys=frozenset({"bearer", "api-key", "query"}),
    api_version="refused",
    unknown_model="404",
    transcribes=frozenset({"whisper-1"}),
)
"""Azure OpenAI: the model is a deployment, and so is every recogniser but one."""

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
"""A reseller or an emulator that knows only the beta dialect, and speaks it to everybody."""
