"""Settings, read from the environment and from `.env`. No other module of the package reads the environment."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import pydantic
import pydantic_core
from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from phoneagent.billing.prices import Price, read_prices
from phoneagent.errors import ConfigurationError
from phoneagent.errors.values import is_address, is_header, misspelled, verdict
from phoneagent.protocol.providers import PROVIDERS, Audio

ENV_FILE_VARIABLE = "PHONEAGENT_ENV_FILE"
"""The file to read instead of `.env`; empty for no file."""

DEFAULT_MODEL = "gpt-realtime-2.1"
DEFAULT_TRANSCRIPTION_MODELS = ("gpt-transcribe", "gpt-4o-mini-transcribe")
"""Tried in order, because not every account has access to the first."""

OWN_SETTINGS = frozenset({"openai", "azure", "helicone"})
"""The providers that are configured by settings of their own; the others have REALTIME_API_KEY and OPENAI_MODEL."""

INSECURE_ACCOUNT = "AC" + "0" * 32
INSECURE_URL = "https://localhost"
"""Placeholders for the account and the public URL, which `insecure` does not require."""

THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - a name, not a socket
_DATABASES = frozenset({"sqlite", "sqlite+aiosqlite", "postgres", "postgresql", "postgresql+asyncpg"})


class Records(BaseSettings):
    """The settings of call records: where they are stored, and for how long. Commands on records need no others."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=False,
        env_ignore_empty=True,
        env_file_encoding="utf-8-sig",  # Windows editors put a byte order mark first
        str_strip_whitespace=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # an input may be a secret
    )

    database_url: SecretStr = SecretStr("sqlite:///phoneagent.db")
    """sqlite:///path (relative to the working directory), postgres:// or postgresql://. It may contain a password."""
    record_days: int = Field(90, ge=0, le=36500)
    """How many days a record is kept after its call. 0 keeps nothing after the call."""

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr) -> SecretStr:
        scheme, separator, rest = value.get_secret_value().partition("://")
        if not separator or not rest or scheme.lower() not in _DATABASES:
            raise ValueError("write it like sqlite:///phoneagent.db or postgresql://user:password@host/database")
        return value


_Group = TypeVar("_Group", bound=BaseSettings)

_CALLERS = re.compile(r"\+(?:[1-9][0-9]{6,14}|(?:[1-9][0-9]{0,13})?\*)", re.ASCII)
"""A phone number in E.164, or a prefix and an asterisk. `+*` matches every number, but no withheld one."""


