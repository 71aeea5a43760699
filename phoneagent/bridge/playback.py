"""The ledger of what the caller hears: what waits here, what Twilio holds, and how much of it was played.

Twilio plays what it gets in order, at 8 bytes a millisecond, and accepts it as fast as it is sent. It reports its
progress only by echoing marks. Positions count the bytes sent since the last `clear`; at any time

    heard = P + min(now - max(A, S), N - P)

where P is the position of the last mark that came back, A when it came, S when the first audio after P was written and
N the position of the next mark. An echo comes after the fact and audio is played after it was written, so the figure
falls short by about one round trip and does not run ahead of the truth. To ensure this, it must not count a gap: if
everything written may already have been played, a mark goes out before any more audio does.

Marks are named `generation.sequence`. A `clear` starts a new generation, because it makes Twilio return every pending
mark: an echo of an older generation proves nothing.

What is written is kept until it was heard, so that a pause can take it back (`pause`) and play it later (`resume`). The
pause begins when its `clear` is written. If the caller's socket accepts no `clear` before the agent goes on, playback
never stopped, and nothing is taken back.

A mark can be lost. When everything written must long have been played (`MARK_SECONDS`), it counts as heard.
"""

from __future__ import annotations

import math
from binascii import a2b_base64
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from phoneagent.bridge.spoken_items import Outcome, Paused, SpokenItem
from phoneagent.events import ResumeCause
from phoneagent.protocol.audio import BYTES_PER_MS, base64_bytes, silence
from phoneagent.protocol.carrier import Audio, Clear, SendMark, ToCarrier

MARK_EVERY_BYTES = 100 * BYTES_PER_MS
"""At most one mark per 100 ms of audio, besides the one at each item's end."""

CUT_ABOVE_CHARS = 2136
"""Base64 of 200 ms: a longer delta is cut, so that a barge-in can still drop most of it and marks fall in between."""

PIECE_CHARS = 1280
"""Base64 of 120 ms: a multiple of four characters, so that a cut piece is base64 by itself."""

RECENT_BYTES = 1_200 * BYTES_PER_MS
"""The latest audio that was heard is also kept: the caller's line may return it as an echo."""

MARK_SECONDS = 5.0
"""How much later than computed the last mark may come before it counts as lost. A slow line is less late."""

SLACK_BYTES = 100 * BYTES_PER_MS
"""Old audio is dropped in pieces of this length, because dropping it with each mark would move all the rest."""

MAX_GAPS = 64
"""How many gaps are kept for their reader."""

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Half an hour of audio that the caller's socket does not accept: more than any answer."""


_Piece: TypeAlias = tuple[SpokenItem | None, str, int]
"""An item (None for phoneagent's own audio), some of its audio as base64, and how many bytes that is."""


@dataclass(slots=True)  # a frozen one takes three times as long to make, and there are ten a second
class _Span:
    """An outstanding mark: its position, and when the first audio before it was written."""

    name: str
    position: int
    since: float


_END_OF_ITEM = ""  # in the queue: all of an item precedes this, so a mark follows


