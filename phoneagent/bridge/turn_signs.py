"""The signs of the caller's turn: when they speak, when they have stopped, and when their turn is complete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from phoneagent.bridge.names import Names
from phoneagent.protocol.realtime import (
    Committed,
    FromModel,
    InputTranscript,
    InputTranscriptFailed,
    SpeechStarted,
    SpeechStopped,
)

COMMIT_SECONDS = 1.0
"""How long after the end of speech the turn may stay open: the server may commit it, or answer it by itself. Then it
counts as complete."""

MAX_TURNS = 64
"""How many turns are remembered for late events."""


class AnsweredTurn(Committed):
    """A complete turn that the server has already answered."""


@dataclass(slots=True)
class _Turn:
    """A turn that is not complete; `over_at` is when its speech stopped."""

    item_id: str
    over_at: float | None = None


class TurnSigns:
    """The turns of one session. `names` makes their ids unique in the call; `now` is in seconds."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._turn_number = 0
        self.new_session()

    def new_session(self) -> None:
        """Switch to another session, which knows none of the turns."""
        self._turns: list[_Turn] = []  # no deque, as usual here: an empty one takes 0.7 KB per call
        self._users: dict[str, str] = {}  # the server's id of a complete turn -> name
        self._textless: list[str] = []  # complete turns without a transcript
        self._answered = False  # the server has answered a turn that nothing had announced

    @property
    def pending(self) -> bool:
        """Whether the caller has a turn that is not complete."""
        return bool(self._turns)

    def speech_started(self, event: SpeechStarted) -> None:
        item_id = event.item_id or ""
        turn = self._turns[-1] if self._turns else None
        if turn is not None and (turn.over_at is None or (item_id and turn.item_id == item_id)):
            turn.item_id, turn.over_at = item_id or turn.item_id, None
        else:
            self._turns.append(_Turn(item_id))
            del self._turns[:-MAX_TURNS]

    def speech_stopped(self, event: SpeechStopped, now: float) -> Iterator[FromModel]:
        if not self._turns or self._turns[-1].over_at is not None:
            if event.item_id and (event.item_id in self._users or self._turn(event.item_id) is not None):
                return
            started = SpeechStarted(event.item_id, event.audio_end_ms)
            self.speech_started(started)
            self._turns[-1].over_at = now  # before the bridge takes the beginning and perhaps begins another session
            yield started
        else:
            self._turns[-1].over_at = now
        yield event

    def committed(self, event: Committed) -> Iterator[FromModel]:
        turn = self._turn(event.item_id)
        if turn is not None:
            yield from self.complete(turn, event.item_id)
        elif event.item_id not in self._users or not event.item_id:
            yield Committed(self._user(event.item_id))

    def _turn(self, item_id: str) -> _Turn | None:
        """Return the turn that is meant: the one with this id, the oldest one that is over, or the only one."""
        for turn in self._turns:
            if item_id and turn.item_id == item_id:
                return turn
        if item_id in self._users:
            return None
        for turn in self._turns:
            if turn.over_at is not None or not (item_id and turn.item_id):
                return turn
        return None

    def complete(self, turn: _Turn, item_id: str) -> Iterator[FromModel]:
        """Report that a turn became the item `item_id`, along with earlier turns that did not become one."""
        while self._turns and self._turns.pop(0) is not turn:
            pass
        if turn.over_at is None:
            yield SpeechStopped(turn.item_id)
        yield Committed(self._user(item_id or turn.item_id))

    def _user(self, item_id: str) -> str:
        item_id = item_id or self._made_up()
        name = self._users[item_id] = self._names.new(item_id)
        self._textless.append(item_id)
        del self._textless[:-MAX_TURNS]
        if len(self._users) > MAX_TURNS:
            del self._users[next(iter(self._users))]
        return name

    def _made_up(self) -> str:
        self._turn_number += 1
        return f"turn_{self._turn_number}"

    def transcript(self, event: InputTranscript | InputTranscriptFailed) -> Iterator[FromModel]:
        if not event.item_id and self._textless:
            event.item_id = self._textless[0]
        turn = self._turn(event.item_id)
        if turn is None and event.item_id not in self._users and len(self._textless) == 1:
            event.item_id = self._textless[0]  # LocalAI names another item here, and only this one can be meant
        event.item_id = event.item_id or (turn.item_id if turn is not None else "") or self._made_up()
        if turn is not None:
            yield from self.complete(turn, event.item_id)
        elif event.item_id not in self._users and isinstance(event, InputTranscript) and event.transcript.strip():
            answered, self._answered = self._answered, False
            name = self._user(event.item_id)
            yield AnsweredTurn(name) if answered else Committed(name)
        if event.item_id in self._textless:
            self._textless.remove(event.item_id)
        event.item_id = self._users.get(event.item_id, event.item_id)
        yield event

    def user_item(self, item_id: str) -> Iterator[FromModel]:
        """Handle a user's item, which may be one that we added."""
        turn = next((turn for turn in self._turns if turn.item_id == item_id), None)
        if turn is not None:
            yield from self.complete(turn, item_id)

    def answered(self, *, due: bool) -> Iterator[FromModel]:
        """Handle the server's own response. If none was `due`, it answers what the caller says now."""
        turn = next((turn for turn in self._turns if turn.over_at is not None), None)
        if turn is None and self._turns and not due:
            turn = self._turns[0]
        if turn is not None:
            yield from self.complete(turn, turn.item_id)
        else:
            self._answered = True

    def get_timer(self) -> float | None:
        """Return when `overdue` has something to yield, unless another sign comes before."""
        return min((turn.over_at + COMMIT_SECONDS for turn in self._turns if turn.over_at is not None), default=None)

    def overdue(self, now: float) -> Iterator[FromModel]:
        """Yield events for the ends of turns that no further sign has announced in time."""
        for turn in tuple(self._turns):
            if turn.over_at is not None and now >= turn.over_at + COMMIT_SECONDS:
                yield from self.complete(turn, turn.item_id)
