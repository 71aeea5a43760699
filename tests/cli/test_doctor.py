"""`phoneagent doctor`: the table, the JSON and the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from phoneagent.cli.doctor import doctor
from phoneagent.doctor import Check, Status

GOOD = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "0123456789abcdef",
    "PUBLIC_URL": "https://agent.example",
    "OPENAI_API_KEY": "sk-none",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, arguments)


def plant(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    async def examine(
        settings: Any, *, endpoints: Any = (), local: str | None = None, agent: Any = None
    ) -> AsyncIterator[Check]:
        for check in checks:
            yield check
        for endpoint in endpoints:
            yield Check("endpoint", Status.OK, endpoint.host)

    monkeypatch.setitem(doctor.__globals__, "examine", examine)


def test_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Check("model", Status.OK, "a session opens"), Check("number", Status.SKIPPED, "[not] set"))
    result = run()
    assert result.exit_code == 0
    assert [line.rstrip() for line in result.output.splitlines()] == [
        "✓  model   a session opens",
        "–  number  [not] set",
    ]


def test_a_fault_is_a_cross_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Check("model", Status.FAILED, "no key: set it"))
    result = run()
    assert result.exit_code == 1
    assert "✗  model  no key: set it" in result.output


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Check("a", Status.OK, "good"), Check("b", Status.FAILED, "bad: mend it"))
    result = run("--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "ok": False,
        "checks": [
            {"name": "a", "status": "ok", "text": "good"},
            {"name": "b", "status": "failed", "text": "bad: mend it"},
        ],
    }


def test_json_is_alone_in_the_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "agent", raising=False)
    plant(monkeypatch)
    (tmp_path / "agent.py").write_text(f"print('loading')\n{APP}")
    result = run("--json", "agent.py")
    sys.modules.pop("agent", None)
    assert len(json.loads(result.stdout)["checks"]) == 2
    assert result.stderr == "loading\n"


def test_words_between_colons_are_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Check("number", Status.OK, "sip:a:b"))
    assert run().stdout.rstrip() == "✓  number  sip:a:b"


def test_what_is_good_to_know_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Check("model's gateway", Status.NOTE, "it asks for the beta"))
    result = run()
    assert result.exit_code == 0
    assert result.output.rstrip() == "!  model's gateway  it asks for the beta"


APP = """
from phoneagent import Agent, Endpoint, PhoneApp
app = PhoneApp(Agent(instructions="x"), endpoints=[Endpoint("wss://one.example"), Endpoint("wss://two.example")])
"""


@pytest.mark.parametrize("target", [[], ["agent.py"], ["agent:app"]], ids=["found", "file", "module"])
def test_endpoints_that_code_brings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: list[str]) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    report = planted_app(monkeypatch, tmp_path, APP, *target)
    assert report == [("endpoint", "ok", "one.example"), ("endpoint", "ok", "two.example")]


def test_an_app_that_brings_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = 'from phoneagent import Agent, PhoneApp\napp = PhoneApp(Agent(instructions="x"))'
    assert planted_app(monkeypatch, tmp_path, code) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("app = 7", "agent.py:app is not a PhoneApp but int: write app = PhoneApp(agent)"),
        ("raise OSError('secret')", "it cannot be imported: OSError in agent.py, line 1"),
    ],
)
def test_a_file_that_is_no_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, words: str) -> None:
    (check,) = planted_app(monkeypatch, tmp_path, code)
    assert check[:2] == ("app", "skipped"), "perhaps it is somebody else's"
    assert check[2].startswith(words)
    assert planted_app(monkeypatch, tmp_path, code, "agent.py") == [("app", "failed", words)]


def planted_app(
    monkeypatch: pytest.MonkeyPatch, folder: Path, code: str, *arguments: str
) -> list[tuple[str, str, str]]:
    """Run it in a folder with this `agent.py`; the checks."""
    (folder / "agent.py").write_text(code)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "agent", raising=False)
    plant(monkeypatch)
    result = run("--json", *arguments)
    sys.modules.pop("agent", None)
    checks = json.loads(result.output)["checks"]
    assert result.exit_code == any(check["status"] == "failed" for check in checks)
    return [(check["name"], check["status"], check["text"]) for check in checks]


def test_missing_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWILIO_AUTH_TOKEN")
    monkeypatch.setenv("PUBLIC_URL", "agent.example")
    result = run("--json")
    assert result.exit_code == 1
    faults = [check["text"] for check in json.loads(result.output)["checks"] if check["status"] == "failed"]
    assert [text.split(" ")[0] for text in faults] == ["TWILIO_AUTH_TOKEN", "PUBLIC_URL"]


def test_an_address_that_is_none() -> None:
    assert run("--local", "127.0.0.1:8000").exit_code == 2


def test_without_an_account_an_app_on_this_machine_is_checked_as_insecure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        monkeypatch.delenv(name)
    result = run("--json", "--local", "http://127.0.0.1:1")
    checks = {check["name"]: check for check in json.loads(result.output)["checks"]}
    assert checks["settings"]["status"] == "note"
    assert "nothing answers at http://127.0.0.1:1/twilio/voice" in checks["webhook"]["text"]
    assert "OPENAI_API_KEY is missing" in checks["model"]["text"]
    assert checks["database"]["status"] == "ok"
    assert result.exit_code == 1


@pytest.mark.parametrize("address", ["https://agent.example", "http://127.0.0.1:1"])
def test_an_account_that_is_not_whole_is_a_fault(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.delenv("PUBLIC_URL")
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC" + "1" * 32)
    if "agent" in address:
        monkeypatch.delenv("TWILIO_ACCOUNT_SID")
        monkeypatch.delenv("TWILIO_AUTH_TOKEN")
    checks = json.loads(run("--json", "--local", address).output)["checks"]
    assert "PUBLIC_URL is missing" in " ".join(check["text"] for check in checks if check["status"] == "failed")
