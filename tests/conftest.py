"""Fixtures of the whole suite, and Hypothesis: the same examples on every run, no deadline for a slow machine."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress

import aiosqlite.core
import pytest
from hypothesis import settings

from tests.clock import Clock

# Without bytecode, each worker and each process of a test would compile everything anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY, ROOM = "/dev/shm", 2 * 1024**3
"""Where Linux keeps files in memory, and how many bytes are free there if that is meant for programs."""

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """The handlers of signals after each test: a process that ends ignores them, and its children inherit that."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        if signal.getsignal(each) is not handler:
            signal.signal(each, handler)


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
    """A process in the background of a shell ignores Ctrl+C, and each process that it starts inherits that.

    A disk may stall for seconds, and then calls are told that their database does not answer: files are kept in memory.
    """
    if _has_room(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _has_room(folder: str) -> bool:
    """Tell whether files can be kept in a folder, and programs be run there."""
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):  # another system than Linux
        return False
    return os.access(folder, os.W_OK) and not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= ROOM


@pytest.hookimpl(wrapper=True, specname="pytest_collection")
def collection_without_the_collector() -> Generator[None, object, object]:
    """A pause of the garbage collector while tests are collected: all that is made stays, and looking takes a fifth."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection(session: pytest.Session) -> None:
    """The import of all modules, from another one on in each worker: in a fresh copy, each compiles a part for all."""
    config = session.config
    if not hasattr(config, "workerinput") or config.args != config.getini("testpaths"):
        return
    root = config.rootpath
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in sorted(root.glob("tests/**/test_*.py"))]
    first = len(names) * int(config.workerinput["workerid"].removeprefix("gw")) // config.workerinput["workercount"]
    for name in names[first:] + names[:first]:
        with suppress(Exception, pytest.skip.Exception):  # the collection tells what is wrong
            importlib.import_module(name)


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
