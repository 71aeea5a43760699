"""The ledger of what the caller hears: what waits here, what Twilio holds of ours, and how much of it was played.

Twilio plays what it gets in order, at 8 bytes a millisecond, and takes it as fast as we send it. It tells us of its
progress only by echoing marks. Positions count the bytes sent since the last `clear`; at any time

    heard = P + min(now - max(A, S), N - P)

where P is the position of the last mark that came back, A when it came, S when the first audio after P was written and
N the position of the next mark. An echo comes after the fact and audio is played after it was written, so the figure
falls short by about one round trip and does not run ahead of the truth. For that it must not run through a pause: if
everything written may already have been played, a mark goes out before any more audio does.

Marks are named `generation.sequence`. A `clear` starts a new generation, because it makes Twilio give back every
pending mark: an echo of an older generation proves nothing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from phoneagent.protocol.audio import BYTES_PER_MS, base64_bytes
from phoneagent.protocol.carrier import Audio, Clear, SendMark, ToCarrier

MARK_EVERY_BYTES = 100 * BYTES_PER_MS
"""At most one mark per 100 ms of audio, beside the one at each item's end."""

CUT_ABOVE_CHARS = 2136
"""Base64 of 200 ms: a longer delta is cut, so that a barge-in can still drop most of it and marks fall in between."""

PIECE_CHARS = 1280
"""Base64 of 120 ms: a multiple of four characters, so that a cut piece is base64 by itself."""

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Half an hour of audio that the caller's socket does not take: more than any answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an item ended: `heard_ms` of the `received_ms` that the model had delivered; `complete` if that was all."""

    item_id: str
    content_index: int
    heard_ms: int
    received_ms: int
    complete: bool


@dataclass(slots=True)
class _Item:
    """An audio item. `runs` are its stretches of the stream, as positions from and to."""

    id: str
    content_index: int
    received: int = 0
    waiting: int = 0
    complete: bool = False
    cut: bool = False
    runs: list[tuple[int, int]] = field(default_factory=list)

    def heard(self, position: int) -> int:
        """Return how many bytes of this item lie before `position`."""
        return sum(min(end, position) - start for start, end in self.runs if start < position)

    def over(self, position: int) -> bool:
        """Tell whether nothing of this item remains to be heard, or to come, at `position`."""
        return self.complete and not self.waiting and self.runs[-1][1] <= position


@dataclass(frozen=True, slots=True)
class _Span:
    """A mark that is out: its position, and when the first audio before it was written."""

    name: str
    position: int
    since: float


_END_OF_ITEM = ""  # in the queue: everything of an item went before, let a mark follow


