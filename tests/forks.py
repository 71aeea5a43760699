"""Processes of `phoneagent` that start at once: they are forked from one that has imported it and has done nothing yet.

A process of its own takes a second of computation to import everything. Where a test is about what the process does,
and not about how it starts, it may begin here. It has its own session, environment, folder and files, and it ends as
any other process does. `python -m tests.forks` is the process that is forked; there is one for each process of tests.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

MAX_REQUEST_BYTES = 100_000
_ALSO = ("aiosqlite", "asyncpg", "sqlalchemy.dialects.postgresql.asyncpg", "uvicorn.protocols.http.h11_impl")


class Forked:
    """A running `phoneagent`, with as much of `asyncio.subprocess.Process` as the tests need."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._waiting = asyncio.create_task(self._wait(line))

    async def _wait(self, line: socket.socket) -> int:
        with line:
            said = await asyncio.get_running_loop().sock_recv(line, 100)
        self.returncode = int(said)
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._waiting)

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def start(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout: IO[Any],
    stderr: IO[Any],
    stdin: IO[Any] | None = None,
    cwd: Path | None = None,
) -> Forked:
    """Start `phoneagent` with these arguments, in a session of its own."""
    request = {"arguments": list(arguments), "env": dict(env), "cwd": str(cwd or Path.cwd())}
    ours = _ask(request, stdin, stdout, stderr)
    said = await asyncio.get_running_loop().sock_recv(ours, 100)
    return Forked(int(said), ours)


def _ask(request: dict[str, Any], stdin: IO[Any] | None, *outputs: IO[Any]) -> socket.socket:
    """Ask for a process; return the line on which it is told of."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # its number, and how it ended, by itself
    with theirs, Path(os.devnull).open("rb") as nothing:
        files = [each.fileno() for each in (stdin or nothing, *outputs, theirs)]
        socket.send_fds(_origin(), [json.dumps(request).encode()], files)
    ours.setblocking(False)
    return ours


@functools.cache
def _origin() -> socket.socket:
    """Start what is forked, and return the line on which it is asked; it ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
    environment = {name: value for name, value in os.environ.items() if name.startswith("PYTHON") or name == "PATH"}
    with theirs:
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- the process that is forked ---


def main(line: socket.socket) -> None:
    """Fork for each request, until the line is closed."""
    package = importlib.import_module("phoneagent")
    for found in pkgutil.walk_packages(package.__path__, "phoneagent."):
        if "__main__" not in found.name and ".migrations" not in found.name:
            with suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(found.name)
    for name in _ALSO:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        request, files, _, _ = socket.recv_fds(line, MAX_REQUEST_BYTES, 4)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request:
            return
        if os.fork() == 0:
            line.close()
            _keep(json.loads(request), files)
            return
        for each in files:
            os.close(each)


def _keep(request: dict[str, Any], files: list[int]) -> None:
    """Start the process that was asked for, tell its number, and, when it has ended, how."""
    pid = os.fork()
    if pid == 0:
        _run(request, files)
    for each in files[:3]:
        os.close(each)
    with socket.socket(fileno=files[3]) as told, suppress(OSError):
        told.send(b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told.send(b"%d\n" % code)
    os._exit(0)


def _run(request: dict[str, Any], files: list[int]) -> None:
    os.setsid()
    os.close(files[3])
    for number, each in enumerate(files[:3]):
        os.dup2(each, number)
        os.close(each)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["cwd"]
    sys.argv = ["phoneagent", *request["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module("phoneagent", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
