"""Ctrl-C and SIGTERM, for commands that run until one of them comes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def on_stop_signal(action: Callable[[], None]) -> None:
    """Call `action` at each SIGINT and SIGTERM. Must be called on the event loop."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(name, action)
        except NotImplementedError:  # Windows: Ctrl-C arrives as KeyboardInterrupt
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(action))


def stop_signal() -> asyncio.Event:
    """Return an event that is set by the first SIGINT or SIGTERM. Must be called on the event loop."""
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    return stop
