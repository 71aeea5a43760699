"""Groups of commands: what is imported when, and what their help says at any width."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import run
from tests.patience import HANG_SECONDS

ENTRIES = """
import sys
import typer.main
from typer.testing import CliRunner
from phoneagent.cli.commands import Entry, group
app = group("Two words.", {"one": Entry("one_module", "The first."), "two": Entry("two_module", "The second.")})
runner = CliRunner()
assert "The second." in runner.invoke(app, ["-h"]).output
assert "two_module" not in sys.modules and "one_module" not in sys.modules
assert runner.invoke(app, ["one", "--loud"]).output == "ONE\\n"
assert "two_module" not in sys.modules
assert list(typer.main.get_command(app).commands) == ["one", "two"]
"""
MODULE = """
import typer
def {name}(loud: bool = typer.Option(False, "--loud")) -> None:
    typer.echo("{name}".upper() if loud else "{name}")
"""


def test_a_command_is_imported_when_it_is_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}_module.py").write_text(MODULE.format(name=name), encoding="utf-8")
    (tmp_path / "main.py").write_text(ENTRIES, encoding="utf-8")
    subprocess.run([sys.executable, tmp_path / "main.py"], check=True, timeout=HANG_SECONDS)


@pytest.mark.parametrize("command", ["", "serve", "sim call", "sim model", "calls", "doctor"])
@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_help_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(monkeypatch, *command.split(), "-h") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= min(columns, 120)
    assert "<bool>" not in shown


def test_a_name_that_is_almost_a_command_is_corrected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "sevre") == 2
    assert "Did you mean 'serve'?" in capsys.readouterr().err
