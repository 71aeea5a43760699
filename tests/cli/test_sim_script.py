"""`phoneagent sim script`: a script on standard output or in a new file."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from phoneagent.cli.sim_script import script
from phoneagent.sim.model.script import Script

AGENT = """
from phoneagent import Agent, PhoneApp, hang_up, tool

@tool
def book_table(guests: int) -> str:
    \"\"\"Book a table.\"\"\"
    return "Booked."

app = PhoneApp(Agent(name="host", instructions="Be brief.", tools=[book_table, hang_up]))
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    (tmp_path / "agent_of_a_script.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = typer.Typer()
    made.command()(script)
    return made


def test_it_is_printed(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["agent_of_a_script.py"])
    assert result.exit_code == 0
    calls = [call for turn in Script.parse(result.stdout).turns for call in turn.calls]
    assert [call.name for call in calls] == ["book_table", "hang_up"]


def test_what_the_module_prints_is_no_part_of_it(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "agent_that_prints.py").write_text(f"print('loading')\n{AGENT}")
    result = CliRunner().invoke(app, ["agent_that_prints.py"])
    assert len(Script.parse(result.stdout).turns) == 4
    assert result.stderr == "loading\n"


def test_it_is_written_once_and_never_over_another_file(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["agent_of_a_script.py", "--out", "host.toml"]
    result = CliRunner().invoke(app, arguments)
    assert "Play it: phoneagent demo agent_of_a_script.py --script host.toml" in result.stdout
    assert len(Script.load(tmp_path / "host.toml").turns) == 4
    (tmp_path / "host.toml").write_text("mine")
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert (tmp_path / "host.toml").read_text() == "mine"
