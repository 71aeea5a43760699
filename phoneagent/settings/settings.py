"""The settings: their fields, and the values that each accepts."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
import pydantic_core
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from phoneagent.billing.prices import Price, read_prices
from phoneagent.errors.values import is_address, is_header
from phoneagent.protocol.callerid import CALLERS
from phoneagent.protocol.providers import PROVIDERS, Audio
from phoneagent.settings.receiver import check_url, split_secrets
from phoneagent.settings.stray import check_key, refuse_unknown, refuse_wrapping

DEFAULT_MODEL = "gpt-realtime-2.1"
DEFAULT_TRANSCRIPTION_MODELS = ("gpt-transcribe", "gpt-4o-mini-transcribe")
"""Tried in order, because not every account has access to the first."""

OWN_SETTINGS = frozenset({"openai", "azure", "helicone"})
"""The providers that have their own settings; the others use REALTIME_API_KEY and OPENAI_MODEL."""

INSECURE_ACCOUNT = "AC" + "0" * 32
INSECURE_URL = "https://localhost"
"""Placeholders for the account and the public URL, which `insecure` does not require."""

THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - a name, not a socket
_DATABASES = frozenset({"sqlite", "sqlite+aiosqlite", "postgres", "postgresql", "postgresql+asyncpg"})


class Records(BaseSettings):
    """The settings of call records: where they are stored, and for how long. Commands on records need only these."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=False,
        env_ignore_empty=True,
        env_file_encoding="utf-8-sig",  # Windows editors put a byte order mark first
        str_strip_whitespace=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # an input may be a secret
        allow_inf_nan=False,
    )

    database_url: SecretStr = SecretStr("sqlite:///phoneagent.db")
    """sqlite:///path (relative to the working directory), postgres:// or postgresql://. It may contain a password."""
    record_days: int = Field(90, ge=0, le=36500)
    """How many days a record is kept after its call. 0: until its outcome and webhook are done, at most 7 days."""

    record_audio: SecretStr | None = Field(None, examples=["recordings"])
    """Where recordings are stored: a folder, or a URL like s3://bucket/calls (extra `recording`). Default: none."""
    record_audio_days: int = Field(90, ge=1, le=36500)
    """How many days a recording is kept after its call."""

    _plain = field_validator("*", mode="before")(refuse_wrapping)

    @field_validator("record_audio")
    @classmethod
    def _audio(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value()
        if "://" in text and not re.fullmatch(r"[a-z][a-z0-9+.-]*://.+", text):
            raise ValueError("write a folder like recordings, or a URL like s3://bucket/calls")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr) -> SecretStr:
        scheme, separator, rest = value.get_secret_value().partition("://")
        if not separator or not rest or scheme.lower() not in _DATABASES:
            raise ValueError("write it like sqlite:///phoneagent.db or postgresql://user:password@host/database")
        return value


