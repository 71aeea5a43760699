"""The console in a browser, as the benchmark opens it: it shows the calls, and what it costs the app is measured."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from benchmarks import console_page, watchers
from benchmarks.load import Load, ModelPort
from benchmarks.subject import Running, phoneagent
from tests.browser.conftest import chromium

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux"),
    pytest.mark.skipif(chromium() is None, reason="no chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.browser,
]


@pytest.mark.anyio
async def test_the_console_is_open_while_the_calls_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "PAIRS", 1)
    monkeypatch.setenv("CHROMIUM", str(chromium()))
    bridge = phoneagent()
    with closing(ModelPort()) as port:
        await port.open()
        async with Running(bridge, port.url, None) as running:
            load = port.load = Load(running.address, bridge.voice_path, bridge.status_path)
            load.start()
            await load.grow(2, per_second=100)
            found = await watchers.measure(load, running, console_page.console_page(), 2.0)
            async with console_page.console_page().open(running.address, 2) as counts:
                assert list(counts()) == []
            monkeypatch.setattr(console_page, "OPEN_SECONDS", 0.5)
            with pytest.raises(ConnectionError, match="does not show 3 calls"):
                async with console_page.console_page().open(running.address, 3):
                    pass
            await load.shrink(0)
            load.stop()
    assert (found.watchers, found.calls, found.events_per_second) == ("the console in a browser", 2, None)
    assert min(found.with_ms, found.without_ms) > 0
