"""Settings, read from the environment and from `.env`. No other part of the package reads the environment."""

from phoneagent.settings.reading import (
    ENV_FILE_VARIABLE,
    environment,
    load,
    load_records,
    misspelled_names,
    read,
)
from phoneagent.settings.settings import (
    DEFAULT_MODEL,
    DEFAULT_TRANSCRIPTION_MODELS,
    INSECURE_ACCOUNT,
    INSECURE_URL,
    OWN_SETTINGS,
    THIS_MACHINE,
    Records,
    Settings,
)

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_TRANSCRIPTION_MODELS",
    "ENV_FILE_VARIABLE",
    "INSECURE_ACCOUNT",
    "INSECURE_URL",
    "OWN_SETTINGS",
    "THIS_MACHINE",
    "Records",
    "Settings",
    "environment",
    "load",
    "load_records",
    "misspelled_names",
    "read",
]
