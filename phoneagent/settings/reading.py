"""Settings from the environment and from `.env`, and the messages about those that are missing or malformed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, TypeVar

import pydantic
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic_settings import BaseSettings

from phoneagent.errors import ConfigurationError
from phoneagent.errors.values import misspelled, verdict
from phoneagent.settings.receiver import MAKE_SECRET
from phoneagent.settings.settings import Records, Settings

log = logging.getLogger("phoneagent.settings")

ENV_FILE_VARIABLE = "PHONEAGENT_ENV_FILE"
"""The variable that names a file to read instead of `.env`; empty for no file."""

_Group = TypeVar("_Group", bound=BaseSettings)


def load(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings. `overrides` (by field name) win over the environment, and the environment over `.env`.

    Raises:
        ConfigurationError: names every setting that is missing or malformed. It shows values that cannot be secret.
    """
    return read(Settings, overrides)


def load_records(overrides: Mapping[str, Any] | None = None) -> Records:
    """Read the settings of call records, as `load` does. No other setting is required."""
    return read(Records, overrides)


def read(kind: type[_Group], overrides: Mapping[str, Any] | None = None) -> _Group:
    """Read a group of settings from the same sources as `load`."""
    env_file = _env_file()
    if env_file not in (None, ".env") and not os.path.isfile(env_file):
        raise ConfigurationError([f"{ENV_FILE_VARIABLE} names {env_file}, which does not exist: correct or unset it"])
    try:
        _tell_bad_lines(env_file)
        with _dotenv_silenced():
            return kind(_env_file=env_file, **dict(overrides or {}))
    except pydantic.ValidationError as error:
        given, found = _given_names(env_file), error.errors(include_url=False)
        problems = [_problem(each, given) for each in found]
        missing = [index for index, each in enumerate(found) if each["type"] in _MISSING]
        if missing and env_file is not None:
            state = "was read" if os.path.isfile(env_file) else "does not exist"
            problems[missing[-1]] += f" ({os.path.abspath(env_file)} {state})"
    except UnicodeDecodeError:
        problems = [f"{env_file} cannot be read: save it as UTF-8"]
    raise ConfigurationError(problems)


def misspelled_names() -> list[str]:
    """Return a line for each variable whose name is almost that of a setting, if that setting is not set."""
    with suppress(UnicodeDecodeError):
        found = _misspelled(_given_names(_env_file()))
        return [f"{name} is set, but nothing reads it: did you mean {right}?" for right, name in found.items()]
    return []


def _env_file() -> str | None:
    return os.environ.get(ENV_FILE_VARIABLE, ".env") or None


def _given_names(env_file: str | None) -> list[str]:
    """Return the names in the environment and in the file, in capitals, including those without a value."""
    with _dotenv_silenced():
        is_there = env_file is not None and os.path.isfile(env_file)
        in_file = dotenv_values(env_file, encoding="utf-8-sig") if is_there else {}
    return [name.upper() for name in (*os.environ, *in_file)]


def _tell_bad_lines(env_file: str | None) -> None:
    """Log each line of the file that is no setting, once, without its text, which may hold a secret."""
    if env_file is None or not os.path.isfile(env_file):
        return
    with open(env_file, encoding="utf-8-sig") as file:
        bad = [each.original.line for each in parse_stream(file) if each.error]
    for line in bad:
        if (place := (os.path.abspath(env_file), line)) not in _TOLD:
            _TOLD.add(place)
            log.warning("%s, line %d: write NAME=value", env_file, line)


_TOLD: set[tuple[str, int]] = set()


@contextmanager
def _dotenv_silenced() -> Iterator[None]:
    """Keep python-dotenv from logging bad lines each time it reads the file: `_tell_bad_lines` does, once."""
    theirs = logging.getLogger("dotenv.main")
    before, theirs.disabled = theirs.disabled, True
    try:
        yield
    finally:
        theirs.disabled = before


def environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with some values replaced, for a child process."""
    return {**os.environ, **overrides}


def _problem(error: Any, given: Collection[str]) -> str:
    message, name = str(error["msg"]), str(error["loc"][0]).upper()
    if error["type"] in _MISSING:
        state = "is empty" if name in given else "is missing"
        if (almost := _misspelled(given).get(name)) is not None:
            return f"{name} {state}, but {almost} is set: correct the name"
        return f"{name} {state}: {_REMEDIES[name]}"
    field = _VARIABLES.get(name) or Settings.model_fields.get(name.lower())
    example = None if field is None else (field.examples or [field.default])[0]
    words = verdict(error["type"], message, error.get("ctx") or {}, example)
    value = str(error["input"])
    if name not in _SHOWN or len(value) > MAX_SHOWN_CHARS:
        return f"{name} is malformed: {words}"
    close = get_close_matches(value.lower(), re.findall(r"[\w-]+", words)) if name in _CHOICES else []
    return f"{name} is malformed: {value!r}; {words}{f': did you mean {close[0]}?' if close else ''}"


def _misspelled(given: Collection[str]) -> dict[str, str]:
    """Return misspelled names that are given, by the right one, including names that others use."""
    found = misspelled(given, [*_VARIABLES, ENV_FILE_VARIABLE])
    for name, right in _OTHER_NAMES.items():
        if name in given and right not in given:
            found.setdefault(right, name)
    return found


MAX_SHOWN_CHARS = 60
"""A longer value is not shown: it may be a secret in the wrong place."""

_OTHER_NAMES = {
    "OPENAI_KEY": "OPENAI_API_KEY",
    "TWILIO_SID": "TWILIO_ACCOUNT_SID",
    "TWILIO_TOKEN": "TWILIO_AUTH_TOKEN",
}
_MISSING = frozenset({"missing", "no_model"})
_REMEDIES = {
    "WEBHOOK_SECRET": f"webhooks are signed, and WEBHOOK_URL is set: make one with {MAKE_SECRET}",
    "TWILIO_ACCOUNT_SID": "copy it from the Twilio console's first page",
    "TWILIO_AUTH_TOKEN": "copy it from the Twilio console's first page",
    "PUBLIC_URL": "set it to the URL at which Twilio reaches this app, like https://agent.example.com",
    "REALTIME_API_KEY": "set it to the provider's key",
    "AZURE_OPENAI_ENDPOINT": "set it to the resource's URL, like https://NAME.openai.azure.com",
    "HELICONE_API_KEY": "set it, or choose another REALTIME_PROVIDER",
    "OPENAI_API_KEY": "set it, or set REALTIME_URL to use another Realtime server, like `phoneagent sim model`",
    "AZURE_OPENAI_DEPLOYMENT": "set it to the deployment's name, or remove AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY": "set it, or use Endpoint.azure(token=...) in code, or remove AZURE_OPENAI_ENDPOINT",
}
_VARIABLES = {str(field.validation_alias or name).upper(): field for name, field in Settings.model_fields.items()}
"""The settings by their environment variables."""

_CHOICES = frozenset({"REALTIME_PROVIDER", "REALTIME_AUDIO", "REALTIME_DIALECT", "LOG_FORMAT", "PHONEAGENT_LOG_LEVEL"})
_NUMBERS = (int, float, bool, Decimal, Decimal | None)
_SHOWN = _CHOICES | {name for name, field in _VARIABLES.items() if field.annotation in _NUMBERS}
"""Settings whose values are shown. No other is: it may be a secret, an address with a password, or a phone number."""
