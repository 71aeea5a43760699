"""The dialogue: the turns of both sides, when the caller speaks, what either side said, and what was heard of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from phoneagent.bridge.caller import CallerAudio, CallerTurn
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.bridge.transcript import Transcript
from phoneagent.events import Turn
from phoneagent.protocol.realtime import TranscriptDelta, TranscriptDone


class Dialogue:
    """Both sides' turns, as the model reports them. `now` is in seconds, `model_ms` a time on the model's clock."""

    def __init__(self, clock: CallClock, reporter: Reporter, caller_audio: CallerAudio) -> None:
        self._clock = clock
        self._reporter = reporter
        self._caller_audio = caller_audio
        self._turn = CallerTurn()
        self.transcript = Transcript(clock)
        self._replayed = False  # the next session hears the turn once more, and has not told of it
        self._told_ms = 0.0  # the latest time that the session told, on the model's clock
        self.speech_from_ms = 0
        """When the caller's latest speech began, on the call's clock."""
        self.told_at = -math.inf
        """When the model told that the caller began to speak, in seconds of `now`."""
        self.spoke_until = -math.inf
        """When the caller's latest speech ended, in seconds of `now`."""
        self.uncommitted = False
        """The caller has stopped, and what they said is in no turn yet."""
        self.sign_at = self._sign_before = -math.inf
        """When the caller gave the latest sign of life, words or a key, in seconds of `now`."""
        self.wordless = False
        """The caller's latest turn has no words: it was a noise."""
        self.agent_said = ""
        """What the agent said in its latest turn, if nothing was said since and it was heard to its end."""

    # --- the caller ---

    @property
    def caller_speaks(self) -> bool:
        """Whether the caller speaks at this moment."""
        return self._turn.speaking

    def levels(self, pieces: int) -> list[int]:
        """Return how loud each of the latest pieces of the caller's audio was, oldest first."""
        return self._caller_audio.levels(pieces)

    def unheard(self) -> None:
        """The caller has said something that the model does not hear."""
        self._caller_audio.unheard()

    @property
    def heard_again(self) -> bool:
        """Whether the next session hears once more what the caller said."""
        return self._caller_audio.again

    @property
    def heard_before(self) -> bool:
        """Whether the speech that this session tells of next was said to the one before."""
        return self._replayed

    def turn_open(self, now: float) -> bool:
        """Tell whether the caller has a turn that is not over."""
        return self._turn.open(now)

    def speech_started(self, model_ms: float, now: float) -> None:
        """The caller began to speak."""
        self._turn.begin()
        self.told_at = now
        self.uncommitted = self._replayed = False
        self._caller_audio.speech(True)
        self.speech_from_ms = max(0, round(self._clock.ms(now) - self._behind_ms(model_ms)))
        self._reporter.speech_started(self.speech_from_ms)

    def speech_stopped(self, model_ms: float, now: float) -> None:
        """The caller stopped speaking."""
        self._turn.stop(now)
        self._caller_audio.speech(False)
        behind_ms = self._behind_ms(model_ms)
        self.spoke_until, self.uncommitted = now - behind_ms / 1000, True
        self._reporter.speech_stopped(behind_ms, now)
        self.transcript.caller_spoke(self.speech_from_ms, round(self._clock.ms(now) - behind_ms))

    def _behind_ms(self, model_ms: float) -> float:
        """Return how long ago a time on the model's clock was.

        Some servers tell no times, or always 0. A time that is not after the one before counts as now: counted from 0,
        an answer in the call's tenth minute would have taken ten minutes. Only audio that is heard again may well begin
        with speech.
        """
        if model_ms <= self._told_ms and not (self._told_ms == 0 and self._caller_audio.replayed):
            return 0.0
        self._told_ms = model_ms
        return self._caller_audio.behind_ms(model_ms)

    @property
    def caller_spoke(self) -> bool:
        """Whether the caller has said anything, or pressed a key."""
        return self.sign_at > -math.inf

    def signed(self, now: float) -> None:
        """The caller pressed a key: they are there."""
        self.sign_at = now

    def committed(self, item_id: str, now: float) -> None:
        """The caller's turn became an item."""
        self._turn.commit()
        self.uncommitted = self.wordless = False
        self._sign_before, self.sign_at, self.agent_said = self.sign_at, now, ""
        self.transcript.caller_turn(item_id, self._clock.ms(now))

    def understood(self, item_id: str, text: str, now: float) -> None:
        """The recogniser gives the text of a turn."""
        self._report(self.transcript.caller_text(item_id, text))
        if not text.strip():
            self.wordless, self.sign_at = True, self._sign_before
        if not (self.transcript.lacks_text or self._turn.open(now)):
            self._caller_audio.settled()

    def not_understood(self, item_id: str) -> None:
        """The recogniser has failed on a turn: it has no text."""
        self._report(self.transcript.caller_text(item_id, ""))

    def answered(self, now: float) -> None:
        """The agent speaks: unless a turn is open, it has answered what the caller said."""
        if not self._turn.open(now):
            self._caller_audio.settled()

    def quiet(self, now: float, *, heard_again: bool) -> bool:
        """Tell whether the caller has no turn that could be lost.

        The caller has not just begun to speak either, unless the last second is `heard_again` by the next session.
        """
        return (
            not (self._turn.open(now) or self._caller_audio.mid_turn)
            and not self.transcript.awaits_text(self._clock.ms(now))
            and (heard_again or self._caller_audio.silent())
        )

    # --- the agent ---

    def words(self, event: TranscriptDelta | TranscriptDone) -> None:
        """Take words of the agent, or all of an item's."""
        if isinstance(event, TranscriptDelta):
            self.transcript.agent_words(event.item_id, event.delta)
        elif event.transcript:  # some servers send it without: what came before still counts
            self.transcript.agent_text(event.item_id, event.transcript)

    def item_over(self, outcome: Outcome, now: float) -> Turn:
        """An item was heard to its end, or cut off. Returns the agent's turn."""
        turn = self.transcript.agent_turn(outcome, self._clock.ms(now))
        self._reporter.turn_ended(turn)
        self.agent_said = "" if turn.interrupted else turn.text
        return turn

    def item_cut(self, outcome: Outcome, now: float) -> Turn:
        """An item was cut off, by the caller's speech if they speak. Returns the agent's turn."""
        turn = self.item_over(outcome, now)
        self._reporter.barge_in(outcome, self.speech_from_ms if self.caller_speaks else None, now)
        return turn

    def items_over(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Several items were heard to their end, or cut off."""
        for outcome in outcomes:
            self.item_over(outcome, now)

    def unfinished(self, playing: Iterable[Outcome], now: float) -> list[Turn]:
        """Return the turns of both sides that are not over, as if they ended now."""
        return self.transcript.unfinished(playing, self._clock.ms(now))

    # --- sessions, the end, and time ---

    def replayed(self, now: float) -> None:
        """The next session hears the caller's turn once more, and will tell when it was over."""
        if self._caller_audio.replayed and not self._caller_audio.by_hand:
            self._turn.replayed(now)
            self.uncommitted = self._replayed = True

    def new_session(self, playing: Sequence[Outcome], *, heard_again: bool) -> None:
        """The session is gone while these items still play; the caller may be heard once more by the next one."""
        self._turn.new_session()
        self.uncommitted = False
        self._told_ms = 0.0
        self.transcript.new_session(playing, heard_again=heard_again)

    def lost(self) -> None:
        """There will be no session any more: the caller is not listened to."""
        self._turn.new_session()
        self.uncommitted = False
        self._caller_audio.speech(False)

    def end(self) -> tuple[Turn, ...]:
        """The call is over: turns without a text end as well. Returns all turns."""
        for turn in self.transcript.close():
            self._reporter.turn_ended(turn)
        return self.transcript.turns()

    def _report(self, turn: Turn | None) -> None:
        if turn is not None:
            self._reporter.turn_ended(turn)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self._turn.get_timer()

    def handle_timer(self, now: float) -> None:
        """Give up waiting for the end of a turn."""
        self._turn.handle_timer(now)
        if self._replayed and not self._turn.open(now):
            self.uncommitted = self._replayed = False
