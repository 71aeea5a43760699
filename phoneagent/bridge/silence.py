"""Silence: what happens when the caller has heard nothing for too long although an answer is due.

What counts is what the caller hears, not what the model does: a response that is not created, has no audio or hangs, a
session that is lost or frozen, a tool and a rate limit all sound the same. So there is one rule for them, on two
clocks:

- the *silence* runs while neither the agent nor a clip is heard. Whenever it has lasted `dead_air_ms`, a short sound is
  played (the filler).
- the *wait* runs until the agent itself is heard. After `retry_seconds` the caller hears an apology, and another
  session gets the question; after `give_up_seconds` the call goes to FALLBACK_NUMBER, or ends with an apology. While a
  tool runs, its own time limit applies instead.

Both begin at the end of the caller's speech if an answer to that is due, and otherwise when the answer became due.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from phoneagent.bridge.caller import PIECE_MS, SPEECH_RMS
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.dialogue import Dialogue
from phoneagent.bridge.idle import IdleLine
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.policy import Silence, sound_of
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import Verdict

Sound: TypeAlias = Literal["filler", "apology"]


MAX_RETRIES = 2
"""How many times in a row another session is tried for one answer."""

LOOK_SECONDS = 1.0
"""The longest interval between looks at the caller's audio while the model reports nothing."""

ANSWER_SECONDS = 0.5
"""The longest time that a live model may take to say so."""

SPEECH_MS = 300
"""Shorter sound is not speech, but a cough or a knock."""

SURE_PIECES = 30
"""How far back the end of speech that the model reports may be: three seconds."""

STUCK_SECONDS = 12.0
"""A model that reports speech, but not its end, on a line that has been silent for this long, has lost track. A model
that judges by the words waits for 8 s at most."""

BREAK_SECONDS = 0.7
"""Sounds with a longer pause in between do not belong together."""


class Unheard:
    """The caller's speech that the model does not report, found by its loudness. `now` is in seconds.

    A model that hears noise does not report it either. So it is asked whether it is alive, half of `dead_air_ms` after
    the sound: if it answers, it is right. If it has reported that the caller speaks, it is asked repeatedly, because it
    may be waiting for the rest of a sentence. If a model does not answer, or there is no session, the loudness decides.
    """

    def __init__(self, dead_air_seconds: float, conversation: Conversation, dialogue: Dialogue) -> None:
        self._dead_air_seconds = dead_air_seconds
        self._look_seconds = min(LOOK_SECONDS, dead_air_seconds / 2)
        self._answer_seconds = min(ANSWER_SECONDS, dead_air_seconds / 4)
        self._conversation = conversation
        self._dialogue = dialogue
        self._loud_ms = 0
        self._loud_until = self._asked_at = self._found_at = -math.inf
        self._look_at: float | None = None
        self.since: float | None = None
        """When speech that the model has not heard ended; None if there is none."""

    def rest(self) -> None:
        """Stop looking: the agent is heard, or an answer is due anyway."""
        self._loud_ms, self._look_at = 0, None

    def get_timer(self) -> float | None:
        """Return when `look` is due."""
        return self._look_at

    def settle(self) -> None:
        """Note that the model was found deaf. If it has reported anything since, it or another session is alive."""
        if self.since is not None and self._conversation.event_at > self._found_at:
            self.since = None

    def stuck(self, now: float) -> bool:
        """Return whether the model reports speech where there is none."""
        latest = max(self._loud_until, self._dialogue.told_at)
        return self._dialogue.caller_speaks and now >= latest + STUCK_SECONDS

    def look(self, now: float) -> None:
        """Look for such speech, if it is time."""
        if self.since is not None or not self._dead_air_seconds:
            return
        if self._look_at is None:
            self._look_at = now + self._look_seconds
        if now < self._look_at:
            return
        self._listen(now)
        due = [now + self._look_seconds]
        if self._dialogue.caller_speaks and self._loud_until == -math.inf:
            self._loud_until = now  # too soft to measure, or heard again by another session
        if self._loud_ms >= SPEECH_MS or self._dialogue.caller_speaks:
            self._judge(now)
            due += [max(self._loud_until, self._asked_at) + self._dead_air_seconds / 2]
            due += [self._loud_until + self._dead_air_seconds, self._asked_at + self._answer_seconds]
        self._look_at = min(at for at in due if at > now) if self.since is None else None

    def _listen(self, now: float) -> None:
        levels = self._dialogue.levels(round(self._look_seconds * 1000 / PIECE_MS))
        for number, level in enumerate(levels, 1):
            ended_at = now - (len(levels) - number) * PIECE_MS / 1000
            if level < SPEECH_RMS or ended_at < self._loud_until + PIECE_MS / 2000:
                continue  # quiet, or counted at the look before
            if ended_at > self._loud_until + BREAK_SECONDS:
                self._loud_ms = 0
            self._loud_ms += PIECE_MS
            self._loud_until = ended_at

    def _judge(self, now: float) -> None:
        latest = max(self._loud_until, self._asked_at)
        quiet, told = now - self._loud_until, self._conversation.event_at > latest
        asked = self._asked_at > self._loud_until and not told
        if told and not self._dialogue.caller_speaks:
            self._loud_ms = 0  # the model is alive, and does not consider it speech
        elif self._conversation.connected and not asked and now >= latest + self._dead_air_seconds / 2:
            self._asked_at = now
            self._conversation.ask_whether_alive()
        elif not told and quiet >= self._dead_air_seconds and now >= self._asked_at + self._answer_seconds:
            self.since, self._found_at = self._loud_until, now
            self._dialogue.unheard()


