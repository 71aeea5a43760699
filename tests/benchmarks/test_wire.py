from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key as accepted

from benchmarks.wire import (
    PING,
    TEXT,
    Cache,
    FrameReader,
    accept_key,
    client_frame,
    head,
    masked,
    server_frame,
)

SIZES = [0, 1, 125, 126, 300, 65535, 65536]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", [False, True])
def test_it_reads_what_a_library_writes(size: int, mask: bool) -> None:
    payload = bytes(at % 251 for at in range(size))
    data = Frame(Opcode.TEXT, payload).serialize(mask=mask) + Frame(Opcode.PING, b"still there?").serialize(mask=mask)
    assert FrameReader().feed(data) == [(TEXT, payload), (PING, b"still there?")]


@pytest.mark.parametrize("size", SIZES)
def test_a_servers_frame_is_what_a_library_writes(size: int) -> None:
    payload = b"x" * size
    assert server_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(st.lists(st.binary(max_size=200), max_size=5), st.lists(st.integers(0, 1200)))
def test_frames_come_whole_however_they_are_split(payloads: list[bytes], cuts: list[int]) -> None:
    data, reader, found = b"".join(map(client_frame, payloads)), FrameReader(), []
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for begin, end in pairwise(places):
        found += reader.feed(data[begin:end])
    assert found == [(TEXT, payload) for payload in payloads]


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_payload_may_be_masked_in_parts(first: bytes, second: bytes) -> None:
    whole = head(len(first + second), mask=True) + masked(first) + masked(second, len(first))
    assert whole == client_frame(first + second)


@pytest.mark.parametrize("begin", [0x01, 0xC1], ids=["fragment", "compressed"])
def test_a_frame_that_is_not_whole_and_plain_is_refused(begin: int) -> None:
    with pytest.raises(ValueError, match=f"begins with 0x{begin:02x}"):
        FrameReader().feed(bytes((begin, 2)) + b"{}")


def test_the_handshake_is_answered_as_a_library_does() -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    assert accept_key(key.encode()).decode() == accepted(key)


def test_a_cache_makes_each_string_once() -> None:
    made: list[int] = []

    def make(number: int) -> bytes:
        made.append(number)
        return json.dumps(number).encode()

    cache = Cache(make)
    assert [cache[2], cache[0], cache[2]] == [b"2", b"0", b"2"]
    assert made == [0, 1, 2]
