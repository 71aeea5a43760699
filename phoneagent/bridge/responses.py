"""One response at a time: what the active one is for, and what to ask for next.

Two sides start responses, the server's voice activity detection and this gate, and the server refuses a second one
while one is active. So every `response.create` that phoneagent sends goes through here.

    NONE ──create sent──▶ REQUESTED ──response.created──▶ ACTIVE ──response.done──▶ NONE
                              │                              │
                         interrupted                    interrupted
                              ▼                              ▼
                           DROPPED ──response.created──▶ CANCELLING ──response.done──▶ NONE

A turn that the server answers by itself leads from NONE to REQUESTED too. A request that brings no response within 5 s
is made again; a canceled response counts as done after 3 s.

An answer is *owed* from a committed turn or a posted tool output until a response is created that can take it into
account. For a tool's output that is certain if the response was requested after posting it, or if the server had added
the output's item before it created one by itself.
"""

from __future__ import annotations

from collections import deque

from phoneagent.bridge.names import known_id
from phoneagent.bridge.prompts import ANSWERS, Kind, Sound, Wanted
from phoneagent.bridge.requests import Ending, State
from phoneagent.protocol.items import system_message
from phoneagent.protocol.realtime import Item, ItemCreate, Response, ResponseCancel, ResponseCreate, ToModel

CREATED_SECONDS = 5.0
"""A requested response that is not created within this time is requested again."""

CANCELLED_SECONDS = 3.0
"""The longest wait for the `response.done` of a canceled response."""

MAX_UNANSWERED = 2
"""After this many requests in a row without a response, the session is dead."""

MAX_WANTED = 32
"""How many responses may wait in line; more are refused."""

MAX_DISCARDED = 64
"""How many canceled responses are remembered, because their output may still come."""

METADATA_KEY = "phoneagent"
"""Our responses carry their number under this key, so that the server's own are told apart."""


