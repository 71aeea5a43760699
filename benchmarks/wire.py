"""WebSocket frames of a load generator: prebuilt where that is possible, and read without a library's layers.

A generator masks all its frames with one constant: a mask protects proxies from a browser's scripts, and costs the
server the same whatever its value.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build of websockets without its C extension
    from websockets.utils import apply_mask

MASK = b"\x37\xfa\x21\x3d"
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_FIN = 0x80
_MASKED = 0x80
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

CLOSE_NORMALLY = (1000).to_bytes(2, "big")


def masked(data: bytes, offset: int = 0) -> bytes:
    """Mask a part of a payload that begins `offset` bytes after the payload's start."""
    turn = offset % 4
    return apply_mask(data, MASK[turn:] + MASK[:turn])


def head(size: int, *, mask: bool, opcode: int = TEXT) -> bytes:
    """Return the head of a frame with a payload of `size` bytes."""
    bit = _MASKED if mask else 0
    key = MASK if mask else b""
    if size < 126:
        return bytes((_FIN | opcode, bit | size)) + key
    if size < 65536:
        return bytes((_FIN | opcode, bit | 126)) + size.to_bytes(2, "big") + key
    return bytes((_FIN | opcode, bit | 127)) + size.to_bytes(8, "big") + key


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a whole frame of a client."""
    return head(len(payload), mask=True, opcode=opcode) + masked(payload)


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a whole frame of a server."""
    return head(len(payload), mask=False, opcode=opcode) + payload


def accept_key(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class FrameReader:
    """Splits received bytes into frames. TCP may bring several at once, or a part of one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are complete now, each as opcode and unmasked payload.

        Raises:
            ValueError: a fragment, or a frame with a reserved bit, as with a compression that was not negotiated.
        """
        if self._rest:
            data = self._rest + data
        frames = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            if first & 0xF0 != _FIN:
                raise ValueError(f"a frame that begins with {first:#04x}: the generator reads whole plain frames only")
            size, body = second & 127, at + 2
            if size == 126:
                body = at + 4
                size = int.from_bytes(data[at + 2 : body], "big")
            elif size == 127:
                body = at + 10
                size = int.from_bytes(data[at + 2 : body], "big")
            if second & _MASKED:
                body += 4
            if end < body + size:  # true as well if the head itself is incomplete
                break
            payload = data[body : body + size]
            frames.append((first & 15, apply_mask(payload, data[body - 4 : body]) if second & _MASKED else payload))
            at = body + size
        self._rest = data[at:]
        return frames


class Cache:
    """Byte strings by number, made once and shared by all calls: their frames differ only in the number."""

    def __init__(self, make: Callable[[int], bytes]) -> None:
        self._make = make
        self._made: list[bytes] = []

    def __getitem__(self, number: int) -> bytes:
        made = self._made
        while len(made) <= number:
            made.append(self._make(len(made)))
        return made[number]
