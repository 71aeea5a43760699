"""Several processes behind one port: real ones, with calls in them, and every way to end them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, Endpoint, PhoneApp
from phoneagent.cli.serve import UVICORN
from phoneagent.cli.target import Target
from phoneagent.cli.workers import GRACE_SECONDS, Job, PunctualServer, Workers
from phoneagent.sim import Line, Model, Phone, Script
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import settings
from tests.patience import HANG_SECONDS
from tests.ports import free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there is one process on Windows"),
]

ACCOUNT, TOKEN, PUBLIC = "AC" + "1" * 32, "the-auth-token-of-a-test", "https://agent.example"
APP = """
import os, pathlib
from phoneagent import Agent, Call, PhoneApp
def instructions(call: Call) -> str:
    pathlib.Path(call.sid).write_text(str(os.getpid()))  # so that a test knows who has the call
    return "Be brief."
app = PhoneApp(Agent(instructions=instructions, greeting="Hello!"))
"""
BROKEN = """
import multiprocessing
if multiprocessing.parent_process():
    raise RuntimeError("only the parent can import this")
"""


@dataclass
class World:
    """A project's folder, a model, and the server's process once it is started."""

    model: Model
    folder: Path
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    @property
    def workers(self) -> list[int]:
        """The processes that serve or served, oldest first."""
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.log)]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while not condition():
                await asyncio.sleep(0.02)

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        given = {
            "PHONEAGENT_ENV_FILE": "",
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_AUTH_TOKEN": TOKEN,
            "PUBLIC_URL": PUBLIC,
            "REALTIME_URL": self.model.url,
            "DATABASE_URL": f"sqlite:///{self.folder}/phoneagent.db",
            "DRAIN_SECONDS": "3600",
            "WEB_CONCURRENCY": "2",
            "LOG_FORMAT": "text",
            "PORT": str(self.port),
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "phoneagent", "serve", "--host", "127.0.0.1", *arguments),
                cwd=self.folder,
                env={**os.environ, **given, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), HANG_SECONDS)

    @asynccontextmanager
    async def call(self, port: int = 0) -> AsyncIterator[Line]:
        """A call that was greeted, and goes on."""
        phone = Phone(
            f"http://127.0.0.1:{port or self.port}/twilio/voice",
            auth_token=TOKEN,
            public_url=PUBLIC,
            account_sid=ACCOUNT,
        )
        async with phone.dial() as line:
            await line.wait_for_silence(ms=100)
            yield line

    def worker_of(self, line: Line) -> int:
        return int((self.folder / line.call_sid).read_text())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "main.py").write_text(APP)
    port = free_port()
    async with Model(Script.parse('default = "Yes, of course."')) as model:
        made = World(model, tmp_path, port)
        yield made
        if made.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(made.process.pid, signal.SIGKILL)  # its own session: nobody else is in it
            await made.process.wait()


async def served(world: World, processes: int = 2) -> None:
    process = world.process
    assert process is not None
    await world.until(lambda: world.log.count("startup complete") >= processes or process.returncode is not None)
    assert process.returncode is None, world.log


async def go_on(line: Line) -> None:
    """Say something, and hear the answer."""
    await line.say(Murmur().render("Are you there?"))
    await line.wait_for_agent(ms=100)


async def test_both_answer_and_a_signal_waits_for_both(world: World) -> None:
    process = await world.start()
    await served(world)
    assert len(set(world.workers)) == 2
    assert process.pid not in world.workers
    async with world.call() as line:
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        await go_on(line)
        assert process.returncode is None
    # no process is left that could take the last status callback
    assert [each for each in line.violations if not each.endswith("(status callback)")] == []
    assert await world.ended() == 0
    assert "Traceback" not in world.log


async def test_a_call_of_each(world: World) -> None:
    """Webhook and media socket come to whichever process is free."""
    process = await world.start()
    await served(world)
    async with asyncio.timeout(HANG_SECONDS), AsyncExitStack() as calls:
        seen = set()
        while len(seen) < 2:
            line = await calls.enter_async_context(world.call())
            seen.add(world.worker_of(line))
    process.terminate()
    assert await world.ended() == 0


async def test_calls_are_spread_and_each_has_the_session_that_was_opened_ahead(world: World) -> None:
    """The phone waits with each media socket until the model has a session for it."""
    process = await world.start()
    await world.until(lambda: world.log.count("takes calls") == 2)
    gate = await asyncio.start_server(Gate(world).pass_on, "127.0.0.1", 0)
    async with gate, asyncio.timeout(HANG_SECONDS), AsyncExitStack() as calls:
        port = gate.sockets[0].getsockname()[1]
        lines = await asyncio.gather(*(calls.enter_async_context(world.call(port)) for _ in range(8)))
        carried = [world.worker_of(line) for line in lines]
        assert sorted(carried.count(pid) for pid in set(carried)) in ([3, 5], [4, 4])
        assert len(world.model.sessions) == 8
    process.terminate()
    assert await world.ended() == 0
    assert "Traceback" not in world.log


class Gate:
    """A proxy before the server. A media socket gets through once the model has a session for each that came."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sockets = 0

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        if first.startswith(b"GET /twilio/media/"):
            self._sockets += 1
            number = self._sockets
            await self._world.until(lambda: len(self._world.model.sessions) >= number)
        back, forth = await asyncio.open_connection("127.0.0.1", self._world.port)
        forth.write(first)
        await asyncio.gather(self._pump(reader, forth), self._pump(back, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(65536):
                writer.write(part)
        writer.close()


async def test_ctrl_c_in_a_terminal_and_once_more(world: World) -> None:
    process = await world.start()
    await served(world)
    async with world.call() as line:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and to the workers
        await go_on(line)
        async with asyncio.timeout(HANG_SECONDS):
            while process.returncode is None:  # until it is a second after the first
                os.killpg(process.pid, signal.SIGINT)
                await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=0.25)
    assert process.returncode == 0


async def test_a_worker_that_dies_is_replaced_and_the_others_go_on(world: World) -> None:
    process = await world.start()
    await served(world)
    async with world.call() as line:
        (victim,) = set(world.workers) - {world.worker_of(line)}
        os.kill(victim, signal.SIGKILL)
        await world.until(lambda: len(world.workers) == 3)
        await go_on(line)
    assert line.violations == []
    assert f"worker {victim} ended with status -9" in world.log
    process.terminate()
    assert await world.ended() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_signals_that_come_again_and_again(world: World, processes: str) -> None:
    process = await world.start(WEB_CONCURRENCY=processes)
    await served(world, int(processes))
    async with asyncio.timeout(HANG_SECONDS):
        while process.returncode is None:
            with suppress(ProcessLookupError):  # `process.terminate` may take the status before asyncio does
                os.kill(process.pid, signal.SIGTERM)
            await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=0.01)
    assert process.returncode == 0


