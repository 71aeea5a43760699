"""WebSocket frames on the path of a call's audio: whole text messages are read and written here, at once.

Every message of Twilio and of a Realtime server is one small text frame, fifty a second each way. A general parser
takes several times longer than the rest of a frame's path. So a `FrameReader` sits in front of the WebSocket library:
it unpacks the plain frames and passes everything else to the library, which alone handles pings, closes, fragments and
errors. The library is therefore always at the beginning of a frame, or inside a frame that was passed to it.

Source: RFC 6455, section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from struct import Struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # its C extension is optional
    from websockets.utils import apply_mask

MAX_PLAIN_BYTES = 0xFFFF
"""The maximum size of a frame that is unpacked here. The library gets a longer one as it arrives, without a copy."""

MAX_PIECES = 64
"""How much is read from one connection before others have their turn: a flood of tiny frames must not delay them."""

_PLAIN_TEXT = 0x81
"""The first byte of a text message that is one frame: FIN, no reserved bit, opcode 1."""

_FIN = 0x80
_MASKED = 0x80
_USUAL, _USUAL_MASKED = bytes((_PLAIN_TEXT, 126)), bytes((_PLAIN_TEXT, _MASKED | 126))
"""How a plain message of 126 to 65,535 bytes begins. All connections share these two, so they stay in the CPU cache."""
_MAX_DATA_OPCODE = 2
_HEAD_16 = Struct("!BBH").pack
_HEAD_64 = Struct("!BBQ").pack
_MASK = Struct("4s")
_MASKS_AT_ONCE = 1024


class FrameReader:
    """The bytes of a connection, cut into plain messages and everything else.

    Args:
        masked: whether the other side masks its frames, as clients do.
    """

    def __init__(self, *, masked: bool) -> None:
        self.direct = False
        """Whether plain messages are unpacked. Until then the library gets all bytes."""
        self._mask_bit = _MASKED if masked else 0
        self._usual = _USUAL_MASKED if masked else _USUAL
        self._held = bytearray()
        self._held_until = 0
        """How many bytes must be held before the frame that they begin can be read further."""
        self._left = 0
        """How many bytes of the current frame the library has yet to get."""
        self.more = False
        """Whether whole frames may be left, which `feed(b"")` returns."""
        self._fragmented = False
        """Whether the library is inside a message of several frames; no plain message may come then."""
        self._amid = False
        """Whether the next byte is inside a frame or a fragmented message."""

    def whole(self, data: bytes) -> bytes | None:
        """Return the text in `data` if it is one plain message and nothing else, as almost every read is.

        Pass anything else to `feed`, which would return the same text, but more slowly.
        """
        if data.startswith(self._usual) and self.direct and not self._amid:
            length = len(data) - int.from_bytes(data[2:4])
            if self._mask_bit:
                return apply_mask(data[8:], data[4:8]) if length == 8 else None
            return data[4:] if length == 4 else None
        return None

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """Return what arrived, in order: (True, the text of a plain message) or (False, bytes for the library).

        After MAX_PIECES it is the turn of other connections; see `more`.
        """
        self.more = False
        if self._held:
            self._held += data
            if len(self._held) < self._held_until:
                return []
            data = bytes(self._held)
            self._held.clear()
        pieces: list[tuple[bool, bytes]] = []
        start, end = 0, len(data)
        while start < end:
            if len(pieces) >= MAX_PIECES:
                self.more = True
                return self._hold(data, start, 0, pieces)
            if self._left:
                stop = min(start + self._left, end)
                self._left -= stop - start
                pieces.append((False, data[start:stop]))
                start = stop
                continue
            body = start + 2
            if body > end:
                return self._hold(data, start, 2, pieces)
            first, second = data[start], data[start + 1]
            length = second & 0x7F
            if length > 125:
                body += 2 if length == 126 else 8
                if body > end:
                    return self._hold(data, start, body - start, pieces)
                length = int.from_bytes(data[start + 2 : body], "big")
            if second & _MASKED:
                body += 4
            stop = body + length
            if (
                first == _PLAIN_TEXT
                and self.direct
                and second & _MASKED == self._mask_bit
                and length <= MAX_PLAIN_BYTES
                and not self._fragmented
            ):
                if stop > end:
                    return self._hold(data, start, stop - start, pieces)
                text = data[body:stop]
                pieces.append((True, apply_mask(text, data[body - 4 : body]) if self._mask_bit else text))
                start = stop
                continue
            if first & 0x0F <= _MAX_DATA_OPCODE:
                self._fragmented = not first & _FIN
            self._left = stop - start
        self._amid = self._left > 0 or self._fragmented
        return pieces

    def _hold(self, data: bytes, start: int, until: int, pieces: list[tuple[bool, bytes]]) -> list[tuple[bool, bytes]]:
        self._held += data[start:]
        self._held_until, self._amid = until, True
        return pieces


def masks(entropy: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield masks for a client's frames, without end: 4 bytes each.

    `entropy` returns that many random bytes; one system call yields many masks.
    """
    return chain.from_iterable(
        chain.from_iterable(map(_MASK.iter_unpack, iter(lambda: entropy(4 * _MASKS_AT_ONCE), b"")))
    )


def text_frame(text: bytes, mask: bytes = b"") -> bytes:
    """Return a text message as one frame; a client passes a mask of 4 bytes."""
    if mask:
        return _head(len(text), _MASKED) + mask + apply_mask(text, mask)
    return _head(len(text), 0) + text


@lru_cache(4096)  # most frames of a call have one of a few lengths
def _head(length: int, masked: int) -> bytes:
    if length < 126:
        return bytes((_PLAIN_TEXT, masked | length))
    if length <= 0xFFFF:
        return _HEAD_16(_PLAIN_TEXT, masked | 126, length)
    return _HEAD_64(_PLAIN_TEXT, masked | 127, length)
