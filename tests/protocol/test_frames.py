"""Frames, cut out of a stream of bytes however it arrives, and held against the WebSocket library's own parser."""

from __future__ import annotations

import importlib.util
import sys
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from phoneagent.protocol import frames
from phoneagent.protocol.frames import MAX_PIECES, MAX_PLAIN_BYTES, FrameReader, masks, text_frame

TEXT = b'{"event": "media"}'


def wire(data: bytes, opcode: Opcode = Opcode.TEXT, *, masked: bool = False, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=masked)


def reader(*, masked: bool = False) -> FrameReader:
    made = FrameReader(masked=masked)
    made.direct = True
    return made


def joined(pieces: list[tuple[bool, bytes]]) -> list[tuple[bool, bytes]]:
    """Return the pieces with those for the library put together, as it reads them as one stream."""
    made: list[tuple[bool, bytes]] = []
    for plain, piece in pieces:
        if not plain and made and not made[-1][0]:
            made[-1] = (False, made[-1][1] + piece)
        else:
            made.append((plain, piece))
    return made


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 400, MAX_PLAIN_BYTES])
def test_a_plain_message_is_unpacked(masked: bool, size: int) -> None:
    data = b"x" * size
    assert reader(masked=masked).feed(wire(data, masked=masked)) == [(True, data)]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("long", [True, False])
def test_a_read_that_only_looks_like_one_whole_message_is_cut(masked: bool, long: bool) -> None:
    bit, head = (0x80, 6) if masked else (0, 2)
    if long:  # 127 stands for a length of eight bytes
        first = bytes((0x81, 127 | bit)) + (3).to_bytes(8, "big") + bytes(head - 2) + b"abc"
    else:
        first = wire(b"abc", masked=not masked)
    rest = head + (first[1] ^ bit) - len(first)
    stream = first + wire(b"", masked=masked) + wire(b"x" * (rest - 2 * head), masked=masked)
    made = reader(masked=masked)
    byte_by_byte = [piece for byte in stream for piece in made.feed(bytes((byte,)))]
    assert joined(reader(masked=masked).feed(stream)) == joined(byte_by_byte)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [126, 400, MAX_PLAIN_BYTES])
def test_a_read_that_is_one_plain_message_needs_no_cutting(masked: bool, size: int) -> None:
    assert reader(masked=masked).whole(wire(b"x" * size, masked=masked)) == b"x" * size


@pytest.mark.parametrize("masked", [True, False])
def test_anything_else_is_not_one_whole_message(masked: bool) -> None:
    data = wire(b"x" * 200, masked=masked)
    binary, pong = wire(b"x" * 200, Opcode.BINARY, masked=masked), wire(b"", Opcode.PONG, masked=masked)
    for odd in (
        b"",
        data[:1],
        data[:9],
        data[:-1],
        data + b"\x81",
        data + data,
        binary,
        wire(b"x" * 200, masked=not masked),
    ):
        assert reader(masked=masked).whole(odd) is None
    for amid in (data[:1], data[:-1], binary[:-1], wire(b"x", masked=masked, fin=False), data * (MAX_PIECES + 1)):
        made = reader(masked=masked)
        made.feed(amid)
        assert made.whole(data) is None
        made = reader(masked=masked)
        made.feed(data + pong)
        assert made.whole(data) == b"x" * 200
    library = FrameReader(masked=masked)  # it still opens the connection
    assert library.whole(data) is None


def test_several_messages_of_one_read_come_in_order() -> None:
    ping, binary = wire(b"1", Opcode.PING), wire(b"2", Opcode.BINARY)
    stream = wire(b"a") + wire(b"b") + ping + binary + wire(b"c")
    assert joined(reader().feed(stream)) == [(True, b"a"), (True, b"b"), (False, ping + binary), (True, b"c")]


