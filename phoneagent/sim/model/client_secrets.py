"""Ephemeral keys, which an app's server requests so that a browser never gets its API key.

    POST /v1/realtime/client_secrets  {"expires_after": {"anchor": "created_at", "seconds": 600}, "session": {...}}

The key opens sessions until it expires, each configured as the request said.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from phoneagent.sim.model.checks import any_object, by_key, integer, one_of, struct
from phoneagent.sim.model.config import (
    Json,
    check_session,
    default_session,
    default_transcription_session,
    given,
    updated_session,
)
from phoneagent.sim.model.mcp import named_servers

MAX_SECRETS = 1000
DEFAULT_SECONDS = 600

_REQUEST = struct(
    {
        "expires_after": struct({"anchor": one_of("created_at"), "seconds": integer(10, 7200)}),
        "session": by_key("type", {"realtime": any_object, "transcription": any_object}),
    }
)


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """The configuration of the sessions that a key opens. `expires_at` is in Unix seconds."""

    session: Json
    expires_at: float

    @property
    def model(self) -> str | None:
        """The model that the request named."""
        model = self.session.get("model")
        return model if isinstance(model, str) else None

    @property
    def configuration(self) -> Json:
        """The request's session settings, without the model, which the connection may name itself."""
        return {name: value for name, value in self.session.items() if name != "model"}

    @property
    def transcribes(self) -> bool:
        """Whether the sessions only transcribe."""
        return self.session.get("type") == "transcription"


class ClientSecrets:
    """The keys that were issued and have not expired."""

    def __init__(self) -> None:
        self._secrets: OrderedDict[str, ClientSecret] = OrderedDict()

    def issue(self, request: Json, *, default_model: str) -> Json:
        """Issue a key; returns the answer to the request. Raises `EventRefused`."""
        _REQUEST(request, "")
        request = given(request)
        session = request.get("session") or {"type": "realtime"}
        now = time.time()
        expires_at = int(now) + request.get("expires_after", {}).get("seconds", DEFAULT_SECONDS)
        secret = ClientSecret(session, expires_at)
        session_id = f"sess_{secrets.token_hex(10)}"
        check_session(session)
        new = (
            default_transcription_session(session_id, expires_at)
            if secret.transcribes
            else default_session(secret.model or default_model, session_id, expires_at)
        )
        effective = updated_session(new, session, spoke=False)
        named_servers(session.get("tools", []), {})
        key = f"ek_{secrets.token_hex(16)}"
        self._secrets[key] = secret
        while len(self._secrets) > MAX_SECRETS:
            self._secrets.popitem(last=False)
        return {"value": key, "expires_at": expires_at, "session": effective}

    def find(self, keys: list[str]) -> ClientSecret | None:
        """Return the secret of one of these keys, None if there is none or it has expired."""
        found = (self._secrets[key] for key in keys if key in self._secrets)
        return next((secret for secret in found if time.time() < secret.expires_at), None)
