from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.many import Sample, flat, show

FIRST = Sample(calls=1000, seconds=30, resident_kb=110_000, files=20, threads=4, tasks=4, objects=150_000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"resident_kb": 114_000.0}, True),
        ({"resident_kb": 117_000.0}, False),
        ({"files": 24, "tasks": 7}, True),
        ({"files": 9020}, False),
        ({"tasks": 104}, False),
        ({"threads": 40}, False),
    ],
)
def test_it_is_flat_if_nothing_grew(changes: dict[str, float], expected: bool) -> None:
    last = replace(FIRST, **{"calls": 10_000, **changes})  # type: ignore[arg-type]
    assert flat([FIRST, last]) is expected


def test_the_verdict_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show([FIRST, replace(FIRST, calls=10_000, files=9020)])
    printed = capsys.readouterr().out
    assert "9020" in printed
    assert "NOT flat" in printed
