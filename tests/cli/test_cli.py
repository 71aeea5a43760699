"""The command line as a whole: its help, and what it prints for errors that are ours and for those that are not."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

from phoneagent import ConfigurationError, DefinitionError, cli
from tests.cli.conftest import AGENT, run
from tests.patience import HANG_SECONDS

COMMANDS = ("demo", "init", "chat", "dev", "serve", "doctor", "calls", "migrate", "sim")


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["nothing", "help"])
def test_the_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    run(monkeypatch, *arguments)  # the exit status without arguments differs between versions of click
    shown = capsys.readouterr()
    words = (shown.out + shown.err).split()
    assert [name for name in COMMANDS if name not in words] == []


@pytest.mark.parametrize("command", [*COMMANDS[:-1], "sim call", "sim rest", "sim model"])
def test_each_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, *command.split(), "--help") == 0
    usage, sentence, *_ = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert f"phoneagent {command}" in usage
    assert " " in sentence, "a sentence about the command comes before its options"


def raising(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let the command `fail` be the whole command line."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)


def test_each_problem_is_one_line_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ConfigurationError(["A is missing: set it", "B is malformed: correct it"]))
    assert run(monkeypatch) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "phoneagent: A is missing: set it\nphoneagent: B is malformed: correct it\n"


def test_an_error_that_is_ours_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    raising(monkeypatch, DefinitionError("there is no app"))
    assert run(monkeypatch) == 2
    assert capsys.readouterr().err == "phoneagent: there is no app\n"


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("a bug"))
    monkeypatch.setattr("sys.argv", ["phoneagent"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_no_console_takes_words_between_colons_for_a_picture() -> None:
    made = [
        (file.name, each)
        for file in Path(cli.__file__).parent.glob("*.py")
        for each in re.findall(r"\bConsole\((.*?)\)", file.read_text("utf-8"))
    ]
    assert len(made) >= 7
    assert [each for each in made if "emoji=False" not in each[1]] == []


@pytest.mark.parametrize(("terminal", "written"), [(False, "é → ✓".encode()), (True, b"\xe9 ? ?")])
def test_an_output_of_any_encoding_takes_every_character(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, written: bytes
) -> None:
    app = typer.Typer()

    @app.command()
    def tell() -> None:
        typer.echo("é → ✓", nl=False)

    out = io.TextIOWrapper(io.BytesIO(), "cp1252")
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    assert run(monkeypatch) == 0
    out.flush()
    assert out.buffer.getvalue() == written  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", ["", "assert sys.stdin.read() == '' and not sys.stdin.isatty()"], ids=["chat", "any"])
def test_a_standard_input_that_is_closed_is_an_empty_one(folder: Path, code: str) -> None:
    (folder / "cli_app.py").write_text(f"import sys\n{AGENT}\n{code}\n", encoding="utf-8")
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-W", "always::ResourceWarning", "-m", "phoneagent"]
    command = [*closed, "chat", "cli_app.py", "--sim"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_ctrl_c_while_the_commands_are_imported_ends_it_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "phoneagent.cli", Interrupted())
    with pytest.raises(SystemExit) as left:
        import_module("phoneagent.__main__").main()
    assert left.value.code == 130
