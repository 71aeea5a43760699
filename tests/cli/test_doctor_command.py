"""`phoneagent doctor`: the table, the JSON and the exit status."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
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
    async def examine(settings: Any, *, local: str | None = None) -> AsyncIterator[Check]:
        for check in checks:
            yield check

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


def test_missing_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWILIO_AUTH_TOKEN")
    monkeypatch.setenv("PUBLIC_URL", "agent.example")
    result = run("--json")
    assert result.exit_code == 1
    faults = [check["text"] for check in json.loads(result.output)["checks"] if check["status"] == "failed"]
    assert [text.split(" ")[0] for text in faults] == ["TWILIO_AUTH_TOKEN", "PUBLIC_URL"]


def test_an_address_that_is_none() -> None:
    assert run("--local", "127.0.0.1:8000").exit_code == 2
