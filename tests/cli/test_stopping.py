"""Commands that run until a signal comes."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from phoneagent.cli.stopping import stop_signal
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("unix", [True, False])
async def test_a_signal_sets_the_event(name: signal.Signals, unix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    if not unix:

        def refuse(*_: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(loop, "add_signal_handler", refuse)
    stop = stop_signal()
    try:
        assert not stop.is_set()
        signal.raise_signal(name)
        async with asyncio.timeout(HANG_SECONDS):
            await stop.wait()
    finally:
        if unix:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)