ODD = {
    "a message that is too long": wire(b"x" * (MAX_PLAIN_BYTES + 1)),
    "a binary message": wire(b"x", Opcode.BINARY),
    "a ping": wire(b"x", Opcode.PING),
    "a close": wire(b"\x03\xe8", Opcode.CLOSE),
    "a compressed message": b"\xc1\x01x",
    "a masked message of a server": wire(b"x", masked=True),
    "an unknown opcode": b"\x83\x00",
    "fragments with a ping between": wire(b"x", fin=False)
    + wire(b"", Opcode.PING)
    + wire(b"y", Opcode.CONT, fin=False)
    + wire(b"z", Opcode.CONT),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_everything_else_is_passed_on_as_it_came(odd: bytes) -> None:
    assert joined(reader().feed(wire(b"a") + odd + wire(b"b"))) == [(True, b"a"), (False, odd), (True, b"b")]


def test_an_unmasked_message_of_a_client_is_passed_on() -> None:
    assert reader(masked=True).feed(wire(TEXT)) == [(False, wire(TEXT))]


def test_a_message_inside_a_fragmented_one_is_passed_on_since_it_is_an_error() -> None:
    stream = wire(b"x", fin=False) + wire(b"plain")
    assert joined(reader().feed(stream)) == [(False, stream)]


def test_until_it_is_direct_everything_is_passed_on_at_once_and_a_frame_under_way_goes_on_so() -> None:
    made = FrameReader(masked=False)
    frame = wire(b"x" * 300)
    assert made.feed(wire(b"a")) == [(False, wire(b"a"))]
    assert made.feed(frame[:100]) == [(False, frame[:100])]
    made.direct = True
    assert made.feed(frame[100:] + wire(b"b")) == [(False, frame[100:]), (True, b"b")]


def test_a_long_frame_is_passed_on_as_it_comes() -> None:
    frame, made = wire(b"x" * 200_000), reader()
    assert [made.feed(frame[start : start + 50_000]) for start in range(0, len(frame), 50_000)] == [
        [(False, frame[start : start + 50_000])] for start in range(0, len(frame), 50_000)
    ]


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=300).map(wire),
        st.sampled_from([*ODD.values(), wire(b"x" * 70_000)]),
    ),
    max_size=8,
)


@given(MESSAGES, st.lists(st.integers(1, 200), max_size=60), st.booleans())
def test_however_a_stream_is_cut_it_gives_the_same_and_loses_nothing(
    messages: list[bytes], cuts: list[int], byte_by_byte: bool
) -> None:
    stream = b"".join(messages)
    whole = joined(reader().feed(stream))
    made, pieces, start = reader(), [], 0
    for cut in [1] * min(len(stream), 2000) if byte_by_byte else cuts:
        pieces += made.feed(stream[start : start + cut])
        start += cut
    pieces += made.feed(stream[start:])
    assert joined(pieces) == whole
    made = reader()
    assert joined([piece for message in messages for piece in made.feed(message)]) == whole
    again = b"".join(wire(piece) if plain else piece for plain, piece in whole)
    assert again == stream


def test_after_many_pieces_it_is_the_turn_of_others() -> None:
    made, number = reader(), 2 * MAX_PIECES + 10
    stream = b"".join(wire(b"%d" % each) for each in range(number))
    pieces = made.feed(stream[:-3])
    assert (len(pieces), made.more) == (MAX_PIECES, True)
    pieces += made.feed(stream[-3:])  # more may come in between
    assert (len(pieces), made.more) == (2 * MAX_PIECES, True)
    pieces += made.feed(b"")
    assert pieces == [(True, b"%d" % each) for each in range(number)]
    assert not made.more
    assert made.feed(b"") == []


def test_an_empty_read_gives_nothing() -> None:
    assert reader().feed(b"") == []


@pytest.mark.parametrize("size", [0, 125, 126, 0xFFFF, 0x10000])
@pytest.mark.parametrize("mask", [b"", b"\x01\x02\x03\x04"])
def test_a_message_is_written_as_the_library_reads_it(size: int, mask: bytes) -> None:
    data = bytes(each % 251 for each in range(size))
    stream = bytearray(text_frame(data, mask))

    def read_exact(count: int) -> object:
        taken = bytes(stream[:count])
        del stream[:count]
        return taken
        yield

    parsing = Frame.parse(read_exact, mask=bool(mask))  # type: ignore[arg-type]
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert done.value.value == Frame(Opcode.TEXT, data)
    assert stream == b""


def test_a_mask_is_four_bytes_and_used_once() -> None:
    asked, numbers = [], count()

    def entropy(size: int) -> bytes:
        asked.append(size)
        return b"".join(next(numbers).to_bytes(4, "big") for _ in range(size // 4))

    taken = list(islice(masks(entropy), 2500))
    assert all(len(mask) == 4 for mask in taken)
    assert len(set(taken)) == 2500
    assert len(asked) == 3


def test_without_the_librarys_extension_masks_are_applied_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    spec = importlib.util.spec_from_file_location("frames_without_speedups", frames.__file__)
    assert spec is not None
    assert spec.loader is not None
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    assert slow.apply_mask.__module__ == "websockets.utils"
    assert slow.text_frame(b"ab", b"\x01\x01\x01\x01")[-2:] == b"`c"


@pytest.mark.parametrize("masked", [True, False])
def test_a_message_and_the_beginning_of_the_next_one_come_in_one_read(masked: bool) -> None:
    made = reader(masked=masked)
    first, second = (wire(letter * 400, masked=masked) for letter in (b"a", b"b"))
    assert made.feed(first + second[:100]) == [(True, b"a" * 400)]
    assert made.feed(second[100:]) == [(True, b"b" * 400)]
