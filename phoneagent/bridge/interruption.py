"""Interruption: whether a sound from the caller stops the agent.

Not every sound is an interruption. So speech that may interrupt first pauses the agent, and is then judged:

| what it was                                                        | what happens                                    |
|--------------------------------------------------------------------|-------------------------------------------------|
| speech that goes on for longer than a back-channel                 | the agent is interrupted, at once               |
| a shorter one, with words that say something                       | the same, once its transcript is there          |
| a back-channel ("mhm"), while the agent has more to say            | the agent goes on; the item stays               |
| a sound without words                                              | the agent goes on; the item is deleted          |
| one whose transcript does not come in time                         | `min_speech_ms` or longer: it interrupts;       |
|                                                                    | shorter: the agent goes on                      |
| sounds that follow each other and are never clearly speech         | the agent goes on, and none of them pauses it   |
| the agent's own voice, coming back from the caller's side          | the agent goes on; the item is deleted          |
| a short sound over words that nothing may stop                     | it is answered after them, if it has words      |

A pause keeps the unheard audio, and cancels and truncates nothing. What the server does in the meantime is held
(`held_turns`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from phoneagent.bridge.backchannels import Words, known_words, meaning_of, repeats
from phoneagent.bridge.caller import CallerAudio
from phoneagent.bridge.caller_sound import MAX_GAP_MS, ONSET_MS, Ear, Sound
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.held_turns import HeldTurn, HeldTurns
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.policy import Interruption
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.events import ResumeCause
from phoneagent.protocol.realtime import Response

CHECK_SECONDS = 0.1
"""How often the sound is examined until it is judged."""

BLIND_SECONDS = 1.5
"""Speech that is too soft to measure interrupts if the server has not reported its end by then."""

MAX_PAUSE_SECONDS = 2.5
"""The longest pause for one sound: if it is neither speech nor over by then, such as typing, it does not interrupt.
Several sounds, such as barking, pause the agent for `words_ms` more at most."""

WARY_SECONDS = 5.0
"""After such sounds: how long a further one does not pause the agent. It still interrupts if it becomes speech."""

TELL_SECONDS = 0.2
"""How long the agent keeps speaking, on a line with an echo, until it is clear whether this is one."""

WORD_MS = 100
"""A shorter sound is not a word."""

QUESTION_MARKS = ("?", "\uff1f", "\u061f")
"""Latin, full-width and Arabic ones."""

ENDING_MS = 1_000
"""If less than this of the agent's words remains, a "yes" answers them."""


_NO_TURN = ("noise", "backchannel", "echo")
_STOPS = ("interrupts", "protected", "waits")

_Meaning: TypeAlias = Literal["interrupts", "protected", "waits"] | ResumeCause
"""What a speech means. "protected": it may not stop the agent, which must be heard. "waits": there is nothing to stop,
so it is answered afterwards."""


class Observer(Protocol):
    """An observer of pauses; it decides nothing."""

    def agent_paused(self, now: float) -> None: ...
    def agent_resumed(self, cause: ResumeCause, paused_seconds: float, now: float) -> None: ...


@dataclass(slots=True)
class _Speech:
    """A stretch of the caller's speech, from its report to the commit of its turn."""

    since: float
    speaking: bool = True
    stopped_at: float = 0.0
    meaning: _Meaning | None = None
    check_at: float | None = None
    played: bytes = b""
    """What the caller heard before the pause."""
    over_at: float | None = None
    lasting: bool = False
    """Whether it, or what came before it in the pause, is too long for a noise."""
    any_words: bool = False
    """Whether it was short, and could stop nothing: it is answered if it has words."""