class ResponseGate:
    """The gate. Its messages go to `outbox`; `now` is in seconds."""

    def __init__(self, outbox: deque[ToModel]) -> None:
        self._outbox = outbox
        self.state = State.NONE
        self.id: str | None = None
        self.current: Wanted | None = None
        """What the active response is for; None for one that the server began."""
        self.owed = False
        """Whether an answer is owed, and no response that could give it was created."""
        self.spoke = False
        """Whether the newest response has spoken, and was not discarded."""
        self.ever_spoke = False
        """Whether any response has spoken: from then on the model's voice cannot be changed."""
        self.called = False
        """Whether the newest response has called a tool."""
        self.wrote = False
        """Whether the newest response has written when it should have spoken."""
        self.unanswered = 0
        self.muted = False
        """Whether the agent is muted: nothing is asked for, and what is wanted waits."""
        self._wanted: list[Wanted] = []
        self._pending: Wanted | None = None  # our unanswered create
        self._number = 0
        self._outputs: dict[str, bool] = {}  # posted, not in a response yet: call_id -> its item was added
        self._server_may_answer = False  # a turn by itself after our create: without metadata, it may be either's
        self._drop_late = False  # a dropped request brought nothing in time: what it brings later is unwanted too
        self._covered: frozenset[str] = frozenset()  # the outputs that our pending create covers
        self._discarded: deque[str] = deque(maxlen=MAX_DISCARDED)  # until their response.done
        self.closing = False
        """Whether nothing may be asked for except a goodbye."""
        self._misses = 0  # responses in a row that failed or brought nothing
        self._again: Wanted | None = None  # what the last one of them was for
        self._deadline: float | None = None
        self._wait_until: float | None = None  # the server has asked for patience

    def new_session(self) -> None:
        """Switch to another session: what was not said is asked for again, and an answer that was cut off is owed.

        Prescribed words are said from the beginning, because the next session does not know them. The greeting is left
        out: the session's opening asks for it, if it was not heard.
        """
        current = self.current if self.state is State.ACTIVE else self._pending
        if self.state in (State.REQUESTED, State.ACTIVE):
            waits = self.state is State.ACTIVE and self.called  # the answer comes once the tool's output is there
            if current is None or current.kind == "turn":
                self.owed = self.owed or not waits
            elif current.kind == "greeting":
                self.owed = self.owed or (self.state is State.ACTIVE and self.spoke)
            elif current.kind != "filler" and not (current.kind == "asked" and waits):
                self._wanted.insert(0, current)
        dropped = self.state is State.DROPPED or self._drop_late
        self.owed = (self.owed or bool(self._outputs)) and not (self.closing or dropped)
        self._wanted = [wanted for wanted in self._wanted if wanted.kind != "greeting"]
        for wanted in self._wanted:
            wanted.told = False
        self.state, self.id, self.current, self._pending = State.NONE, None, None, None
        self._deadline = self._wait_until = None
        self._server_may_answer = self.called = self.wrote = self._drop_late = False
        self.unanswered = self._misses = 0
        self._outputs.clear()
        self._discarded.clear()

    # --- what is wanted ---

    def want(self, wanted: Wanted) -> bool:
        """Put a response in line. Return False if too many wait, or the call is closing."""
        if len(self._wanted) >= MAX_WANTED or (self.closing and wanted.kind != "goodbye"):
            return False
        if wanted.kind in ("consent", "greeting"):
            after_consent = wanted.kind == "greeting" and bool(self._wanted) and self._wanted[0].kind == "consent"
            self._wanted.insert(int(after_consent), wanted)
        else:
            self._wanted.append(wanted)
        return True

    def close(self) -> None:
        """Prepare the end: from here on, nothing is asked for except a goodbye."""
        self.closing = True
        self._wanted.clear()

    def owe_answer(self) -> None:
        """Ask for an answer as soon as one may be asked for."""
        self.owed = True

    def forgive(self) -> None:
        """Owe no answer any longer."""
        self.owed = False

    def mute(self, muted: bool) -> None:
        """Ask for nothing until the agent is unmuted."""
        self.muted = muted

    def turn_committed(self, now: float, *, server_answers: bool) -> None:
        """Note that the caller's turn is complete: an answer is owed, from the server itself or on request."""
        self.owed = True
        self._misses = 0
        self._wanted = [wanted for wanted in self._wanted if wanted.kind != "turn"]  # the answer replaces it
        self._server_may_answer = server_answers
        if server_answers and self.state is State.NONE:
            self._request(now)
        elif server_answers and self.state is State.DROPPED and self._pending is None:
            self.state = State.REQUESTED  # the one to drop has not come; what comes now answers this turn

    def output_posted(self, call_id: str, *, added: bool = False) -> None:
        """Note that a tool's output went to the model; `added`: the server has confirmed its item."""
        self._outputs[call_id] = added

    def item_added(self, item: Item) -> None:
        """Handle an item that the server confirmed; only a tool's output matters."""
        if item.type == "function_call_output" and item.call_id and item.call_id in self._outputs:
            self._outputs[item.call_id] = True

    def tool_called(self) -> None:
        """Note that the newest response has called a tool."""
        self.called = True

    @property
    def owes(self) -> bool:
        """Whether something remains to be said for which no response was requested yet."""
        return self.owed or bool(self._wanted or self._outputs)

    @property
    def busy(self) -> bool:
        """Whether a response is requested or not done."""
        return self.state is not State.NONE

    @property
    def running(self) -> bool:
        """Whether a response was created and is not done."""
        return self.state in (State.ACTIVE, State.CANCELLING)

    @property
    def speaking(self) -> bool:
        """Whether more will come from a requested or active response."""
        return self.state in (State.REQUESTED, State.ACTIVE)

    @property
    def holds_back(self) -> bool:
        """Whether nothing is asked for now, because the server would refuse it."""
        return self._wait_until is not None

    @property
    def last_words(self) -> bool:
        """Whether the active response serves as a goodbye: it is one, or it spoke while calling a tool."""
        return self.called or (self.current is not None and self.current.kind == "goodbye")

    def waits_for(self, kind: Kind) -> bool:
        """Return whether a response of that kind is in line, requested or active."""
        current = (*self._wanted, self._pending, self.current if self.running else None)
        return any(wanted is not None and wanted.kind == kind for wanted in current)

    @property
    def protected(self) -> bool:
        """Whether the requested or active response must be heard to its end."""
        current = self.current if self.running else self._pending
        return current is not None and current.protected

    def poll(self, now: float, *, speech: bool, tools_running: bool) -> None:
        """Send a `response.create` if one is wanted and may go.

        Tool outputs wait for tools that still run, so that all of them get one continuation.
        """
        waits = self.muted or self._wait_until is not None
        if self.state is not State.NONE or waits or self._sound_next() is not None:
            return
        if self._wanted and (not speech or self._wanted[0].kind in ("consent", "greeting", "goodbye")):
            self._create(self._wanted.pop(0), now)
        elif (self.owed or (self._outputs and not tools_running)) and not speech and not self.closing:
            self._create(Wanted("turn"), now)

    def take_sound(self, *, speech: bool) -> Sound | None:
        """Take phoneagent's own audio, if it is next in line and may be heard now."""
        sound = self._sound_next() if self.state is State.NONE and not self.muted else None
        if sound is None or (speech and not sound.over_speech):
            return None
        self._wanted.pop(0)
        return sound

    def _sound_next(self) -> Sound | None:
        return self._wanted[0].sound if self._wanted else None

    def _create(self, wanted: Wanted, now: float) -> None:
        if wanted.prompt is not None and not wanted.told:
            self._outbox.append(ItemCreate(item=system_message(wanted.prompt)))
            wanted.told = True  # a second attempt finds it there
        self._number += 1
        aloud = {"output_modalities": ["audio"]} if self.wrote else {}  # the session says so too, but the model wrote
        options = {**aloud, **wanted.options, "metadata": {METADATA_KEY: str(self._number)}}
        self._outbox.append(ResponseCreate(event_id=self.latest_request, response=options))
        self._pending = wanted
        self._server_may_answer = False
        self._covered = frozenset(self._outputs)
        self._request(now)

    def _request(self, now: float) -> None:
        self.state, self._drop_late = State.REQUESTED, False
        self._deadline = now + CREATED_SECONDS

    # --- what the server says ---

    def created(self, response: Response, now: float) -> bool:
        """Handle `response.created`. Return True if it was interrupted before it began."""
        ours = self._pending is not None and self._is_ours(response)
        # A server's own response that comes while ours should be dropped answers what was said since.
        dropped = self._drop_late or (self.state is State.DROPPED and (ours or self._pending is None))
        self._drop_late = False
        if self._pending is not None and ours:
            self.current, self._pending = self._pending, None
        else:
            self.current, self._server_may_answer = None, False
        if not dropped:  # what is owed by then came after the interruption
            self._answers(self.current)
        self.state, self.id, self._deadline = State.ACTIVE, response.id, None
        self.called = self.spoke = self.wrote = False
        self.unanswered = 0
        if response.id is not None and response.id in self._discarded:
            self._discarded.remove(response.id)  # the id comes again
        return dropped

    def _answers(self, wanted: Wanted | None) -> None:
        """Owe no longer what a response answers; None is the server's own, and prescribed words answer nothing."""
        if wanted is None or wanted.kind in ANSWERS:
            covered = self._covered if wanted is not None else {call for call, added in self._outputs.items() if added}
            self.owed = False
            self._outputs = {call: added for call, added in self._outputs.items() if call not in covered}

    def expects(self, response: Response) -> bool:
        """Return whether a response that begins now is one that was requested."""
        return self._pending is not None and self._is_ours(response)

    def _is_ours(self, response: Response) -> bool:
        given = (response.metadata or {}).get(METADATA_KEY)
        if isinstance(given, str) and given.isdecimal() and 0 < int(given) <= self._number:
            return int(given) == self._number
        # Not every server returns metadata. Without it, a response is ours unless a turn may have caused it.
        return not self._server_may_answer

    def output(self, response_id: str) -> bool:
        """Handle output of a response; return whether it is wanted. The active one's id is learned here, if needed."""
        if self.id is None and self.running:
            self.id = response_id or None
            if self.state is State.CANCELLING:
                self._discarded.append(response_id)
        return response_id not in self._discarded

    def audio(self, response_id: str) -> bool:
        """Handle audio, or written words, of a response; return whether they are wanted."""
        if (self.id is None or self._discarded) and not self.output(response_id):
            return False
        self.ever_spoke, self._wait_until = True, None
        if response_id == self.id:
            self.spoke = True
        return True

    def text(self, response_id: str) -> None:
        """Handle written words of a response that should have been spoken."""
        if self.output(response_id) and response_id == self.id:
            self.wrote = True

    def answers(self, response_id: str) -> bool:
        """Return whether a response is a wanted answer in the model's own words, rather than prescribed words."""
        return response_id not in self._discarded and (self.current is None or self.current.kind in ANSWERS)

    def wait(self, until: float) -> None:
        """Ask for nothing before `until`: the server would refuse it."""
        self._wait_until = until

    def done(self, response: Response, now: float) -> Ending:
        """Handle `response.done`."""
        if response.id is not None and response.id in self._discarded:
            self._discarded.remove(response.id)
        if not self.running or (self.id is not None and response.id != self.id):
            return Ending.IGNORED
        cancelled, wanted = self.state is State.CANCELLING, self.current
        silent = wanted is not None and "audio" not in wanted.options.get("output_modalities", ("audio",))
        said = self.spoke or self.called or (self.wrote and silent)
        self._finish(now)
        if cancelled:
            return Ending.CANCELLED
        if response.status == "cancelled":
            return Ending.INTERRUPTED
        if said and response.status != "failed":
            self._misses = 0
            return Ending.SAID if response.status != "incomplete" else Ending.CUT
        return self._missed(wanted, failed=response.status == "failed")

    def _missed(self, wanted: Wanted | None, *, failed: bool) -> Ending:
        """Note that what was wanted was not said, and ask for it again if that may help."""
        self._misses += 1
        self._again = None
        if self._misses == 1 or failed or (wanted is not None and wanted.kind not in (*ANSWERS, "goodbye")):
            self._again = wanted
            self._put_back(wanted)
        if self._misses == 1:
            return Ending.RETRIED
        if failed:
            return Ending.FAILED
        return Ending.EMPTY if self._misses == 2 else Ending.MUTE

    def resume(self, response_id: str) -> None:
        """Resume a response that had counted as over: what was asked for again because of that is unwanted."""
        if self._pending is not None:
            self._pending = Wanted("turn")  # the server refuses it
        self._wanted = [wanted for wanted in self._wanted if wanted is not self._again]
        self.state, self.id, self.current, self._deadline = State.ACTIVE, response_id, self._again, None
        self.owed, self._misses = False, 0

    def _finish(self, now: float) -> None:
        self.state, self.id, self.current, self._deadline = State.NONE, None, None, None
        if self._pending is not None:
            self._request(now)

    def already_active(self, event_id: str | None = None) -> None:
        """Handle the refusal of a response because another one is active; `event_id` is of our create."""
        if event_id is not None and event_id != self.latest_request:
            return
        if event_id is None and self._pending is not None and self._server_may_answer:
            self.owed = True  # the server's own response to a turn failed; ours is still to come
            return
        pending, self._pending = self._pending, None
        if not self.running:
            # The server has an active response that it has not reported: its id comes with its output.
            self.state, self.id, self.current, self._deadline = State.ACTIVE, None, None, None
            self._put_back(pending)
        elif pending is not None and pending.kind != "turn":
            self._put_back(pending)  # the response that was created instead answers a turn

    @property
    def latest_request(self) -> str:
        """The event id of our latest create."""
        return f"create_{self._number}"

    def create_refused(self, event_id: str) -> Ending:
        """Handle the refusal of our create `event_id` for any other reason."""
        if self._pending is None or event_id != self.latest_request:
            return Ending.IGNORED
        pending, self._pending = self._pending, None
        if not self.running:
            self.state, self._deadline = State.NONE, None
        if self._misses and pending.kind == "asked":  # its options are user code's, and no session accepts them
            self._misses = 0
            return Ending.IGNORED
        return self._missed(pending, failed=True)

    def _put_back(self, wanted: Wanted | None) -> None:
        """Put what a response was for back in line; None for the server's own response."""
        if self.closing and (wanted is None or wanted.kind != "goodbye"):
            return
        if wanted is None or wanted.kind == "turn":
            self.owed = True
        elif wanted.kind != "filler":  # its moment has passed
            self._wanted.insert(0, wanted)

    # --- interruption and time ---

    def interrupt(self, now: float) -> None:
        """Stop the active response, or the requested one as soon as it begins."""
        if self.state is State.REQUESTED and not self.muted:
            self.state = State.DROPPED
            self._answers(self._pending)
        elif self.state is State.ACTIVE:
            self.discard(now)

    def discard(self, now: float) -> None:
        """Cancel the active response and drop any further output. What a muted agent has not begun to say waits."""
        if self.muted and not self.spoke:
            self._put_back(self.current)
        self.state = State.CANCELLING
        if self.id is not None:
            self._discarded.append(self.id)
        self.spoke = False
        self._deadline = now + CANCELLED_SECONDS
        self._outbox.append(ResponseCancel(response_id=known_id(self.id)))

    def hurry(self, now: float) -> None:
        """Stop waiting for a requested response at `now`."""
        if self.state is State.REQUESTED and self._deadline is not None:
            self._deadline = min(self._deadline, now)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return min((time for time in (self._deadline, self._wait_until) if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Give up waiting for the server, if it is time."""
        if self._wait_until is not None and now >= self._wait_until:
            self._wait_until = None
        if self._deadline is None or now < self._deadline:
            return
        if self.running:
            self._finish(now)
            return
        self.unanswered += 1
        pending, self._pending = self._pending, None
        self._drop_late = self.state is State.DROPPED
        self.state, self._deadline = State.NONE, None
        if not self._drop_late:
            self._put_back(pending)
