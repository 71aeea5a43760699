"""Several processes of `phoneagent serve` on one database, and a router in front of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from tests import forks
from tests.patience import HANG_SECONDS
from tests.ports import free_port
from tests.resilience.balancer import Balancer

TARGET = Path(__file__).parent / "front_desk.py"
ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "an-auth-token-of-a-test"
PUBLIC_URL = "https://agent.example"

READINESS_SECONDS = 0.3
"""How often the router asks: more often than platforms do, as everything here is shorter."""

NAP_SECONDS = 0.05
"""A sleep after which a process that waited for its turn wakes up late."""

FORK_IS_FASTER = 5
"""A fork has imported everything before: a start from nothing takes so many times as long."""

SIGTERMS = 3
"""Platforms send several; these come within a second."""

_KEPT = ("PATH", "PYTHONPATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT")
"""What a process gets of our environment: nothing that phoneagent reads."""


@dataclass
class Process:
    """One `phoneagent serve`. Started anew it gets another port, and goes on with its log."""

    name: str
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    port: int = 0
    in_rotation: bool = True
    """Whether the router knows it."""
    ready: bool = True
    """What the router was told last, if it asks."""
    struck_at: float = 0.0
    late_seconds: float = 0.0
    """How long after DRAIN_SECONDS it ended; below 0: before."""
    target: Path = TARGET
    start_seconds: float = 0.0
    """How long a start from nothing takes: the machine is so busy, and it may be late for anything by as much."""
    _process: asyncio.subprocess.Process | forks.Forked | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def _is_fork(self) -> bool:
        return isinstance(self._process, forks.Forked)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and wait until it serves."""
        assert not self.running
        self.port = free_port()
        begun = time.monotonic()
        await self._spawn()
        async with asyncio.timeout(HANG_SECONDS), aiohttp.ClientSession() as http:
            while self.running:
                try:
                    async with http.get(f"http://127.0.0.1:{self.port}/healthz") as answer:
                        if answer.status == 200:
                            self.start_seconds = (time.monotonic() - begun) * (FORK_IS_FASTER if self._is_fork else 1)
                            return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.05)
        raise AssertionError(f"{self.name} ended with {self._process.returncode} at its start:\n{self.log.read_text()}")

    async def _spawn(self) -> None:
        """Start it in a session of its own, so that its workers go with it; these are started from nothing."""
        command = ["serve", str(self.target), "--host", "127.0.0.1"]
        env = {**self.environment, "PORT": str(self.port)}
        with self.log.open("ab") as log:
            if "WEB_CONCURRENCY" not in env:
                self._process = await forks.start(command, env=env, stdout=log, stderr=log)
                return
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "phoneagent", *command),
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it as a machine that fails does."""
        self.send(signal.SIGKILL)

    async def terminate(self) -> None:
        """Ask it to end, as a platform does: more than once within a second."""
        self.send(signal.SIGTERM)
        for _ in range(SIGTERMS - 1):
            await asyncio.sleep(0.3)
            if self.running:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(self.pid, signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self.struck_at = time.monotonic()
        self._process.send_signal(number)

    async def wait(self) -> tuple[int, float]:
        """Wait for its end; return its exit code, and how many seconds after the signal it came."""
        assert self._process is not None
        async with asyncio.timeout(HANG_SECONDS):
            code = await self._process.wait()
        return code, time.monotonic() - self.struck_at

    async def end(self) -> None:
        """End it and its workers, if it still runs."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
            await self.wait()

    def phases(self) -> list[tuple[float, str]]:
        """What it logged of its end, and when: seconds after it began."""
        lines = re.findall(r"^(\S+ \S+),(\d{3}) .*draining: (.*)$", self.log.read_text(), re.MULTILINE)
        moments = [datetime.fromisoformat(f"{at}.{ms}").timestamp() for at, ms, _ in lines]
        return [(moment - moments[0], words) for moment, (_, _, words) in zip(moments, lines, strict=True)]


class Cluster:
    """`count` processes behind a `Balancer`, all with the same credentials, model and database.

    As platforms do, it asks each process whether it is ready, unless `asks_readiness` is false.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        model_url: str,
        count: int = 2,
        drain_seconds: float = 5,
        tool_seconds: float = 2,
        asks_readiness: bool = True,
        target: Path = TARGET,
        **more: str,
    ) -> None:
        self.database_url = database_url
        self.drain_seconds = drain_seconds
        self.ledger = folder / "ledger"
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "PUBLIC_URL": PUBLIC_URL,
            "REALTIME_URL": model_url,
            "DATABASE_URL": database_url,
            "DRAIN_SECONDS": f"{drain_seconds:g}",
            "IDLE_SECONDS": "0",  # on a busy machine, callers may say nothing for long
            "LEDGER": str(self.ledger),
            "TOOL_SECONDS": f"{tool_seconds:g}",
            "PHONEAGENT_ENV_FILE": "",
            "LOG_FORMAT": "text",
            **more,
        }
        names = [f"process-{number}" for number in range(count)]
        self.processes = [Process(name, environment, folder / f"{name}.log", target=target) for name in names]
        self.balancer = Balancer(self._ports)
        self.stalled_seconds = 0.0
        """How late this process was in all: a machine that stops for a moment lets everybody wait as long."""
        self._asks_readiness = asks_readiness
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.balancer.__aenter__()
        try:
            await asyncio.gather(*(each.start() for each in self.processes))
        except BaseException:
            await self._end()
            raise
        self._tasks.append(asyncio.create_task(self._measure_stalls()))
        if self._asks_readiness:
            self._tasks.append(asyncio.create_task(self._ask_readiness()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()
        if error is not None:
            for each in self.processes:
                print(f"----- {each.name}\n{each.log.read_text()}")

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self.processes:
            await each.end()
        await self.balancer.__aexit__(None, None, None)

    def _ports(self) -> list[int]:
        return [each.port for each in self.processes if each.port and each.in_rotation and each.ready]

    async def _measure_stalls(self) -> None:
        while True:
            due = time.monotonic() + NAP_SECONDS
            await asyncio.sleep(NAP_SECONDS)
            self.stalled_seconds += max(0.0, time.monotonic() - due)

    async def _ask_readiness(self) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                for each in self.processes:
                    with suppress(aiohttp.ClientError):  # it is gone, or comes: the router finds out by itself
                        async with http.get(f"http://127.0.0.1:{each.port}/readyz") as answer:
                            each.ready = answer.status == 200
                await asyncio.sleep(READINESS_SECONDS)

    def tool_runs(self, call_sid: str) -> int:
        """How often the tool was run for a call, in all processes."""
        return self.ledger.read_text().split().count(call_sid) if self.ledger.exists() else 0
