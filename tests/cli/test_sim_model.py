"""`phoneagent sim model` from the outside: a process that one starts, connects to and stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from websockets.asyncio.client import connect

from phoneagent.cli import sim_model
from phoneagent.cli.sim_model import model
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

RUN = "import typer; from phoneagent.cli.sim_model import model; typer.run(model)"
SCRIPT = '[[turn]]\nheard = "."\ncaller = "Hm."\nsay = "Good morning."\n'


async def until(process: Process, text: str) -> str:
    """Read lines up to the one that contains `text` and return it."""
    assert process.stdout is not None
    async with asyncio.timeout(HANG_SECONDS):
        while line := (await process.stdout.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"the command ended without a line that contains {text!r}")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
async def test_it_serves_narrates_and_stops_cleanly(tmp_path: Path) -> None:
    script = tmp_path / "call.toml"
    script.write_text(SCRIPT, encoding="utf-8")
    arguments = [sys.executable, "-c", RUN, "--port", "0", "--script", str(script), "--scripted"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE, stderr=subprocess.STDOUT, env=environment)
    try:
        assert "follows its script" in await until(process, "simulated Realtime server")
        url = (await until(process, "ws://")).split()[0]
        assert url.endswith("/v1/realtime?model=simulated")
        async with connect(url, max_queue=None) as session:
            content = [{"type": "input_text", "text": "hello"}]
            item = {"type": "message", "role": "user", "content": content}
            await session.send(json.dumps({"type": "conversation.item.create", "item": item}))
            await session.send(json.dumps({"type": "response.create"}))
            await session.send(json.dumps({"type": "nonsense"}))
            assert "#1" in await until(process, 'the model: "Good morning."')
            await until(process, "response completed")
        process.send_signal(signal.SIGINT)
        assert "1 session, 1 rule broken" in await until(process, "session,")
        assert "Invalid value: 'nonsense'" in await until(process, "nonsense")
        async with asyncio.timeout(HANG_SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await process.communicate()


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(model)
    return CliRunner().invoke(app, arguments)


def test_a_bad_script_and_a_bad_error_are_named(tmp_path: Path) -> None:
    script = tmp_path / "call.toml"
    script.write_text("[[turn]]\nhear = 'x'\nsay = 'y'\n", encoding="utf-8")
    for arguments, words in ((["--script", str(script)], "hear"), (["--error", "soon:x"], "SECONDS:CODE")):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert words in result.output


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = invoke("--port", str(port), "--scripted")

    assert result.exit_code == 1
    assert f"phoneagent: port {port} is in use" in result.output


def test_an_output_that_is_closed_is_not_the_port_s(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sim_model, "stop_signal", lambda: SimpleNamespace(wait=broken))
    result = invoke("--port", "0", "--scripted")
    assert "that follows its script" in result.output
    assert "cannot be used" not in result.output


def test_what_others_say_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"type": "error", "error": {"code": "a\x1b[2J", "message": "b\nc"}}
    session: Any = SimpleNamespace(session={"id": "sess_1"})
    sim_model._Narrator().watch(session, "out", event)
    assert capsys.readouterr().out.endswith("#1 <- error a [2J: b c\n")


def test_a_dialect_is_named_or_refused() -> None:
    for arguments, words in (
        (["--dialect", "opanai"], "no stand-in 'opanai'"),
        (["--dialect", "xai", "--beta"], "leave --beta out"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert words in " ".join(result.output.replace("│", " ").split())


def test_tls_without_openssl_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = invoke("--tls", "--port", "0", "--scripted")
    assert "TLS needs the command openssl" in str(result.exception)
