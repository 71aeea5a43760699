"""The README is true: its commands are the ones CI runs, and its snippets run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import HANG_SECONDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def lines(language: str) -> list[str]:
    return [line for block in blocks(language) for line in block.splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with the README's agent."""
    (agent,) = blocks("python")
    (tmp_path / "main.py").write_text(agent, encoding="utf-8")
    return tmp_path


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )


def test_the_agent_is_as_short_as_it_is_said_to_be() -> None:
    agent = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(agent) <= 20


def test_the_commands_are_those_that_ci_runs() -> None:
    """`.ci/run` pastes them into one shell, in order: the demo and a new project first, this suite last."""
    assert lines("sh") == [
        "python3 -m venv .venv && . .venv/bin/activate",
        "pip install -e .",
        "phoneagent demo",
        "phoneagent init ../shop",
        "cd ../shop",
        "phoneagent demo main.py",
        "pip install pytest",
        "pytest",
        "cd ../phoneagent",
        "pip install -e '.[dev]'",
        "pytest",
    ]


def test_the_settings_it_names_are_those_that_exist() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", example, re.MULTILINE))
    settings = (ROOT / "phoneagent" / "settings" / "settings.py").read_text(encoding="utf-8")
    for name in named:
        assert name in settings or f"    {name.lower()}:" in settings, name


def test_serve_names_what_is_missing(project: Path) -> None:
    script = "import os, sys; [os.environ.pop(n, 0) for n in list(os.environ) if n.startswith(('TWILIO', 'OPENAI'))];"
    script += "sys.argv = ['phoneagent', 'serve', 'main:app']; from phoneagent.cli import main; main()"
    done = run("-c", script, folder=project)
    assert done.returncode == 2
    assert done.stderr.count(" missing: ") == 3
    assert "Traceback" not in done.stderr


def test_a_newcomer_hears_their_own_agent(tmp_path: Path) -> None:
    """The README's own commands, from `phoneagent init` on: a simulated caller and the new agent talk."""
    (folder := tmp_path / "phoneagent").mkdir()
    commands = lines("sh")[3:6]
    for program, *arguments in map(str.split, commands):
        if program == "cd":
            folder /= arguments[0]
            continue
        assert program == "phoneagent"
        done = run("-m", "phoneagent", *arguments, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((folder / "demo-call" / "report.json").read_text(encoding="utf-8"))
    assert [turn["role"] for turn in report["turns"]][:3] == ["agent", "caller", "agent"]
    assert report["turns"][0]["heard_text"] == "The bicycle shop, hello!"
    assert report["violations"] == []
