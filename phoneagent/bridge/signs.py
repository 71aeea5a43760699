"""The signs of each fact: what an event from the model means, whichever server sent it.

Servers differ in the events that announce a fact, in their order, and in their ids. The rest of the bridge relies on a
single version, which is made here:

| fact                    | signs; the first one counts, once                                                          |
|-------------------------|--------------------------------------------------------------------------------------------|
| the caller speaks       | speech_started; speech_stopped without it                                                  |
| … has stopped           | speech_stopped; anything that says that the turn is complete                               |
| the turn is complete    | committed; its user item; its transcript; a response of the server's own; a second's wait  |
| a response is active    | response.created; any output of it; its failure                                            |
| a response is over      | response.done; response.created of the next one; an error after which nothing comes of it; |
|                         | its last item is done and nothing comes for 3 s                                            |
| a tool is called        | output_item.done; its arguments or its item are done, and the response is complete         |

A missing id is filled in if only one can be meant. From here on, ids are unique in a call: a server may restart its
numbering of items for each response or session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from phoneagent.bridge.names import MADE_UP, MAX_NAMES, Names
from phoneagent.bridge.requests import State
from phoneagent.bridge.responses import ResponseGate
from phoneagent.bridge.turn_signs import TurnSigns
from phoneagent.protocol.realtime import (
    ArgumentsDone,
    AudioDelta,
    AudioDone,
    Committed,
    Failure,
    FromModel,
    InputTranscript,
    InputTranscriptFailed,
    Item,
    ItemAdded,
    ItemDone,
    OutputItemAdded,
    OutputItemDone,
    Response,
    ResponseCreated,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    StatusDetails,
    TextDelta,
    TranscriptDelta,
    TranscriptDone,
    Unknown,
)

DONE_SECONDS = 3.0
"""How long after its last complete item a response counts as done; between two items a model may think."""

FAILED_SECONDS = 0.5
"""How long the active response may be silent after its error, before it counts as failed."""

UNCLEAR_SECONDS = 2.5
"""The same, after an error that may be about anything."""

MAX_REMEMBERED = 64
"""How many responses are remembered for late events, and how many tool calls of one response."""

Output: TypeAlias = AudioDelta | AudioDone | TranscriptDelta | TranscriptDone | TextDelta
_OfItem: TypeAlias = OutputItemAdded | OutputItemDone | ArgumentsDone

_ENDINGS = {f"response.{status}": status for status in ("completed", "cancelled", "incomplete", "failed")}
"""Events for the end of a response that are not in the API, but that some servers send."""

_OF_RESPONSES = re.compile(
    r"inference|response|generat|server|internal|overload|backend|model|limit|timeout|unavailable"
)
_BAD_ENDINGS = ("failed", "cancelled", "incomplete")


class PresumedDone(ResponseDone):
    """The end of a response that the server has not reported: it may go on."""


class Signs:
    """The reader of the model's events. `now` is in seconds."""

    def __init__(self, responses: ResponseGate) -> None:
        self._responses = responses
        self.known: tuple[str, str] | None = None
        """The response and the item whose audio needs no further checks."""
        self._number = 0
        self._names = Names()
        self._wire: dict[str, str] = {}  # name of an item of the agent -> the server's id
        self._turns = TurnSigns(self._names)
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}  # response id -> its number in the call
        self._items: dict[tuple[int, str], str] = {}  # (response, the server's id) -> name
        self._turns.new_session()
        self._presumed_over = ""  # the response that counts as done because nothing followed
        self._announces = self._ends = False  # the server has sent a response.created, a response.done
        self._told: frozenset[str] = frozenset()  # the ids of the tool calls that the session was given
        self._new_response()

    def _new_response(self) -> None:
        self._calls: dict[str, Item] = {}  # by item id: the tool calls of the response, complete or not
        self._last_item = ""
        self._item_over = False
        self._quiet_since = 0.0
        self._failure: tuple[float, Failure] | None = None
        self.known = None

    def new_session(self) -> None:
        """Switch to another session: nothing more comes from the one before, and its ids may come again."""
        self._forget()

    def told(self, call_ids: Iterable[str]) -> None:
        """Note past tool calls that the session is given, because it confirms their items."""
        self._told = frozenset(call_ids)

    def number(self, response_id: str | None) -> int:
        """Return the number of a response in the call; of the newest one if the id is unknown."""
        return self._numbers.get(response_id or "", self._number)

    def wire_id(self, name: str) -> str:
        """Return the id by which the server knows an item."""
        return self._wire.get(name, name)

    # --- events -------------------------------------------------------------------------------------------------------

    def read(self, event: FromModel, now: float) -> Iterator[FromModel]:
        """Yield the events that the bridge should take in place of `event`."""
        match event:
            case AudioDelta() | AudioDone() | TranscriptDelta() | TranscriptDone() | TextDelta():
                yield from self._output(event, now)
            case SpeechStarted():
                self._turns.speech_started(event)
                yield event
            case SpeechStopped():
                yield from self._turns.speech_stopped(event, now)
            case Committed():
                yield from self._turns.committed(event)
            case InputTranscript() | InputTranscriptFailed():
                yield from self._turns.transcript(event)
            case ResponseCreated():
                self._announces = True
                yield from self._created(event)
            case ResponseDone():
                self._ends = True
                yield from self._done(event)
            case OutputItemAdded():
                yield from self._of_response(event, now)
                self._call(event.item)
            case OutputItemDone(item=item):
                yield from self._of_response(event, now)
                self._item_over = True
                self._mend_call(item)
                yield event
            case ArgumentsDone():
                yield from self._of_response(event, now)
                self._arguments(event)
            case ItemAdded(item=item) | ItemDone(item=item):
                yield from self._item(item, done=isinstance(event, ItemDone))
                yield event
            case Unknown(type=kind):
                yield from self._unknown(kind, now)
                yield event
            case _:
                yield event

    # --- items --------------------------------------------------------------------------------------------------------

    def _item(self, item: Item, *, done: bool) -> Iterator[FromModel]:
        """Handle an item of the conversation, which may be one that we added."""
        if item.role == "user" and item.id:
            yield from self._turns.user_item(item.id)
        if item.type != "function_call" or not self._responses.running:
            return
        if item.call_id in self._told and item.id not in self._calls:
            return
        if done:
            self._mend_call(item)
        if done or item.status in ("in_progress", "completed"):
            self._call(item)

    # --- responses ----------------------------------------------------------------------------------------------------

    def _created(self, event: ResponseCreated) -> Iterator[FromModel]:
        gate, response = self._responses, event.response
        if gate.running and gate.id is not None:
            if response.id == gate.id:
                return
            yield from self._done(ResponseDone(Response(id=gate.id)))
        if not gate.expects(response):
            yield from self._turns.answered(due=gate.busy or gate.owes)
        self._number += 1
        response.id = response.id or f"{MADE_UP}{self._number}"
        self._remember(response.id)
        self._new_response()
        self._presumed_over = ""
        yield event

    def _remember(self, response_id: str) -> None:
        self._numbers.pop(response_id, None)
        self._numbers[response_id] = self._number
        if len(self._numbers) > MAX_REMEMBERED:
            del self._numbers[next(iter(self._numbers))]
            self._items = {key: name for key, name in self._items.items() if key[0] > self._number - MAX_REMEMBERED}

    def _of_response(self, event: Output | _OfItem, now: float) -> Iterator[FromModel]:
        """Handle any event of a response, which may be its first."""
        gate = self._responses
        if not event.response_id and gate.running:
            event.response_id = gate.id or ""
        elif not event.response_id and gate.state is State.NONE:
            event.response_id = next(reversed(self._numbers), "")  # a late event
        response_id = event.response_id
        if response_id not in self._numbers:
            if gate.running and gate.id is None:
                if response_id:
                    self._remember(response_id)  # the gate gets it as well
            elif gate.running and self._announces:
                event.response_id = gate.id or ""  # a new one would have been announced: this id is odd
            else:
                event.response_id = response_id or f"{MADE_UP}{self._number + 1}"
                yield from self._created(ResponseCreated(Response(id=event.response_id)))
        elif response_id == self._presumed_over and self._resumes(event):
            self._presumed_over = ""
            gate.resume(response_id)
        self._item_over, self._quiet_since, self._failure = False, now, None

    def _resumes(self, event: Output | _OfItem) -> bool:
        """Return whether a response that counted as over was only thinking, and nothing has interrupted it since."""
        gate = self._responses
        free = gate.id is None and gate.state not in (State.DROPPED, State.CANCELLING)
        return free and isinstance(event, AudioDelta | OutputItemAdded)

    def _output(self, event: Output, now: float) -> Iterator[FromModel]:
        yield from self._of_response(event, now)
        number = self.number(event.response_id)
        given = event.item_id or self._last_item or f"{MADE_UP}{number}"
        key = (number, given)
        name = self._items.get(key)
        if name is None:
            self._last_item = given
            name = self._items[key] = self._names.new(given)
            self._wire[name] = given
            if len(self._wire) > MAX_NAMES:
                del self._wire[next(iter(self._wire))]
            if len(self._items) > MAX_NAMES:
                del self._items[next(iter(self._items))]
        same = event.response_id == self._responses.id and name == event.item_id
        self.known = (event.response_id, name) if same else None
        event.item_id = name
        if isinstance(event, AudioDone):
            self._item_over, self.known = given == self._last_item, None  # an earlier item's may come late
        yield event

    def _call(self, item: Item) -> None:
        if item.type == "function_call" and len(self._calls) < MAX_REMEMBERED:
            self._calls[item.id or item.call_id or ""] = item

    def _mend_call(self, item: Item) -> None:
        """Complete a finished tool call item with what earlier events said about it."""
        if item.type != "function_call":
            return
        before = self._calls.get(item.id or item.call_id or "", item)
        item.call_id = item.call_id or before.call_id or item.id
        item.name = item.name or before.name
        if item.status not in _BAD_ENDINGS:
            item.status = "completed"

    def _arguments(self, event: ArgumentsDone) -> None:
        """Handle the arguments of a call. They also come for a call that was cut off, so wait for its end."""
        if self.number(event.response_id) != self._number:
            return
        key = event.item_id or event.call_id or ""
        call = self._calls.get(key) or Item(id=event.item_id or None, type="function_call")
        call.call_id = event.call_id or call.call_id or call.id
        call.name = event.name or call.name
        call.arguments, call.status = event.arguments, "completed"
        self._call(call)
        self._item_over = True

    def _done(self, event: ResponseDone) -> Iterator[FromModel]:
        gate, response = self._responses, event.response
        unknown = response.id not in self._numbers
        if unknown and gate.running and (response.status != "cancelled" or not response.id):
            response.id = gate.id or response.id  # only this one can be meant
        elif unknown and gate.busy and not gate.running and response.status != "cancelled":
            yield from self._created(ResponseCreated(Response(id=response.id)))
        elif unknown and response.id:
            self._remember(response.id)
        details = response.status_details
        if response.status not in _BAD_ENDINGS:
            response.status = "failed" if details is not None and details.error else "completed"
        by_turn = self._turns.pending or gate.owed or (details is not None and details.reason == "turn_detected")
        if response.status == "cancelled" and gate.state is State.ACTIVE and not by_turn:
            response.status = "incomplete" if gate.spoke else "failed"  # neither the caller nor phoneagent did it
        for item in response.output or () if response.status == "completed" else ():
            self._mend_call(item)
        if gate.running and response.id == gate.id:
            if response.status == "completed":
                for item in self._calls.values():
                    if item.status == "completed":
                        yield OutputItemDone(item, response.id)
            self._new_response()
        yield event

    def _unknown(self, kind: str, now: float) -> Iterator[FromModel]:
        if not self._responses.running or not kind.startswith("response."):
            return
        if kind in _ENDINGS:
            yield from self._done(ResponseDone(Response(id=self._responses.id, status=_ENDINGS[kind])))
            return
        if kind == "response.error":
            self.failed(Failure(code=kind), now)
            return
        self._quiet_since, self._failure = now, None
        self._item_over = self._item_over and kind.endswith(".done")

    def failed(self, failure: Failure, now: float) -> None:
        """Handle an error that answers no request: perhaps the active response, or the requested one, has failed."""
        words = " ".join((failure.code or "", failure.type or "", failure.message or "")).lower()
        until = now + (FAILED_SECONDS if _OF_RESPONSES.search(words) else UNCLEAR_SECONDS)
        if self._responses.state is State.ACTIVE:
            self._failure = (until, failure)
            self.known = None
        else:
            self._responses.hurry(until)

    # --- time ---------------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `overdue` has something to yield, unless another sign comes before."""
        times = [self._turns.get_timer()]
        if self._responses.state is State.ACTIVE:
            if self._failure is not None:
                times.append(self._failure[0])
            if self._item_over and not self._ends:
                times.append(self._quiet_since + DONE_SECONDS)
        return min((time for time in times if time is not None), default=None)

    def overdue(self, now: float) -> Iterator[FromModel]:
        """Yield events for facts that no further sign has announced in time."""
        yield from self._turns.overdue(now)
        if self._responses.state is not State.ACTIVE:
            return
        response = Response(id=self._responses.id)
        if self._failure is not None and now >= self._failure[0]:
            response.status, response.status_details = "failed", StatusDetails(error=self._failure[1])
        elif self._ends or not self._item_over or now < self._quiet_since + DONE_SECONDS:
            return
        self._presumed_over = response.id or ""
        yield from self._done(PresumedDone(response))
