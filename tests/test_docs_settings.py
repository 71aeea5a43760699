"""What the documentation and the examples say of settings is true: which are needed, and what `.env` does not do."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Settings
from phoneagent.settings import load
from tests.cli.conftest import folder, run
from tests.cli.test_serve import served
from tests.test_containers import SPARE_SECONDS, VARIABLES
from tests.test_docs import BLOCKS, PYTHON, ROOT, SHELL, check_ours, commands, run_blocks, user, words
from tests.test_examples import LISTENERS

__all__ = ["folder", "served", "user"]  # fixtures, which pytest finds here by their names

EXAMPLES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")}
SAID = {name: ast.get_docstring(ast.parse(text)) or "" for name, text in EXAMPLES.items()}
OURS = [
    (name, " ".join(found[1].split()))
    for name, text in SAID.items()
    for found in re.finditer(r"`((?:[A-Z_]+=\S+ )*phoneagent[^`]*)`", text)
]
"""The commands of ours in the docstrings of the examples."""


# --- .env -------------------------------------------------------------------------------------------------------------


def test_the_file_is_not_exported_until_code_loads_it(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user / ".env").write_text("MAX_CALLS=7\nSHOP_KEY=of my own\n")
    monkeypatch.delenv("PHONEAGENT_ENV_FILE")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert load().max_calls == 7
    assert "SHOP_KEY" not in os.environ
    run_blocks(PYTHON["settings.md"], user)
    assert os.environ["SHOP_KEY"] == "of my own"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_says_that_its_own_variables_are_exported(name: str) -> None:
    read = set(re.findall(r'os\.environ(?:\.get\(|\[)"(\w+)"', EXAMPLES[name]))
    own = {each for each in read if f'"{each}":' not in EXAMPLES[name]}  # one that the example itself sets is known
    assert own == set() or re.search(r"\bexport\b", SAID[name], re.IGNORECASE), own
    assert {each for each in own if each not in SAID[name]} == set()


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "command"), OURS)
def test_the_commands_of_an_example_exist(name: str, command: str, user: Path) -> None:
    check_ours(words(command)[1:])
    assert all((ROOT / each).exists() for each in words(command) if each.startswith("examples/")), command


@pytest.mark.parametrize("name", sorted(LISTENERS))
def test_an_example_that_calls_out_says_how(name: str) -> None:
    ways = "phoneagent call ", "phoneagent campaign start ", f"python examples/{name}.py"
    assert any(way in SAID[name] for way in ways)


def of_web_calls() -> list[str]:
    (first, *_) = (command for block in SHELL if block.page == "web-calls.md" for command in commands(block))
    return [first, *(command for name, command in OURS if name == "web_call")]


@pytest.mark.parametrize("command", of_web_calls())
def test_a_web_call_needs_no_twilio_account(
    command: str, served: list[tuple[Any, Any, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "PUBLIC_URL"):
        monkeypatch.delenv(name)
    arguments = [str(ROOT / each) if each.startswith("examples/") else each for each in words(command)[1:]]
    assert run(monkeypatch, *arguments) == 0
    ((_, app, _),) = served
    assert app.settings.insecure


# --- Cloud Run --------------------------------------------------------------------------------------------------------


def test_cloud_run_gives_calls_the_time_to_move() -> None:
    (block,) = (each for each in BLOCKS["deploying.md"] if each.section == "cloud-run")
    (command,) = commands(block)
    options = dict(each.removeprefix("--").split("=", 1) for each in words(command) if each[:2] == "--" and "=" in each)
    given = dict(each.split("=", 1) for each in options["set-env-vars"].split(","))
    secret = dict(each.split("=", 1) for each in options["set-secrets"].split(","))
    assert {*given, *secret} <= VARIABLES
    assert int(given["DRAIN_SECONDS"]) + SPARE_SECONDS == 10  # what it waits between SIGTERM and SIGKILL
    assert int(options["timeout"]) >= Settings.model_fields["max_call_seconds"].default
