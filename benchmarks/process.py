"""The figures of processes in Linux: CPU time, memory, threads, files and connections."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """Return a process and all its live descendants."""
    found = [pid]
    for each in found:  # it grows during the loop
        try:
            for task in (PROC / str(each) / "task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def cpu_ms(pids: Iterable[int]) -> float:
    """Return the CPU time that these processes have used, in user and kernel mode, in milliseconds."""
    return sum(_cpu_ticks(pid) for pid in pids) * _TICK_MS


def _cpu_ticks(pid: int) -> int:
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time up to a moment, in milliseconds."""

    bridge_ms: float
    others_ms: float
    """The CPU time of other programs on the bridge's cores, without the generator."""
    cores: int


def usage(pids: Collection[int], cores: Collection[int], *, generator: bool) -> Usage:
    """Return the CPU time used so far by the bridge's processes, and by other programs on its cores.

    `generator`: whether this process may use these cores too.
    """
    bridge_ms = cpu_ms(pids)
    own_ms = cpu_ms([os.getpid()]) if generator else 0.0
    return Usage(bridge_ms, sum(map(_busy_ms, cores)) - bridge_ms - own_ms, len(cores))


def _busy_ms(core: int) -> float:
    line = next(line for line in (PROC / "stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, interrupts, soft, stolen = map(int, line.split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) * _TICK_MS


def resident_kb(pids: Iterable[int]) -> float:
    """Return the resident memory of these processes in KB (1024 bytes); shared pages count in each."""
    return sum(int((PROC / str(pid) / "statm").read_text().split()[1]) for pid in pids) * _PAGE_BYTES / 1024


def files(pid: int) -> int:
    """Return how many files a process has open, sockets among them."""
    return len(os.listdir(PROC / str(pid) / "fd"))


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(PROC / str(pid) / "task"))


def connections(pids: Iterable[int], remote_port: int) -> dict[int, int]:
    """Return how many established TCP connections each of these processes has to a port of this machine."""
    inodes = _inodes(remote_port)
    found = {}
    for pid in pids:
        folder = PROC / str(pid) / "fd"
        links = (_link(folder / name) for name in os.listdir(folder))
        found[pid] = sum(
            1 for link in links if (socket := re.fullmatch(r"socket:\[(\d+)\]", link)) and socket[1] in inodes
        )
    return found


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed in the meantime
        return ""


def _inodes(remote_port: int) -> set[str]:
    """Return the inodes of established sockets whose far end is that port."""
    found = set()
    for name in ("tcp", "tcp6"):
        path = PROC / "net" / name
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == "01" and int(fields[2].rpartition(":")[2], 16) == remote_port:
                found.add(fields[9])
    return found
