"""One response at a time: who asked for the one that runs, and what has to be asked for next.

Two write here, the server's voice activity detection and we, and the server refuses a second response while one is
active. So every `response.create` of ours goes through this gate.

    NONE ──create sent──▶ REQUESTED ──response.created──▶ ACTIVE ──response.done──▶ NONE
      └─turn committed, the server answers by itself─▲         └─cancelled: 3 s at most─▲

An answer is *owed* from a committed turn or a posted tool output until a response is created that can know of it. Of a
tool's output that is certain if we asked for the response after posting it, or if the server had added the output's
item before it created one by itself.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from phoneagent.protocol.realtime import Item, ItemCreate, Response, ResponseCancel, ResponseCreate, ToModel

CREATED_SECONDS = 5.0
"""A requested response that is not created within this time is requested again."""

CANCELLED_SECONDS = 3.0
"""The longest wait for the `response.done` of a cancelled response."""

MAX_UNANSWERED = 2
"""So many requests in a row without a response mean that the session is dead."""

MAX_ASKS = 32
"""What may wait to be said; more is refused."""

MAX_DISCARDED = 64
"""Cancelled responses of which output may still come."""

METADATA_KEY = "phoneagent"
"""Our responses carry their number under this key, so that the server's own are told apart."""

Kind: TypeAlias = Literal["greeting", "say", "filler", "goodbye", "turn", "asked"]
"""Said word for word, or answers: to a turn or a tool's output, and (`asked`) those that the user's code asks for."""

ANSWERS = frozenset({"turn", "asked"})


class State(enum.Enum):
    NONE = "none"
    REQUESTED = "requested"
    ACTIVE = "active"


class Ending(enum.Enum):
    """How a response ended."""

    IGNORED = "ignored"  # not the active one
    SAID = "said"  # audio, or a tool was called
    CANCELLED = "cancelled"  # by us
    INTERRUPTED = "interrupted"  # by the server, though we had not asked
    RETRIED = "retried"  # failed or empty: asked for once more
    EMPTY = "empty"  # empty again
    FAILED = "failed"  # failed again


@dataclass(slots=True)
class Ask:
    """A response that we want. `prompt` becomes a system message before it; `options` go into `response.create`."""

    kind: Kind
    prompt: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    told: bool = False
    """The prompt is in the conversation already."""


