"""A conversation with an agent in writing: what a call has of responses, tools and prompts, without the telephone.

Sans-I/O. The shell feeds decoded events with the time, then takes what there is to send (`next_to_model`) and to show
or do (`happenings`), and calls `handle_timer` when `get_timer` is due, until it is `over` or has a `failure`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from phoneagent.bridge import prompts
from phoneagent.bridge.asked import Asked
from phoneagent.bridge.caller import CallerAudio
from phoneagent.bridge.history import Role
from phoneagent.bridge.policy import MODEL_STALLED_SECONDS, RunTool
from phoneagent.bridge.responses import MAX_UNANSWERED, Ending, ResponseGate, State
from phoneagent.bridge.toolcalls import ToolCalls
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from phoneagent.protocol import realtime
from phoneagent.protocol.realtime import FATAL_CODES


@dataclass(frozen=True, slots=True)
class Words:
    """More words of the agent's message `item_id`."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A response is over."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something was refused, and the conversation goes on."""

    what: str


Happening: TypeAlias = Words | Answered | Complaint | RunTool


class Chat:
    """One conversation. `now` is in seconds of any clock that does not go back."""

    def __init__(self, *, greeting: str | None = None) -> None:
        self._outbox: deque[realtime.ToModel] = deque()
        self._happenings: deque[Happening] = deque()
        self._responses = ResponseGate(self._outbox)
        self._tools = ToolCalls(self._outbox)
        self._closing = False
        self._goodbye_due = False
        self._event_at = 0.0
        self.asked = Asked(self._outbox, CallerAudio(), self._responses)
        self.over = False
        """The agent has hung up."""
        self.failure: EndpointError | None = None
        """Why it cannot go on."""
        if greeting:
            self._responses.want(prompts.greeting(greeting))

    # --- outputs ---

    def next_to_model(self) -> realtime.ToModel | None:
        return self._outbox.popleft() if self._outbox else None

    def happenings(self) -> Iterator[Happening]:
        """Take what is to be shown, and the tools to run."""
        while self._happenings:
            yield self._happenings.popleft()

    @property
    def idle(self) -> bool:
        """Whether the agent has nothing more to say or do by itself."""
        return self._responses.state is State.NONE and not self._responses.owes and not self._tools.running

    # --- what the user and the agent's code ask for ---

    def write(self, text: str, now: float) -> None:
        """Take a line of the user's: the agent answers it."""
        self.asked.add(text, "user", now)
        self._responses.turn_committed(now, server_answers=False)
        self._move_on(now)

    def say(self, text: str, now: float) -> bool:
        accepted = self._responses.want(prompts.exactly(text))
        self._move_on(now)
        return accepted

    def add(self, text: str, role: Role, now: float) -> bool:
        return self.asked.add(text, role, now)

    def interrupt(self, now: float) -> None:
        self._responses.interrupt(now)

    def hang_up(self, now: float, *, goodbye: bool = True) -> None:
        """End it after what is being said, with a goodbye unless the response that called the tool said something."""
        if self._closing:
            return
        parting = self._responses.spoke and self._responses.called
        self._closing, self._goodbye_due = True, goodbye and not parting
        self._responses.close()
        self._move_on(now)

    def tool_returned(self, call_id: str, output: str, now: float) -> None:
        """Post a tool's output."""
        if self._tools.end(call_id) is None:
            return
        self._tools.post(call_id, output)
        self._responses.output_posted(call_id)
        self._move_on(now)

    def reconfigure(self, session: dict[str, object], event_id: str) -> None:
        """Change the model's session, as where one agent hands over to another."""
        self._tools.reconfigure(session, event_id)

    # --- what the model says ---

    def receive(self, event: realtime.FromModel, now: float) -> None:
        """Take a server event."""
        self._event_at = now
        match event:
            case realtime.TextDelta() | realtime.TranscriptDelta():
                if self._responses.accepts(event.response_id):
                    self._responses.heard_audio(event.response_id)
                    self._happenings.append(Words(event.item_id, event.delta))
            case realtime.ItemAdded(item=item):
                self._responses.item_added(item)
            case realtime.ItemDone(item=item):
                self._tools.hosted(item, self._responses)
            case realtime.ResponseCreated(response=response):
                interrupted = self._responses.created(response, now)
                ask = self._responses.ask
                if interrupted or (self._closing and (ask is None or ask.kind != "goodbye")):
                    self._responses.discard(now)
            case realtime.OutputItemDone(item=item):
                self._function_call(item, now)
            case realtime.ResponseDone(response=response):
                self._done(response, now)
            case realtime.Error(error=failure):
                self._error(failure)
            case realtime.Unknown(type=kind) if kind in realtime.MCP_FAILURES:
                self._happenings.append(Complaint(realtime.MCP_FAILURES[kind]))
            case _:
                pass
        self._move_on(now)

    def _function_call(self, item: realtime.Item, now: float) -> None:
        call = self._tools.begin(item, now)
        self._responses.called |= item.type in ("mcp_call", "mcp_approval_request")  # by the model's provider
        if call is None:
            return
        self._responses.called = True
        if self._tools.too_many:
            self.tool_returned(call.call_id, '{"error": "too many tool calls in this conversation"}', now)
        else:
            self._happenings.append(RunTool(call.call_id, call.name, call.arguments))

    def _done(self, response: realtime.Response, now: float) -> None:
        for item in response.output or ():
            if response.status == "completed":
                self._function_call(item, now)
        ending = self._responses.done(response, now)
        if ending is Ending.IGNORED:
            return
        self._happenings.append(Answered())
        details = response.status_details
        if details is not None and details.error is not None:
            code = details.error.code or details.error.type or "no reason given"
            self._happenings.append(Complaint(f"response {response.status}: {code}"))
            if code in FATAL_CODES | {"session_expired"}:
                self.failure = EndpointRefused(f"the model refused: {code}", code=code)
        if ending is Ending.FAILED:
            self.failure = EndpointUnreachable("two responses of the model in a row failed")
        elif ending is Ending.EMPTY:
            self._happenings.append(Complaint("the model answered with nothing, twice"))

    def _error(self, failure: realtime.Failure) -> None:
        code = failure.code or failure.type or "error"
        if code in FATAL_CODES | {"session_expired"}:
            self.failure = EndpointRefused(f"the model refused: {code}", code=code)
        elif code == "conversation_already_has_active_response":
            self._responses.already_active(failure.event_id)
        elif code == "response_cancel_not_active":
            pass  # it had just ended
        elif self._responses.create_refused(failure.event_id or "") is Ending.FAILED:
            self.failure = EndpointRefused(f"the model refused two responses in a row: {code}", code=code)
        else:
            self._happenings.append(Complaint(f"the model refused an event: {code} {failure.param or ''}".rstrip()))

    # --- rules and time ---

    def _move_on(self, now: float) -> None:
        if self._goodbye_due and self._responses.state is State.NONE:
            self._goodbye_due = False
            self._responses.want(prompts.goodbye())
        before = self._responses.state
        self._responses.poll(now, speech=False, tools_running=self._tools.running)
        if before is State.NONE:
            self._event_at = now
        if self._responses.unanswered >= MAX_UNANSWERED:
            self.failure = EndpointUnreachable("the model answers no request for a response")
        waiting = self._responses.state is not State.NONE or self._responses.waits_for("goodbye")
        self.over = self._closing and not waiting and not self._tools.running

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due; None for never."""
        times = (self._responses.get_timer(), self._stalled_at())
        return min((time for time in times if time is not None), default=None)

    def _stalled_at(self) -> float | None:
        if self._responses.state is not State.ACTIVE or self._tools.running:
            return None
        return self._event_at + MODEL_STALLED_SECONDS

    def handle_timer(self, now: float) -> None:
        """Do what time alone brings about. Calling it too early changes nothing."""
        stalled_at = self._stalled_at()
        if stalled_at is not None and now >= stalled_at:
            words = f"nothing came of a response for {MODEL_STALLED_SECONDS:.0f} s"
            self.failure = EndpointUnreachable(words)
        self._responses.handle_timer(now)
        self._move_on(now)