async def test_a_signal_before_anything_serves(world: World) -> None:
    process = await world.start()
    await world.until(lambda: "listening on" in world.log)
    process.terminate()
    assert await world.ended() == 0
    assert "Traceback" not in world.log


async def test_without_their_parent_they_drain_and_leave_the_port(world: World) -> None:
    process = await world.start()
    await served(world)
    async with world.call() as line:
        process.kill()
        await process.wait()
        await world.until(lambda: "the parent process is gone" in world.log)
        await go_on(line)
    await world.until(lambda: world.log.count("Finished server process") == 2)

    def free() -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", world.port))
                probe.listen()
            except OSError:
                return False
            return True

    await world.until(free)


async def test_workers_that_cannot_start_are_not_tried_again(world: World) -> None:
    (world.folder / "main.py").write_text(BROKEN + APP)
    await world.start()
    assert await world.ended() == 1
    assert 1 <= world.log.count("RuntimeError: only the parent can import this") <= 2
    assert "did not start, so nothing is served" in world.log


async def test_settings_that_are_wrong_are_told_once_by_the_parent(world: World) -> None:
    await world.start(TWILIO_AUTH_TOKEN="short")
    assert await world.ended() == 2
    assert len(world.log.splitlines()) == 1
    assert world.log.startswith("phoneagent: TWILIO_AUTH_TOKEN is malformed")


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_port_that_is_taken(world: World, processes: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", world.port))
        other.listen()
        await world.start(WEB_CONCURRENCY=processes)
        assert await world.ended() == 1
    (line,) = world.log.splitlines()
    assert line.startswith(f"phoneagent: port {world.port} is in use: ")


def test_an_app_that_could_not_be_started_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an older uvicorn, which returns as after a drain."""
    monkeypatch.setattr(PunctualServer, "run", lambda server, sockets: None)
    loaded = settings()
    app = PhoneApp(Agent(instructions="x"), settings=loaded, endpoint=Endpoint("ws://127.0.0.1:1/?model=m"))
    with socket.socket() as listening, pytest.raises(SystemExit) as ended:
        Job(Target("main", "app", Path()), loaded, UVICORN, {}).run(app, listening)
    assert ended.value.code == 3


def test_one_that_does_not_end_is_killed() -> None:
    """It holds its signals back forever, as a program that hangs at its start does."""
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()
    workers = Workers(lambda number: context.Process(target=time.sleep, args=(3600,)), 2, -GRACE_SECONDS)

    def interrupt() -> None:
        while len(workers._live()) < 2:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    assert workers.run() == 1
    assert workers._live() == []
