"""Fixtures of the whole suite, and Hypothesis: the same examples on every run, no deadline for a slow machine."""

from __future__ import annotations

import gc
import signal
import time

import aiosqlite.core
import pytest
from hypothesis import settings

from tests.clock import Clock

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"


@pytest.fixture
def skipping_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """An `anyio_backend` on which calls take no longer than their computations; tests marked `real_time` do."""
    if request.node.get_closest_marker("real_time"):
        return "asyncio"
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.now)
    monkeypatch.setattr(aiosqlite.core, "SimpleQueue", clock.sqlite_queue)
    return ("asyncio", {"loop_factory": clock.loop})


def pytest_configure() -> None:
    """A process in the background of a shell ignores Ctrl+C, and each process that it starts inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, or everything else waits for it; one worker has all of it, as it is heavy.

    A browser needs a core for its sound, so its tests run one at a time.
    """
    items.sort(key=lambda item: "resilience" not in item.path.parts)
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker("browser")
        if hasattr(config, "workerinput") and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason="a browser's tests run one at a time: pytest -n 0 -m browser"))


def pytest_collection_finish() -> None:
    """Tests look with the garbage collector for what is left of a call: it passes over what was imported."""
    gc.collect()
    gc.freeze()
