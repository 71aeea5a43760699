"""The transcript of a call: what each side said, and how much of it was heard.

Transcripts come late, out of order, in pieces or not at all; everything is attached by its item. Times are
milliseconds of the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.heard import heard_part
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.events import Pause, Turn

MAX_TURNS = 10_000
"""Far more than a call has; beyond it the oldest are forgotten."""

TEXT_MS = 5_000
"""How long the text of a caller's turn may take; not every session has a recognizer."""


@dataclass(slots=True)
class _CallerTurn:
    item_id: str
    start_ms: int
    end_ms: int
    text: str = ""

    def as_turn(self) -> Turn:
        """Return the turn as it is known now."""
        said = self.end_ms - self.start_ms
        return Turn(
            role="caller",
            item_id=self.item_id,
            text=self.text,
            heard_text=self.text,
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            said_ms=said,
            heard_ms=said,
        )


@dataclass(slots=True)
class _AgentTurn:
    item_id: str
    agent: str | None
    text: str = ""
    complete: bool = False

    def as_turn(self, outcome: Outcome, now_ms: int, clock: CallClock) -> Turn:
        """Return the turn, if no more of it is heard than the outcome says."""
        pauses = tuple(
            Pause(start_ms=clock.ms(each.since), end_ms=clock.ms(each.until), cause=each.cause)
            for each in outcome.pauses
        )
        paused_ms = sum(each.end_ms - each.start_ms for each in pauses)
        heard_ms, said_ms = outcome.heard_ms, outcome.received_ms
        interrupted = heard_ms < said_ms or not outcome.complete
        text = self.text.strip()
        heard_text = heard_part(text, heard_ms, said_ms, complete=outcome.complete) if interrupted else text
        return Turn(
            role="agent",
            item_id=self.item_id,
            text=text,
            heard_text=heard_text,
            start_ms=max(0, now_ms - heard_ms - paused_ms),
            end_ms=now_ms,
            said_ms=said_ms,
            heard_ms=heard_ms,
            interrupted=interrupted,
            agent=self.agent,
            pauses=pauses,
        )


