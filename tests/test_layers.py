"""The table of layers in ARCHITECTURE.md, held against the folders and the imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
ROOT = REPOSITORY / "phoneagent"
FILES = sorted(ROOT.rglob("*.py"))

SIM_MAY_IMPORT = {"phoneagent.errors", "phoneagent.errors.network", "phoneagent.protocol.audio"}
PURE_ROOMS = ("protocol", "billing", "bridge")
IMPURE = {"asyncio", "socket", "time", "random", "secrets", "os", "pathlib", "io", "threading", "datetime", "logging"}
PURE_ROOMS_MAY_INSTALL = {"msgspec", "phonenumbers", "audioop", "phoneagent", "websockets"}
MAX_LINES = 450
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Room:
    layer: int
    may_import: frozenset[str]
    """Rooms of its own layer."""


def rooms() -> Iterator[tuple[str, Room]]:
    """Read the table of layers."""
    for row in re.findall(r"^\| (\d) \|(.*)\|$", (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8"), re.M):
        name, beside, _ = row[1].split("|")[:3]
        yield name.strip(" `"), Room(int(row[0]), frozenset(re.findall(r"`(\w+)`", beside)))


ROOMS = dict(rooms())


def room_of(name: str) -> str:
    """Return the room of a module's dotted name; "" for the package itself."""
    return [*name.split("."), ""][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the absolute names of the modules that a file imports, also late ones and those for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; this package imports by absolute names"
            assert node.module is not None
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if module_exists(name) else node.module for name in names}
    return frozenset(found)


def module_exists(name: str) -> bool:
    path = REPOSITORY.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def ours(names: frozenset[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "phoneagent"}


def test_the_table_names_the_folders_and_no_others() -> None:
    present = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert present - {"__init__", "__main__"} == set(ROOMS)
    assert len(ROOMS) <= 21


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    here = room_of(module_of(path))
    if here in ("", "__main__"):
        return
    names = ours(imports(path))
    if here == "sim":
        assert {name for name in names if room_of(name) != "sim"} <= SIM_MAY_IMPORT
        return
    for name in names:
        there = room_of(name)
        if there == "":
            assert here in ("demo", "cli"), f"{path.name} imports the package itself"
        elif there != here and there not in ROOMS[here].may_import:
            assert ROOMS[there].layer < ROOMS[here].layer, f"{path.name} ({here}) may not import {name}"


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_the_pure_rooms_touch_nothing(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        for name in imports(path):
            top = name.split(".")[0]
            assert top not in IMPURE, f"{path} imports {name}"
            assert top in PURE_ROOMS_MAY_INSTALL or top in sys.stdlib_module_names, f"{path} imports {name}"


def test_no_import_goes_in_a_circle() -> None:
    graph = {module_of(path): ours(imports(path)) for path in FILES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of imports: {' → '.join((*way[way.index(name) :], name))}"
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            visit(other, (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_only_settings_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(word in path.read_text(encoding="utf-8") for word in ("os.environ", "os.getenv", "getenv("))
    }
    # The demo makes an environment for the server it starts. A network fault names the variable that a library read.
    assert readers <= {"settings/reading.py", "demo/serving.py", "errors/network.py"}


def test_files_and_functions_can_be_held_in_the_head() -> None:
    too_long = []
    for path in FILES:
        tree = ast.parse(text := path.read_text(encoding="utf-8"))
        if (lines := text.count("\n")) > MAX_LINES:
            too_long.append(f"{path.name}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > MAX_FUNCTION_LINES:
                    too_long.append(f"{path.name}: {node.name} has {size} lines")
    assert not too_long


def test_every_module_has_the_test_file_of_its_name() -> None:
    missing = []
    for path in FILES:
        if path.name.startswith("__") or "migrations" in path.parts:
            continue
        there = path.relative_to(ROOT)
        if not (REPOSITORY / "tests" / there.parent / f"test_{there.name}").is_file():
            missing.append(str(there))
    assert not missing


def test_the_map_leads_to_files_that_exist() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8")
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text):
        candidates = (ROOT / name, REPOSITORY / name, ROOT / "bridge" / name)
        assert any(path.is_file() for path in candidates), f"ARCHITECTURE.md names {name}"