class Playback:
    """Audio for the caller in order: `queue` and `finish` add it, `take` removes what to send, `cut` drops it."""

    def __init__(self) -> None:
        self.generation = 1
        self._sequence = 0
        self._clear_due = False
        self._items: dict[str, SpokenItem] = {}
        self._queue: deque[_Piece] = deque()
        self._waiting = 0
        self.paused_at: float | None = None
        """Since when nothing is sent and new audio is kept; None if it is sent."""
        self._plays_on = False  # in a pause whose `clear` is not written yet
        self._answer_held = False  # new audio answers what the caller said in the pause
        # The latest audio that was heard for sure, as µ-law: base64 in pieces would take twice the memory.
        self._recent = bytearray()
        self._clip_waits = False
        self.spoken_until = -math.inf
        """When all of the model's audio written so far will have been played, in seconds of `now`."""
        self.gaps: deque[tuple[float, float]] = deque(maxlen=MAX_GAPS)
        """When nothing was left to play, from and to; a reader removes them."""
        self._reset()

    def _reset(self) -> None:
        self._sent = 0
        self._written_pieces: deque[_Piece] = deque()  # not known to be heard; the last one ends at `_sent`
        self._written_from = 0  # where the first one begins
        self._marked = 0  # the position of the newest mark
        self._acked = 0
        self._acked_at = -math.inf
        self._spans: deque[_Span] = deque()
        self._open_since = -math.inf  # when the first audio after the last mark was written
        self.dry_at = -math.inf
        """When everything written will have been played at the earliest, in seconds of `now`."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits here, and nothing is known to be unheard."""
        return not self._queue and self._acked == self._sent

    def unheard_ms(self, now: float) -> float:
        """Return how much audio the caller has yet to hear, in milliseconds, without a held answer."""
        held = sum(item.waiting for item in self._items.values() if item.held)
        return (self._waiting - held + self._sent - self.heard(now)) / BYTES_PER_MS

    @property
    def unsent_ms(self) -> float:
        """How many milliseconds of audio wait here."""
        return self._waiting / BYTES_PER_MS

    def queue(self, payload: str, item_id: str | None = None, content_index: int = 0) -> bool:
        """Queue audio for the caller: base64 of µ-law, of a model's item or (without one) phoneagent's own.

        Return False, and take nothing, if more than `MAX_WAITING_BYTES` would wait.
        """
        size = base64_bytes(payload)
        if size == 0:
            return True  # an item without audio cannot be truncated, so do not create one here
        if self._waiting + size > MAX_WAITING_BYTES:
            return False
        item = None
        if item_id is None:
            self._clip_waits = True
        else:
            if self._clip_waits:
                self._drop_clips()
            item = self._items.get(item_id)
            if item is None:
                item = self._items[item_id] = SpokenItem(item_id, content_index, held=self._answer_held)
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

    def _drop_clips(self) -> None:
        """Drop phoneagent's own unsent audio: the model's audio, which it stood in for, is here."""
        self._clip_waits = False
        self._waiting -= sum(size for item, _, size in self._queue if item is None)
        self._queue = deque(each for each in self._queue if each[0] is not None or each[1] is _END_OF_ITEM)

    def finish(self, item_id: str | None = None) -> list[Outcome]:
        """Note that no more audio of this item will come, so that a mark can follow its last piece.

        Return the item if all of it was already heard.
        """
        if item_id is not None:
            item = self._items.get(item_id)
            if item is None or item.complete:
                return []
            item.complete = True
            self._queue.append((item, _END_OF_ITEM, 0))
        else:
            self._queue.append((None, _END_OF_ITEM, 0))
        return self._forget_heard(self._acked)

    def finish_items(self, *, cut: bool = False) -> list[Outcome]:
        """Note that no more audio of any item will come: their response is done, or (`cut`) broke off in the last."""
        if cut and self._items:
            self._items[next(reversed(self._items))].cut = True
        return [outcome for item_id in tuple(self._items) for outcome in self.finish(item_id)]

    def _forget_heard(self, position: int) -> list[Outcome]:
        over = [item for item in self._items.values() if item.complete and item.over(position)]
        for item in over:
            del self._items[item.id]
        return [item.outcome(item.received) for item in over]

    def holds(self, item_id: str) -> bool:
        """Return whether an item is not yet complete and heard to its end."""
        return item_id in self._items

    def take(self, now: float, limit: int) -> list[ToCarrier]:
        """Return the next messages to write, `limit` at most; they count as written at `now` (seconds)."""
        taken: list[ToCarrier] = []
        if self._plays_on:
            self._take_back(now)
        if self._clear_due:
            self._clear_due = False
            taken.append(Clear())
        if self.paused_at is not None:
            return taken
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
                self._written(item, payload, size, now)
                taken.append(Audio(payload))
        return taken

    def _mark(self) -> SendMark:
        self._sequence += 1
        name = f"{self.generation}.{self._sequence}"
        self._marked = self._sent
        self._spans.append(_Span(name, self._sent, self._open_since))
        return SendMark(name)

    def _written(self, item: SpokenItem | None, payload: str, size: int, now: float) -> None:
        self._written_pieces.append((item, payload, size))
        if self._sent == self._marked:
            self._open_since = now
        begin, self._sent = self._sent, self._sent + size
        self._waiting -= size
        if now > self.dry_at:
            self.gaps.append((self.dry_at, now))
        self.dry_at = max(self.dry_at, now) + size / (BYTES_PER_MS * 1000)
        if item is None:
            return
        self.spoken_until = self.dry_at
        item.waiting -= size
        if item.runs and item.runs[-1][1] == begin:
            item.runs[-1] = (item.runs[-1][0], self._sent)
        else:
            item.runs.append((begin, self._sent))

    def playing(self) -> list[Outcome]:
        """Return the items that are not known to be heard to their end, each as far as it was received."""
        return [item.outcome(0) for item in self._items.values()]

    def so_far(self, now: float) -> list[Outcome]:
        """Return the same items, each as far as it was certainly heard."""
        position = math.floor(self.heard(now))
        return [item.outcome(item.heard(position)) for item in self._items.values()]

    def acknowledge(self, name: str, now: float) -> list[Outcome]:
        """Handle the echo of a mark. Return the items that are now complete and heard to their end.

        An echo without a name is for the oldest mark, if what came before that may have been played.
        """
        if not name and self._spans and self.heard(now) >= self._spans[0].position:
            name = self._spans[0].name
        if not ((self._spans and self._spans[0].name == name) or any(span.name == name for span in self._spans)):
            return []
        while True:  # an echo also proves the marks before it, in case one was lost
            span = self._spans.popleft()
            if span.name == name:
                break
        return self._heard_up_to(span.position, now)

    def get_timer(self) -> float | None:
        """Return when `presume_heard` is due; None while something waits here, or all was heard."""
        return None if self._queue or self._acked == self._sent else self.dry_at + MARK_SECONDS

    def presume_heard(self, now: float) -> list[Outcome]:
        """Give up waiting for the last mark, if it is time. Return the items that are now over."""
        due = self.get_timer()
        if due is None or now < due:
            return []
        self._spans.clear()
        self._marked = self._sent
        return self._heard_up_to(self._sent, now)

    def _heard_up_to(self, position: int, now: float) -> list[Outcome]:
        self._acked, self._acked_at = position, now
        if position == self._sent:  # the line may play a little faster than our clock runs
            self.dry_at, self.spoken_until = min(self.dry_at, now), min(self.spoken_until, now)
        pieces, recent = self._written_pieces, self._recent
        while pieces and self._written_from + pieces[0][2] <= self._acked:
            _, payload, size = pieces.popleft()
            self._written_from += size
            recent += a2b_base64(payload)
        if len(recent) > RECENT_BYTES + SLACK_BYTES:
            del recent[:-RECENT_BYTES]
        return self._forget_heard(position)

    def heard(self, now: float) -> float:
        """Return the position that was certainly heard, in bytes since the last `clear`."""
        upto, since = self._sent, self._open_since
        if self._spans:
            upto, since = self._spans[0].position, self._spans[0].since
        played = (now - max(self._acked_at, since)) * 1000 * BYTES_PER_MS if upto > self._acked else 0.0
        return self._acked + max(0.0, min(played, float(upto - self._acked)))

    def heard_from(self, position: int, now: float) -> bytes:
        """Return the audio of this generation that was heard from a position until `now`, as µ-law, if it is kept."""
        begin, end = self._written_from, math.floor(self.heard(now))
        heard = bytearray(self._recent[-(begin - position) :] if position < begin else b"")
        for _, payload, size in self._written_pieces:
            if begin >= end:
                break
            if begin + size > position:
                heard += a2b_base64(payload)[max(0, position - begin) : end - begin]
            begin += size
        return bytes(heard)

    # --- interruption ---

    def pause(self, now: float) -> list[Outcome]:
        """Stop with the next `take`, and keep what was not heard: `resume` plays it from there, `cut` drops it.

        Return the items that were complete and heard to their end.
        """
        self.paused_at, self._plays_on = now, True
        return self._forget_heard(math.floor(self.heard(now)))

    def _take_back(self, now: float) -> None:
        """Begin the pause for the caller: what they have not yet heard waits here again."""
        position = math.floor(self.heard(now))
        unheard: list[_Piece] = []
        begin = self._written_from
        for item, payload, size in self._written_pieces:
            end = begin + size
            if end > position:
                groups = max(0, position - begin) // 3  # base64 is cut at groups of three bytes
                unheard.append((item, payload[4 * groups :], size - 3 * groups))
            begin = end
        for item, _, size in unheard:
            self._waiting += size
            if item is not None:
                item.waiting += size
        for item in self._items.values():
            item.before = item.received - item.waiting
            item.runs.clear()
        if unheard:
            self._queue.appendleft((None, _END_OF_ITEM, 0))
            self._queue.extendleft(reversed(unheard))
        self._recent[:] = self.heard_lately(now)
        self._new_generation(now)
        self.paused_at, self._plays_on = now, False

    def resume(self, now: float, cause: ResumeCause) -> None:
        """Continue after a pause; an answer that was held is dropped."""
        if self.paused_at is None:
            return
        if self._answer_held:
            self._keep(held=False)
        self._answer_held = False
        if self._plays_on:  # the caller heard no pause
            self.paused_at, self._plays_on = None, False
            return
        pause = Paused(self.paused_at, now, cause)
        for item in self._items.values():
            if item.before:
                item.paused(pause)
        paused_ms = round((now - self.paused_at) * 1000)
        self._recent += silence(min(paused_ms, RECENT_BYTES // BYTES_PER_MS))
        self.paused_at = None

    def hold_answer(self) -> None:
        """Hold new audio: from here on, it answers what the caller said in this pause."""
        self._answer_held = True

    def cut(self, now: float) -> list[Outcome]:
        """Drop everything unheard, except a held answer, and begin a new generation.

        A `clear` follows if Twilio holds any audio. Return the items that were not heard to their last mark, oldest
        first: truncate each at `heard_ms`.
        """
        cuts = [each for each in self.so_far(now) if not self._items[each.item_id].held]
        self._recent.clear()
        self._keep(held=True)
        self._new_generation(now)
        self.paused_at, self._plays_on, self._answer_held = None, False, False
        for item in self._items.values():
            item.held = False
        return cuts

    def _keep(self, *, held: bool) -> None:
        """Keep only the held answer of what waits, or (not `held`) everything else."""
        self._items = {item.id: item for item in self._items.values() if item.held is held}
        self._queue = deque(piece for piece in self._queue if (piece[0] is not None and piece[0].held) is held)
        self._waiting = sum(size for _, _, size in self._queue)

    def _new_generation(self, now: float) -> None:
        if self._sent > self._acked:
            self._clear_due = True
        self.generation += 1
        self._sequence = 0
        dry_at, self.spoken_until = min(self.dry_at, now), min(self.spoken_until, now)
        self._reset()
        self.dry_at = dry_at

    def heard_lately(self, now: float) -> bytes:
        """Return the latest audio that the caller heard, as µ-law: until `now`, at most `RECENT_BYTES`."""
        position, begin = math.floor(self.heard(now)), self._written_from
        heard = bytearray(self._recent)
        for _, payload, size in self._written_pieces:
            heard += a2b_base64(payload)[: max(0, position - begin)]
            begin += size
        if now > self.dry_at > -math.inf and (self.paused_at is None or self._plays_on):
            heard += silence(min(RECENT_BYTES // BYTES_PER_MS, round((now - self.dry_at) * 1000)))
        return bytes(heard[-RECENT_BYTES:])

    def sounding(self, now: float) -> bytes:
        """Return what was written and has yet to be played, judging by its duration, as µ-law."""
        size = max(0, round((self.dry_at - now) * 1000 * BYTES_PER_MS)) if self.dry_at > now else 0
        written = b"".join([a2b_base64(payload) for _, payload, _ in self._written_pieces])
        return written[len(written) - min(size, len(written)) :]
