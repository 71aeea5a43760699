"""Targets as users write them: `module:app`, `file.py`, or nothing."""

from __future__ import annotations

import ntpath
import os
import sys
from pathlib import Path

import pytest

from phoneagent import DefinitionError
from phoneagent.cli.target import Target
from tests.cli.conftest import AGENT, run


@pytest.mark.parametrize(
    ("text", "name"),
    [("cli_app", "app"), ("cli_app:other", "other"), ("cli_app.py", "app"), ("./cli_app.py:other", "other")],
)
def test_an_app_is_a_module_or_a_file(folder: Path, text: str, name: str) -> None:
    target = Target.find(text)
    assert target == Target("cli_app", name, str(folder))
    assert target.load() is getattr(sys.modules["cli_app"], name)


def test_without_a_target_the_usual_files_are_looked_for(folder: Path) -> None:
    with pytest.raises(DefinitionError, match=r"no main.py, app.py or agent.py is in this folder"):
        Target.find(None)
    (folder / "agent.py").touch()
    assert Target.find(None).module == "agent"
    (folder / "main.py").touch()
    assert Target.find(None).module == "main"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nowhere.py", "there is no file nowhere.py"),
        ("nowhere:app", "no module named 'nowhere' in this folder"),
        ("nowhere.deeper:app", "no module named 'nowhere.deeper' in this folder"),
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


def test_a_windows_path_may_begin_with_a_drive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "splitdrive", ntpath.splitdrive)
    (folder / "C:").mkdir()
    (folder / "C:" / "cli_shop.py").touch()
    for text, attribute in (("C:/cli_shop.py", "app"), ("C:/cli_shop.py:shop", "shop")):
        found = Target.find(text)
        assert (found, found.written) == (Target("cli_shop", attribute, str(folder / "C:")), "C:/cli_shop.py")
    assert Target.find("m:shop") == Target("m", "shop", str(folder))
    with pytest.raises(DefinitionError, match=r"there is no file C:\\none\.py"):
        Target.find(r"C:\none.py:app")


def test_a_file_whose_name_has_two_dots_is_refused(folder: Path) -> None:
    (folder / "cli.shop.py").touch()
    with pytest.raises(DefinitionError, match=r"^cli\.shop\.py cannot be imported, .*: rename it, like main\.py$"):
        Target.find("cli.shop.py")


@pytest.mark.parametrize("text", ["deeper/cli_shop.py", "./deeper/cli_shop.py:other", "deeper.cli_shop"])
def test_the_remedy_names_the_target_as_it_was_written(folder: Path, text: str) -> None:
    (folder / "deeper").mkdir()
    (folder / "deeper" / "cli_shop.py").write_text(f"{AGENT}\nshop, app, other = app, None, 1\n", encoding="utf-8")
    try:
        with pytest.raises(DefinitionError) as raised:
            Target.find(text).load()
        remedy = str(raised.value).rpartition("write `")[2].removesuffix("`")
        assert remedy == f"{text.removesuffix(':other')}:shop"
        Target.find(remedy).load()
    finally:
        for module in ("cli_shop", "deeper.cli_shop", "deeper"):
            sys.modules.pop(module, None)


def test_what_the_app_s_own_module_lacks_is_not_taken_for_the_app(folder: Path) -> None:
    (folder / "cli_broken.py").write_text("import not_installed", encoding="utf-8")
    with pytest.raises(DefinitionError, match="pip install not_installed"):
        Target.find("cli_broken").load()


def test_the_folder_is_searched_first_and_added_once(folder: Path) -> None:
    for _ in range(2):
        Target.find("cli_app").load()
    assert sys.path[0] == str(folder)
    assert sys.path.count(str(folder)) == 1


def test_a_file_s_neighbors_can_be_imported(folder: Path) -> None:
    deeper = folder / "deeper"
    deeper.mkdir()
    (deeper / "cli_neighbor.py").write_text("greeting = 'Hello!'", encoding="utf-8")
    (deeper / "cli_front.py").write_text(f"from cli_neighbor import greeting\n{AGENT}", encoding="utf-8")
    try:
        assert Target.find("deeper/cli_front.py").load() is sys.modules["cli_front"].app
    finally:
        sys.modules.pop("cli_front", None)
        sys.modules.pop("cli_neighbor", None)
