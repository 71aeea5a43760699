"""What a platform reads: the Procfile runs under honcho and answers a call; app.json and requirements.txt are true."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from phoneagent import Settings
from phoneagent.cli.init import write
from phoneagent.errors import ConfigurationError
from phoneagent.settings import load
from phoneagent.sim import Model, Phone, Script
from phoneagent.sim.speech import Murmur
from tests.patience import HANG_SECONDS
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ACCOUNT, TOKEN, PUBLIC = "AC" + "1" * 32, "the-auth-token-of-a-test", "https://agent.example"


def procfile(folder: Path) -> dict[str, str]:
    lines = (folder / "Procfile").read_text().splitlines()
    return {kind: command.strip() for kind, _, command in (line.partition(":") for line in lines)}


# --- the Procfile ---


class Platform:
    """A dyno: the project's folder, and honcho for the platform."""

    def __init__(self, folder: Path, model: Model, **changes: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PORT": str(self.port),
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_AUTH_TOKEN": TOKEN,
            "PUBLIC_URL": PUBLIC,
            "REALTIME_URL": model.url,
            "DATABASE_URL": f"sqlite:///{folder}/records.db",
            **changes,
        }

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @asynccontextmanager
    async def honcho(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        with (self.folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "honcho", *arguments),
                cwd=self.folder,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)  # it kills what it started after 5 s
                await process.wait()

    async def ready(self, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while process.returncode is None and "listening on" not in self.log:
                await asyncio.sleep(0.05)
        assert process.returncode is None, self.log

    def phone(self) -> Phone:
        url = f"http://127.0.0.1:{self.port}/twilio/voice"
        return Phone(url, auth_token=TOKEN, public_url=PUBLIC, account_sid=ACCOUNT)


@pytest.fixture(params=["repository", "init"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is deployed: this repository, or what `phoneagent init` wrote."""
    if request.param == "init":
        write(tmp_path)
    else:
        shutil.copy(ROOT / "Procfile", tmp_path)
        shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform == "win32", reason="a Procfile is for POSIX shells")
@pytest.mark.parametrize("processes", ["1", "2"])
async def test_honcho_answers_a_call(folder: Path, processes: str) -> None:
    """Release, then web, as a platform does it; `honcho start` alone would stop as soon as the release is done."""
    async with Model(Script.parse('default = "Yes, of course."')) as model:
        platform = Platform(folder, model, WEB_CONCURRENCY=processes)
        async with (
            asyncio.timeout(HANG_SECONDS),
            platform.honcho("run", *procfile(folder)["release"].split()) as release,
        ):
            assert await release.wait() == 0, platform.log
        assert (folder / "records.db").exists()
        async with asyncio.timeout(HANG_SECONDS), platform.honcho("start", "web") as honcho:
            await platform.ready(honcho)
            async with platform.phone().dial() as line:
                await line.wait_for_silence(ms=100)
                await line.say(Murmur().render("Are you there?"))
                await line.wait_for_agent(ms=100)
            assert line.violations == []
            honcho.send_signal(signal.SIGTERM)
            assert await honcho.wait() == 128 + signal.SIGTERM  # honcho's own way to say so
    assert "web.1 stopped (rc=0)" in platform.log
    assert "Traceback" not in platform.log


# --- what the platform asks for, and installs ---


def test_app_json_names_what_has_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, dict[str, Any]] = json.loads((ROOT / "app.json").read_text(encoding="utf-8"))["env"]
    fields = {str(field.validation_alias or name).upper(): name for name, field in Settings.model_fields.items()}
    assert set(asked) <= set(fields)
    for name in [*asked, "REALTIME_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    for name, entry in asked.items():
        if "value" in entry:
            monkeypatch.setenv(name, entry["value"])
    with pytest.raises(ConfigurationError) as raised:
        load()
    missing = {problem.split(" is missing")[0] for problem in raised.value.problems}
    assert missing == {name for name, entry in asked.items() if entry.get("required", True) and "value" not in entry}


def test_requirements_are_a_line_each(tmp_path: Path) -> None:
    (ours,) = (ROOT / "requirements.txt").read_text().splitlines()
    assert ours == ".[postgres]"
    assert "postgres" in PROJECT["optional-dependencies"]
    write(tmp_path)
    lines = (tmp_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (theirs,) = [Requirement(line) for line in lines if not line.startswith("#")]
    assert (theirs.name, theirs.extras) == (PROJECT["name"], {"postgres"})
    # No git is needed for an archive: a slim image has none. A release is named once there is one.
    assert theirs.url == f"{PROJECT['urls']['Source']}/archive/refs/heads/main.zip"
    released = Requirement(lines[0].rpartition(": ")[2])
    assert released.specifier.contains(PROJECT["version"])
