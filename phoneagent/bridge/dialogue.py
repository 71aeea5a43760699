"""The dialogue: the turns of both sides, when the caller speaks, what each side said, and how much of it was heard."""

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
        self._replayed = False  # the next session hears the turn again, and has not reported it
        self._told_ms = 0.0  # the latest time that the session reported, on the model's clock
        self.speech_from_ms = 0
        """When the caller's latest speech began, on the call's clock."""
        self.told_at = -math.inf
        """When the model reported that the caller began to speak, in seconds of `now`."""
        self.spoke_until = -math.inf
        """When the caller's latest speech ended, in seconds of `now`."""
        self.uncommitted = False
        """Whether the caller has stopped, and what they said is not in a turn yet."""
        self.sign_at = self._sign_before = -math.inf
        """When the caller gave the latest sign of life, words or a key, in seconds of `now`."""
        self.wordless = False
        """Whether the caller's latest turn has no words: it was a noise."""
        self.agent_said = ""
        """What the agent said in its latest turn, if it was heard to its end and nothing was said since."""

    # --- the caller ---

    @property
    def caller_speaks(self) -> bool:
        """Whether the caller is speaking."""
        return self._turn.speaking

    def levels(self, pieces: int) -> list[int]:
        """Return how loud each of the latest pieces of the caller's audio was, oldest first."""
        return self._caller_audio.levels(pieces)

    def unheard(self) -> None:
        """Note that the caller said something that the model does not hear."""
        self._caller_audio.unheard()

    @property
    def heard_again(self) -> bool:
        """Whether the next session hears again what the caller said."""
        return self._caller_audio.again

    @property
    def heard_before(self) -> bool:
        """Whether the speech that this session reports next was said to the one before."""
        return self._replayed

    def turn_open(self, now: float) -> bool:
        """Return whether the caller has a turn that is not over."""
        return self._turn.open(now)

    def speech_started(self, model_ms: float, now: float) -> None:
        """Note that the caller began to speak."""
        self._turn.begin()
        self.told_at = now
        self.uncommitted = self._replayed = False
        self._caller_audio.speech(True)
        self.speech_from_ms = max(0, round(self._clock.ms(now) - self._behind_ms(model_ms)))
        self._reporter.speech_started(self.speech_from_ms)

    def speech_stopped(self, model_ms: float, now: float) -> None:
        """Note that the caller stopped speaking."""
        self._turn.stop(now)
        self._caller_audio.speech(False)
        behind_ms = self._behind_ms(model_ms)
        self.spoke_until, self.uncommitted = now - behind_ms / 1000, True
        self._reporter.speech_stopped(behind_ms, now)
        self.transcript.caller_spoke(self.speech_from_ms, round(self._clock.ms(now) - behind_ms))

    def _behind_ms(self, model_ms: float) -> float:
        """Return how long ago a time on the model's clock was.

        Some servers report no times, or always 0. A time that is not after the previous one counts as now: counted from
        0, an answer in the call's tenth minute would have taken ten minutes. Only audio that is heard again may really
        begin with speech.
        """
        if model_ms <= self._told_ms and not (self._told_ms == 0 and self._caller_audio.replayed):
            return 0.0
        self._told_ms = model_ms
        return self._caller_audio.behind_ms(model_ms)

    @property
    def turn_held(self) -> bool:
        """Whether user code has begun a turn of the caller, and has not yet committed it."""
        return self._caller_audio.by_hand and self._caller_audio.speaking

    @property
    def caller_spoke(self) -> bool:
        """Whether the caller has said anything, or pressed a key."""
        return self.sign_at > -math.inf

    def signed(self, now: float) -> None:
        """Note that the caller pressed a key: they are there, whatever a recognizer finds in the turn before."""
        self._sign_before = self.sign_at = now
        self.wordless = False

    def committed(self, item_id: str, now: float) -> None:
        """Note that the caller's turn became an item."""
        self._turn.commit()
        self.uncommitted = self.wordless = False
        self._sign_before, self.sign_at, self.agent_said = self.sign_at, now, ""
        self.transcript.caller_turn(item_id, self._clock.ms(now))

    def understood(self, item_id: str, text: str, now: float) -> None:
        """Handle the recognizer's text of a turn."""
        self._report(self.transcript.caller_text(item_id, text))
        if not text.strip():
            self.wordless, self.sign_at = True, self._sign_before
        if not (self.transcript.lacks_text or self._turn.open(now)):
            self._caller_audio.settled()

    def not_understood(self, item_id: str) -> None:
        """Note that the recognizer failed on a turn: it has no text."""
        self._report(self.transcript.caller_text(item_id, ""))

    def answered(self, now: float) -> None:
        """Note that the agent speaks: unless a turn is open, it has answered what the caller said."""
        if not self._turn.open(now):
            self._caller_audio.settled()

    def quiet(self, now: float, *, heard_again: bool) -> bool:
        """Return whether the caller has no turn that could be lost.

        The caller has not just begun to speak either, unless the last second is `heard_again` by the next session.
        """
        return (
            not (self._turn.open(now) or self._caller_audio.mid_turn)
            and not self.transcript.awaits_text(self._clock.ms(now))
            and (heard_again or self._caller_audio.silent())
        )

    # --- the agent ---

    def words(self, event: TranscriptDelta | TranscriptDone) -> None:
        """Handle words of the agent, or all of an item's."""
        if isinstance(event, TranscriptDelta):
            self.transcript.agent_words(event.item_id, event.delta)
        elif event.transcript:  # some servers send it without: what came before still counts
            self.transcript.agent_text(event.item_id, event.transcript)

    def item_over(self, outcome: Outcome, now: float) -> Turn:
        """Note that an item was heard to its end, or cut off. Return the agent's turn."""
        turn = self.transcript.agent_turn(outcome, self._clock.ms(now))
        self._reporter.turn_ended(turn)
        self.agent_said = "" if turn.interrupted else turn.text
        return turn

    def item_cut(self, outcome: Outcome, now: float) -> Turn:
        """Note that an item was cut off, by the caller's speech if they speak. Return the agent's turn."""
        turn = self.item_over(outcome, now)
        self._reporter.barge_in(outcome, self.speech_from_ms if self.caller_speaks else None, now)
        return turn

    def items_over(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Note that several items were heard to their end, or cut off."""
        for outcome in outcomes:
            self.item_over(outcome, now)

    def unfinished(self, playing: Iterable[Outcome], now: float) -> list[Turn]:
        """Return the turns of both sides that are not over, as if they ended now."""
        return self.transcript.unfinished(playing, self._clock.ms(now))

    # --- sessions, the end, and time ---

    def replayed(self, now: float) -> None:
        """Note that the next session hears the caller's turn again, and will report its end."""
        if self._caller_audio.replayed and not self._caller_audio.by_hand:
            self._turn.replayed(now)
            self.uncommitted = self._replayed = True

    def new_session(self, playing: Sequence[Outcome], *, heard_again: bool) -> None:
        """Replace a lost session while these items still play; the next one may hear the caller again."""
        self._turn.forget()
        self.uncommitted = False
        self._told_ms = 0.0
        self.transcript.new_session(playing, heard_again=heard_again)

    def lost(self) -> None:
        """Note that no session will follow: nothing listens to the caller."""
        self._turn.forget()
        self.uncommitted = False
        self._caller_audio.speech(False)

    def end(self) -> tuple[Turn, ...]:
        """End the call, including turns without a text. Return all turns."""
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
