"""The bridges to measure, each in its own processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from benchmarks import process
from benchmarks.call import ACCOUNT_SID
from benchmarks.phone import AUTH_TOKEN, PUBLIC_URL

HERE = Path(__file__).parent
START_SECONDS = 30.0
STOP_SECONDS = 20.0
API_TOKEN = "benchmark-token"
"""Opens /metrics, so that the app counts as it does in production."""

LISTEN = ("--host", "127.0.0.1", "--port", "{port}")

KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT")
"""Variables that a bridge inherits from this process's environment. The user's settings must not change the results."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge to measure."""

    name: str
    voice_path: str
    status_path: str | None
    command: tuple[str, ...]
    """The arguments for Python; `{port}` stands for the port."""
    environment: Mapping[str, str]
    workers: int = 1


def phoneagent(*, workers: int = 1, media_socket: str | None = None) -> Bridge:
    """Return the app itself, with everything on."""
    way = () if media_socket is None else ("--media-socket", media_socket)
    name = "phoneagent" if media_socket is None else f"phoneagent ({media_socket})"
    return Bridge(
        name=name if workers == 1 else f"{name}, {workers} workers",
        voice_path="/twilio/voice",
        status_path="/twilio/status",
        command=(
            "-m",
            "phoneagent",
            "serve",
            str(HERE / "bench_app.py"),
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            *way,
        ),
        environment={
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "PUBLIC_URL": PUBLIC_URL,
            "REALTIME_HEADERS": '{"X-Bench-Call": "{call_sid}"}',
            "DATABASE_URL": "sqlite:///calls.db",
            "MAX_CALLS": "100000",
            "MAX_CALLS_PER_CALLER": "100000",
            "WEB_CONCURRENCY": str(workers),
            "DRAIN_SECONDS": "1",
            "PHONEAGENT_API_TOKEN": API_TOKEN,
            "PHONEAGENT_ENV_FILE": "",
        },
        workers=workers,
    )


def tutorial() -> Bridge:
    """Return the baseline, under uvicorn as tutorials start it."""
    return Bridge(
        name="tutorial",
        voice_path="/voice",
        status_path=None,
        command=("-m", "uvicorn", "benchmarks.tutorial_bridge:app", *LISTEN),
        environment={"OPENAI_API_KEY": "sk-benchmark"},
    )


class Running:
    """A running bridge, in its own folder. `cores`: the cores it may use, None for any."""

    def __init__(
        self, bridge: Bridge, model_url: str, cores: Collection[int] | None, profile: Path | None = None
    ) -> None:
        self.bridge = bridge
        self._model_url = model_url
        self._cores = cores
        self._profile = profile
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        self.address = ("127.0.0.1", _free_port())
        self._process: subprocess.Popen[bytes]

    async def __aenter__(self) -> Running:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        paths = [os.environ.get("PYTHONPATH", ""), str(HERE.parent)]  # so that another tree's app can be measured
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "REALTIME_URL": self._model_url,
            **self.bridge.environment,
        }
        command = [each.format(port=self.address[1]) for each in self.bridge.command]
        if self._profile is not None:
            command = ["-m", "cProfile", "-o", str(self._profile), *command]
        self.log = Path(self._folder.name, "log")
        own = os.sched_getaffinity(0)
        try:
            if self._cores is not None:
                os.sched_setaffinity(0, self._cores)  # the child inherits it, and so do its workers
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(  # noqa: ASYNC220 - the load has not begun
                    [sys.executable, *command],
                    cwd=self._folder.name,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_end_with_parent,
                )
        finally:
            os.sched_setaffinity(0, own)
        try:
            await self._until_ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.bridge.name} did not start:\n{self.log_end()}")
            try:
                with socket.create_connection(self.address, 0.2):
                    pass
                await asyncio.sleep(0.2)
                if len(self.pids()) >= (self.bridge.workers if self.bridge.workers > 1 else 0) + 1:
                    return
            except OSError:
                await asyncio.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    def pids(self) -> list[int]:
        """Return the pids of the bridge: the process that was started, and its workers."""
        return process.family(self._process.pid)

    def usage(self) -> process.Usage:
        """Return the CPU time used so far by the bridge, and by other programs on its cores."""
        cores = self._cores or os.sched_getaffinity(0)
        return process.usage(self.pids(), cores, generator=self._cores is None)

    def log_end(self) -> str:
        """Return the last lines of its log."""
        return self.log.read_text("utf-8", "replace")[-2000:]

    def get(self, path: str) -> str:
        """Return the server's answer to a GET.

        Raises:
            OSError: it does not answer, or refuses.
        """
        host, port = self.address
        with urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())


def _end_with_parent() -> None:
    """Have the system end this process when its parent is gone, even after `kill -9`."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a process inherits which signals are ignored
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def _free_port() -> int:
    """Return a free port below those that the system gives to connections, so that none takes it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
