"""`phoneagent dev`: a real app under reload, the number pointed at it, and its old webhook restored."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer
from aiohttp import web

from phoneagent import DefinitionError, TelephonyError
from phoneagent.cli.dev import NOT_YET_KNOWN, run
from phoneagent.cli.tunnel import TunnelFailed
from phoneagent.settings import load
from phoneagent.sim import Model, Phone, TwilioRest
from tests.patience import HANG_SECONDS
from tests.ports import free_port

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN, NUMBER = "AC" + "1" * 32, "the-auth-token-of-a-test", "+15550100002"
PUBLIC = "https://mine.example"
OLD = "https://old.example/voice"
APP = """
from phoneagent import Agent, PhoneApp
app = PhoneApp(Agent(instructions="Be brief.", greeting="Hello!"))
"""


@dataclass
class World:
    """A project's folder, which is the working directory, and the number at Twilio."""

    rest: TwilioRest
    model: Model
    sid: str
    port: int
    folder: Path

    def points_to(self) -> str:
        return str(self.rest.numbers[self.sid]["voice_url"]).partition("#")[0]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while not condition():
                await asyncio.sleep(0.02)

    async def pointed(self, public_url: str, running: asyncio.Task[int]) -> None:
        """Wait until the number points to an app's address; fail with what ended the command if it ended before."""
        await self.until(lambda: self.points_to() == f"{public_url}/twilio/voice" or running.done())
        assert not running.done(), f"it ended with {running.exception() or running.result()}"

    def port_is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", self.port))
                return True
        return False

    async def run(self, public_url: str = PUBLIC, *, agent_apis: Any = ()) -> tuple[asyncio.Task[int], asyncio.Event]:
        stop = asyncio.Event()
        loaded = load({"public_url": public_url})
        return asyncio.create_task(run(None, loaded, stop, agent_apis=agent_apis)), stop


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text(APP)
    port = free_port()
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as rest, Model() as model:
        for name, value in {
            "PHONEAGENT_ENV_FILE": "",
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_AUTH_TOKEN": TOKEN,
            "TWILIO_PHONE_NUMBER": NUMBER,
            "TWILIO_API_URL": rest.url,
            "REALTIME_URL": model.url,
            "PORT": str(port),
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("PUBLIC_URL", "NGROK_AUTHTOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield World(rest, model, rest.add_number(NUMBER, voice_url=OLD), port, tmp_path)
        assert rest.violations == []


async def test_a_call_comes_here_and_the_number_goes_back(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    running, stop = await world.run()
    await world.pointed(PUBLIC, running)
    phone = Phone(
        f"http://127.0.0.1:{world.port}/twilio/voice", auth_token=TOKEN, public_url=PUBLIC, account_sid=ACCOUNT
    )
    async with phone.dial() as line:
        await line.wait_for_silence(ms=200)
    assert line.violations == []
    events = f"http://127.0.0.1:{world.port}/events"  # a tunnel of one's own may make strangers look like this machine
    async with aiohttp.ClientSession() as http, http.get(events) as answer:
        assert answer.status == 404
    stop.set()
    assert await running == 0
    assert world.points_to() == OLD
    assert not (world.folder / ".phoneagent" / "webhook.json").exists()
    printed = capfd.readouterr().out
    assert f"Call {NUMBER}" in printed
    assert "webhook is restored" in printed
    assert TOKEN not in printed


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="the whole group is killed, as by a machine that loses power")
async def test_after_a_crash_the_next_start_puts_the_number_back(world: World) -> None:
    command = "import typer; from phoneagent.cli.dev import dev; typer.run(dev)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", command, "main.py", "--public-url", PUBLIC, start_new_session=True
    )
    try:
        await world.until(lambda: world.points_to() != OLD or process.returncode is not None)
        assert world.points_to() == f"{PUBLIC}/twilio/voice"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    await world.until(world.port_is_free)  # the server is not our child: its end cannot be waited for otherwise
    assert world.points_to() == f"{PUBLIC}/twilio/voice", "nobody was there to put it back"
    world.rest.requests.clear()
    running, stop = await world.run("https://other.example")
    await world.pointed("https://other.example", running)
    assert [
        each.params.get("VoiceUrl", "").partition("#")[0] for each in world.rest.requests if each.method == "POST"
    ] == [
        OLD,
        "https://other.example/twilio/voice",
    ]
    stop.set()
    assert await running == 0
    assert world.points_to() == OLD


async def test_a_signal_ends_it_properly(world: World) -> None:
    command = "import typer; from phoneagent.cli.dev import dev; typer.run(dev)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", command, "--public-url", PUBLIC)
    await world.until(lambda: world.points_to() != OLD or process.returncode is not None)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), HANG_SECONDS) == 0
    assert world.points_to() == OLD


