from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.sizes import SIZES, Size, capacity, main, parser, table

README = Path(__file__).parents[2] / "benchmarks" / "README.md"


@pytest.mark.parametrize(
    ("size", "calls", "processes", "bound"),
    [
        (Size("a core", 1, 4096), 100, 1, "CPU"),
        (Size("two cores", 2, 4096), 200, 2, "CPU"),
        (Size("half a core", 0.5, 4096), 50, 1, "CPU"),
        (Size("little memory", 2, 512), 166, 2, "memory"),
        (Size("hardly any memory", 1, 128), 0, 1, "memory"),
    ],
)
def test_a_host_carries_what_its_cpu_and_its_memory_do(size: Size, calls: int, processes: int, bound: str) -> None:
    found = capacity(size, cost_ms=6.0, call_kb=1024.0, base_mb=121.5)
    assert (found.calls, found.processes, found.bound) == (calls, processes, bound)


def test_the_table_has_all_sizes() -> None:
    lines = table(5, 100).splitlines()
    assert len(lines) == 2 + len(SIZES)
    assert {line.count("|") for line in lines} == {7}


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "much"])
def test_a_cost_is_a_number_above_zero(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--cost", text, "--memory", "100"])
    assert "--cost" in capsys.readouterr().err


def test_the_readme_has_the_table_that_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = README.read_text("utf-8")
    command = re.search(r"python -m benchmarks\.sizes (.*)", text)
    assert command is not None
    assert main(command[1].split()) == 0
    assert capsys.readouterr().out in text
