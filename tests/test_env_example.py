"""`.env.example`, here and in what `phoneagent init` writes: all settings, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import AliasChoices

from phoneagent.errors import ConfigurationError
from phoneagent.settings import Settings, load

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / ".env.example"
OF_CODE = {"INSECURE", "LOCAL_API", "LOG_MESSAGES", "ENDPOINT_IN_CODE"}
"""Settings that are code's to say, not the environment's."""

VARIABLE = re.compile(r"^(# )?([A-Z_]+)=(.*)$", re.MULTILINE)
MADE_UP = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_PHONE_NUMBER": "+15550100001",
    "PUBLIC_URL": "https://agent.example",
    "NGROK_AUTHTOKEN": "token",
    "OPENAI_API_KEY": "sk-none",
}


def variable(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    assert not isinstance(alias, AliasChoices), "a setting has one name"
    return str(alias or field).upper()


FIELDS = {variable(field): field for field in Settings.model_fields}


@pytest.fixture
def uncommented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example with every line in force, and something for what it leaves open."""
    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)
    text = VARIABLE.sub(lambda found: f"{found[2]}={found[3] or MADE_UP.get(found[2], '')}", EXAMPLE.read_text("utf-8"))
    (tmp_path / "prices.json").write_text("{}")
    (tmp_path / ".env").write_text(text)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", ".env")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_has_every_setting() -> None:
    assert {found[2] for found in VARIABLE.finditer(EXAMPLE.read_text("utf-8"))} == FIELDS.keys() - OF_CODE


def test_init_writes_the_same() -> None:
    assert (ROOT / "phoneagent/cli/templates/env.example.txt").read_bytes() == EXAMPLE.read_bytes()


def test_every_line_can_be_taken_as_it_is(uncommented: Path) -> None:
    settings = load()
    assert settings.realtime_headers.keys() == {"X-Team"}
    assert settings.auth_tokens == ("the-new-one", "the-old-one")
    assert all(getattr(settings, field) is not None for name, field in FIELDS.items() if name not in OF_CODE)


def test_docker_and_kubernetes_read_the_same_values(uncommented: Path) -> None:
    """Both skip lines that begin with `#`, and take everything after the `=`: quotes and a comment too."""
    lines = [line for line in (uncommented / ".env").read_text("utf-8").splitlines() if line and line[0] != "#"]
    literal = {name: value for name, _, value in (line.partition("=") for line in lines)}
    assert literal == dotenv_values(uncommented / ".env")


def test_what_has_a_default_shows_it(uncommented: Path) -> None:
    settings = load()
    for name, field in FIELDS.items():
        known = Settings.model_fields[field]
        default = None if known.is_required() or known.default_factory else known.default
        if default not in (None, (), False):
            assert getattr(settings, field) == default, name


def test_as_it_is_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", str(EXAMPLE))
    with pytest.raises(ConfigurationError) as raised:
        load()
    needed = ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "PUBLIC_URL", "OPENAI_API_KEY"]
    assert [problem.split(" ")[0] for problem in raised.value.problems] == needed
