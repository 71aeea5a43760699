"""Settings, read from the environment and from `.env`; nothing else in the package reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import pydantic
import pydantic_core
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import ConfigurationError

ENV_FILE_VARIABLE = "PHONEAGENT_ENV_FILE"
"""Names another file than `.env`; empty reads none."""

DEFAULT_MODEL = "gpt-realtime-2.1"
DEFAULT_TRANSCRIPTION_MODELS = ("gpt-transcribe", "gpt-4o-mini-transcribe")
"""Tried in turn; not every account has the first."""


class Settings(BaseSettings):
    """What phoneagent needs to know about where it runs. Field names in capitals are the environment's."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, env_ignore_empty=True)

    # Twilio
    twilio_account_sid: str
    """The account (AC…) whose calls are taken."""
    twilio_auth_token: SecretStr
    """Its auth token: every webhook and every media socket is signed with it."""
    public_url: str
    """Where Twilio reaches the app: https, a host, possibly a path."""

    twilio_phone_number: str | None = Field(None, repr=False)
    """The number (E.164) whose calls are taken: `dev` points it at this machine, `doctor` looks where it points."""
    twilio_api_url: str | None = None
    """Another server than Twilio's REST API, as for tests."""
    ngrok_authtoken: SecretStr | None = None
    """Opens the tunnel of `phoneagent dev`, where no ngrok agent runs."""

    # the model
    openai_api_key: SecretStr | None = None
    openai_model: str = DEFAULT_MODEL
    realtime_url: str | None = Field(None, validate_default=True)
    """Another Realtime server than OpenAI's: ws or wss."""
    realtime_api_key: SecretStr | None = None
    """The key of that server, if it wants one; OPENAI_API_KEY is never sent to it."""
    transcription_models: Annotated[tuple[str, ...], NoDecode] = Field(
        DEFAULT_TRANSCRIPTION_MODELS, validation_alias="PHONEAGENT_TRANSCRIPTION_MODELS"
    )
    """Recognisers for the caller's side of the transcript, comma-separated, tried in turn; "none" for none."""

    # the service
    port: int = Field(8000, ge=0, le=65535)
    web_concurrency: int = Field(1, ge=1)
    """How many processes share the port; model sessions are opened ahead of the media socket only with one."""
    max_call_seconds: float = Field(3600, gt=0)
    """The longest call, in seconds: a forgotten one costs money."""
    max_calls: int = Field(100, ge=1)
    """How many calls this process takes at once; further callers are sent to `fallback_number`, or hear busy."""
    fallback_number: str | None = Field(None, repr=False)
    """The number (E.164) of somebody who answers what this process cannot take."""
    drain_seconds: float = Field(25, ge=0, le=3600)
    """How long live calls may go on after SIGTERM, in seconds: less than the platform waits before it kills."""
    log_level: str = Field("info", validation_alias="PHONEAGENT_LOG_LEVEL")

    @field_validator("twilio_account_sid")
    @classmethod
    def _account(cls, value: str) -> str:
        if not re.fullmatch(r"AC[0-9a-fA-F]{32}", value):
            raise ValueError("it must be AC and 32 hexadecimal digits, as on the Twilio console's first page")
        return value

    @field_validator("twilio_auth_token")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 8:
            raise ValueError("it is too short to be an auth token")
        return value

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
            raise ValueError("it is not a URL; write it like https://agent.example.com") from None
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("it must begin with https:// and name a host; Twilio's media socket takes nothing else")
        if port is not None or parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("it may have a path, but no port, query, fragment or user")
        return value.rstrip("/")

    @field_validator("realtime_url")
    @classmethod
    def _realtime(cls, value: str | None, info: pydantic.ValidationInfo) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("ws", "wss"):
            raise ValueError("it must begin with ws:// or wss://")
        if value is None and info.data.get("openai_api_key") is None:
            raise pydantic_core.PydanticCustomError("no_model", "OPENAI_API_KEY is missing: " + _NO_MODEL)
        return value

    @field_validator("transcription_models", mode="before")
    @classmethod
    def _models(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip() not in ("", "none"))

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in ("debug", "info", "warning", "error"):
            raise ValueError("it must be debug, info, warning or error")
        return value.lower()


def load(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `overrides` (by field name) win over the environment, the environment over `.env`.

    Raises:
        ConfigurationError: everything that is missing or malformed, in one go, without any value.
    """
    env_file = os.environ.get(ENV_FILE_VARIABLE, ".env") or None
    try:
        return Settings(_env_file=env_file, **dict(overrides or {}))  # type: ignore[call-arg]
    except pydantic.ValidationError as error:
        problems = [_problem(each) for each in error.errors(include_input=False, include_url=False)]
    raise ConfigurationError(problems)


def environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with other values for some names, for a process that is started from here."""
    return {**os.environ, **overrides}


def _problem(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "no_model":
        return message
    name = str(error["loc"][0]).upper()
    if error["type"] == "missing":
        return f"{name} is missing: {_REMEDIES.get(name, 'set it')}"
    return f"{name} is malformed: {message}"


_NO_MODEL = "set it, or REALTIME_URL for another Realtime server"
_REMEDIES = {
    "TWILIO_ACCOUNT_SID": "copy it from the Twilio console's first page",
    "TWILIO_AUTH_TOKEN": "copy it from the Twilio console's first page",
    "PUBLIC_URL": "set it to where Twilio reaches this app, like https://agent.example.com",
}
