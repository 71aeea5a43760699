"""Transports that keep what is written, and calls without a bridge."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.call import Call
from benchmarks.flow import Flow
from benchmarks.wire import FrameReader


class Wire:
    """A transport: what a protocol wrote."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def events(self) -> list[dict[str, Any]]:
        """Return the messages written since the last time, without an HTTP head before them."""
        data, self.written = self.written, b""
        if data[:4] in (b"HTTP", b"GET "):
            data = data.partition(b"\r\n\r\n")[2]
        return [json.loads(payload) for _, payload in FrameReader().feed(data)]


@pytest.fixture
def call() -> Call:
    return Call(Flow([]), Flow([]))
