"""The parts of a call, and which other parts each one gets. Their rules are joined in `bridge`."""

from __future__ import annotations

from collections import deque

from phoneagent.bridge.budget import Budget
from phoneagent.bridge.caller import CallerAudio, PushToTalk
from phoneagent.bridge.clips import Sounds
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.closing import Closing
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.deadlines import Deadlines
from phoneagent.bridge.dialogue import Dialogue
from phoneagent.bridge.history import Past
from phoneagent.bridge.interruption import Interruptions
from phoneagent.bridge.keys import Keys
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.policy import Floor, Policy
from phoneagent.bridge.renewal import Renewal
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import EndCall, Request, State
from phoneagent.bridge.silence import SilenceWatch
from phoneagent.bridge.truncation import Truncations


class Parts:
    """The parts of one media stream of a call; with a `past`, the call goes on."""

    def __init__(self, policy: Policy, *, call_sid: str = "", past: Past | None = None) -> None:
        self._policy = policy
        self.requests: deque[Request] = deque()
        """What the shell should do, oldest first; `reporter.events` has what it should report."""
        self.ended: EndCall | None = None  # how; after that, nothing more is sent
        self.stream_sid: str | None = None
        """The media stream; None before it has started."""
        self.clock = CallClock()
        self.reporter = Reporter(call_sid, self.clock)
        self.playback = Playback()
        self.caller_audio = CallerAudio()
        self.dialogue = Dialogue(self.clock, self.reporter, self.caller_audio)
        self.conversation = Conversation(
            self.requests.append,
            self.reporter,
            elsewhere=policy.elsewhere,
            past=past.tools if past is not None else (),
        )
        self.signs, self.responses = self.conversation.signs, self.conversation.responses
        self.push_to_talk = PushToTalk(self.conversation.outbox, self.caller_audio)
        self.truncations = Truncations(self.conversation)
        self.interruptions = Interruptions(
            policy.interruption,
            self.playback,
            self.conversation,
            self.caller_audio,
            self.reporter,
            self.dialogue.items_over,
            self.dialogue.transcript.said_lately,
            server_answers=policy.server_answers,
        )
        self.held = self.interruptions.held
        self.sounds = Sounds(self.playback, self.conversation, self.dialogue.transcript, self.interruptions)
        self.keys = Keys(policy, self.reporter, self.conversation, self.playback, self.caller_audio)
        self.closing = Closing(self.playback, self.conversation)
        self.renewal = Renewal(policy, past, self.requests, quiet=lambda now: self.quiet(now, heard_again=True))
        self.deadlines = Deadlines(
            policy.max_call_seconds,
            self.responses,
            ready=lambda: self.renewal.begun and not self.closing.active,
            age_seconds=past.age_ms / 1000 if past is not None else 0.0,
        )
        self.budget = Budget(policy, past, self.reporter, self.responses, self.deadlines)
        self.silence = SilenceWatch(
            policy.silence,
            self.playback,
            self.conversation,
            self.dialogue,
            self.reporter,
            self.renewal,
            gathering=lambda: self.keys.gathering,
        )
        self._timed = (self.caller_audio, self.conversation, self.deadlines, self.renewal, self.dialogue)
        # What these wait for depends on all others, so `move_on` handles them once everything else is done.
        self._timed_last = (self.interruptions, self.keys, self.closing, self.silence)

    def floor(self) -> Floor:
        """Return which side has the floor."""
        if self.closing.active:
            return Floor.CLOSING
        if not self.playback.idle:
            return Floor.AGENT
        if self.responses.state is not State.NONE or self.conversation.tools.running:
            return Floor.THINKING
        return Floor.CALLER if self.dialogue.caller_speaks or self.keys.busy else Floor.OPEN

    def quiet(self, now: float, *, heard_again: bool = False) -> bool:
        """Return whether another session could go on unnoticed; with `heard_again`, it hears the last second again."""
        free = self.floor() is Floor.OPEN and self.renewal.begun and not self.responses.owes
        return free and self.dialogue.quiet(now, heard_again=heard_again)
