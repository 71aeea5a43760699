"""The places of the agent's words in what the phone received: cut off by a `clear`, and resumed after a pause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES

if TYPE_CHECKING:
    from phoneagent.sim.model.records import AudioItem
    from phoneagent.sim.twilio.playout import Clear

_PROBES = (8000, 4000, 2000, 640)
"""How many bytes after a pause are looked for in the item: many at first, because the first ones may be silent."""

_BEHIND_BYTES = 300 * BYTES_PER_MS
"""How much the app may underestimate what was heard, on a slow line."""


class Piece(NamedTuple):
    """Audio of an item among the bytes that the phone received: `length` bytes from `start` on.

    It begins at the item's byte `offset`, which is not 0 if the agent went on after a pause.
    """

    start: int
    length: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item's audio is in the bytes that the phone received: one piece, and one more after each pause."""

    item: AudioItem
    pieces: tuple[Piece, ...]
    clear: int | None
    """Index of the `clear` that stopped this item, if one did."""

    def heard_ms(self, clear: Clear) -> float:
        """Return how much of the item was heard until a `clear` stopped it."""
        last = self.pieces[-1]
        return (last.offset + min(max(clear.heard_to - last.start, 0), last.length)) / BYTES_PER_MS


def locate(items: Sequence[AudioItem], received: bytes, clears: Sequence[Clear]) -> dict[str, Place]:
    """Find each item in `received`, in order.

    The phone received the start of each item: all of it, or what arrived before the `clear` (or the end of the call)
    that stopped it. Any other match is a different sound with the same first bytes. If the `clear` was for a pause, the
    rest follows it.
    """
    ends = [clear.received_to for clear in clears]
    places: dict[str, Place] = {}
    at = 0
    for item in sorted((item for item in items if item.delta_log), key=lambda item: item.delta_log[0][0]):
        audio = bytes(item.audio)
        start = received.find(audio[: 4 * FRAME_BYTES], at)
        if start < 0:
            # It was cut off within its first frames, or never forwarded.
            start = at
        # A clear at exactly the item's start came before the item, unless nothing of the item follows.
        number = next((index for index, end in enumerate(ends) if end > start), None)
        limit = len(received) if number is None else ends[number]
        length = _common_prefix(audio, received[start:limit])
        if length < len(audio) and start + length < limit:
            length = 0
        if length == 0:
            number = next((index for index, end in enumerate(ends) if end >= at), None)
        pieces = [Piece(start if length else at, length)]
        while length and number is not None and (piece := _resumed(audio, received, clears, number, pieces[-1])):
            pieces.append(piece)
            number = next((index for index, end in enumerate(ends) if end > piece.start), None)
        places[item.item_id] = Place(item, tuple(pieces), number)
        at = pieces[-1].start + pieces[-1].length
    return places


def _resumed(audio: bytes, received: bytes, clears: Sequence[Clear], number: int, before: Piece) -> Piece | None:
    """Find where the audio of an item goes on after a `clear`: about where the `clear` stopped it."""
    clear, start = clears[number], clears[number].received_to
    limit = clears[number + 1].received_to if number + 1 < len(clears) else len(received)
    heard = clear.heard_to - before.start + before.offset
    for size in _PROBES:
        probe = received[start : min(start + size, limit)]
        offset = audio.rfind(probe, max(0, heard - _BEHIND_BYTES), heard + len(probe) + BYTES_PER_MS)
        if offset < 0 or not probe:
            continue
        length = _common_prefix(audio[offset:], received[start:limit])
        if offset + length == len(audio) or start + length == limit:
            return Piece(start, length, offset)
    return None


def _common_prefix(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix, by binary search: comparing byte by byte in Python is slow."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
