"""A user's folder with an app in it, the command line, and the Twilio-speaking server of the simulator's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from phoneagent.cli import main
from tests.sim.conftest import server as server

SETTINGS = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "0123456789abcdef",
    "PUBLIC_URL": "https://agent.example.com",
    "OPENAI_API_KEY": "sk-secret",
    "PORT": "8123",
}
AGENT = """
from phoneagent import Agent, PhoneApp
agent = Agent(instructions="x")
app = PhoneApp(agent)
other = PhoneApp(agent)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with an app in it, and all settings made."""
    monkeypatch.chdir(tmp_path)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "cli_app.py").write_text(AGENT, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "cli_app", raising=False)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["phoneagent", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)
