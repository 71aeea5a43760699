"""The group of the simulators."""

from __future__ import annotations

import pytest

from tests.cli.conftest import run


def test_the_help_names_every_simulator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "sim", "-h") == 0
    shown = capsys.readouterr().out
    assert [name for name in ("call", "rest", "model") if f"\n  {name} " not in shown] == []