class ResponseGate:
    """The gate. What it wants to send goes to `outbox`; `now` is in seconds."""

    def __init__(self, outbox: deque[ToModel]) -> None:
        self._outbox = outbox
        self.state = State.NONE
        self.id: str | None = None
        self.ask: Ask | None = None
        """What the active response is for; None for one that the server began."""
        self.owed = False
        self.spoke = False
        """Whether the newest response has spoken, unless it was discarded."""
        self.ever_spoke = False
        """Whether any response has spoken: the model's voice can no more be changed then."""
        self.called = False
        """Whether the newest response has called a tool."""
        self.unanswered = 0
        self._asks: deque[Ask] = deque()
        self._pending: Ask | None = None  # our create that was not answered yet
        self._number = 0
        self._outputs: dict[str, bool] = {}  # posted and in no response yet: call_id -> its item was added
        self._server_may_answer = False  # a turn was committed since our create, and no response to it was created
        self._covered: frozenset[str] = frozenset()  # what our pending create covers
        self._discarded: deque[str] = deque(maxlen=MAX_DISCARDED)  # until their response.done
        self._closing = False
        self._drop_next = False  # interrupted before it was created
        self._cancelled = False
        self._retried = False
        self._deadline: float | None = None
        self._wait_until: float | None = None  # the server has asked for patience
        self.waiting_since: float | None = None
        """Since when something is to be said and nothing is; in this session or in those before."""

    def new_session(self) -> None:
        """Another model session takes over: what was not said is to be asked for anew, an answer to be finished.

        Words that were prescribed are said once more from their beginning: the next session does not know them. A
        greeting that nobody heard is the business of whoever tells the session where the call is.
        """
        current = self.ask if self.state is State.ACTIVE else self._pending
        if self.state is not State.NONE and not self._cancelled and not self._drop_next:
            if current is None or current.kind == "turn":
                self.owed = True
            elif current.kind == "greeting":
                self.owed = self.owed or (self.state is State.ACTIVE and self.spoke)
            elif current.kind != "filler":
                self._asks.appendleft(current)
        self.owed = (self.owed or bool(self._outputs)) and not (self._closing or self._drop_next)
        self._asks = deque(ask for ask in self._asks if ask.kind != "greeting")
        for ask in self._asks:
            ask.told = False
        self.state, self.id, self.ask, self._pending = State.NONE, None, None, None
        self._deadline = self._wait_until = None
        self._server_may_answer = self._drop_next = self._cancelled = self._retried = self.called = False
        self.unanswered = 0
        self._outputs.clear()
        self._discarded.clear()

    # --- what is wanted ---

    def want(self, ask: Ask) -> bool:
        """Put a response in line. Returns False if too many wait, or the call is about to end."""
        if len(self._asks) >= MAX_ASKS or (self._closing and ask.kind != "goodbye"):
            return False
        if ask.kind == "greeting":
            self._asks.appendleft(ask)
        else:
            self._asks.append(ask)
        return True

    def close(self) -> None:
        """The call is about to end: from here on nothing is asked for but a goodbye."""
        self._closing = True
        self._asks.clear()

    def turn_committed(self, now: float, *, server_answers: bool) -> None:
        """The caller's turn is complete: an answer is owed, by the server itself or asked for by us."""
        self.owed = True
        self._retried = False
        self._server_may_answer = server_answers
        if server_answers and self.state is State.NONE:
            self._request(now)
        elif server_answers and self._pending is None:
            self._drop_next = False  # what was to be dropped has not come, and what comes now answers this turn

    def output_posted(self, call_id: str) -> None:
        """A tool's output went to the model."""
        self._outputs[call_id] = False

    def item_added(self, item: Item) -> None:
        """The server confirmed an item; that of a tool's output matters."""
        if item.type == "function_call_output" and item.call_id:
            self.output_added(item.call_id)

    def output_added(self, call_id: str) -> None:
        """The server confirmed the item of a tool's output."""
        if call_id in self._outputs:
            self._outputs[call_id] = True

    @property
    def owes(self) -> bool:
        """Whether something is still to be said that no response was asked for yet."""
        return self.owed or bool(self._asks or self._outputs)

    @property
    def speaking(self) -> bool:
        """Whether more is to come of a requested or active response that was not cancelled."""
        return self.state is not State.NONE and not (self._cancelled or self._drop_next)

    def waits_for(self, kind: Kind) -> bool:
        """Tell whether a response of that kind is in line, requested or active."""
        current = (*self._asks, self._pending, self.ask if self.state is State.ACTIVE else None)
        return any(ask is not None and ask.kind == kind for ask in current)

    def poll(self, now: float, *, speech: bool, tools_running: bool) -> None:
        """Send a `response.create` if one is wanted and may go.

        Outputs of tools wait for those that still run, so that all of them get one continuation.
        """
        if speech or (not self.owes and self.state is State.NONE):
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = now
        if self.state is not State.NONE or self._wait_until is not None:
            return
        if self._asks and (not speech or self._asks[0].kind in ("greeting", "goodbye")):
            self._create(self._asks.popleft(), now)
        elif (self.owed or (self._outputs and not tools_running)) and not speech and not self._closing:
            self._create(Ask("turn"), now)

    def _create(self, ask: Ask, now: float) -> None:
        if ask.prompt is not None and not ask.told:
            content = [{"type": "input_text", "text": ask.prompt}]
            self._outbox.append(ItemCreate(item={"type": "message", "role": "system", "content": content}))
            ask.told = True  # a second attempt finds it there
        self._number += 1
        options = {**ask.options, "metadata": {METADATA_KEY: str(self._number)}}
        self._outbox.append(ResponseCreate(event_id=f"create_{self._number}", response=options))
        self._pending = ask
        self._server_may_answer = False
        self._covered = frozenset(self._outputs)
        self._request(now)

    def _request(self, now: float) -> None:
        self.state = State.REQUESTED
        self._drop_next = False
        self._deadline = now + CREATED_SECONDS

    # --- what the server says ---

    def created(self, response: Response, now: float) -> bool:
        """Take `response.created`. Returns True if it was interrupted before it began."""
        ours = self._pending is not None and self._is_ours(response)
        drop = self._drop_next and (ours or self._pending is None)  # one of the server's answers what came after
        self._drop_next = self._drop_next and not drop
        if self._pending is not None and ours:
            self.ask, self._pending = self._pending, None
            if self.ask.kind in ANSWERS:  # the others say what they were told to: they answer nothing
                self.owed = False
                self._outputs = {call: added for call, added in self._outputs.items() if call not in self._covered}
        else:
            self.ask, self.owed, self._server_may_answer = None, False, False
            self._outputs = {call: added for call, added in self._outputs.items() if not added}
        self.state, self.id, self._deadline = State.ACTIVE, response.id, None
        self._cancelled = self.called = self.spoke = False
        self.unanswered = 0
        return drop

    def _is_ours(self, response: Response) -> bool:
        if response.metadata and METADATA_KEY in response.metadata:
            return bool(response.metadata[METADATA_KEY] == str(self._number))
        # Not every server gives metadata back. Without it, a response is ours unless a turn gave cause for another.
        return not self._server_may_answer

    def accepts(self, response_id: str) -> bool:
        """Tell whether output of this response is still wanted."""
        if self.state is State.ACTIVE and self.id is None:
            self.id = response_id
            if self._cancelled:
                self._discarded.append(response_id)
        return response_id not in self._discarded

    def heard_audio(self, response_id: str) -> None:
        """Note that a response speaks."""
        self.ever_spoke, self.waiting_since, self._wait_until = True, None, None
        if response_id == self.id:
            self.spoke = True

    def wait(self, until: float) -> None:
        """Ask for nothing before `until`: the server would refuse it."""
        self._wait_until = until

    def done(self, response: Response, now: float) -> Ending:
        """Take `response.done`."""
        if response.id is not None and response.id in self._discarded:
            self._discarded.remove(response.id)
        if self.state is not State.ACTIVE or (self.id is not None and response.id != self.id):
            return Ending.IGNORED
        cancelled, ask = self._cancelled, self.ask
        said = self.spoke or self.called
        self._finish(now)
        if cancelled:
            return Ending.CANCELLED
        if response.status == "cancelled":
            return Ending.INTERRUPTED
        if said and response.status != "failed":
            self._retried = False
            return Ending.SAID
        if self._retried and response.status != "failed":
            return Ending.EMPTY
        self._put_back(ask)
        if self._retried:
            return Ending.FAILED
        self._retried = True
        return Ending.RETRIED

    def _finish(self, now: float) -> None:
        self.state, self.id, self.ask, self._deadline = State.NONE, None, None, None
        self._cancelled = False
        if self._pending is not None:
            self._request(now)

    def already_active(self, event_id: str | None = None) -> None:
        """Take the refusal of a response because another one is active; `event_id` is of the create, if it was ours."""
        if event_id is not None and event_id != f"create_{self._number}":
            return
        if event_id is None and self._pending is not None and self._server_may_answer:
            self.owed = True  # the server's own response to a turn failed, ours is still on its way
            return
        pending, self._pending = self._pending, None
        if self.state is not State.ACTIVE:
            self.state, self.id, self.ask, self._deadline = State.ACTIVE, None, None, None
            self._put_back(pending)
        elif pending is not None and pending.kind != "turn":
            self._put_back(pending)  # a turn is answered by the one that was created instead

    def create_refused(self, event_id: str) -> Ending:
        """Take the refusal of our create `event_id` for any other reason."""
        if self._pending is None or event_id != f"create_{self._number}":
            return Ending.IGNORED
        pending, self._pending = self._pending, None
        if self.state is State.REQUESTED:
            self.state, self._deadline = State.NONE, None
        if self._retried and pending.kind == "asked":  # with options of the user's, which no session will take
            self._retried = False
            return Ending.IGNORED
        self._put_back(pending)
        if self._retried:
            return Ending.FAILED
        self._retried = True
        return Ending.RETRIED

    def _put_back(self, ask: Ask | None) -> None:
        """Put what a response was for back in line; None for one of the server's."""
        if self._closing and (ask is None or ask.kind != "goodbye"):
            return
        if ask is None or ask.kind == "turn":
            self.owed = True
        elif ask.kind != "filler":  # its moment has passed
            self._asks.appendleft(ask)

    # --- interruption and time ---

    def interrupt(self, now: float) -> None:
        """Stop the active response, or the requested one as soon as it begins."""
        if self.state is State.REQUESTED:
            self._drop_next = True
        elif self.state is State.ACTIVE:
            self.discard(now)

    def discard(self, now: float) -> None:
        """Cancel the active response and drop all that still comes of it."""
        if self.id is not None and self.id not in self._discarded:
            self._discarded.append(self.id)
        if not self._cancelled:
            self._cancelled = True
            self.spoke = False
            self._deadline = now + CANCELLED_SECONDS
            self._outbox.append(ResponseCancel(response_id=self.id))

    def get_timer(self) -> float | None:
        return min((time for time in (self._deadline, self._wait_until) if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Give up waiting for the server, if it is time."""
        if self._wait_until is not None and now >= self._wait_until:
            self._wait_until = None
        if self._deadline is None or now < self._deadline:
            return
        if self.state is State.ACTIVE:
            self._finish(now)
            return
        self.unanswered += 1
        self.state, self._deadline = State.NONE, None
        pending, self._pending = self._pending, None
        if not self._drop_next:
            self._put_back(pending)