class Interruptions:
    """The interruptions of one call. `now` is in seconds.

    `over` takes items that were heard to their end, and `said` returns what the agent has said lately.
    """

    def __init__(
        self,
        policy: Interruption,
        playback: Playback,
        conversation: Conversation,
        caller_audio: CallerAudio,
        observer: Observer,
        over: Callable[[list[Outcome], float], None],
        said: Callable[[], str] = lambda: "",
        *,
        server_answers: bool = True,
    ) -> None:
        self._policy = policy
        self._playback = playback
        self._responses = conversation.responses
        self._observer = observer
        self._over = over
        self._backchannels = known_words(policy.languages, policy.backchannels)
        self._backchannel_ms = policy.backchannel_ms if policy.words_ms else 0  # without words, none is recognized
        self._protected_items: set[str] = set()  # items that speech does not stop
        self._unstoppable: set[str] = set()  # items that nothing stops
        self._audible = False  # the pause was heard
        self._wary_until = -math.inf  # no sound by itself pauses the agent
        self._ear = Ear(caller_audio)
        self._said = said
        self._speech: _Speech | None = None
        self.held = HeldTurns(conversation, playback, server_answers=server_answers)

    def new_session(self, now: float) -> None:
        """Replace a lost session, and forget what it said about the caller's speech: the agent goes on."""
        self._speech = None
        self._go_on("noise", now)
        self.held.new_session()

    # --- whether it may -----------------------------------------------------------------------------------------------

    def allowed(self) -> bool:
        """Return whether speech may stop the agent now."""
        if not self._policy.enabled:
            return False
        greeting = not self._policy.greeting and self._responses.waits_for("greeting")
        protected = any(map(self._playback.holds, self._protected_items)) or self._protects()
        return not (greeting or self._responses.protected or protected)

    def protect(self, item_id: str) -> None:
        """Let nothing stop an item that begins: a disclosure must be heard, and half a number is a different number."""
        self._unstoppable = {item_id, *filter(self._playback.holds, self._unstoppable)}

    def _protects(self) -> bool:
        return any(map(self._playback.holds, self._unstoppable))

    def agent_speaks(self, item_id: str) -> None:
        """Handle audio of an item, which may have to be heard to its end."""
        current = self._responses.current
        if current is not None and (current.protected or (current.kind == "greeting" and not self._policy.greeting)):
            self._protected_items = {item_id, *filter(self._playback.holds, self._protected_items)}
            current.begin(item_id)

    def forbids_response(self, response: Response, now: float) -> bool:
        """Handle a response that begins, and return whether it is unwanted.

        It is unwanted if it would be interrupted at once, because the caller speaks and may stop it, or if it answers
        what did not interrupt.
        """
        speech = self._speech
        if speech is not None and speech.speaking and speech.meaning in _STOPS and self.allowed():
            return True
        return self.held.response_created(response, now)

    # --- the caller's speech ------------------------------------------------------------------------------------------

    def speech_started(self, now: float, *, again: bool = False) -> None:
        """Note that the caller began to speak; whether that interrupts is decided next.

        `again`: it was said to the previous session, so it does not interrupt what the agent says now.
        """
        before = self._speech
        self._ear.speech_started(now)
        self._speech = _Speech(now, meaning="waits" if again else None)
        if before is not None and self._paused:
            self._speech.played, self._speech.lasting = before.played, before.lasting

    def speech_stopped(self, now: float) -> None:
        """Note that the caller stopped speaking, as the server hears it."""
        speech, counts = self._speech, True
        if speech is not None:
            speech.speaking, speech.stopped_at = False, now
            if speech.meaning == "protected" and self._may_be_noise(speech, now):
                speech.meaning, speech.any_words = "noise", True
            counts = not self._paused and speech.meaning not in _NO_TURN
        self._ear.speech_stopped(now, counts=counts)
        if counts:
            self._speech = None

    def _may_be_noise(self, speech: _Speech, now: float) -> bool:
        """Return whether a sound that stops nothing needs words to be answered: it is short, and the agent has time."""
        if not (self._policy.words_ms and self._policy.min_speech_ms) or not self._more_to_say(now):
            return False
        spoken_ms = self._spoken_ms(speech, self._sound(speech, now), now)
        return spoken_ms < self._policy.min_speech_ms and (self._ear.knows_caller or spoken_ms > 0)

    @staticmethod
    def _spoken_ms(speech: _Speech, sound: Sound, now: float) -> int:
        """Return how long a speech lasted, whose last stretch is `sound`; 0 if it is too soft to measure."""
        return sound.length_ms and max(sound.length_ms, round((now - speech.since) * 1000) - sound.over_ms)

    def _more_to_say(self, now: float) -> bool:
        speaking = self._responses.speaking and not self.held.answered
        return speaking or self._playback.unheard_ms(now) >= ENDING_MS

    def turn_committed(self, item_id: str, now: float) -> None:
        """Handle the caller's complete turn. The gate gets it, unless it does not count or that is not clear yet."""
        speech = self._speech
        if speech is None or not (self._paused or speech.meaning in _NO_TURN):
            self.held.count(item_id, now)
        else:
            # What is too soft to measure lasted as long as the server heard it.
            length_ms = self._spoken_ms(speech, self._sound(speech, now), now)
            soft = self._ear.knows_caller and not length_ms
            length_ms = length_ms or round((speech.stopped_at - speech.since) * 1000)
            self.held.hold(item_id, HeldTurn(length_ms, soft, speech.any_words))
            if not self._paused:
                self.held.drop(now, delete=speech.meaning == "echo")
                self._speech = None

    def transcribed(self, item_id: str, text: str | None) -> None:
        """Handle the text of a turn ("" if it has no words, None if there is none). It may show whether it counts."""
        if self._speech is not None and item_id in self.held:
            self._speech.check_at = None
        self.held.transcribed(item_id, lambda turn: self._meaning_of(text, turn))

    def _meaning_of(self, text: str | None, turn: HeldTurn) -> Words:
        if text is None:  # as if it never came
            return "words" if turn.length_ms >= self._policy.min_speech_ms and not turn.soft else "none"
        # A caller may repeat the agent's words to choose what it offers. An echo is soft, or was found before.
        if (turn.soft or self._ear.echoes) and repeats(text, self._said()):
            return "none"
        words = meaning_of(text, turn.length_ms, self._backchannels)
        return "words" if turn.any_words and words == "backchannel" else words

    @property
    def _paused(self) -> bool:
        return self._playback.paused_at is not None

    def get_timer(self) -> float | None:
        """Return when a decision on a speech is due."""
        speech = self._speech
        return speech.check_at if speech is not None and (self._paused or speech.speaking) else None

    def decide(self, now: float, *, agents_turn: bool) -> bool:
        """Pause, go on, or return that the caller interrupts. `agents_turn`: the agent speaks, or is about to."""
        if self.held.late:
            return self._late(now, agents_turn=agents_turn)
        speech = self._speech
        if speech is None:
            return False
        if self._paused and not agents_turn:  # nothing is left to interrupt
            self._let_wait(speech, now)
        if speech.check_at is not None and now < speech.check_at:
            return False
        if self._paused:
            return self._decide_pause(speech, now)
        if speech.meaning == "protected" and agents_turn and self.allowed():
            speech.meaning, speech.since = None, now  # the protection is over, and the caller keeps speaking
        if speech.meaning is None:
            return self._begin(speech, now, agents_turn=agents_turn)
        return speech.meaning in _NO_TURN and self._goes_on(speech, now, agents_turn=agents_turn)

    def _begin(self, speech: _Speech, now: float, *, agents_turn: bool) -> bool:
        speech.check_at = None
        if agents_turn and not self.allowed():
            speech.meaning = "protected"
            return False
        if self._policy.min_speech_ms == 0:
            speech.meaning = "interrupts"
            return agents_turn
        if not agents_turn:
            return False
        if now < self._wary_until:
            self._wary_until = now + WARY_SECONDS
            speech.meaning, speech.check_at = "noise", now + CHECK_SECONDS
            return False
        speech.played = self._playback.heard_lately(now)
        sound = self._sound(speech, now)
        # On a line with an echo, a short sound may be one, and what is much softer than the caller is not the caller.
        unclear = sound.length_ms <= WORD_MS if self._ear.echoes else self._ear.knows_caller and not sound.length_ms
        if unclear and now < speech.since + TELL_SECONDS:
            speech.check_at = now + CHECK_SECONDS / 2
            return False
        if self._ear.knows_caller and not sound.length_ms:
            speech.meaning, speech.check_at = "noise", now + CHECK_SECONDS
            return False
        if self._ear.echoes and self._is_echo(speech, sound, now):
            speech.meaning, speech.check_at = "echo", now + CHECK_SECONDS
            return False
        return self._pause(speech, now)

    def _pause(self, speech: _Speech, now: float) -> bool:
        self._audible = self._playback.unheard_ms(now) > 0
        self._over(self._playback.pause(now), now)
        if self._audible:
            self._observer.agent_paused(now)
        return self._decide_pause(speech, now)

    def _let_wait(self, speech: _Speech, now: float) -> None:
        speech.meaning, speech.check_at = "waits", None
        self._go_on("noise", now)
        self.held.release(now)

    def _decide_pause(self, speech: _Speech, now: float) -> bool:
        meaning = self._meaning(speech, now)
        if meaning is None and now >= self.stopped_at(now) + MAX_PAUSE_SECONDS + self._policy.words_ms / 1000:
            meaning, self._wary_until = self._undecided(speech), now + WARY_SECONDS
        if meaning is None:
            speech.check_at = now + CHECK_SECONDS
        elif meaning == "interrupts":
            return True
        else:
            speech.meaning, speech.since, speech.check_at = meaning, now, now + CHECK_SECONDS
            self.held.drop(now, delete=meaning == "echo")
            self._go_on(meaning, now)
            if meaning == "backchannel" and self._said().rstrip().endswith(QUESTION_MARKS):
                self._responses.owe_answer()  # "yes" to an unfinished question: answered after it
        return False

    def _meaning(self, speech: _Speech, now: float) -> Literal["interrupts"] | ResumeCause | None:
        """Return what a speech in a pause means; None while that is not clear."""
        words = self.held.words
        if words == "words":
            return "interrupts"
        sound, passed = self._sound(speech, now), now - speech.since
        is_speech = sound.length_ms >= self._policy.min_speech_ms and sound.dense
        speech.lasting = speech.lasting or is_speech
        if is_speech and sound.length_ms >= self._backchannel_ms:
            return "echo" if self._is_echo(speech, sound, now) else "interrupts"
        if sound.length_ms and sound.over_ms <= MAX_GAP_MS:
            speech.over_at = None
            return self._undecided(speech) if passed >= MAX_PAUSE_SECONDS else None
        if not sound.length_ms and speech.speaking:
            if self._ear.knows_caller:
                return self._undecided(speech) if passed >= MAX_PAUSE_SECONDS else None
            return "interrupts" if passed >= BLIND_SECONDS else None
        if speech.over_at is None:
            speech.over_at = now
            if self._is_echo(speech, sound, now):
                return "echo"
        if words == "backchannel":
            return "backchannel" if self._more_to_say(now) else "interrupts"
        if words == "none" or (0 < sound.length_ms < WORD_MS and not speech.lasting):
            return "noise"
        if now >= speech.over_at + self._policy.words_ms / 1000:
            return self._undecided(speech)
        return None

    @staticmethod
    def _undecided(speech: _Speech) -> Literal["interrupts", "noise"]:
        return "interrupts" if speech.lasting else "noise"

    def _goes_on(self, speech: _Speech, now: float, *, agents_turn: bool) -> bool:
        """Return whether a speech that did not interrupt has continued, and interrupts now."""
        speech.check_at = now + CHECK_SECONDS if speech.speaking else None
        sound = self._sound(speech, now, onset_ms=0) if speech.speaking else Sound(0, 0, 0)
        over_echo = speech.meaning == "echo"
        least_ms = WORD_MS if over_echo else self._policy.min_speech_ms
        if sound.length_ms < least_ms or not sound.dense or sound.over_ms > MAX_GAP_MS:
            return False
        speech.played = self._playback.heard_lately(now)
        if self._is_echo(speech, sound, now):
            return False
        if over_echo and agents_turn and self.allowed():
            speech.meaning, speech.since = None, now
            return self._pause(speech, now)
        speech.meaning, speech.check_at = "interrupts", None
        return agents_turn and self.allowed()

    def _late(self, now: float, *, agents_turn: bool) -> bool:
        """Handle a turn that counts after all, because its words came late; return whether it interrupts."""
        if agents_turn and self.allowed():
            return True
        self.held.release(now)
        return False

    def _sound(self, speech: _Speech, now: float, *, onset_ms: int = ONSET_MS) -> Sound:
        return self._ear.latest_sound(round((now - speech.since) * 1000) + onset_ms)

    def _is_echo(self, speech: _Speech, sound: Sound, now: float) -> bool:
        """Return whether a sound is what the caller heard until the pause, or until now."""
        return self._ear.is_echo(sound, speech.played, ended_ms_ago=(now - self.stopped_at(now)) * 1000)

    # --- what follows -------------------------------------------------------------------------------------------------

    def stopped_at(self, now: float) -> float:
        """Return when the agent fell silent: at the pause, or else now, if it is interrupted."""
        return now if self._playback.paused_at is None else self._playback.paused_at

    def interrupt(self, now: float, *, by_caller: bool = False, muted: bool = False) -> list[Outcome]:
        """Stop the response and drop what was not heard. Return the items that were cut, oldest first.

        If the caller interrupted (`by_caller`) and is already silent, an answer that the server has begun is to that
        speech. If the agent is `muted`, what is protected is dropped too.
        """
        speech, outcomes, stops = self._speech, list[Outcome](), muted or not self._protects()
        if stops:
            outcomes = self._playback.cut(now)
        else:
            self._go_on("noise", now)
        if not (by_caller and self.held.answered and speech is not None and not speech.speaking):
            self._responses.interrupt(now)
            outcomes += self._playback.cut(now) if stops else []
        self.held.release(now)
        if speech is not None:
            speech.meaning, speech.check_at, speech.played = "interrupts", None, b""
        return outcomes

    def _go_on(self, cause: ResumeCause, now: float) -> None:
        since = self._playback.paused_at
        if since is None:
            return
        self._playback.resume(now, cause)
        if self._audible:
            self._observer.agent_resumed(cause, now - since, now)