class Settings(Records):
    """The settings of the app. A field's name in capitals is its environment variable, unless it has an alias."""

    # Twilio
    twilio_account_sid: str
    """The Twilio account (AC…) whose calls the app answers."""
    twilio_auth_token: SecretStr
    """The account's auth token, which signs webhooks and media sockets. During a rotation: new,old."""
    public_url: str
    """The URL at which Twilio reaches the app: https, a host, and optionally a path."""

    twilio_phone_number: str | None = Field(None, repr=False)
    """The phone number (E.164). It is the caller ID of calls that the app makes. `dev` and the setup page point it at
    the app, and `doctor` checks where it points."""
    twilio_api_url: str | None = None
    """A server to use instead of Twilio's REST API, for example in tests."""
    ngrok_authtoken: SecretStr | None = None
    """Opens the tunnel of `phoneagent dev` if no ngrok agent is running."""
    insecure: bool = False
    """Accepts unsigned requests from this machine, and requires no account, token or public URL. Only code or the
    command line can set it: a leftover variable must not disable verification."""

    # the model
    endpoint_in_code: bool = False
    """Whether code provides the endpoint, so that none has to be configured here."""
    realtime_url: str | None = Field(None, repr=False)
    """The URL (ws or wss) of a Realtime server other than OpenAI's. It takes precedence over the settings of Azure,
    OpenAI and Helicone; OPENAI_MODEL still names the model."""
    realtime_provider: str | None = None
    """The kind of server, like xai or localai. Its usual address is used unless REALTIME_URL names another."""
    realtime_audio: Audio | None = None
    """The audio format of the model's sessions, if the server does not say: pcmu, or pcm16, which is converted."""
    realtime_api_key: SecretStr | None = Field(None, validate_default=True)
    """That server's key, if it needs one. OPENAI_API_KEY is never sent to it."""
    realtime_headers: Annotated[dict[str, SecretStr], NoDecode] = Field(default_factory=dict)
    """Extra headers for any server, as JSON. Values may contain {call_sid}, {caller} (a pseudonym) and {direction}."""
    realtime_dialect: Literal["auto", "ga", "beta"] = "auto"
    """The dialect of that server's events, if its first event does not reveal it."""
    azure_openai_endpoint: str | None = Field(None, repr=False, validate_default=True)
    """The URL of an Azure OpenAI resource, like https://NAME.openai.azure.com."""
    azure_openai_deployment: str | None = Field(None, validate_default=True)
    """The name of the model's deployment in that resource."""
    azure_openai_api_key: SecretStr | None = Field(None, validate_default=True)
    """One of that resource's keys. Code can give a token provider instead: `Endpoint.azure(token=...)`."""
    azure_openai_preview: str | None = Field(None, pattern=r"^[0-9-]+-preview$", examples=["2025-04-01-preview"])
    """An api-version like 2025-04-01-preview, for the retired form of Azure's URL and the beta dialect."""
    openai_api_key: SecretStr | None = Field(None, validate_default=True)
    """The key for OpenAI, or for the host that OPENAI_BASE_URL names."""
    openai_model: str = DEFAULT_MODEL
    """The name of the model, for every server except Azure, where the deployment names it."""
    openai_base_url: str | None = Field(None, repr=False)
    """Another OpenAI host, like https://eu.api.openai.com/v1. It receives OPENAI_API_KEY."""
    openai_organization: str | None = Field(None, validation_alias="OPENAI_ORG_ID")
    """The organization to charge, if the key belongs to several."""
    openai_project: str | None = Field(None, validation_alias="OPENAI_PROJECT_ID")
    """The project to charge, if the key belongs to several."""
    helicone_api_key: SecretStr | None = Field(None, validate_default=True)
    """Routes the session through Helicone's gateway, to OpenAI or to Azure."""
    helicone_url: str | None = Field(None, repr=False)
    """A Helicone gateway other than https://api.helicone.ai/v1/gateway/oai."""
    transcription_models: Annotated[tuple[str, ...], NoDecode] = Field(
        DEFAULT_TRANSCRIPTION_MODELS, validation_alias="PHONEAGENT_TRANSCRIPTION_MODELS"
    )
    """Models that transcribe the caller, separated by commas and tried in order; "none" for no transcription."""

    outcome_url: str | None = Field(None, repr=False, examples=["https://api.openai.com/v1"])
    """An OpenAI-compatible chat endpoint that fills in the outcomes of calls, instead of the Realtime model."""
    outcome_model: str | None = Field(None, validate_default=True)
    """The model at `outcome_url`. It needs structured output."""
    outcome_api_key: SecretStr | None = None
    """The key for `outcome_url`, if it needs one. No other key is sent there."""

    # the service
    port: int = Field(8000, ge=0, le=65535)
    """The port that the server listens on. 0 picks a free one."""
    web_concurrency: int = Field(1, ge=1)
    """How many processes share the port. Calls are spread evenly over them. Windows supports one."""
    dead_air_ms: int = Field(2500, ge=0)
    """How long the caller hears nothing, while an answer is due, before a short sound is played. 0 turns it off."""
    idle_seconds: float = Field(15, ge=0)
    """How long the caller may be silent, in seconds, before the agent asks whether they are still there. 0: never."""
    max_call_seconds: float = Field(3600, gt=0)
    """The maximum duration of a call, in seconds: a forgotten call costs money."""
    max_call_cost: Decimal | None = Field(None, gt=0, allow_inf_nan=False, examples=["2.50"])
    """The cost limit of a call, in US dollars, at which the agent ends it. The last turn is charged on top."""
    prices: Annotated[dict[str, Price], NoDecode] = Field(
        default_factory=dict, validation_alias="PHONEAGENT_PRICES", repr=False
    )
    """Prices that the built-in table lacks or has wrong: JSON, or the path of a JSON file. See `Price`."""
    rate_limit_reserve: float = Field(0, ge=0, le=1, examples=["0.1"])
    """The share of the model's rate limits that is reserved for live calls. With less left, a new call is turned away
    as if `max_calls` were reached. 0 accepts every call."""
    max_calls: int = Field(100, ge=1)
    """How many calls this process takes at once. Further ones are sent to `fallback_number`, or hear a busy tone."""
    max_calls_per_caller: int = Field(10, ge=1)
    """How many calls with one number this process takes at once. Withheld numbers are not counted."""
    allow_callers: Annotated[tuple[str, ...], NoDecode] = Field((), repr=False)
    """Numbers (E.164) or prefixes (+1555*) whose calls are accepted, separated by commas. By default, all are."""
    deny_callers: Annotated[tuple[str, ...], NoDecode] = Field((), repr=False)
    """Numbers or prefixes whose calls are rejected, even if `allow_callers` lists them."""
    fallback_number: str | None = Field(None, repr=False)
    """The number (E.164) that calls are forwarded to if this process cannot take them."""
    calls_per_second: float = Field(1, ge=0, le=100)
    """How many calls all processes together make per second. Twilio allows 1 unless it raised the account's limit."""
    drain_seconds: float = Field(25, ge=0, le=3600)
    """How long live calls may continue after SIGTERM, in seconds: less than the platform waits before SIGKILL."""
    log_level: str = Field("info", validation_alias="PHONEAGENT_LOG_LEVEL")
    """The lowest level that is logged: debug, info, warning or error."""
    log_format: Literal["text", "json"] | None = None
    """The format of log lines. By default, text on a terminal and JSON elsewhere."""
    log_pii: bool = Field(False, validation_alias="PHONEAGENT_LOG_PII")
    """Whether log lines show full phone numbers, for debugging."""
    show_transcript: bool = Field(False, validation_alias="PHONEAGENT_SHOW_TRANSCRIPT")
    """Whether the log shows what the caller and the agent say, for development. `serve --show-transcript` sets it."""
    api_token: SecretStr | None = Field(None, validation_alias="PHONEAGENT_API_TOKEN")
    """The bearer token that opens `/metrics` and the control API (`/calls`, `/events`). Without it, neither exists."""
    local_api: bool = False
    """Opens the control API to programs on this machine without a token. As with `insecure`, no variable can set it."""

    webhook_allow_private: bool = False
    """Whether WEBHOOK_URL may lead to a private network or to this machine. It may then begin with http://."""
    webhook_url: SecretStr | None = Field(None, examples=["https://office.example.com/calls"])
    """Your server, which gets `call.ended` after each call: the record with full phone numbers, outcome and cost."""
    webhook_secret: SecretStr | None = Field(None, validate_default=True, repr=False)
    """Signs the webhooks (Standard Webhooks): whsec_ and 24 to 64 bytes in base64. During a rotation: new,old."""

    log_messages: bool = False
    """Keeps each call's messages for `/calls/{sid}/log`, for development. `serve --log-messages` sets it."""

    @property
    def auth_tokens(self) -> tuple[str, ...]:
        """The auth tokens. The first signs media tokens and opens the REST API; each verifies Twilio's signatures."""
        return tuple(token.strip() for token in self.twilio_auth_token.get_secret_value().split(","))

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that sign webhooks."""
        return () if self.webhook_secret is None else split_secrets(self.webhook_secret.get_secret_value())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[Any, ...]:
        refuse_unknown(settings_cls, init_settings())
        return init_settings, *map(_secure, (env_settings, dotenv_settings, file_secret_settings))

    @model_validator(mode="before")
    @classmethod
    def _without_twilio(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("insecure") is not True:
            return values
        placeholders = {
            "twilio_account_sid": INSECURE_ACCOUNT,
            "twilio_auth_token": secrets.token_hex(16),
            "public_url": INSECURE_URL,
        }
        return {**placeholders, **values}

    @field_validator("twilio_account_sid")
    @classmethod
    def _account(cls, value: str) -> str:
        if not re.fullmatch(r"AC[0-9a-fA-F]{32}", value):
            raise ValueError("it must be AC and 32 hexadecimal digits: copy it from the Twilio console's first page")
        return value

    @field_validator("twilio_auth_token")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        if any(len(token.strip()) < 8 for token in value.get_secret_value().split(",")):
            raise ValueError("it is too short for an auth token; separate several with commas")
        return value

    @field_validator("*")
    @classmethod
    def _no_blank_secret(cls, value: Any) -> Any:
        if isinstance(value, SecretStr) and not value.get_secret_value():
            raise ValueError("it is blank: set it, or leave it out")
        return value

    @field_validator("allow_callers", "deny_callers", mode="before")
    @classmethod
    def _callers(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(value.split(","))
        if not isinstance(value, tuple | list):
            return value
        entries = tuple(entry.strip() for entry in value if isinstance(entry, str))
        for position, entry in enumerate(entries, 1):
            # an empty entry is refused too: otherwise a lone comma would allow every caller
            if not CALLERS.fullmatch(entry):
                raise ValueError(f"entry {position} must be a number like +15550100001 or a prefix like +1555*")
        return entries if len(entries) == len(value) else value

    @field_validator("fallback_number", "twilio_phone_number")
    @classmethod
    def _number(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\+[1-9][0-9]{6,14}", value):
            raise ValueError("it must be a number in E.164, like +15550100001")
        return value

    @field_validator("public_url")
    @classmethod
    def _public(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ValueError("it is not a URL: write it like https://agent.example.com") from None
        if parts.scheme != "https" and parts.hostname in THIS_MACHINE:
            raise ValueError("it is this machine, which Twilio cannot reach: `phoneagent dev` opens a tunnel to it")
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("it must begin with https:// and name a host: Twilio opens media sockets over TLS only")
        if port is not None or parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("it may have a path, but no port, query, fragment or user")
        if parts.path.rstrip("/").endswith("/twilio/voice"):
            raise ValueError("it must be the app's URL, not the webhook's: leave /twilio/voice off")
        return value.rstrip("/")

    @field_validator("webhook_url")
    @classmethod
    def _receiver(cls, value: SecretStr | None, info: pydantic.ValidationInfo) -> SecretStr | None:
        if value is not None:
            check_url(value.get_secret_value(), allow_private=bool(info.data.get("webhook_allow_private")))
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signing(cls, value: SecretStr | None, info: pydantic.ValidationInfo) -> SecretStr | None:
        if value is not None:
            split_secrets(value.get_secret_value())
        elif info.data.get("webhook_url") is not None:
            raise pydantic_core.PydanticCustomError("missing", "missing")
        return value

    @field_validator("realtime_url")
    @classmethod
    def _realtime(cls, value: str | None) -> str | None:
        if value is not None and not is_address(value, "ws", "wss"):
            raise ValueError("it must begin with ws:// or wss:// and name a host")
        return value

    @field_validator("azure_openai_endpoint", "openai_base_url", "helicone_url", "outcome_url")
    @classmethod
    def _base(cls, value: str | None) -> str | None:
        if value is not None and not is_address(value, "http", "https"):
            raise ValueError("it must begin with https:// and name a host")
        return value

    @field_validator("outcome_model")
    @classmethod
    def _of_outcomes(cls, value: str | None, info: pydantic.ValidationInfo) -> str | None:
        if "outcome_url" in info.data and (value is None) != (info.data["outcome_url"] is None):
            raise ValueError("OUTCOME_URL and OUTCOME_MODEL belong together: set both, or neither")
        return value

    @field_validator("realtime_headers", mode="before")
    @classmethod
    def _headers(cls, value: Any) -> Any:
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)
        texts = isinstance(value, dict) and all(isinstance(each, str | SecretStr) for each in value.values())
        if not texts:
            raise ValueError('it must be a JSON object with text values, like {"X-Team": "phones"}')
        for name, text in value.items():
            text = text.get_secret_value() if isinstance(text, SecretStr) else text
            if not is_header(name, text):
                raise ValueError("a name or value cannot be a header: use printable ASCII, at most 8192 characters")
            if name.lower() in _OWN_HEADERS or name.lower().startswith("sec-websocket-"):
                raise ValueError(f"{name} belongs to the handshake: leave it out")
        return value

    @field_validator("realtime_provider")
    @classmethod
    def _provider(cls, value: str | None) -> str | None:
        if value is not None and value not in PROVIDERS:
            raise ValueError(f"it must be one of {', '.join(PROVIDERS)}")
        return value

    @field_validator(
        *("realtime_api_key", "azure_openai_endpoint", "azure_openai_deployment", "azure_openai_api_key"),
        *("openai_api_key", "helicone_api_key"),
    )
    @classmethod
    def _named(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        given, name = info.data, str(info.field_name).upper()
        known = {"realtime_url", "realtime_provider"}  # if not, they are reported as malformed
        if name in ("OPENAI_API_KEY", "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY"):
            known |= set() if given.get("realtime_provider") == "azure" else {"azure_openai_endpoint"}
        if value is not None or not known <= given.keys() or given["endpoint_in_code"]:
            return value
        azure = given.get("azure_openai_endpoint") is not None
        if name in _needed(given["realtime_provider"], has_url=given["realtime_url"] is not None, azure=azure):
            raise pydantic_core.PydanticCustomError("no_model", "missing")
        return value

    @field_validator("transcription_models", mode="before")
    @classmethod
    def _models(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip() not in ("", "none"))

    @field_validator("prices", mode="before")
    @classmethod
    def _prices(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                text = value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8-sig")
            except (OSError, ValueError):
                raise ValueError(f"{value[:100]!r} is neither JSON nor the path of a readable file") from None
            try:
                value = json.loads(text, parse_float=Decimal, parse_constant=str)
            except (ValueError, RecursionError):
                raise ValueError("it is not JSON, or the file it names is not") from None
        return read_prices(value)

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in ("debug", "info", "warning", "error"):
            raise ValueError("it must be debug, info, warning or error")
        return value.lower()

    _sendable = field_validator(
        *("twilio_auth_token", "ngrok_authtoken", "openai_api_key", "openai_organization", "outcome_api_key"),
        *("openai_project", "azure_openai_api_key", "realtime_api_key", "helicone_api_key", "api_token"),
    )(check_key)
    _plain_first = field_validator("*", mode="before")(refuse_wrapping)  # the last one runs before the others


_OF_CODE = ("insecure", "local_api", "log_messages")


def _secure(source: PydanticBaseSettingsSource) -> Callable[[], dict[str, Any]]:
    """Return the source without what it may not set: the settings of code, a setting by another name than its
    variable's (API_TOKEN may belong to another program), and blanks, which would be empty secrets."""

    def belongs(name: str, value: Any) -> bool:
        field = Settings.model_fields.get(name.lower())
        aliased = field is not None and field.validation_alias is not None
        return name.lower() not in _OF_CODE and not aliased and not (isinstance(value, str) and not value.strip())

    return lambda: {name: value for name, value in source().items() if belongs(name, value)}


def _needed(provider: str | None, *, has_url: bool, azure: bool) -> frozenset[str]:
    """Return the settings that an endpoint requires."""
    if has_url:
        return frozenset()
    if provider is not None and provider not in OWN_SETTINGS:
        return frozenset({"REALTIME_API_KEY"} if PROVIDERS[provider].needs_key else ())
    if provider == "azure" or (azure and provider != "openai"):
        needed = {"AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY"}
    else:
        needed = {"OPENAI_API_KEY"}
    return frozenset(needed | ({"HELICONE_API_KEY"} if provider == "helicone" else set()))


_OWN_HEADERS = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})
