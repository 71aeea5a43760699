"""Strangers: servers that use other people's packages as their users do. Each runs in a process of its own.

A stranger is one script of this folder. It gets its world by environment variables:

    MODEL_URL   the model's WebSocket address, ws://127.0.0.1:PORT/v1/realtime
    PUBLIC_URL  the address under which Twilio knows the stranger, https://agent.example
    REST_URL    in place of https://api.twilio.com
    ACCOUNT_SID, AUTH_TOKEN, API_KEY, API_SECRET   the account at Twilio

and prints `ready PORT` once it listens for `POST /voice` on that port of 127.0.0.1.

A stranger's packages come from the folder that the variable STRANGERS names (`setup.sh` fills it), otherwise they are
this interpreter's own. A stranger whose packages are nowhere is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from phoneagent.sim import Model, TwilioRest
from tests.patience import HANG_SECONDS

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("STRANGERS", os.devnull))  # nothing lies below that one

PUBLIC_URL = "https://agent.example"
AUTH_TOKEN = "auth-token"
API_KEY = ("SK" + "2" * 32, "api-secret")


def interpreter(venv: str, packages: list[str]) -> str:
    """The Python that has the packages. Skips the test if there is none."""
    own = FOLDER / venv / "bin" / "python"
    for python in (str(own), sys.executable):
        if Path(python).exists():
            there = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
            if subprocess.run([python, "-c", there, *packages], check=False, capture_output=True).returncode == 0:
                return python
    pytest.skip(f"no Python with {', '.join(packages)}; see tests/strangers/setup.sh")


def node(packages: list[str]) -> str:
    """Node, with its packages in the folder. Skips the test if they are missing."""
    found = shutil.which("node")
    if found is None or not all((FOLDER / "node" / "node_modules" / each).is_dir() for each in packages):
        pytest.skip(f"no node with {', '.join(packages)}; see tests/strangers/setup.sh")
    return found


@contextlib.asynccontextmanager
async def running(command: list[str], model: Model, rest: TwilioRest, more: dict[str, str]) -> AsyncIterator[str]:
    """Run a stranger with `more` variables; yields the address of its webhook. Its output is shown if a test fails."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "NODE_PATH": str(FOLDER / "node" / "node_modules"),
        "PYTHONUNBUFFERED": "1",
        "MODEL_URL": model.url,
        "PUBLIC_URL": PUBLIC_URL,
        "REST_URL": rest.url,
        "ACCOUNT_SID": str(rest.account["sid"]),
        "AUTH_TOKEN": AUTH_TOKEN,
        "API_KEY": API_KEY[0],
        "API_SECRET": API_KEY[1],
    }
    environment |= more
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 20
    )
    assert process.stdout is not None
    lines = process.stdout
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(HANG_SECONDS):
            while not (line := (await lines.readline()).decode()).startswith("ready "):
                assert line, f"{command[-1]} ended before it listened"
                print(line, end="")
        reading = asyncio.create_task(_show(lines))
        yield f"http://127.0.0.1:{line.split()[1]}/voice"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if reading is not None:
            await reading


async def _show(lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        print(line.decode(errors="replace"), end="")
