"""Telephone keys in a terminal: what is a key, and that the terminal is as it was afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from collections.abc import Iterator

import pytest

from phoneagent.cli.keys import KeyParser, reading_keys
from tests.patience import HANG_SECONDS


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("12*#", "12*#"),
        ("a1 b\n2é", "12"),
        ("\x1b[A5", "5"),  # an arrow
        ("\x1b[15~6", "6"),  # F5
        ("\x1bOP7", "7"),  # F1
        ("\x1b[1;5C8", "8"),  # Ctrl-Right
        ("\x1b9", "9"),  # Escape, then 9
        ("\x1b\x1b[3~4", "4"),
    ],
)
def test_only_telephone_keys_count(typed: str, keys: str):
    assert KeyParser().feed(typed) == keys
    whole = KeyParser()
    assert "".join(whole.feed(each) for each in typed) == keys, "also when it comes in pieces"


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the end that a person types at, and the end that the program reads."""
    person, program = os.openpty()
    yield person, program
    os.close(person)
    os.close(program)


def mode(fd: int) -> list[object]:
    return termios.tcgetattr(fd)[:4]


def test_keys_come_one_by_one_and_the_terminal_is_restored(terminal: tuple[int, int]):
    person, program = terminal
    before = mode(program)

    async def read() -> list[str]:
        pressed: asyncio.Queue[str] = asyncio.Queue()
        with reading_keys(pressed.put_nowait, fd=program) as typed:
            assert typed
            local = termios.tcgetattr(program)[3]
            assert not local & (termios.ICANON | termios.ECHO), "no Enter is needed, and nothing is echoed"
            assert local & termios.ISIG, "Ctrl-C stays a signal"
            os.write(person, b"x4\x1b[15~#")
            return [await asyncio.wait_for(pressed.get(), HANG_SECONDS) for _ in range(2)]

    assert asyncio.run(read()) == ["4", "#"]
    assert mode(program) == before


def test_the_terminal_is_restored_after_an_error(terminal: tuple[int, int]):
    _, program = terminal
    before = mode(program)

    async def fail() -> None:
        with reading_keys(print, fd=program):
            raise RuntimeError("the call failed")

    with pytest.raises(RuntimeError):
        asyncio.run(fail())
    assert mode(program) == before


def test_without_a_terminal_nothing_is_read(monkeypatch: pytest.MonkeyPatch):
    reader, writer = os.pipe()
    with reading_keys(print, fd=reader) as typed:
        assert not typed
    monkeypatch.setattr(sys, "stdin", None)
    with reading_keys(print) as typed:
        assert not typed
    os.close(reader)
    os.close(writer)
