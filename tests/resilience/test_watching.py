"""The example by which a person watches calls survive."""

from __future__ import annotations

import importlib.util
import io
import itertools
from pathlib import Path

import pytest
from rich.console import Console

pytestmark = pytest.mark.anyio
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "deploy.py"


async def test_no_call_is_lost_before_the_eyes_of_a_person() -> None:
    spec = importlib.util.spec_from_file_location("example_deploy_watched", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    screen = io.StringIO()
    assert await module.show(Console(file=screen, width=100)) == 0, screen.getvalue()
    assert "B has ended with status 0" in screen.getvalue()
    assert "3 calls, 0 lost" in screen.getvalue()
    strips = [line for line in screen.getvalue().splitlines() if line.startswith("call ")]
    assert len(strips) == 3
    for strip in strips:  # on A, then on B, and heard there
        letters = "".join(each for each, _ in itertools.groupby(filter(str.isalpha, strip[6:].upper())))
        assert letters[:2] == "AB", screen.getvalue()
        assert "B" in strip, screen.getvalue()
