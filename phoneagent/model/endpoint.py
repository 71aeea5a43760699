"""The model's endpoint: OpenAI, Azure, Helicone or any other Realtime server.

An `Endpoint` is data: a URL, headers, a dialect. The servers differ in nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from phoneagent.agent.call import Call
from phoneagent.errors import ConfigurationError
from phoneagent.errors.values import is_address, is_header
from phoneagent.protocol.callerid import caller_id
from phoneagent.protocol.providers import ANY, PROVIDERS, Audio, Dialect, Provider
from phoneagent.settings import (
    DEFAULT_MODEL,
    DEFAULT_TRANSCRIPTION_MODELS,
    OWN_SETTINGS,
    Settings,
)

OPENAI_URL = str(PROVIDERS["openai"].url)
HELICONE_URL = str(PROVIDERS["helicone"].url)

TokenProvider: TypeAlias = Callable[[], str | Awaitable[str]]
"""Returns a bearer token, like the providers of azure.identity. A plain function may block: it runs in a thread."""

FACTS = ("{call_sid}", "{caller}", "{direction}")
"""Placeholders in a header's value for facts of the call."""

_PRINTABLE = re.compile(r"[!-~]{1,256}")
_PRINTABLE_URL = re.compile(r"[^\s\x00-\x1f\x7f]+")
_MODEL_NAMES = ("model", "deployment")
_KEY_HEADERS = ("authorization", "api-key", "helicone-auth")
_WEB_PAGE = "a web page is there, and no Realtime server"
_GATEWAY_REMEDIES = {
    "401": "check REALTIME_API_KEY",
    "invalid_api_key": "check REALTIME_API_KEY",
    "1008": "check REALTIME_API_KEY, and OPENAI_MODEL, which names the server's model",
    "404": "check REALTIME_URL, and OPENAI_MODEL, which names the server's model",
    "model_not_found": "check OPENAI_MODEL",
    "no websocket": f"{_WEB_PAGE}: check REALTIME_URL",
    "timeout": "check that a Realtime server is at REALTIME_URL",
    "beta_api_shape_disabled": "it takes only the GA interface: set REALTIME_DIALECT=ga",
}
_OPENAI_REMEDIES = {
    "401": "check OPENAI_API_KEY",
    "invalid_api_key": "check OPENAI_API_KEY",
    "404": "check OPENAI_MODEL",
    "model_not_found": "check OPENAI_MODEL",
    "no websocket": f"{_WEB_PAGE}: check OPENAI_BASE_URL",
    "insufficient_quota": "the account has no credit left",
    "beta_api_shape_disabled": "it takes only the GA interface: set REALTIME_DIALECT=ga",
}
_AZURE_REMEDIES = {
    "401": "check AZURE_OPENAI_API_KEY or the token provider; /openai/v1 answers an api-version with 401 too",
    "404": "check AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT",
    "DeploymentNotFound": "check AZURE_OPENAI_DEPLOYMENT",
    "no websocket": f"{_WEB_PAGE}: check AZURE_OPENAI_ENDPOINT",
}
_HELICONE_REMEDIES = {
    "401": "check HELICONE_API_KEY",
    "timeout": "Helicone stays silent when the provider refuses it: check the provider's key and the model",
    "1000": "Helicone hides the provider's reason for a close",
    "no websocket": f"{_WEB_PAGE}: check HELICONE_URL",
    "beta_api_shape_disabled": "Helicone asks its provider for the beta interface, which OpenAI has switched off: "
    "remove HELICONE_API_KEY to connect directly",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Realtime server: its `url` with the whole query, and the `headers` of every session.

    `dialect` is what the server speaks; with None, the server's first event shows it. `transcription_models` are tried
    in order.
    """

    url: str = field(repr=False)  # some servers take their key in the query
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    dialect: Dialect | None = None
    transcription_models: tuple[str, ...] = ()
    _: KW_ONLY
    call_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers that describe the call: their values contain {call_sid}, {caller} (a pseudonym) or {direction}."""
    pseudonym_key: bytes = field(default=b"", repr=False)
    """The key that makes the callers' pseudonyms. Without it, headers with {caller} are left out."""
    token: TokenProvider | None = field(default=None, repr=False)
    """Called for a bearer token whenever a session is opened."""
    remedies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What to do about a refusal, by its HTTP status, close code or error code."""
    provider: Provider = field(default=ANY, repr=False)
    """What is known about the server; see `preset`."""
    audio: Audio | None = None
    """The audio to ask for ("pcmu" or "pcm16"), which is also assumed if the server does not name a format. None asks
    for µ-law, and assumes PCM if the server does not name a format."""
    session: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Session fields that this server needs in addition to the agent's."""

    def __post_init__(self) -> None:
        """Refuse an endpoint that cannot open a session. Messages repeat neither URL nor headers: both may hold keys.

        Raises:
            ConfigurationError: the URL is malformed, or a key or header cannot be sent.
        """
        if not is_address(self.url, "ws", "wss") or not _PRINTABLE_URL.fullmatch(self.url):
            raise ConfigurationError(["the endpoint's URL is malformed: write it like wss://HOST/v1, without spaces"])
        query = urlsplit(self.url).query
        if "" in [value for name, value in parse_qsl(query, keep_blank_values=True) if name in _MODEL_NAMES]:
            raise ConfigurationError([f"the endpoint at {self.host} has an empty model name: set one"])
        for name, value in (*self.headers.items(), *self.call_headers.items()):
            if not is_header(name, value):
                remedy = "use printable ASCII, without line breaks"
                raise ConfigurationError([f"the header {name!r} for {self.host} cannot be sent: {remedy}"])
            if name.lower() in _KEY_HEADERS and value.strip() in ("", "Bearer", "Bearer None"):
                raise ConfigurationError([f"the header {name!r} for {self.host} contains no key: set one"])

    @property
    def host(self) -> str:
        """The server's host name, for messages."""
        return urlsplit(self.url).hostname or "nowhere"

    @classmethod
    def openai(
        cls,
        api_key: str,
        model: str = DEFAULT_MODEL,
        *,
        organization: str | None = None,
        project: str | None = None,
        base_url: str = OPENAI_URL,
        **options: Any,
    ) -> Endpoint:
        """OpenAI, or its host in another region (`base_url`). `options` are other fields of `Endpoint`."""
        optional = {"OpenAI-Organization": organization, "OpenAI-Project": project}
        headers = {"Authorization": f"Bearer {api_key}"} | {name: value for name, value in optional.items() if value}
        given: dict[str, Any] = {
            "transcription_models": DEFAULT_TRANSCRIPTION_MODELS,
            "call_headers": {"OpenAI-Safety-Identifier": "{caller}"},
            "remedies": _OPENAI_REMEDIES,
        }
        return cls(realtime_url(base_url, model), headers, **(given | options))

    @classmethod
    def azure(
        cls,
        endpoint: str,
        deployment: str,
        *,
        api_key: str | None = None,
        token: TokenProvider | None = None,
        preview: str | None = None,
        **options: Any,
    ) -> Endpoint:
        """Azure OpenAI: the resource's URL and the deployment, with a key or an Entra token provider.

        `preview` is an api-version of the retired preview, which has its own path and the beta dialect. `options` are
        other fields of `Endpoint`.

        Raises:
            ConfigurationError: both `api_key` and `token` are given, or neither.
        """
        if (api_key is None) == (token is None):
            raise ConfigurationError(["Endpoint.azure needs either api_key or token"])
        parts = urlsplit(endpoint)
        base = parts.path.rstrip("/").removesuffix("/v1").removesuffix("/openai")
        path, query = f"{base}/openai/v1/realtime", {"model": deployment}
        if preview is not None:
            path, query = f"{base}/openai/realtime", {"api-version": preview, "deployment": deployment}
        url = urlunsplit((_WEBSOCKET.get(parts.scheme, parts.scheme), parts.netloc, path, urlencode(query), ""))
        given: dict[str, Any] = {
            "transcription_models": PROVIDERS["azure"].transcription_models,
            "token": token,
            "remedies": _AZURE_REMEDIES,
        }
        return cls(url, {} if api_key is None else {"api-key": api_key}, **(given | options))

    @classmethod
    def gateway(
        cls,
        url: str,
        model: str = DEFAULT_MODEL,
        *,
        api_key: str | None = None,
        dialect: Dialect | None = None,
        **options: Any,
    ) -> Endpoint:
        """Any server that speaks the Realtime protocol. With `dialect` None, its first event shows the dialect."""
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        if dialect is Dialect.BETA:
            headers["OpenAI-Beta"] = "realtime=v1"
        given: dict[str, Any] = {
            "transcription_models": DEFAULT_TRANSCRIPTION_MODELS,
            "remedies": _GATEWAY_REMEDIES,
        }
        return cls(realtime_url(url, model), headers, dialect, **(given | options))

    @classmethod
    def preset(
        cls, name: str, model: str | None = None, *, api_key: str | None = None, url: str | None = None, **options: Any
    ) -> Endpoint:
        """A known server, by its name, like "xai" or "localai" (`PROVIDERS` has them all).

        `url` replaces its usual address, `model` its usual model. `options` are other fields of `Endpoint`.

        Raises:
            ConfigurationError: the name is unknown, or an address or key is missing.
        """
        provider = PROVIDERS.get(name)
        if provider is None:
            raise ConfigurationError([f"the provider {name!r} is not known: use one of {', '.join(PROVIDERS)}"])
        base = url or provider.url
        if base is None:
            raise ConfigurationError([f"the provider {name!r} has no address of its own: give a url"])
        if provider.needs_key and api_key is None and url is None and "token" not in options:
            raise ConfigurationError([f"the provider {name!r} needs a key: give an api_key"])
        model = model or provider.model or DEFAULT_MODEL
        headers = {}
        if api_key is not None:
            bare = provider.key_header != "Authorization"
            headers[provider.key_header] = api_key if bare else f"{provider.key_scheme} {api_key}"
        models = provider.transcription_models
        given: dict[str, Any] = {
            "dialect": provider.dialect,
            "transcription_models": DEFAULT_TRANSCRIPTION_MODELS if models is None else models,
            "remedies": _GATEWAY_REMEDIES,
            "provider": provider,
            "audio": provider.audio,
            "session": {"model": model} if provider.model_in_session else {},
        }
        return cls(_preset_url(provider, base, model), headers, **(given | options))

    def address(self) -> str:
        """Return the URL for a new session."""
        if self.provider.session_key is None:
            return self.url
        joint = "&" if urlsplit(self.url).query else "?"
        return f"{self.url}{joint}{self.provider.session_key}={secrets.token_hex(16)}"

    def for_transcription(self) -> Endpoint:
        """Return this endpoint for sessions that only transcribe: these have recognizers, and no other model."""
        parts = urlsplit(self.url)
        query = [each for each in parse_qsl(parts.query, keep_blank_values=True) if each[0] not in _MODEL_NAMES]
        query.append(("intent", "transcription"))
        return replace(self, url=urlunsplit(parts._replace(query=urlencode(query))), session={})

    def through_helicone(self, api_key: str, *, gateway: str = HELICONE_URL) -> Endpoint:
        """Return this OpenAI or Azure endpoint behind Helicone's gateway, which groups sessions by call and caller.

        Raises:
            ConfigurationError: this is Azure with a token provider, and Helicone forwards only keys.
        """
        if self.token is not None:
            raise ConfigurationError(["Helicone forwards Azure's API key, but no token: use api_key"])
        own = dict(parse_qsl(urlsplit(self.url).query))
        query = {"model": own.get("model", "")}
        headers = {name: value for name, value in self.headers.items() if name != "api-key"}
        if (azure_key := self.headers.get("api-key")) is not None:
            headers["Authorization"] = f"Bearer {azure_key}"
            query = {"resource": self.host.split(".")[0], "deployment": own.get("deployment") or own["model"]}
        about = {
            "Helicone-Session-Id": "{call_sid}",
            "Helicone-User-Id": "{caller}",
            "Helicone-Property-Direction": "{direction}",
        }
        parts = urlsplit(gateway)
        scheme = _WEBSOCKET.get(parts.scheme, parts.scheme)
        return replace(
            self,
            url=urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/realtime", urlencode(query), "")),
            headers={**headers, "Helicone-Auth": f"Bearer {api_key}", "Helicone-Session-Name": "phone call"},
            call_headers={**self.call_headers, **about},
            remedies={**self.remedies, **_HELICONE_REMEDIES},
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Endpoint:
        """Return the configured endpoint: what REALTIME_PROVIDER names, else REALTIME_URL, Azure or OpenAI.

        Raises:
            ConfigurationError: no endpoint is configured.
        """
        endpoint = _configured(settings)
        direct = settings.realtime_url is not None or settings.realtime_provider not in (None, "helicone")
        if settings.helicone_api_key is not None and not direct:
            gateway = settings.helicone_url or HELICONE_URL
            endpoint = endpoint.through_helicone(settings.helicone_api_key.get_secret_value(), gateway=gateway)
        more = {name: value.get_secret_value() for name, value in settings.realtime_headers.items()}
        of_calls = {name: value for name, value in more.items() if any(fact in value for fact in FACTS)}
        of_all = {name: value for name, value in more.items() if name not in of_calls}
        replaced = {name.lower() for name in more}
        kept = {name: value for name, value in endpoint.headers.items() if name.lower() not in replaced}
        kept_of_calls = {name: value for name, value in endpoint.call_headers.items() if name.lower() not in replaced}
        secret = settings.twilio_auth_token.get_secret_value().encode()
        return replace(
            endpoint,
            headers={**kept, **of_all},
            call_headers={**kept_of_calls, **of_calls},
            dialect=_dialect(settings) or endpoint.dialect,
            audio=settings.realtime_audio or endpoint.audio,
            pseudonym_key=hmac.digest(secret, b"phoneagent caller pseudonym v1", hashlib.sha256),
        )

    def headers_for(self, call: Call) -> dict[str, str]:
        """Return the headers that describe a call. A header is left out if the call lacks its fact."""
        facts = {"{call_sid}": call.sid, "{caller}": self._pseudonym(call), "{direction}": call.direction}
        headers = {}
        for name, value in self.call_headers.items():
            wanted = [fact for fact in FACTS if fact in value]
            if all(_PRINTABLE.fullmatch(facts[fact] or "") for fact in wanted):
                for fact in wanted:
                    value = value.replace(fact, facts[fact] or "")
                headers[name] = value
        return headers

    def _pseudonym(self, call: Call) -> str | None:
        """Return a name for the caller that is always the same and does not reveal the number."""
        caller = caller_id(call.caller)
        if not self.pseudonym_key or caller is None:
            return None
        return hmac.digest(self.pseudonym_key, caller.encode(), hashlib.sha256).hex()[:32]


_WEBSOCKET = {"http": "ws", "https": "wss"}


def _configured(settings: Settings) -> Endpoint:
    """Return the configured endpoint, without the settings that apply to every endpoint."""
    transcription: dict[str, Any] = {"transcription_models": settings.transcription_models}
    chosen = transcription if "transcription_models" in settings.model_fields_set else {}
    provider, key = settings.realtime_provider, settings.realtime_api_key
    api_key = None if key is None else key.get_secret_value()
    if provider is not None and (settings.realtime_url is not None or provider not in OWN_SETTINGS):
        model = settings.openai_model if "openai_model" in settings.model_fields_set else None
        return Endpoint.preset(provider, model, api_key=api_key, url=settings.realtime_url, **chosen)
    if settings.realtime_url is not None:
        return Endpoint.gateway(
            settings.realtime_url,
            settings.openai_model,
            api_key=api_key,
            dialect=_dialect(settings),
            **transcription,
        )
    if settings.azure_openai_endpoint is not None and provider != "openai":
        if settings.azure_openai_deployment is None or settings.azure_openai_api_key is None:
            remedy = "set both, or remove AZURE_OPENAI_ENDPOINT"
            raise ConfigurationError([f"AZURE_OPENAI_DEPLOYMENT or AZURE_OPENAI_API_KEY is missing: {remedy}"])
        return Endpoint.azure(
            settings.azure_openai_endpoint,
            settings.azure_openai_deployment,
            api_key=settings.azure_openai_api_key.get_secret_value(),
            preview=settings.azure_openai_preview,
            **chosen,
        )
    if settings.openai_api_key is None:
        raise ConfigurationError(
            [
                "OPENAI_API_KEY is missing: set it, "
                "or set REALTIME_URL to use another Realtime server, like `phoneagent sim model`"
            ]
        )
    return Endpoint.openai(
        settings.openai_api_key.get_secret_value(),
        settings.openai_model,
        organization=settings.openai_organization,
        project=settings.openai_project,
        base_url=settings.openai_base_url or OPENAI_URL,
        **transcription,
    )


def _dialect(settings: Settings) -> Dialect | None:
    return None if settings.realtime_dialect == "auto" else Dialect(settings.realtime_dialect)


def _preset_url(provider: Provider, base: str, model: str) -> str:
    url = base if provider.model_in_session else realtime_url(base, model)
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    query += [(name, value) for name, value in provider.query.items() if name not in dict(query)]
    return urlunsplit((_WEBSOCKET.get(parts.scheme, parts.scheme), parts.netloc, parts.path, urlencode(query), ""))


def realtime_url(base: str, model: str) -> str:
    """Return the URL of a Realtime server with the path `/realtime`, and the model unless the query names one."""
    parts = urlsplit(base)
    path = parts.path.rstrip("/")
    if not path.endswith("/realtime"):
        path = f"{path if path not in ('', '/openai') else path + '/v1'}/realtime"
    query = parse_qsl(parts.query, keep_blank_values=True)
    if not any(name in _MODEL_NAMES for name, _ in query):
        query.append(("model", model))
    return urlunsplit((_WEBSOCKET.get(parts.scheme, parts.scheme), parts.netloc, path, urlencode(query), ""))
