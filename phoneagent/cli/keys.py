"""Telephone keys typed in a terminal: one key at a time, without Enter. The terminal is restored afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

KEYS = frozenset("0123456789*#")

_CHUNK_BYTES = 64


class KeyParser:
    """A parser that finds telephone keys in what a terminal sends.

    Arrow and function keys arrive as escape sequences, some with digits in them. Those are skipped, even when they
    arrive in pieces.
    """

    def __init__(self) -> None:
        self._state = "text"

    def feed(self, typed: str) -> str:
        """Return the keys in `typed`, in order."""
        return "".join(each for each in typed if self._is_key(each))

    def _is_key(self, char: str) -> bool:
        match self._state:
            case "escape" if char in "[O":
                self._state = "sequence" if char == "[" else "last"
            case "escape" if char != "\x1b":
                self._state = "text"
                return char in KEYS  # Escape was pressed by itself
            case "sequence" if "@" <= char <= "~":
                self._state = "text"
            case "last":
                self._state = "text"
            case "text" if char == "\x1b":
                self._state = "escape"
            case "text":
                return char in KEYS
        return False


@contextmanager
def reading_keys(on_key: Callable[[str], object], *, fd: int | None = None) -> Iterator[bool]:
    """Call `on_key` in the event loop for each key, while the context lasts. Yields whether keys can be typed.

    They cannot without a terminal, or on a system without termios. Ctrl-C stays a signal.
    """
    if fd is None:
        try:
            fd = sys.stdin.fileno()
        except (OSError, ValueError, AttributeError):  # closed, or replaced by something that is not a file
            yield False
            return
    if sys.platform == "win32" or not os.isatty(fd):
        yield False
        return
    import termios
    import tty

    loop, parser = asyncio.get_running_loop(), KeyParser()

    def read() -> None:
        typed = os.read(fd, _CHUNK_BYTES)
        if not typed:
            loop.remove_reader(fd)
        for key in parser.feed(typed.decode("latin-1")):
            on_key(key)

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        loop.add_reader(fd, read)
        yield True
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSANOW, before)
