"""The caller's keys: told to the model in plain words, or gathered for user code and hidden from everything else.

Keys typed without a pause are told as one item, after the pause or at `#`, and answered like a turn. A key stops the
agent just as speech does.

What is *gathered* is secret. The model hears silence in place of the caller's audio, because it may contain the
keypad's tones, and each key is reported without saying which one. That lasts until the caller has pressed no key for a
pause, because callers may end a PIN with an unneeded `#`, or type a digit too many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from phoneagent.bridge.caller import CallerAudio
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.reporting import Reporter

PAUSE_SECONDS = 2.0
"""Keys with a shorter pause between them belong together."""

MAX_TOLD = 100
"""How many keys typed without a pause are told to the model."""

END = "#"
"""The key that ends what is told to the model, without waiting for a pause."""


@dataclass(slots=True, eq=False)
class Gather:
    """Digits that user code waits for, as with Twilio's `<Gather>`.

    They are complete once there are `digits` of them, at the key `finish_on`, or when no key was pressed for
    `timeout_seconds`; then `done` is called. The time counts from the last key, and before the first one from when the
    agent has finished speaking.
    """

    digits: int
    timeout_seconds: float
    finish_on: str
    done: Callable[[], None] = field(repr=False)
    typed: str = field(default="", init=False, repr=False)


class Keys:
    """The keys of one call. `now` is in seconds."""

    def __init__(
        self,
        policy: Policy,
        reporter: Reporter,
        conversation: Conversation,
        playback: Playback,
        caller_audio: CallerAudio,
    ) -> None:
        self._policy = policy
        self._reporter = reporter
        self._conversation = conversation
        self._playback = playback
        self._caller_audio = caller_audio
        self._typed = ""
        self._more = 0  # keys beyond MAX_TOLD
        self._tell_at = math.inf
        self._gather: Gather | None = None
        self._since = 0.0  # the gather waits for the next key since then
        self._trailing = False  # a finish key belongs to the previous gather
        self._secret_until = -math.inf

    # --- what the bridge looks at ---

    @property
    def gathering(self) -> bool:
        """Whether digits are being gathered: the caller types, and the model hears silence."""
        return self._gather is not None

    @property
    def typing(self) -> bool:
        """Whether the caller is in the middle of typing, so that nothing should be said."""
        return bool(self._typed) or (self._gather is not None and bool(self._gather.typed))

    @property
    def busy(self) -> bool:
        """Whether the caller types or should type, or the model hears silence in place of the caller."""
        return self.gathering or bool(self._typed) or self._caller_audio.muted

    def secret(self, now: float) -> bool:
        """Return whether a key that is pressed now is for user code alone."""
        return self.gathering or now < self._secret_until

    # --- keys ---

    def press(self, digit: str, now: float) -> bool:
        """Handle a key. Return whether it is meant for the agent, and may stop it just as speech may."""
        secret = self.secret(now)
        self._reporter.key_pressed("" if secret else digit, now)
        if secret:
            self._secret_until = now + PAUSE_SECONDS
        if self._gather is not None:
            self._type(self._gather, digit, now)
            return True
        if secret or self._policy.keys == "ignore":
            return False
        if len(self._typed) < MAX_TOLD:
            self._typed += digit
        else:
            self._more += 1
        self._tell_at = now if digit == END else now + PAUSE_SECONDS
        return True

    def _type(self, gather: Gather, digit: str, now: float) -> None:
        self._since = now
        if digit != gather.finish_on:
            gather.typed += digit
            if len(gather.typed) >= gather.digits:
                self._complete(gather)
        elif gather.typed or not self._trailing:
            self._complete(gather)
        self._trailing = False

    def _complete(self, gather: Gather) -> None:
        self._gather = None
        gather.done()

    # --- gathering ---

    def begin(self, gather: Gather, now: float) -> bool:
        """Gather digits. Return False if others are already being gathered."""
        if self._gather is not None:
            return False
        if self._typed:  # they were typed for the agent, so it gets them
            self._tell_at = now
        self._gather, self._since, self._trailing = gather, now, now < self._secret_until
        self._caller_audio.mute(True)
        return True

    def give_up(self, gather: Gather) -> None:
        """Stop gathering, if that is what is being gathered."""
        if self._gather is gather:
            self._gather = None

    def close(self, now: float) -> None:
        """End with the media stream: the next one tells the agent the keys typed for it; gathered keys are dropped."""
        self._gather = None
        self._tell(now)

    # --- time ---

    def get_timer(self) -> float | None:
        """Return when `poll` is due."""
        times = [self._tell_at] if self._typed else []
        if self._gather is not None:
            times.append(self._due(self._gather))
        elif self._caller_audio.muted:
            times.append(self._secret_until)
        return min(times, default=None)

    def _due(self, gather: Gather) -> float:
        """Return when the next key is too late: the caller listens to the end before typing."""
        since = self._since if gather.typed else max(self._since, self._playback.spoken_until)
        return since + gather.timeout_seconds

    def poll(self, now: float) -> bool:
        """Do what is due. Return whether the model was told about keys, so that the caller has had a turn."""
        responses = self._conversation.responses
        if (gather := self._gather) is not None:
            if not gather.typed and (self._playback.unsent_ms or responses.speaking or responses.waits_for("say")):
                self._since = now
            elif now >= self._due(gather):
                self._complete(gather)
        if self._gather is None and now >= self._secret_until:
            self._caller_audio.mute(False)
        return now >= self._tell_at and self._tell(now)

    def _tell(self, now: float) -> bool:
        typed, self._typed, self._tell_at = self._typed, "", math.inf
        more, self._more = self._more, 0
        if not typed:
            return False
        text = f"The caller pressed keys on their telephone: {typed}"
        told = self._conversation.add(text + (f" and {more} more" if more else ""), "user", now)
        if told and not self._policy.manual_turns:
            self._conversation.responses.owe_answer()
        return told
