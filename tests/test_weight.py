"""What is imported, and when: the heavy libraries only where they are used. No test here measures a time."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import phoneagent
import phoneagent.sim

HEAVY = ("sqlalchemy", "alembic", "aiosqlite", "asyncpg", "twilio.rest", "requests", "aiohttp", "rich", "typer", "mcp")
SERVING = (
    "phoneagent.bridge.bridge",
    "phoneagent.calls.calls",
    "phoneagent.webhooks",
    "msgspec",
    "twilio",
    "websockets",
)
"""What a call needs, and the definition of an app does not."""

PHONE_APP = """
from phoneagent import Agent, Call, Limits, PhoneApp, Settings, ToolError, hang_up, tool
@tool
async def ask(what: str) -> str:
    "Ask."
    return what
app = PhoneApp(Agent(instructions="x", tools=[ask, hang_up]), settings=Settings(insecure=True, realtime_url="ws://x"))
"""
HELP = """
from phoneagent.cli import main
try:
    main()
except SystemExit:
    pass
"""


def imported(program: str, *arguments: str) -> set[str]:
    """Return the modules that a fresh process has imported after a program."""
    report = f"{program}\nimport sys\nprint('\\n'.join(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", report, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ran.stdout.splitlines())


@pytest.mark.parametrize(
    ("program", "arguments", "heavy"),
    [
        ("import phoneagent", (), {*HEAVY, "pydantic", "starlette", "uvicorn", "websockets", "prometheus_client"}),
        (PHONE_APP, (), {*HEAVY, *SERVING, "uvicorn"}),
        (HELP, ("--help",), {*HEAVY, "pydantic", "starlette", "uvicorn", "asyncio"} - {"typer"}),
        ("import phoneagent.sim.recording", (), {*HEAVY, "starlette", "uvicorn", "websockets"}),
    ],
    ids=["import phoneagent", "an app", "--help", "a part of the simulator"],
)
def test_what_is_heavy_is_imported_where_it_is_used(program: str, arguments: tuple[str, ...], heavy: set[str]) -> None:
    assert imported(program, *arguments) & heavy == set()


@pytest.mark.parametrize("package", [phoneagent, phoneagent.sim], ids=lambda package: package.__name__)
def test_type_checkers_see_the_names_where_they_are_at_run_time(package: object) -> None:
    text = Path(package.__file__).read_text("utf-8")  # type: ignore[attr-defined]
    for_types = {
        node.module: {alias.name for alias in node.names}
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("phoneagent.")
    }
    homes = package._HOMES  # type: ignore[attr-defined]
    assert {home: set(names.split()) for home, names in homes.items()} == for_types
    assert sorted(name for names in for_types.values() for name in names) == package.__all__  # type: ignore[attr-defined]


def test_a_name_that_is_not_public_is_missing() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from phoneagent import nothing  # type: ignore[attr-defined]  # noqa: F401
    assert set(phoneagent.__all__) <= set(dir(phoneagent))