class Transcript:
    """The turns of a call. A method that ends a turn returns it."""

    def __init__(self, clock: CallClock) -> None:
        self._clock = clock
        self._speaker: str | None = None
        self._ended: dict[str, Turn] = {}
        self._agent: dict[str, _AgentTurn] = {}
        self._caller: dict[str, _CallerTurn] = {}
        self._wordless: set[str] = set()  # turns of the agent that were cut before any of its words came
        self._speech: tuple[int, int] | None = None
        self._latest = ""
        self._committed_ms = -TEXT_MS

    def agent_named(self, name: str) -> None:
        """Attribute what the agent begins to say from here on to the agent of that name."""
        self._speaker = name

    def caller_spoke(self, start_ms: int, end_ms: int) -> None:
        """Note a stretch of speech of the caller; the turn it belongs to is committed later."""
        start = self._speech[0] if self._speech else start_ms
        self._speech = (start, max(start, end_ms))

    def caller_turn(self, item_id: str, now_ms: int) -> None:
        """Note that the speech so far became the item `item_id`."""
        start, end = self._speech or (now_ms, now_ms)
        self._speech = None
        self._caller[item_id] = _CallerTurn(item_id, start, end)
        self._latest = item_id
        self._committed_ms = now_ms

    def caller_text(self, item_id: str, text: str) -> Turn | None:
        """Attach what the recognizer understood of an item, or "" if it failed."""
        turn = self._caller.pop(item_id, None)
        if turn is None:
            return None
        turn.text = text.strip()
        return self._keep(turn.as_turn())

    def agent_words(self, item_id: str, words: str) -> None:
        """Add words of an item that the agent is saying."""
        ended = self._ended.get(item_id)
        if ended is not None:
            self._amend(ended, ended.text + words)
            return
        turn = self._agent.setdefault(item_id, _AgentTurn(item_id, self._speaker))
        if not turn.complete:
            turn.text += words

    def _amend(self, ended: Turn, text: str) -> None:
        """Add late text to a turn that has ended.

        A turn that was cut has the words that were known then; the caller did not hear more of them. But some servers
        send the text after all of the audio: then the part that was heard is estimated now.
        """
        text = heard = text.strip()
        if ended.interrupted:
            if ended.item_id not in self._wordless:
                return
            heard = heard_part(text, ended.heard_ms, ended.said_ms, complete=False)
        self._ended[ended.item_id] = replace(ended, text=text, heard_text=heard)

    def agent_text(self, item_id: str, text: str) -> None:
        """Set the whole text of an item."""
        ended = self._ended.get(item_id)
        if ended is not None:
            self._amend(ended, text)
            return
        turn = self._agent.setdefault(item_id, _AgentTurn(item_id, self._speaker))
        turn.text, turn.complete = text, True

    def new_session(self, playing: Sequence[Outcome], *, heard_again: bool) -> None:
        """Replace a lost session: no more of the agent's words come, and the caller may be heard again.

        Items that still play have some audio, and their words may have run ahead of it. Nothing of any other item was
        said.
        """
        self._agent = {
            each.item_id: self._agent.get(each.item_id) or _AgentTurn(each.item_id, self._speaker) for each in playing
        }
        for each in playing:
            turn, ms = self._agent[each.item_id], each.received_ms
            if not each.complete:
                turn.text, turn.complete = heard_part(turn.text, ms, ms, complete=False), True
        if heard_again:
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
                interrupted=True,
            )
            for turn in self._agent.values()
        ]
        return [*self.turns(), *playing]

    def agent_turn(self, outcome: Outcome, now_ms: int) -> Turn:
        """End the turn of an item: it was heard to its end at `now_ms`, or cut off then."""
        item_id = outcome.item_id
        turn = (self._agent.pop(item_id, None) or _AgentTurn(item_id, self._speaker)).as_turn(
            outcome, now_ms, self._clock
        )
        self._wordless.discard(item_id)
        if turn.interrupted and not turn.text:
            self._wordless.add(item_id)
        return self._keep(turn)

    def unfinished(self, playing: Iterable[Outcome], now_ms: int) -> list[Turn]:
        """Return the turns that are not over, as if they ended now.

        These are the agent's items that play, if any part was heard, and the caller's latest turn, if it still has no
        text.
        """
        begun = [each for each in playing if self._begun(each)]
        turns = [self._agent[each.item_id].as_turn(each, now_ms, self._clock) for each in begun]
        return [self._caller[self._latest].as_turn(), *turns] if self.lacks_text else turns

    def _begun(self, playing: Outcome) -> bool:
        return playing.heard_ms > 0 and playing.item_id in self._agent

    def said_lately(self) -> str:
        """Return what the agent is saying, and what it said in its latest turn, as far as the words have arrived."""
        ended = next((turn.text for turn in reversed(self._ended.values()) if turn.role == "agent"), "")
        return " ".join((ended, *(turn.text for turn in self._agent.values())))

    @property
    def lacks_text(self) -> bool:
        """Whether the caller's latest turn has no text yet."""
        return self._latest in self._caller

    def awaits_text(self, now_ms: int) -> bool:
        """Return whether the text of the caller's latest turn may still come."""
        return self.lacks_text and now_ms < self._committed_ms + TEXT_MS

    def close(self) -> list[Turn]:
        """End the turns of the caller whose text never came, and return them."""
        late = [self._keep(turn.as_turn()) for turn in self._caller.values()]
        self._caller.clear()
        return late

    def turns(self) -> tuple[Turn, ...]:
        """Return the ended turns, in the order in which they began."""
        return tuple(sorted(self._ended.values(), key=lambda turn: turn.start_ms))

    def _keep(self, turn: Turn) -> Turn:
        self._ended[turn.item_id] = turn
        if len(self._ended) > MAX_TURNS:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._wordless.discard(oldest)
        return turn
