"""Who said what, and what of it was heard.

Transcripts come late, out of order, in pieces or not at all; everything is attached by its item. Times are
milliseconds of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from phoneagent.events import Turn

MAX_TURNS = 10_000
"""Far more than a call has; beyond it the oldest are forgotten."""

SLOWEST_CHARS_PER_MS = 1 / 60
"""About 16 characters a second: how fast speech is taken to be while its length is not known yet."""


def heard_part(text: str, heard_ms: int, said_ms: int, *, complete: bool) -> str:
    """Estimate which beginning of `text` was heard, cut back to whole words.

    Words run ahead of their audio: as long as the audio is not `complete`, `said_ms` is not the length of the whole
    text, so the length of the text counts if it is longer.
    """
    length = float(said_ms) if complete else max(said_ms, len(text) / SLOWEST_CHARS_PER_MS)
    if heard_ms >= length:
        return text
    end = int(len(text) * heard_ms / length)
    while end > 0 and not text[end].isspace():
        end -= 1
    return text[:end].rstrip()


@dataclass(slots=True)
class _CallerTurn:
    item_id: str
    start_ms: int
    end_ms: int
    text: str = ""
    ended: bool = False


@dataclass(slots=True)
class _AgentTurn:
    item_id: str
    agent: str | None
    text: str = ""
    complete: bool = False


class Transcript:
    """The turns of a call. A method that ends a turn returns it."""

    def __init__(self) -> None:
        self.speaker: str | None = None
        """The name of the agent who has the call: of what begins from here on."""
        self._ended: dict[str, Turn] = {}
        self._agent: dict[str, _AgentTurn] = {}
        self._caller: dict[str, _CallerTurn] = {}
        self._speech: tuple[int, int] | None = None
        self._latest = ""

    def caller_spoke(self, start_ms: int, end_ms: int) -> None:
        """Note a stretch of speech of the caller; the turn it belongs to is committed later."""
        start = self._speech[0] if self._speech else start_ms
        self._speech = (start, max(start, end_ms))

    def caller_turn(self, item_id: str, now_ms: int) -> None:
        """The speech so far became the item `item_id`."""
        start, end = self._speech or (now_ms, now_ms)
        self._speech = None
        self._caller[item_id] = _CallerTurn(item_id, start, end)
        self._latest = item_id

    def caller_text(self, item_id: str, text: str) -> Turn | None:
        """Attach what the recogniser understood of an item, or "" if it failed."""
        turn = self._caller.pop(item_id, None)
        if turn is None:
            return None
        turn.text = text.strip()
        return self._end_caller(turn)

    def _end_caller(self, turn: _CallerTurn) -> Turn:
        said = turn.end_ms - turn.start_ms
        return self._keep(
            Turn(
                role="caller",
                item_id=turn.item_id,
                text=turn.text,
                heard_text=turn.text,
                start_ms=turn.start_ms,
                end_ms=turn.end_ms,
                said_ms=said,
                heard_ms=said,
            )
        )

    def agent_words(self, item_id: str, words: str) -> None:
        """Add words of an item that the agent is saying."""
        ended = self._ended.get(item_id)
        if ended is not None:
            self._amend(ended, ended.text + words)
            return
        turn = self._agent.setdefault(item_id, _AgentTurn(item_id, self.speaker))
        if not turn.complete:
            turn.text += words

    def _amend(self, ended: Turn, text: str) -> None:
        """Give a turn that was heard already its text, which came late."""
        if not ended.interrupted:
            self._ended[ended.item_id] = replace(ended, text=text.strip(), heard_text=text.strip())

    def agent_text(self, item_id: str, text: str) -> None:
        """Set the whole text of an item."""
        ended = self._ended.get(item_id)
        if ended is not None:
            self._amend(ended, text)
            return
        turn = self._agent.setdefault(item_id, _AgentTurn(item_id, self.speaker))
        turn.text, turn.complete = text, True

    def no_more(self, said_ms: Mapping[str, int | None]) -> None:
        """Nothing more comes of what the agent says.

        Of the items in `said_ms` so much audio came, and their words may have run ahead of it; None where all came. Of
        the others nothing was said.
        """
        self._agent = {item_id: self._agent.get(item_id) or _AgentTurn(item_id, self.speaker) for item_id in said_ms}
        for item_id, ms in said_ms.items():
            turn = self._agent[item_id]
            if ms is not None:
                turn.text, turn.complete = heard_part(turn.text, ms, ms, complete=False), True

    def forget_caller(self) -> None:
        """Nobody will understand the turn that has no text yet: the caller is heard once more."""
        self._caller.pop(self._latest, None)

    def so_far(self, now_ms: int) -> list[Turn]:
        """Return the ended turns, and what the agent is saying as if it were heard."""
        playing = [
            Turn(
                role="agent",
                item_id=turn.item_id,
                text=turn.text,
                heard_text=turn.text,
                start_ms=now_ms,
                end_ms=now_ms,
                said_ms=1,
                heard_ms=1,
            )
            for turn in self._agent.values()
        ]
        return [*self.turns(), *playing]

    def agent_turn(
        self, item_id: str, *, heard_ms: int, said_ms: int, now_ms: int, interrupted: bool, complete: bool
    ) -> Turn:
        """End the turn of an item: it was heard to its end at `now_ms`, or cut off then.

        `complete` tells whether all of its audio had come.
        """
        turn = self._agent.pop(item_id, None) or _AgentTurn(item_id, self.speaker)
        text = turn.text.strip()
        heard_text = heard_part(text, heard_ms, said_ms, complete=complete) if interrupted else text
        return self._keep(
            Turn(
                role="agent",
                item_id=item_id,
                text=text,
                heard_text=heard_text,
                start_ms=max(0, now_ms - heard_ms),
                end_ms=now_ms,
                said_ms=said_ms,
                heard_ms=heard_ms,
                interrupted=interrupted,
                agent=turn.agent,
            )
        )

    @property
    def lacks_text(self) -> bool:
        """Whether the caller's latest turn has no text yet."""
        return self._latest in self._caller

    def close(self) -> list[Turn]:
        """End the turns of the caller whose text never came, and return them."""
        late = [self._end_caller(turn) for turn in self._caller.values()]
        self._caller.clear()
        return late

    def turns(self) -> tuple[Turn, ...]:
        """Return the ended turns, in the order in which they began."""
        return tuple(sorted(self._ended.values(), key=lambda turn: turn.start_ms))

    def _keep(self, turn: Turn) -> Turn:
        self._ended[turn.item_id] = turn
        if len(self._ended) > MAX_TURNS:
            del self._ended[next(iter(self._ended))]
        return turn
