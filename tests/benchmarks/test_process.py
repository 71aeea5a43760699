from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from benchmarks import process

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux")
PID = os.getpid()


def test_cpu_time_and_memory_are_those_of_the_system() -> None:
    times = os.times()
    assert process.cpu_ms([PID]) >= (times.user + times.system) * 1000 - 100
    assert process.resident_kb([PID]) > 10_000
    assert process.resident_kb([PID, PID]) == pytest.approx(2 * process.resident_kb([PID]), rel=0.05)
    assert process.threads(PID) >= 1
    assert process.usage([PID], None).core_ms is None
    core = min(os.sched_getaffinity(0))
    assert (process.usage([PID], core).core_ms or 0) > 0


def test_open_files_are_counted() -> None:
    before = process.files(PID)
    with socket.socket():
        assert process.files(PID) == before + 1


def test_connections_are_counted_by_the_process_that_holds_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert process.connections([PID], port) == {PID: 0}
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
            assert process.connections([PID], port) == {PID: 2}


def test_a_family_is_a_process_and_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            assert {PID, child.pid} <= set(process.family(PID))
            assert process.family(child.pid) == [child.pid]
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()
