"""`phoneagent serve`: how it runs the app, where it listens, and what it refuses before it starts."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from phoneagent.cli import direct, limits, reloading, workers
from phoneagent.cli.serve import log_config
from phoneagent.cli.target import Target
from tests.cli.conftest import AGENT, SETTINGS, run
from tests.ports import free_port


class _Server:
    made: list[tuple[Any, Any, float]]
    started = True

    def __init__(self, config: Any, app: Any, drain_seconds: float, shared: Any = None) -> None:
        self.made.append((config, app, drain_seconds))

    def run(self, sockets: Any) -> None:
        (listening,) = sockets
        self.made[-1][0].listens_at = listening.getsockname()


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, float]]:
    """What would be served: configuration, app and DRAIN_SECONDS of each server that was made."""
    monkeypatch.setattr(_Server, "made", [], raising=False)
    monkeypatch.setattr(logging.config, "dictConfig", lambda config: None)
    monkeypatch.setattr(workers, "PunctualServer", _Server)
    monkeypatch.setattr(limits, "raise_max_files", lambda: None)
    monkeypatch.setenv("PORT", "0")
    return _Server.made


def test_serve_runs_the_app_as_phone_calls_need_it(
    served: list[tuple[Any, Any, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAIN_SECONDS", "7")
    assert run(monkeypatch, "serve", "cli_app:other", "--host", "127.0.0.1") == 0
    assert run(monkeypatch, "serve", "cli_app.py") == 0
    (config, app, drain_seconds), (second, _, _) = served
    assert (config.listens_at[0], drain_seconds) == ("127.0.0.1", 7)
    assert app is sys.modules["cli_app"].other
    assert (config.ws_max_size, config.ws_per_message_deflate, config.proxy_headers) == (65536, False, False)
    assert second.listens_at[0] == "0.0.0.0"
    config.load()
    assert (config.http_protocol_class, config.ws_protocol_class) == (limits.RequestProtocol, direct.DirectProtocol)


@pytest.mark.parametrize("option", [True, False])
def test_the_port_is_the_option_s_or_the_environment_s(
    served: list[tuple[Any, Any, float]], monkeypatch: pytest.MonkeyPatch, option: bool
) -> None:
    free = str(free_port())
    monkeypatch.setenv("PORT", "1" if option else free)
    assert run(monkeypatch, "serve", "cli_app", "--host", "127.0.0.1", *(["--port", free] if option else [])) == 0
    assert served[0][0].listens_at[1] == int(free)


def test_several_processes_get_everything_by_way_of_the_parent(
    served: list[tuple[Any, Any, float]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[workers.Job, int]] = []

    def take(job: workers.Job, listening: Any, count: int) -> int:
        ran.append((pickle.loads(pickle.dumps(job)), count))
        return len(ran) - 1

    monkeypatch.setattr(workers, "run", take)
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    assert run(monkeypatch, "serve", "cli_app") == 0
    assert run(monkeypatch, "serve", "cli_app") == 1
    (job, count), _ = ran
    assert (count, job.target) == (3, Target("cli_app", "app", str(folder)))
    assert job.settings == sys.modules["cli_app"].app.settings
    assert job.uvicorn["ws_max_size"] == 65536
    assert served == []


def test_reload_takes_everything_to_the_process_that_it_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[reloading.Reloaded, socket.socket]] = []
    monkeypatch.setattr(reloading.Reloaded, "watch", lambda self, listening: ran.append((self, listening)))
    monkeypatch.setenv("PORT", "0")
    assert (
        run(monkeypatch, "serve", "cli_app.py:other", "--reload", "--show-transcript", "--local-api", "--log-messages")
        == 0
    )
    ((job, listening),) = ran
    listening.close()
    job = pickle.loads(pickle.dumps(job))
    given = {"show_transcript": True, "local_api": True, "log_messages": True}
    assert (job.target, job.settings) == (Target("cli_app", "other", str(folder)), given)
    assert job.log_config["root"]["handlers"] == ["stderr"]
    assert job.uvicorn["ws_max_size"] == 65536


def test_the_address_for_twilio_is_said(
    served: list[tuple[Any, Any, float]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PUBLIC_URL", "https://localhost")
    monkeypatch.setenv("MAX_CALL_SECOND", "60")
    assert run(monkeypatch, "serve", "cli_app", "--host", "127.0.0.1", "--port", "0") == 0
    assert "Twilio calls https://localhost/twilio/voice: set it as" in caplog.text
    assert "PUBLIC_URL is this machine, which Twilio cannot reach" in caplog.text
    assert "MAX_CALL_SECOND is set, but nothing reads it: did you mean MAX_CALL_SECONDS?" in caplog.text


# --- without a Twilio account ---


def test_without_an_account_it_listens_on_loopback(
    served: list[tuple[Any, Any, float]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "PUBLIC_URL"):
        monkeypatch.delenv(name)
    assert run(monkeypatch, "serve", "cli_app") == 2
    assert run(monkeypatch, "serve", "cli_app", "--insecure") == 0
    assert run(monkeypatch, "serve", "cli_app:other", "--insecure", "--host", "localhost") == 0
    (config, app, _), (second, _, _) = served
    assert config.listens_at[0] == second.listens_at[0] == "127.0.0.1"
    assert app.settings.insecure
    assert app.settings.public_url == f"http://127.0.0.1:{config.listens_at[1]}"
    assert f"sim call {app.settings.public_url}/twilio/voice" in caplog.text
    assert app.settings.auth_tokens[0] not in caplog.text


def test_with_an_account_insecure_is_still_what_it_says(
    served: list[tuple[Any, Any, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "serve", "cli_app", "--insecure") == 0
    ((config, app, _),) = served
    assert config.listens_at[0] == "127.0.0.1"
    assert app.settings.insecure
    assert app.settings.auth_tokens == (SETTINGS["TWILIO_AUTH_TOKEN"],)
    assert app.examine is not None  # the doctor's checks, for the setup page


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--insecure", "--host", "0.0.0.0"], "listens on loopback only, not on 0.0.0.0"),
        (["--insecure", "--host", "192.0.2.1"], "listens on loopback only, not on 192.0.2.1"),
        (["--insecure", "--host", "example.com"], "listens on loopback only, not on example.com"),
        (["--insecure", "--reload"], "--insecure and --reload do not go together"),
    ],
)
def test_strangers_are_not_let_in(
    served: list[tuple[Any, Any, float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    assert run(monkeypatch, "serve", "cli_app", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert served == []


def test_an_app_that_says_so_itself_listens_on_loopback_too(
    served: list[tuple[Any, Any, float]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "\nfrom phoneagent import Settings\nopen_ = PhoneApp(agent, settings=Settings(insecure=True))"
    (folder / "cli_app.py").write_text(AGENT + code)
    assert run(monkeypatch, "serve", "cli_app:open_") == 0
    assert run(monkeypatch, "serve", "cli_app:open_", "--host", "0.0.0.0") == 2
    assert [config.listens_at[0] for config, _, _ in served] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "complaint"),
    [("192.0.2.1", "192.0.2.1 is not an address of this machine"), ("no.such.invalid", "no.such.")],
)
def test_an_address_that_is_not_ours(
    served: list[tuple[Any, Any, float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    complaint: str,
) -> None:
    assert run(monkeypatch, "serve", "cli_app", "--host", host) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_what_the_environment_has_wrong_for_connections_is_told_at_start(
    served: list[tuple[Any, Any, float]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "socks5h://me:s3cret-word@127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/ca.pem")
    assert run(monkeypatch, "serve", "cli_app") == 0
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split(",")[0] for line in lines] == [
        "HTTPS_PROXY names a SOCKS proxy (socks5h://127.0.0.1:9)",
        "HTTPS_PROXY names a SOCKS proxy (socks5h://127.0.0.1:9)",
        "REQUESTS_CA_BUNDLE names /no/such/ca.pem",
    ]
    assert "python-socks" in lines[0]
    assert "requests[socks]" in lines[1]


def test_a_key_that_cannot_be_sent_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "“sk-secret")
    assert run(monkeypatch, "serve", "cli_app", "--host", "127.0.0.1", "--port", "0") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("phoneagent: OPENAI_API_KEY is malformed: it has a character that no key has")
    assert "secret" not in line


# --- settings and the log ---


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


def test_the_database_logs_no_values() -> None:
    loggers = log_config("debug", "text")["loggers"]
    assert {loggers[name]["level"] for name in ("aiosqlite", "asyncpg", "sqlalchemy")} == {"WARNING"}


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
        assert line.endswith("INFO    phoneagent.x: hello [CA1]")
    else:
        assert json.loads(line)["call_sid"] == "CA1"
