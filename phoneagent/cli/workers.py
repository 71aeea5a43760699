"""Workers: several processes behind one port. Each answers calls and drains by itself. The parent starts the workers,
replaces those that die, forwards signals, and waits.

uvicorn's own supervisor does not fit: its workers run a plain server, which closes every WebSocket at SIGTERM, and it
kills workers that do not answer a ping. Both would cut off live calls.
"""

from __future__ import annotations

import gc
import logging
import logging.config
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

import uvicorn

from phoneagent.cli import passing
from phoneagent.cli.examining import examining
from phoneagent.cli.target import Target
from phoneagent.drain import INSIST_SECONDS, Server
from phoneagent.errors import ConfigurationError, PhoneAgentError
from phoneagent.server import PhoneApp
from phoneagent.settings import Settings

log = logging.getLogger("phoneagent.workers")

STARTUP_FAILURE = 3
"""The exit status of a worker that never served. uvicorn uses the same when the app fails to start."""

PAUSE_SECONDS = 1.0
"""The minimum time between two starts of the same worker, so that one that dies at once does not use up the CPU."""

GRACE_SECONDS = 10.0
"""A worker that takes this much longer than DRAIN_SECONDS to end is killed."""

FORCED_SECONDS = 5.0
"""How long a worker may take to end after a second Ctrl-C, which means: stop at once."""

