from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

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


def test_what_others_had_of_the_cores_is_neither_the_bridges_nor_the_generators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid, user, system in ((7, 30, 10), (PID, 100, 50)):
        (tmp_path / str(pid)).mkdir()
        fields = " ".join(["S", *["0"] * 10, str(user), str(system), *["0"] * 20])
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (strange) name) {fields}")
    cores = "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 200 1 50 999 999 1 1 7 0 0\ncpu1 300 0 0 999 999 0 0 0 0 0\n"
    (tmp_path / "stat").write_text(cores)
    monkeypatch.setattr(process, "PROC", tmp_path)
    tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
    alone = process.usage([7], {0}, generator=False)
    assert (alone.bridge_ms, alone.others_ms, alone.cores) == (40 * tick_ms, 220 * tick_ms, 1)
    shared = process.usage([7], {0, 1}, generator=True)
    assert (shared.bridge_ms, shared.others_ms, shared.cores) == (40 * tick_ms, (560 - 40 - 150) * tick_ms, 2)


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
