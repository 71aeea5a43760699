"""Whole calls of the generator: through the app and through the baseline, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from benchmarks import process
from benchmarks.bridge import Cores, chosen, least_disturbed, parser, search
from benchmarks.load import Load, ModelPort
from benchmarks.results import Window
from benchmarks.subject import Bridge, Running, phoneagent, tutorial
from tests.benchmarks.test_report import window
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")


@pytest.mark.anyio
@pytest.mark.parametrize("bridge", [phoneagent(), tutorial()], ids=lambda bridge: bridge.name)
async def test_two_calls_are_carried_interrupted_and_hung_up(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.RESUME_SECONDS", 5.0)
    with closing(ModelPort()) as port:
        await port.open()
        async with Running(bridge, port.url, None) as running:
            load = port.load = Load(running.address, bridge.voice_path, bridge.status_path)
            load.start()
            pids = running.pids()
            calls = await load.grow(2, per_second=100)
            found = await load.measure(0.3, running.usage)
            barge_ins = await load.barge_in(1)
            assert process.connections(pids, port.port)[pids[0]] == 2
            await load.shrink(0)
            load.stop()
            assert not load.faults()
            assert (found.calls, found.lost, found.broken) == (2, 0, 0)
            most = 80 + found.generator.late_max_ms / 10  # of two calls, after a machine that stood still
            assert 1 <= found.to_model.latency.count <= most
            assert 1 <= found.to_caller.latency.count <= most
            assert (barge_ins.reaction.count, barge_ins.unanswered, barge_ins.silent) == (2, 0, 0)
            for call in calls:
                assert call.accept_seconds is not None
                assert call.greeting_seconds is not None
                assert 0 < call.accept_seconds < HANG_SECONDS
                assert 0 < call.greeting_seconds < HANG_SECONDS


@pytest.mark.anyio
async def test_a_call_that_is_not_connected_is_an_error_and_leaves_nothing() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        load = Load(server.sockets[0].getsockname(), "/voice")
        with pytest.raises(ConnectionError, match="a call was not connected: the webhook answered 503: full"):
            await load.grow(2, per_second=1000)
        assert load.calls == []


def test_the_least_disturbed_window_counts() -> None:
    windows = [replace(window(10, p99), others=others) for p99, others in ((50.0, 0.4), (30.0, 0.2), (40.0, 0.3))]
    left = iter(windows)

    async def measure() -> Window:
        return next(left)

    assert asyncio.run(least_disturbed(measure)) is windows[1]
    assert next(left, None) is None
    left = iter([replace(windows[0], others=0.01), *windows])
    assert asyncio.run(least_disturbed(measure)).others == 0.01


@pytest.mark.anyio
async def test_a_bridge_that_does_not_start_says_why() -> None:
    bridge = Bridge("broken", "/", None, ("-c", "raise SystemExit('no port for me')"), {})
    with pytest.raises(RuntimeError, match=r"broken did not start:\nno port for me"):
        async with Running(bridge, "ws://127.0.0.1:9", None):
            pass


STARTS_ONE_AND_WAITS = """
import asyncio, signal
from benchmarks.subject import Bridge, Running

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # and its children inherit that

LISTEN = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"

async def main():
    bridge = Bridge("a server", "/", None, ("-c", LISTEN, "{port}"), {})
    async with Running(bridge, "ws://127.0.0.1:9", None) as running:
        print(running.pids()[0], flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_bridge_ends_when_its_generator_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS_ONE_AND_WAITS], stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None
        pid = int(generator.stdout.readline())
        ended = os.pidfd_open(pid)
        generator.kill()
        assert select.select([ended], [], [], HANG_SECONDS)[0] == [ended]
        os.close(ended)


@pytest.mark.anyio
@pytest.mark.parametrize(("borne", "begin"), [(95, 100), (300, 100), (7, 20), (0, 10)])
async def test_the_search_finds_the_most_calls(borne: int, begin: int) -> None:
    tried: list[int] = []

    async def measure(number: int, seconds: float) -> object:
        tried.append(number)
        return window(number, 5.0 if number <= borne else 50.0)

    most = await search(measure, begin)  # type: ignore[arg-type]
    assert borne - 10 < most <= borne or most == borne == 0
    assert len(tried) < 12


@pytest.mark.anyio
async def test_a_loss_ends_the_search_like_a_late_frame() -> None:
    async def measure(number: int, seconds: float) -> object:
        if number > 60:
            raise ConnectionError("a call was not connected")
        return window(number, 5.0, lost=int(number > 40))

    assert 30 < await search(measure, 100) <= 40  # type: ignore[arg-type]


def test_several_workers_are_compared_with_one() -> None:
    options = parser().parse_args(["--workers", "2", "--bridges", "phoneagent", "--media-socket", "asgi"])
    assert [each.name for each in chosen(options)] == ["phoneagent (asgi)", "phoneagent (asgi), 2 workers"]
    assert Cores.share(2) == Cores(None, None)


def test_bridge_and_generator_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert Cores.share(1) == Cores({3}, {5, 7})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert Cores.share(1) == Cores(None, None)


@pytest.mark.parametrize("arguments", [["--calls", "0"], ["--calls", "x"], ["--bridges", "phoneagent,other"]])
def test_wrong_options_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(arguments)
    assert arguments[0] in capsys.readouterr().err
