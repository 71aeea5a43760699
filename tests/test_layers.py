"""Who may import whom: the house's floor plan, held against the imports."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "phoneagent"

LAYERS = {
    "errors": 0,
    "events": 0,
    "threads": 0,
    "protocol": 1,
    "agent": 2,
    "call": 2,
    "carried": 3,
    "control": 4,
    "options": 2,
    "tools": 2,
    "guardrail": 2,
    "mcp": 2,
    "handoffs": 2,
    "settings": 2,
    "admission": 3,
    "provider": 2,
    "endpoint": 3,
    "store": 3,
    "headroom": 3,
    "hooks": 3,
    "numbers": 3,
    "telemetry": 3,
    "telephony": 3,
    "session": 4,
    "afterwards": 4,
    "door": 4,
    "media": 4,
    "reception": 5,
    "server": 5,
    "drain": 5,
    "prepared": 4,
    "toolrunner": 4,
    "switchboard": 5,
    "cli": 6,
    "demo": 6,
    "doctor": 6,
    "sim": 6,
    "__init__": 6,
    "__main__": 6,
}
SIM_MAY_IMPORT = {"phoneagent.errors", "phoneagent.protocol.audio"}
PROTOCOL_MAY_IMPORT = {"msgspec", "audioop", "phoneagent"}
PURE = {"asyncio", "socket", "time", "random", "secrets", "os", "pathlib", "io", "threading", "datetime", "logging"}
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the absolute names of the modules that a file imports, also late ones."""
    package = ("phoneagent", *path.relative_to(ROOT).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {
                f"{module}.{alias.name}" if module_exists(f"{module}.{alias.name}") else module for alias in node.names
            }
    return found


def module_exists(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "phoneagent"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_layer_may(path: Path) -> None:
    here = room(path)
    assert here in LAYERS, f"{path} is in no room: add it to the floor plan"
    if here == "sim":
        allowed = {name for name in ours(imports(path)) if name.startswith("phoneagent.sim")} | SIM_MAY_IMPORT
        assert ours(imports(path)) <= allowed
        return
    for name in ours(imports(path)):
        there = [*name.split("."), "__init__"][1]
        if there == here:
            continue
        if LAYERS[here] == 3:
            assert LAYERS[there] < 3, f"{path.name} (an adapter) imports {name}"
        else:
            assert LAYERS[there] <= LAYERS[here], f"{path.name} imports {name}, which lies above it"
        assert there != "__init__" or here in ("demo", "cli"), f"{path.name} imports the package itself"


@pytest.mark.parametrize("path", sorted((ROOT / "protocol").glob("*.py")), ids=lambda path: path.name)
def test_the_protocols_touch_nothing(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in PURE
        assert top in PROTOCOL_MAY_IMPORT or top in sys.stdlib_module_names


def test_only_settings_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(word in path.read_text(encoding="utf-8") for word in ("os.environ", "os.getenv", "getenv("))
    }
    assert readers <= {"settings.py", "demo/serving.py"}  # the demo makes an environment for the server it starts


def test_files_and_functions_can_be_held_in_the_head() -> None:
    too_long = []
    for path in FILES:
        tree = ast.parse(text := path.read_text(encoding="utf-8"))
        if (lines := text.count("\n")) > 520:  # bridge.py, with the table at its top
            too_long.append(f"{path.name}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > 70:
                    too_long.append(f"{path.name}: {node.name} has {size} lines")
    assert not too_long
