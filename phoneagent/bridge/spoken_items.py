"""An audio item of the model: how much of it was received and heard, and the pauses in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from phoneagent.events import ResumeCause
from phoneagent.protocol.audio import BYTES_PER_MS

MAX_PAUSES = 64
"""How many pauses are kept for one item."""


class Paused(NamedTuple):
    """A pause in an item, in seconds of `now`, after which it continued."""

    since: float
    until: float
    cause: ResumeCause


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an item ended: `heard_ms` of the `received_ms` that the model had delivered; `complete` if that was all."""

    item_id: str
    content_index: int
    heard_ms: int
    received_ms: int
    complete: bool
    pauses: tuple[Paused, ...] = ()
    """The pauses in it, oldest first."""


@dataclass(slots=True)
class SpokenItem:
    """An audio item. `runs` are its stretches of the stream, as start and end positions."""

    id: str
    content_index: int
    received: int = 0
    waiting: int = 0
    complete: bool = False
    cut: bool = False
    before: int = 0
    """How much of it was heard before a pause."""
    pauses: tuple[Paused, ...] = ()
    held: bool = False
    """Whether it came during a pause, as the answer to what the caller said then."""
    runs: list[tuple[int, int]] = field(default_factory=list)

    def heard(self, position: int) -> int:
        """Return how many bytes of this item were heard when the stream is at `position`."""
        return self.before + sum(min(end, position) - start for start, end in self.runs if start < position)

    def over(self, position: int) -> bool:
        """Return whether nothing of this item remains to be heard, or to arrive, at `position`."""
        return self.complete and not self.waiting and (not self.runs or self.runs[-1][1] <= position)

    def paused(self, pause: Paused) -> None:
        """Note a pause; only the latest are kept."""
        self.pauses = (*self.pauses, pause)[-MAX_PAUSES:]

    def outcome(self, heard: int) -> Outcome:
        """Return how the item ended, if that many bytes of it were heard."""
        whole, received_ms = self.complete and not self.cut, self.received // BYTES_PER_MS
        return Outcome(self.id, self.content_index, heard // BYTES_PER_MS, received_ms, whole, self.pauses)