_POLL_SECONDS = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a process needs to answer calls. It is pickled for a worker, settings included."""

    target: Target
    settings: Settings
    uvicorn: dict[str, Any]
    """Options of `uvicorn.Config`."""
    log_config: dict[str, Any]

    def run(self, app: PhoneApp, listening: socket.socket, shared: passing.Shared | None = None) -> None:
        """Answer calls in this process until a signal has drained it.

        With `shared`, it is the worker `app.worker` of several that pass connections to each other.

        Raises:
            SystemExit: the app could not be started; the log says why.
        """
        app.examine = examining(app)
        config = uvicorn.Config(app, log_config=None, workers=1, **self.uvicorn)
        server = PunctualServer(config, app, self.settings.drain_seconds, shared)
        server.run(sockets=[listening])
        if not server.started:  # older releases of uvicorn return
            raise SystemExit(STARTUP_FAILURE)


class PunctualServer(Server):
    """A server that loses no early signal and survives a late one.

    Signals are held back while the process starts, and delivered once this server can handle them. Platforms may send
    several SIGTERMs; one that arrives after the drain does not turn a clean exit into a failure.
    """

    ends_process = True

    def __init__(
        self, config: uvicorn.Config, app: PhoneApp, drain_seconds: float, shared: passing.Shared | None = None
    ) -> None:
        super().__init__(config, app, drain_seconds)
        self._passer: passing.Passer | None = None
        if shared is not None and app.worker is not None:
            self._passer = passing.Passer(
                shared, app.worker, carried=lambda: app.carried, draining=lambda: app.draining
            )
            passing.attach(self.server_state, self._passer)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._passer is not None and self.started:
            self._passer.open(self._make_protocol)
            log.info("worker %d takes calls", os.getpid())
        # What exists before the first call stays. A full collection need not scan it while callers wait.
        gc.collect()
        gc.freeze()

    async def on_tick(self, counter: int) -> bool:
        if self._passer is not None:
            self._passer.publish()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._passer is not None:
            self._passer.close()
        await super().shutdown(sockets)

    def _make_protocol(self) -> Any:
        """Return the protocol of a connection, made as uvicorn makes it when it accepts one."""
        make: Any = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            _mask("SIG_UNBLOCK", *_SIGNALS)
            yield


class Workers:
    """The processes and their parent.

    Args:
        start: returns the process for the slot of that number, ready to be started.
        count: the number of processes.
        drain_seconds: how long each process may take to drain, in seconds.
        abandon: takes the number of a slot whose process has ended.
    """

    def __init__(
        self,
        start: Callable[[int], SpawnProcess],
        count: int,
        drain_seconds: float,
        *,
        abandon: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._make = start
        self._abandon = abandon
        self._slots = [_Slot() for _ in range(count)]
        self._drain_seconds = drain_seconds
        self._interrupted_at: float | None = None
        self._kill_at: float | None = None  # None until the workers are told to end
        self._status = 0

    def run(self) -> int:
        """Keep the processes running until a signal ends them, and return the exit status.

        Signals are ignored from then on. The status is 1 if a process failed its first start, or had to be killed.
        """
        for each in _SIGNALS:
            signal.signal(each, self._on_signal)
        while self._kill_at is None or self._live():
            self._start()
            connection.wait([process.sentinel for process in self._live()], _POLL_SECONDS)
            self._reap()
            self._kill_late()
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # the workers have ended: a late signal must change nothing
        return self._status

    def _live(self) -> list[SpawnProcess]:
        return [slot.process for slot in self._slots if slot.process is not None]

    def _start(self) -> None:
        now = time.monotonic()
        for number, slot in enumerate(self._slots):
            with _signals_held():  # in the parent until the slot has the process, in the child until it listens
                if self._kill_at is None and slot.process is None and now >= slot.not_before:
                    process = self._make(number)
                    process.start()
                    slot.process, slot.not_before = process, now + PAUSE_SECONDS
                    slot.starts += 1

    def _reap(self) -> None:
        for number, slot in enumerate(self._slots):
            process = slot.process
            if process is None or process.is_alive():
                continue
            process.join()
            slot.process = None
            self._abandon(number)
            status = process.exitcode
            if self._kill_at is not None:
                continue
            if status == STARTUP_FAILURE and slot.starts == 1:
                log.error("worker %d did not start, so nothing is served: see above", process.pid)
                self._status = 1
                self._stop(signal.SIGTERM)
            else:
                log.warning("worker %d ended with status %s: a new worker replaces it", process.pid, status)

    def _kill_late(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for process in self._live():
                log.error("worker %d does not end in time: killing it", process.pid)
                process.kill()
                self._status = 1
            self._kill_at = float("inf")

    def _on_signal(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now - self._interrupted_at >= INSIST_SECONDS:
                self._kill_at = min(now + FORCED_SECONDS, self._kill_at or now + FORCED_SECONDS)
            self._interrupted_at = self._interrupted_at or now
        self._stop(number)

    def _stop(self, number: int) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._drain_seconds + GRACE_SECONDS
        for process in self._live():
            # In a terminal, Ctrl-C has reached the workers already. They ignore a second signal that comes this soon.
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)


@dataclass(slots=True)
class _Slot:
    """The slot of one worker, which successive processes may fill."""

    process: SpawnProcess | None = None
    not_before: float = 0.0
    starts: int = 0


def run(job: Job, listening: socket.socket, count: int) -> int:
    """Answer calls in `count` processes on one listening socket, and return the exit status.

    Raises:
        ConfigurationError: this system cannot hold signals back (Windows).
    """
    if not hasattr(signal, "pthread_sigmask"):
        raise ConfigurationError([f"WEB_CONCURRENCY is {count}, but Windows supports one process only: set it to 1"])
    context = multiprocessing.get_context("spawn")
    shared = passing.Shared(count, context)

    def start(number: int) -> SpawnProcess:
        return context.Process(target=_work, args=(job, listening, shared, number))

    try:
        return Workers(start, count, job.settings.drain_seconds, abandon=shared.abandon).run()
    finally:
        shared.close()


def _work(job: Job, listening: socket.socket, shared: passing.Shared, number: int) -> None:
    """Run the worker with that number."""
    logging.config.dictConfig(job.log_config)
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        app = job.target.load()
        app.settings = job.settings  # the parent's, so that all workers agree even if .env has changed
        app.worker = number
    except PhoneAgentError as error:
        log.error("%s", error)
        raise SystemExit(STARTUP_FAILURE) from None
    except Exception:  # the user's module may fail here although the parent imported it
        log.exception("the app cannot be imported")
        raise SystemExit(STARTUP_FAILURE) from None
    job.run(app, listening, shared)


def _follow_parent() -> None:
    """Drain when the parent is gone, as after `kill -9`. Nothing else would end this process, and it holds the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        log.warning("the parent process is gone: this worker drains and ends")
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def signals_held(processes: int) -> Iterator[None]:
    """Hold signals back until this process can handle them, as `run` and `Job.run` soon can."""
    if processes > 1:
        resource_tracker.ensure_running()  # its start would release them
    with _signals_held():
        yield


@contextmanager
def _signals_held() -> Iterator[None]:
    _mask("SIG_BLOCK", *_SIGNALS)
    try:
        yield
    finally:
        _mask("SIG_UNBLOCK", *_SIGNALS)


def _mask(how: str, *signals: int) -> None:
    if hasattr(signal, "pthread_sigmask"):  # Windows has no such mask, and runs one process
        signal.pthread_sigmask(getattr(signal, how), signals)