class Settings(Records):
    """The settings of the app. A field's name in capitals is its environment variable, unless it has an alias."""

    # Twilio
    twilio_account_sid: str
    """The Twilio account (AC…) whose calls the app answers."""
    twilio_auth_token: SecretStr
    """The account's auth token, which signs webhooks and media sockets. In a rotation: new,old."""
    public_url: str
    """The URL at which Twilio reaches the app: https, a host, optionally a path."""

    twilio_phone_number: str | None = Field(None, repr=False)
    """The phone number (E.164): `dev` points it at this machine, and `doctor` checks where it points."""
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
    """The URL (ws or wss) of a Realtime server other than OpenAI's. It takes precedence over everything below."""
    realtime_provider: str | None = None
    """The kind of server, like xai or localai. It has its usual address unless REALTIME_URL names another."""
    realtime_audio: Audio | None = None
    """The audio of the model's sessions, if the server does not say: pcmu, or pcm16, which is converted."""
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
    """The name of the model, for every server but Azure, where the deployment names it."""
    openai_base_url: str | None = Field(None, repr=False)
    """Another OpenAI host, like https://eu.api.openai.com/v1. It receives OPENAI_API_KEY."""
    openai_organization: str | None = Field(None, validation_alias="OPENAI_ORG_ID")
    """The organization that is charged, if the key belongs to several."""
    openai_project: str | None = Field(None, validation_alias="OPENAI_PROJECT_ID")
    """The project that is charged, if the key belongs to several."""
    helicone_api_key: SecretStr | None = Field(None, validate_default=True)
    """Routes the session through Helicone's gateway, to OpenAI or to Azure."""
    helicone_url: str | None = Field(None, repr=False)
    """A Helicone gateway other than https://api.helicone.ai/v1/gateway/oai."""
    transcription_models: Annotated[tuple[str, ...], NoDecode] = Field(
        DEFAULT_TRANSCRIPTION_MODELS, validation_alias="PHONEAGENT_TRANSCRIPTION_MODELS"
    )
    """Models that transcribe the caller, separated by commas and tried in order; "none" for no transcription."""

    # the service
    port: int = Field(8000, ge=0, le=65535)
    """The port that the server listens on. 0 takes any that is free."""
    web_concurrency: int = Field(1, ge=1)
    """How many processes share the port. Calls are spread over them evenly."""
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
    """Numbers (E.164) or prefixes (+1555*) whose calls are accepted, separated by commas. By default all are."""
    deny_callers: Annotated[tuple[str, ...], NoDecode] = Field((), repr=False)
    """Numbers or prefixes whose calls are rejected, even if `allow_callers` lists them."""
    fallback_number: str | None = Field(None, repr=False)
    """The number (E.164) that calls are forwarded to if this process cannot take them."""
    drain_seconds: float = Field(25, ge=0, le=3600)
    """How long live calls may continue after SIGTERM, in seconds: less than the platform waits before SIGKILL."""
    log_level: str = Field("info", validation_alias="PHONEAGENT_LOG_LEVEL")
    """The least severe lines that are logged: debug, info, warning or error."""
    log_format: Literal["text", "json"] | None = None
    """The format of log lines. By default text on a terminal and JSON elsewhere."""
    log_pii: bool = Field(False, validation_alias="PHONEAGENT_LOG_PII")
    """Whether log lines show full phone numbers, for debugging."""
    show_transcript: bool = Field(False, validation_alias="PHONEAGENT_SHOW_TRANSCRIPT")
    """Whether the log shows what caller and agent say, for development. `serve --show-transcript` sets it."""
    api_token: SecretStr | None = Field(None, validation_alias="PHONEAGENT_API_TOKEN")
    """The bearer token that opens `/metrics`. Without it the route does not exist."""

    @property
    def auth_tokens(self) -> tuple[str, ...]:
        """The auth tokens. The first signs media tokens and opens the REST API; each verifies Twilio's signatures."""
        return tuple(token.strip() for token in self.twilio_auth_token.get_secret_value().split(","))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[Any, ...]:
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
            if not _CALLERS.fullmatch(entry):
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

    @field_validator("realtime_url")
    @classmethod
    def _realtime(cls, value: str | None) -> str | None:
        if value is not None and not is_address(value, "ws", "wss"):
            raise ValueError("it must begin with ws:// or wss:// and name a host")
        return value

    @field_validator("azure_openai_endpoint", "openai_base_url", "helicone_url")
    @classmethod
    def _base(cls, value: str | None) -> str | None:
        if value is not None and not is_address(value, "http", "https"):
            raise ValueError("it must begin with https:// and name a host")
        return value

    @field_validator("realtime_headers", mode="before")
    @classmethod
    def _headers(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = None
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
                raise ValueError("it is neither JSON nor the path of a readable file") from None
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


def load(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings. `overrides` (by field name) win over the environment, and the environment over `.env`.

    Raises:
        ConfigurationError: names everything that is missing or malformed, without any value.
    """
    return read(Settings, overrides)


def load_records(overrides: Mapping[str, Any] | None = None) -> Records:
    """Read the settings of call records, as `load` does. No other setting is required."""
    return read(Records, overrides)


def read(kind: type[_Group], overrides: Mapping[str, Any] | None = None) -> _Group:
    """Read a group of settings, from the same sources; see `load`."""
    env_file = _env_file()
    if env_file not in (None, ".env") and not os.path.isfile(env_file):
        raise ConfigurationError([f"{ENV_FILE_VARIABLE} names {env_file}, which does not exist: correct or unset it"])
    try:
        return kind(_env_file=env_file, **dict(overrides or {}))
    except pydantic.ValidationError as error:
        given, found = _given_names(env_file), error.errors(include_input=False, include_url=False)
        problems = [_problem(each, given) for each in found]
        missing = [index for index, each in enumerate(found) if each["type"] in _MISSING]
        if missing and env_file is not None:
            state = "was read" if os.path.isfile(env_file) else "does not exist"
            problems[missing[-1]] += f" ({os.path.abspath(env_file)} {state})"
    except UnicodeDecodeError:
        problems = [f"{env_file} cannot be read: save it as UTF-8"]
    raise ConfigurationError(problems)


def misspelled_names() -> list[str]:
    """Return a line for each variable that is almost one of ours, where that one is not set."""
    with suppress(UnicodeDecodeError):
        found = misspelled(_given_names(_env_file()), [*_VARIABLES, ENV_FILE_VARIABLE])
        return [f"{name} is set, but nothing reads it: did you mean {right}?" for right, name in found.items()]
    return []


def _env_file() -> str | None:
    return os.environ.get(ENV_FILE_VARIABLE, ".env") or None


def _given_names(env_file: str | None) -> list[str]:
    """Return the names, in capitals, that the environment and the file give, also those without a value."""
    in_file = dotenv_values(env_file, encoding="utf-8-sig") if env_file is not None and os.path.isfile(env_file) else {}
    return [name.upper() for name in (*os.environ, *in_file)]


def environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with some values replaced, for a child process."""
    return {**os.environ, **overrides}


def _secure(source: PydanticBaseSettingsSource) -> Callable[[], dict[str, Any]]:
    """Return the source without `insecure`, which no environment may set."""
    return lambda: {name: value for name, value in source().items() if name.lower() != "insecure"}


def _problem(error: Any, given: Collection[str]) -> str:
    message, name = str(error["msg"]), str(error["loc"][0]).upper()
    if error["type"] in _MISSING:
        state = "is empty" if name in given else "is missing"
        if (almost := misspelled(given, _VARIABLES).get(name)) is not None:
            return f"{name} {state}, but {almost} is set: correct the name"
        return f"{name} {state}: {_REMEDIES[name]}"
    field = _VARIABLES.get(name) or Settings.model_fields.get(name.lower())
    example = None if field is None else (field.examples or [field.default])[0]
    return f"{name} is malformed: {verdict(error['type'], message, error.get('ctx') or {}, example)}"


def _needed(provider: str | None, *, has_url: bool, azure: bool) -> frozenset[str]:
    """Return the settings that an endpoint cannot do without."""
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
_MISSING = frozenset({"missing", "no_model"})
_REMEDIES = {
    "TWILIO_ACCOUNT_SID": "copy it from the Twilio console's first page",
    "TWILIO_AUTH_TOKEN": "copy it from the Twilio console's first page",
    "PUBLIC_URL": "set it to the URL at which Twilio reaches this app, like https://agent.example.com",
    "REALTIME_API_KEY": "set it to the provider's key",
    "AZURE_OPENAI_ENDPOINT": "set it to the resource's URL, like https://NAME.openai.azure.com",
    "HELICONE_API_KEY": "set it, or choose another REALTIME_PROVIDER",
    "OPENAI_API_KEY": "set it, or set REALTIME_URL to use another Realtime server",
    "AZURE_OPENAI_DEPLOYMENT": "set it to the deployment's name, or remove AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY": "set it, or use Endpoint.azure(token=...) in code, or remove AZURE_OPENAI_ENDPOINT",
}
_VARIABLES = {str(field.validation_alias or name).upper(): field for name, field in Settings.model_fields.items()}
"""The settings by their environment variables."""
