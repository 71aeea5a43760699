"""The command line: what `serve` finds and how it runs it, and what a newcomer reads after a mistake."""

from __future__ import annotations

import json
import logging
import logging.config
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from phoneagent import DefinitionError
from phoneagent.cli import main, serve
from phoneagent.cli.serve import log_config
from phoneagent.cli.target import Target

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


# --- finding the app ---


@pytest.mark.parametrize(
    ("text", "name"),
    [("cli_app", "app"), ("cli_app:other", "other"), ("cli_app.py", "app"), ("./cli_app.py:other", "other")],
)
def test_an_app_is_a_module_or_a_file(folder: Path, text: str, name: str) -> None:
    target = Target.find(text)
    assert target == Target("cli_app", name, str(folder))
    assert target.load() is getattr(sys.modules["cli_app"], name)


def test_without_a_target_the_usual_files_are_looked_for(folder: Path) -> None:
    with pytest.raises(DefinitionError, match=r"there is no main.py, app.py, agent.py here"):
        Target.find(None)
    (folder / "agent.py").touch()
    assert Target.find(None).module == "agent"
    (folder / "main.py").touch()
    assert Target.find(None).module == "main"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nowhere.py", "there is no file nowhere.py"),
        ("nowhere:app", "there is no module nowhere here"),
        ("nowhere.deeper:app", "there is no module nowhere.deeper here"),
        ("cli_app:nothing", "there is no nothing in "),
        ("cli_app:agent", "cli_app:agent is not a PhoneApp but Agent"),
        (":app", "':app' names no app"),
        (".cli_app:app", "'.cli_app:app' names no app"),
        ("", "'' names no app"),
    ],
)
def test_a_target_that_is_none_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    assert run(monkeypatch, "serve", text) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_what_the_app_s_own_module_lacks_is_not_taken_for_the_app(folder: Path) -> None:
    (folder / "cli_broken.py").write_text("import not_installed", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        Target.find("cli_broken").load()


# --- serving ---


class _Server:
    made: list[tuple[Any, Any, float]]

    def __init__(self, config: Any, app: Any, drain_seconds: float) -> None:
        self.made.append((config, app, drain_seconds))

    def run(self) -> None:
        pass


def test_serve_runs_the_app_as_phone_calls_need_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Server, "made", [], raising=False)
    monkeypatch.setattr(logging.config, "dictConfig", lambda config: None)
    monkeypatch.setattr(sys.modules[serve.__module__], "Server", _Server)
    monkeypatch.setenv("DRAIN_SECONDS", "7")
    assert run(monkeypatch, "serve", "cli_app:other", "--host", "127.0.0.1") == 0
    assert run(monkeypatch, "serve", "cli_app.py", "--port", "9") == 0
    (config, app, drain_seconds), (second, _, _) = _Server.made
    assert (config.host, config.port, drain_seconds) == ("127.0.0.1", 8123, 7)
    assert app is sys.modules["cli_app"].other
    assert (config.ws_max_size, config.ws_per_message_deflate, config.proxy_headers) == (65536, False, False)
    assert (second.host, second.port) == ("0.0.0.0", 9)


def test_reload_starts_from_a_name_and_takes_the_log_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("uvicorn.run", lambda name, **options: ran.append((name, options)))
    assert run(monkeypatch, "serve", "cli_app.py:other", "--reload") == 0
    ((name, options),) = ran
    assert name == "cli_app:other"
    assert (options["app_dir"], options["reload_dirs"], options["port"]) == (str(folder), [str(folder)], 8123)
    assert pickle.loads(pickle.dumps(options["log_config"]))["root"]["handlers"] == ["stderr"]


def test_settings_are_checked_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("PORT", "eighty")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "s3cret")
    assert run(monkeypatch, "serve", "cli_app") == 2
    words = capsys.readouterr().err
    assert [line.split(" is ")[0].removeprefix("phoneagent: ") for line in words.splitlines()] == [
        "TWILIO_AUTH_TOKEN",
        "OPENAI_API_KEY",
        "PORT",
    ]
    assert "s3cret" not in words


@pytest.mark.parametrize("form", ["text", "json", None])
def test_the_log_is_a_line_each(form: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    config = log_config("info", form)  # the tests' standard error is no terminal
    config["loggers"] = {}
    try:
        logging.config.dictConfig(config)
        logging.getLogger("phoneagent.x").info("hello", extra={"call_sid": "CA1"})
        logging.getLogger("phoneagent.x").debug("not this")
    finally:
        root.handlers[:], root.level = handlers, level
    (line,) = capsys.readouterr().err.splitlines()
    if form == "text":
        assert line.endswith("INFO    phoneagent.x: hello")
    else:
        assert json.loads(line)["call_sid"] == "CA1"
