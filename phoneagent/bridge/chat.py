"""A conversation with an agent in writing: the conversation of a call, without the telephone.

Sans-I/O. The shell feeds decoded events with the time, then takes what there is to send (`next_to_model`) and to show
or do (`happenings`), and calls `handle_timer` when `get_timer` is due, until it is `over` or has a `failure`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from phoneagent.billing.ratelimits import RATE_LIMIT_CODES
from phoneagent.bridge import prompts
from phoneagent.bridge.caller import CallerAudio, PushToTalk
from phoneagent.bridge.clips import Sounds
from phoneagent.bridge.conversation import Conversation, Observer
from phoneagent.bridge.history import Role
from phoneagent.bridge.keys import Keys
from phoneagent.bridge.requests import Ending, RunTool, SessionChanged, Verdict
from phoneagent.bridge.toolcalls import ToolCall
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from phoneagent.protocol import realtime


@dataclass(frozen=True, slots=True)
class Words:
    """More words of the agent's message `item_id`."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of a response."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """A refusal, after which the conversation goes on."""

    what: str


Happening: TypeAlias = Words | Answered | Complaint | RunTool | SessionChanged


class Chat:
    """One conversation in writing. `now` is in seconds of any clock that does not go back."""

    def __init__(self, *, greeting: str | None = None, observer: Observer | None = None) -> None:
        self._happenings: deque[Happening] = deque()
        self.conversation = Conversation(self._happenings.append, observer or _NoObserver(), spoken=False)
        self.push_to_talk = PushToTalk(self.conversation.outbox, CallerAudio())
        self.keys: Keys | None = None
        self.sounds: Sounds | None = None
        """None: there is no telephone to press keys on, or to hear anything with."""
        self._closing = False
        self.over = False
        """Whether the agent has hung up."""
        self.failure: EndpointError | None = None
        """Why the conversation cannot go on."""
        self.conversation.connect(0.0)
        if greeting:
            self.conversation.responses.want(prompts.greeting(greeting))

    # --- outputs ---

    def next_to_model(self) -> realtime.ToModel | None:
        """Return the next event to write to the model's socket."""
        outbox = self.conversation.outbox
        return outbox.popleft() if outbox else None

    def happenings(self) -> Iterator[Happening]:
        """Yield what to show, and the tools to run."""
        while self._happenings:
            yield self._happenings.popleft()

    @property
    def idle(self) -> bool:
        """Whether the agent has nothing more to say or do by itself."""
        responses = self.conversation.responses
        return not (responses.busy or responses.owes or self.conversation.tools.running)

    # --- what the user and user code ask for, besides `conversation` ---

    def write(self, text: str, now: float) -> None:
        """Handle a line from the user: the agent answers it."""
        self.conversation.add(text, "user", now)
        self.conversation.responses.turn_committed(now, server_answers=False)
        self.move_on(now)

    def interrupt(self, now: float) -> None:
        """Stop what the agent is writing. Do nothing if the conversation is about to end."""
        if not self._closing:
            self._stop(now)

    def mute(self, now: float, *, muted: bool) -> None:
        """Stop what the agent is writing, and ask for nothing until it is unmuted.

        Do nothing if the conversation is about to end.
        """
        if self._closing or muted is self.conversation.responses.muted:
            return
        self.conversation.responses.mute(muted)
        if muted:
            self._stop(now)

    def _stop(self, now: float) -> None:
        self.conversation.responses.interrupt(now)

    def hang_up(self, now: float, *, goodbye: bool = True) -> None:
        """End the conversation after what is being said.

        With `goodbye`, the model is asked for one, unless the tool-calling response spoke, or the agent is muted.
        """
        if self._closing:
            return
        self._closing = True
        silent = self.conversation.parted or self.conversation.responses.muted
        self.conversation.close(goodbye=goodbye and not silent)
        self.move_on(now)

    # --- what the model says ---

    def receive(self, event: realtime.FromModel, now: float) -> None:
        """Handle a server event."""
        if self.conversation.questions.take(event):
            return
        for each in self.conversation.signs.read(event, now):
            self._receive(each, now)
        self.move_on(now)

    def _receive(self, event: realtime.FromModel, now: float) -> None:
        self.conversation.alive(now)
        match event:
            case realtime.TextDelta() | realtime.TranscriptDelta():
                if self.conversation.output(event.response_id, now):
                    self._happenings.append(Words(event.item_id, event.delta))
            case realtime.ResponseCreated(response=response):
                self.conversation.response_created(response, now)
            case realtime.ResponseDone(response=response):
                self._response_done(response, now)
            case (
                realtime.SessionUpdated()
                | realtime.ItemAdded()
                | realtime.ItemDone()
                | realtime.OutputItemDone()
                | realtime.RateLimits()
            ):
                self.conversation.receive(event, now)
            case realtime.Error():
                self._act(self.conversation.receive(event, now), refused=True)
            case realtime.Unknown(type=kind):
                if kind in realtime.MCP_FAILURES:
                    self._happenings.append(Complaint(realtime.MCP_FAILURES[kind]))
            case (
                realtime.SessionCreated()
                | realtime.SpeechStarted()
                | realtime.SpeechStopped()
                | realtime.Committed()
                | realtime.InputTranscript()
                | realtime.InputTranscriptFailed()
                | realtime.AudioDelta()
                | realtime.AudioDone()
                | realtime.TranscriptDone()
                | realtime.OutputItemAdded()
                | realtime.ArgumentsDone()
            ):
                pass  # nothing is heard or spoken here
            case _:
                assert_never(event)

    def _response_done(self, response: realtime.Response, now: float) -> None:
        done = self.conversation.response_done(response, now)
        if done.ending is Ending.IGNORED:
            return
        self._happenings.append(Answered())
        if done.trouble:
            self._happenings.append(Complaint(done.trouble))
        self._act(done.verdict)

    def _act(self, verdict: Verdict | None, *, refused: bool = False) -> None:
        """Act on what the conversation found: there is no other session here, so a lost one is a failure.

        `refused`: the server refused a request, and would refuse it again, unless because of a rate limit.
        """
        if verdict is None:
            return
        if verdict.kind == "trouble":
            self._happenings.append(Complaint(verdict.text))
        elif (
            verdict.code in realtime.FATAL_CODES
            or verdict.kind == "expired"
            or (refused and verdict.code not in RATE_LIMIT_CODES)
        ):
            words = f"the model refused: {verdict.code}" if verdict.kind == "expired" else verdict.text
            self.failure = EndpointRefused(words, code=verdict.code)
        else:
            self.failure = EndpointUnreachable(verdict.text, code=verdict.code)

    # --- rules and time ---

    def move_on(self, now: float) -> None:
        """Do what has become possible: ask for the wanted response, or end."""
        self._act(self.conversation.move_on(now, speech=self.turn_open(now)))
        waiting = self.conversation.responses.busy or self.conversation.goodbye_due
        self.over = self._closing and not waiting and not self.conversation.tools.running

    def turn_open(self, now: float) -> bool:
        """Return whether the user has a turn that is not over, so that the agent waits. A line is always complete."""
        return False

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due; None for never."""
        return self.conversation.get_timer()

    def handle_timer(self, now: float) -> None:
        """Do what is due. Calling it too early changes nothing."""
        for event in self.conversation.signs.overdue(now):
            self._receive(event, now)
        self._act(self.conversation.handle_timer(now))
        self.move_on(now)


class _NoObserver:
    """An observer that does nothing: the shell shows what happens in a written conversation."""

    def tool_called(self, call: ToolCall, now: float) -> None: ...
    def tool_returned(self, call: ToolCall, output: str, now: float) -> None: ...
    def message_added(self, role: Role, text: str, now: float) -> None: ...
