"""The process that `serve --reload` starts for each change: what is wrong is said in lines, and nothing is served."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import aiohttp
import pytest
import uvicorn

from phoneagent import Agent, PhoneApp, Settings
from phoneagent.cli.reloading import CANNOT_START, Reloaded, ReloadedServer
from phoneagent.cli.target import Target
from tests.patience import HANG_SECONDS


@pytest.mark.anyio
async def test_streams_of_events_do_not_hold_up_a_reload() -> None:
    app = PhoneApp(Agent(instructions="x"), settings=Settings(insecure=True, realtime_url="ws://127.0.0.1:1/?model=m"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = ReloadedServer(uvicorn.Config(app, log_config=None), app)
        running = asyncio.create_task(server._serve([listening]))
        async with asyncio.timeout(HANG_SECONDS), aiohttp.ClientSession() as http:
            while not server.started:
                await asyncio.sleep(0.005)
            async with http.get(f"http://127.0.0.1:{listening.getsockname()[1]}/events") as events:
                assert await events.content.readline() == b"retry: 2000\n"
                server.should_exit = True
                assert await events.content.read() == b"\n"
            await running


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = (", "reloaded.py, line 1: SyntaxError"),
        ("app = 1", "reloaded:app is not a PhoneApp but int: write app = PhoneApp(agent)"),
    ],
)
def test_a_module_that_fails_is_told_in_lines(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    (folder / "reloaded.py").write_text(code, encoding="utf-8")
    monkeypatch.delitem(__import__("sys").modules, "reloaded", raising=False)
    caplog.set_level(logging.ERROR)
    with pytest.raises(SystemExit) as left:
        Reloaded(Target("reloaded", "app", str(folder)), {}, {}, {}).run([])
    assert left.value.code == CANNOT_START
    assert caplog.messages[0].startswith(words)
    assert all(record.exc_info is None for record in caplog.records)


def test_a_missing_driver_is_told_before_the_start(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@127.0.0.1/database")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with socket.socket() as listening, pytest.raises(SystemExit):
        Reloaded(Target("cli_app", "app", str(folder)), {}, {}, {}).run([listening])
    assert "install phoneagent[postgres]" in caplog.messages[0]


def test_the_setup_page_of_a_process_has_the_doctors_checks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[PhoneApp] = []
    monkeypatch.setattr(ReloadedServer, "run", lambda self, sockets: served.append(self._app))
    Reloaded(Target("cli_app", "app", str(folder)), {}, {}, {}).run([])
    (app,) = served
    assert app.examine is not None