class Sessions(Protocol):
    """The model sessions of a call."""

    @property
    def awaited(self) -> bool: ...
    @property
    def renews(self) -> bool: ...


class SilenceWatch:
    """The silences of one call. `now` is in seconds; `gathering` returns whether the caller types digits."""

    def __init__(
        self,
        rules: Silence,
        playback: Playback,
        conversation: Conversation,
        dialogue: Dialogue,
        reporter: Reporter,
        sessions: Sessions,
        gathering: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rules = rules
        self._filler, self._apology = sound_of(rules.filler), sound_of(rules.apology)
        self._playback = playback
        self._conversation = conversation
        self._dialogue = dialogue
        self._reporter = reporter
        self._sessions = sessions
        self._gathering = gathering
        self._idle = IdleLine(
            conversation,
            dialogue,
            idle_seconds=rules.idle_seconds,
            idle_prompts=rules.idle_prompts,
            closing_silence_seconds=rules.closing_silence_seconds,
        )
        self._unheard = Unheard(rules.dead_air_ms / 1000 if self._filler else 0.0, conversation, dialogue)
        self._since: float | None = None  # since when an answer is due
        self._answering = -math.inf  # the end of the speech that the latest due answer responds to
        self._retried_at = -math.inf
        self._retries = 0  # those without a complete answer
        self._tool_ran = False
        self._tool_ended_at = -math.inf
        self.longest_ms = 0
        """The longest silence so far while an answer was due."""

    # --- since when ---

    def _due(self) -> bool:
        """Return whether the caller waits for the agent."""
        responses = self._conversation.responses
        if responses.closing or responses.muted or self._playback.paused_at is not None:  # such a pause is short
            return False
        if self._unheard.since is not None:
            return True
        if self._dialogue.caller_speaks:
            return False
        heard_next = not self._conversation.connected and self._dialogue.heard_again
        waits = self._dialogue.uncommitted or self._sessions.awaited or heard_next
        tool_runs = self._conversation.tools.running and not self._gathering()  # it waits for the caller's digits
        return waits or tool_runs or responses.speaking or responses.owes

    def _watch(self, now: float) -> None:
        """Track since when an answer is due, and how long the silences were until now."""
        gaps = self._playback.gaps
        while gaps:
            self._measure(*gaps.popleft())
        tool_runs = self._conversation.tools.running
        if self._tool_ran and not tool_runs:
            self._tool_ended_at = now
        self._tool_ran = tool_runs
        self._unheard.settle()
        if self._conversation.responses.muted:
            self._answering = self._dialogue.spoke_until  # the wait for an answer begins when the agent is unmuted
        due = self._due()
        closing = self._conversation.responses.closing or self._conversation.responses.muted
        if due or closing or now < self._playback.dry_at:
            self._unheard.rest()
        else:
            self._unheard.look(now)
        if closing or not (due or self._unheard.since is not None):
            self._measure(self._playback.dry_at, now)
            self._since = None
            if not self._dialogue.caller_speaks:
                self._retries = 0
        elif self._since is None:
            self._since = self._speech_end(now) if self._unheard.since is None else self._unheard.since

    def _speech_end(self, now: float) -> float:
        """Return when the speech to be answered ended; `now` if the answer is to no speech, or to an earlier one.

        A model reports the end once it is sure, and many count that time as speech, so the loudness is checked too.
        """
        spoke_until = self._dialogue.spoke_until
        if spoke_until == self._answering:
            return now
        self._answering = spoke_until
        for quiet, level in enumerate(reversed(self._dialogue.levels(SURE_PIECES))):
            if level >= SPEECH_RMS:
                return min(spoke_until, now - quiet * PIECE_MS / 1000)
        return spoke_until

    def _measure(self, begin: float, end: float) -> None:
        if self._since is not None:
            self.longest_ms = max(self.longest_ms, round((end - max(begin, self._since)) * 1000))

    def close(self, now: float) -> int:
        """End the call. Return the longest silence while an answer was due, in milliseconds."""
        self._watch(now)
        self._measure(self._playback.dry_at, now)
        return self.longest_ms

    # --- what then ---

    def get_timer(self) -> float | None:
        """Return when `poll` is due."""
        times = (
            self._filler_at(),
            self._retry_at(),
            self._give_up_at(),
            self._unheard.get_timer(),
            self._idle.get_timer(),
        )
        return min((time for time in times if time is not None), default=None)

    def poll(self, now: float) -> Verdict | None:
        """Play a sound, if it is time. Return what that means for the session."""
        self._watch(now)
        if (give_up_at := self._give_up_at()) is not None and now >= give_up_at:
            return Verdict("lost", f"the caller waited {self._rules.give_up_seconds:g} s for an answer")
        if (retry_at := self._retry_at()) is not None and now >= retry_at:
            if self._retries == MAX_RETRIES:  # each may have said something and broken off
                return Verdict("lost", f"no complete answer came in {MAX_RETRIES + 1} tries")
            self._retried_at, self._retries = now, self._retries + 1
            self._sound("apology", self._apology, now)
            if self._conversation.connected and not self._conversation.responses.holds_back:
                return Verdict("renew", f"the caller waited {self._rules.retry_seconds:g} s for an answer")
        elif (filler_at := self._filler_at()) is not None and now >= filler_at:
            self._sound("filler", self._filler, now)
        if self._sessions.renews and self._unheard.stuck(now):
            return Verdict("renew", f"the model reported speech on a line that was silent for {STUCK_SECONDS:g} s")
        return self._idle.poll(now, idle=self._is_idle(now))

    def _is_idle(self, now: float) -> bool:
        """Return whether neither side speaks, and nothing is due."""
        heard = now < self._playback.dry_at or self._playback.unsent_ms > 0
        responses = self._conversation.responses
        over = responses.closing or responses.muted or not self._conversation.connected
        speaks = self._gathering() or self._dialogue.turn_open(now) or self._dialogue.turn_held
        return not (heard or over or speaks or self._since is not None)

    def _sound(self, sound: Sound, clip: str, now: float) -> None:
        since = max(self._playback.dry_at, self._since or now)
        self._playback.queue(clip)
        self._playback.finish()
        self._reporter.silence_filled(sound, since, now)

    def _filler_at(self) -> float | None:
        if self._since is None or self._playback.unsent_ms or not (self._filler and self._rules.dead_air_ms):
            return None
        return max(self._since, self._playback.dry_at) + self._rules.dead_air_ms / 1000

    def _retry_at(self) -> float | None:
        return self._patient_until(self._rules.retry_seconds, self._retried_at) if self._sessions.renews else None

    def _give_up_at(self) -> float | None:
        return self._patient_until(self._rules.give_up_seconds, -math.inf)

    def _patient_until(self, seconds: float, since: float) -> float | None:
        """Return when the caller has waited that long. A filler or clip that is playing then ends first."""
        if self._since is None or not seconds or self._tool_ran:
            return None
        waits_since = max(self._since, self._playback.spoken_until, self._tool_ended_at, since)
        return max(waits_since + seconds, self._playback.dry_at)
