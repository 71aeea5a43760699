"""Watchers of calls in the benchmark: they get what happens in the calls, and what they cost is measured."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from benchmarks import watchers
from benchmarks.load import Load, ModelPort
from benchmarks.subject import Running, phoneagent

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")


@pytest.mark.anyio
async def test_readers_get_the_events_of_calls_that_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "PAIRS", 1)
    bridge = phoneagent()
    with closing(ModelPort()) as port:
        await port.open()
        async with Running(bridge, port.url, None) as running:
            load = port.load = Load(running.address, bridge.voice_path, bridge.status_path)
            load.start()
            await load.grow(2, per_second=100)
            found = await watchers.measure(load, running, watchers.readers(3), 4.0)
            await load.shrink(0)
            load.stop()
    assert (found.watchers, found.calls) == ("3 readers of events", 2)
    assert found.events_per_second
    assert found.events_per_second > 0
    assert min(found.with_ms, found.without_ms) > 0


@pytest.mark.anyio
async def test_an_event_whose_mark_comes_in_two_pieces_is_counted_once() -> None:
    reader = watchers.Reader()
    reader.data_received(b"HTTP/1.1 200 OK\r\n\r\nid: 1\neve")
    for piece in (b"nt: a\ndata: {}\n\nid: 2\nevent: b", b"\n\nid: 3", b"\nevent: c\n\n"):
        reader.data_received(piece)
    assert reader.events == 3
    assert reader.begun.done()


@pytest.mark.anyio
async def test_a_reader_that_is_refused_is_an_error() -> None:
    reader = watchers.Reader()
    reader.data_received(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    reader.connection_lost(None)
    with pytest.raises(ConnectionError, match="a reader of events was refused"):
        await reader.begun