async def test_an_app_with_a_mistake_ends_it_before_the_number_is_touched(world: World) -> None:
    (world.folder / "main.py").write_text(APP + "\nthis is a mistake")
    running, _ = await world.run()
    assert await asyncio.wait_for(running, HANG_SECONDS) != 0
    assert not world.rest.requests


async def test_a_number_that_something_else_has(world: World) -> None:
    world.rest.numbers[world.sid]["voice_application_sid"] = "AP" + "1" * 32
    running, _ = await world.run()
    with pytest.raises(TelephonyError, match="TwiML app"):
        await asyncio.wait_for(running, HANG_SECONDS)


async def test_no_number_is_no_obstacle(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TWILIO_PHONE_NUMBER")
    running, stop = await world.run()
    printed: list[str] = []

    def said() -> bool:
        printed.append(capfd.readouterr().out)
        return "TWILIO_PHONE_NUMBER is not set" in "".join(printed)

    await world.until(said)
    stop.set()
    assert await running == 0
    assert not world.rest.requests


async def test_calls_can_be_read_on_this_machine_where_the_tunnel_is_known(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    public = "https://ours.ngrok.app"

    async def list_tunnels(request: web.Request) -> web.Response:
        return web.json_response({"tunnels": [{"public_url": public, "config": {"addr": str(world.port)}}]})

    ngrok = web.Application()
    ngrok.router.add_get("/api/tunnels", list_tunnels)
    runner = web.AppRunner(ngrok, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        running, stop = await world.run(NOT_YET_KNOWN, agent_apis=[api])
        await world.pointed(public, running)
        events = f"http://127.0.0.1:{world.port}/events"
        async with aiohttp.ClientSession() as http, http.get(events) as here:
            assert here.status == 200
            async with http.get(events, headers={"X-Forwarded-For": "203.0.113.9"}) as elsewhere:
                assert elsewhere.status == 404
            stop.set()
            assert await running == 0  # with the stream open
        assert f"See every call at http://127.0.0.1:{world.port}/console" in capfd.readouterr().out
    finally:
        await runner.cleanup()


async def test_no_tunnel(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ngrok", None)
    running, _ = await world.run(NOT_YET_KNOWN)
    with pytest.raises(TunnelFailed, match="no ngrok agent is running"):
        await running
    assert world.points_to() == OLD


async def test_a_port_that_is_taken(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", world.port))
        other.listen()
        running, _ = await world.run()
        with pytest.raises(typer.Exit) as ended:
            await running
    assert ended.value.exit_code == 1
    assert f"phoneagent: port {world.port} is in use" in capsys.readouterr().err


async def test_two_in_one_folder(world: World) -> None:
    first, stop = await world.run()
    await world.pointed(PUBLIC, first)
    second, _ = await world.run("https://other.example")
    with pytest.raises(DefinitionError, match="already runs"):
        await second
    assert world.points_to() == f"{PUBLIC}/twilio/voice"
    stop.set()
    assert await first == 0
