"""The process that `serve --reload` starts for each change: what is wrong is said in lines, and nothing is served."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from phoneagent.cli.reloading import CANNOT_START, Reloaded
from phoneagent.cli.target import Target


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = (", "reloaded.py, line 1: SyntaxError"),
        ("app = 1", "reloaded:app is not a PhoneApp but int: write app = PhoneApp(agent)"),
    ],
)
def test_a_module_that_fails_is_told_in_lines(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    (folder / "reloaded.py").write_text(code, encoding="utf-8")
    monkeypatch.delitem(__import__("sys").modules, "reloaded", raising=False)
    caplog.set_level(logging.ERROR)
    with pytest.raises(SystemExit) as left:
        Reloaded(Target("reloaded", "app", str(folder)), {}, {}, {}).run([])
    assert left.value.code == CANNOT_START
    assert caplog.messages[0].startswith(words)
    assert all(record.exc_info is None for record in caplog.records)


def test_a_missing_driver_is_told_before_the_start(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@127.0.0.1/database")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with socket.socket() as listening, pytest.raises(SystemExit):
        Reloaded(Target("cli_app", "app", str(folder)), {}, {}, {}).run([listening])
    assert "install phoneagent[postgres]" in caplog.messages[0]