class Playback:
    """Audio for the caller in order: `queue` and `finish` put it in, `take` takes out what to send, `cut` drops it."""

    def __init__(self) -> None:
        self.generation = 1
        self._sequence = 0
        self._clear_due = False
        self._items: dict[str, _Item] = {}
        self._queue: deque[tuple[_Item | None, str, int]] = deque()  # the item, its base64, and how many bytes that is
        self._waiting = 0
        self._reset()

    def _reset(self) -> None:
        self._sent = 0
        self._marked = 0  # the position of the newest mark
        self._acked = 0
        self._acked_at = -math.inf
        self._spans: deque[_Span] = deque()
        self._open_since = -math.inf  # when the first audio after the last mark was written
        self.dry_at = -math.inf
        """When everything written will have been played at the earliest, in seconds of `now`."""

    @property
    def idle(self) -> bool:
        """Nothing of ours is waiting here or known to be unheard."""
        return not self._queue and self._acked == self._sent

    @property
    def unsent_ms(self) -> float:
        """Milliseconds of audio that wait here."""
        return self._waiting / BYTES_PER_MS

    def queue(self, payload: str, item_id: str | None = None, content_index: int = 0) -> bool:
        """Take audio for the caller: base64 of µ-law, of a model's item or (without one) of our own.

        Returns False, and takes nothing, when more than `MAX_WAITING_BYTES` would wait.
        """
        size = base64_bytes(payload)
        if size == 0:
            return True  # an item without audio cannot be truncated, so it must not come into being here
        if self._waiting + size > MAX_WAITING_BYTES:
            return False
        item = None
        if item_id is not None:
            item = self._items.get(item_id)
            if item is None:
                item = self._items[item_id] = _Item(item_id, content_index)
            item.received += size
            item.waiting += size
        self._waiting += size
        if len(payload) <= CUT_ABOVE_CHARS:
            self._queue.append((item, payload, size))
            return True
        for start in range(0, len(payload), PIECE_CHARS):
            piece = payload[start : start + PIECE_CHARS]
            self._queue.append((item, piece, base64_bytes(piece)))
        return True

    def finish(self, item_id: str | None = None) -> list[Outcome]:
        """Note that no more audio of this item will come, so that a mark can follow its last piece.

        Returns the item if all of it was heard already.
        """
        if item_id is not None:
            item = self._items.get(item_id)
            if item is None or item.complete:
                return []
            item.complete = True
        self._queue.append((None, _END_OF_ITEM, 0))
        return self._forget_heard()

    def finish_items(self, *, cut: bool = False) -> list[Outcome]:
        """Note that no more audio of any item will come: their response is done, or (`cut`) broke off in the last."""
        if cut and self._items:
            self._items[next(reversed(self._items))].cut = True
        return [outcome for item_id in tuple(self._items) for outcome in self.finish(item_id)]

    def _forget_heard(self) -> list[Outcome]:
        over = [item for item in self._items.values() if item.over(self._acked)]
        for item in over:
            del self._items[item.id]
        return [self._figures(item, item.received) for item in over]

    def holds(self, item_id: str) -> bool:
        """Tell whether an item is not yet complete and heard to its end."""
        return item_id in self._items

    def take(self, now: float, limit: int) -> list[ToCarrier]:
        """Return the next messages to write, `limit` at most; they count as written at `now` (seconds)."""
        taken: list[ToCarrier] = []
        if self._clear_due:
            self._clear_due = False
            taken.append(Clear())
        queue = self._queue
        while len(taken) < limit:
            unmarked = self._sent - self._marked
            if unmarked >= MARK_EVERY_BYTES:
                taken.append(self._mark())
                continue
            if not queue:
                break
            item, payload, size = queue[0]
            if payload is _END_OF_ITEM:
                queue.popleft()
                if unmarked:
                    taken.append(self._mark())
            elif unmarked and now >= self.dry_at:
                taken.append(self._mark())
            else:
                queue.popleft()
                self._written(item, size, now)
                taken.append(Audio(payload))
        return taken

    def _mark(self) -> SendMark:
        self._sequence += 1
        name = f"{self.generation}.{self._sequence}"
        self._marked = self._sent
        self._spans.append(_Span(name, self._sent, self._open_since))
        return SendMark(name)

    def _written(self, item: _Item | None, size: int, now: float) -> None:
        if self._sent == self._marked:
            self._open_since = now
        begin, self._sent = self._sent, self._sent + size
        self._waiting -= size
        self.dry_at = max(self.dry_at, now) + size / (BYTES_PER_MS * 1000)
        if item is None:
            return
        item.waiting -= size
        if item.runs and item.runs[-1][1] == begin:
            item.runs[-1] = (item.runs[-1][0], self._sent)
        else:
            item.runs.append((begin, self._sent))

    def playing(self) -> list[Outcome]:
        """Return the items that are not known to be heard to their end, as far as they were received."""
        return [self._figures(item, 0) for item in self._items.values()]

    def acknowledge(self, name: str, now: float) -> list[Outcome]:
        """Take the echo of a mark. Returns the items that are now complete and heard to their end.

        One without a name is that of the oldest mark, if what came before that may have been played.
        """
        if not name and self._spans and self.heard(now) >= self._spans[0].position:
            name = self._spans[0].name
        if not any(span.name == name for span in self._spans):
            return []
        while True:  # an echo proves the marks before it as well, should one have been lost
            span = self._spans.popleft()
            if span.name == name:
                break
        self._acked, self._acked_at = span.position, now
        return self._forget_heard()

    def heard(self, now: float) -> float:
        """Return the position that was surely heard, in bytes since the last `clear`."""
        upto, since = self._sent, self._open_since
        if self._spans:
            upto, since = self._spans[0].position, self._spans[0].since
        played = (now - max(self._acked_at, since)) * 1000 * BYTES_PER_MS if upto > self._acked else 0.0
        return self._acked + max(0.0, min(played, float(upto - self._acked)))

    def cut(self, now: float) -> list[Outcome]:
        """Drop everything unheard and begin a new generation.

        A `clear` follows if Twilio holds anything of ours. Returns the items that were not heard to their last mark,
        oldest first: each is to be truncated at `heard_ms`.
        """
        position = math.floor(self.heard(now))
        cuts = [self._figures(item, item.heard(position)) for item in self._items.values()]
        if self._sent > self._acked:
            self._clear_due = True
        self.generation += 1
        self._sequence = 0
        self._items.clear()
        self._queue.clear()
        self._waiting = 0
        self._reset()
        return cuts

    def _figures(self, item: _Item, heard: int) -> Outcome:
        whole = item.complete and not item.cut
        return Outcome(item.id, item.content_index, heard // BYTES_PER_MS, item.received // BYTES_PER_MS, whole)
