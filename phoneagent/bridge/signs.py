"""The signs of each fact: what an event of the model means, whichever server sent it.

Servers differ in the events that announce a fact, in their order, and in the ids they bear. The rest of the bridge
relies on one account, so it is made here:

| fact                    | signs; the first one counts, once                                                          |
|-------------------------|--------------------------------------------------------------------------------------------|
| the caller speaks       | speech_started; speech_stopped without it                                                  |
| … has stopped           | speech_stopped; anything that says that the turn is complete                               |
| the turn is complete    | committed; its user item; its transcript; a response of the server's own; a second's wait  |
| a response is active    | response.created; any output of it; its failure                                            |
| a response is over      | response.done; response.created of the next one; an error after which nothing comes of it; |
|                         | its last item is done and nothing comes for 3 s                                            |
| a tool is called        | output_item.done; its arguments or its item are done, and the response is complete         |

An id that is missing is filled in where only one can be meant. Ids are unique in a call from here on: a server may
number the items of each response or session from the beginning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from phoneagent.bridge.responses import ResponseGate, State
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

COMMIT_SECONDS = 1.0
"""How long after the end of speech another sign of the turn may take; then the turn counts as complete."""

DONE_SECONDS = 3.0
"""How long after its last complete item a response counts as done; between two items a model may think."""

FAILED_SECONDS = 0.5
"""How long after an error that names no request the active response may be silent, before it counts as failed."""

MAX_REMEMBERED = 64
"""Responses and turns that are remembered for what comes late."""

MAX_NAMES = 10_000
"""Ids that are kept apart; more than a call has items."""

Output: TypeAlias = AudioDelta | AudioDone | TranscriptDelta | TranscriptDone | TextDelta
_OfItem: TypeAlias = OutputItemAdded | OutputItemDone | ArgumentsDone

_ENDINGS = {
    f"response.{status}": status for status in ("completed", "cancelled", "incomplete", "failed")
}  # not in the API, but in some servers


class AnsweredTurn(Committed):
    """A turn that is complete, and that the server has answered already."""


@dataclass(slots=True)
class _Turn:
    """A turn that is not complete; `over_at` tells when its speech stopped."""

    item_id: str
    over_at: float | None = None


class Names:
    """Names that are unique in a call, for ids that may come again. `reserved` are in use already."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._used = dict.fromkeys(reserved)

    def new(self, wanted: str) -> str:
        """Return `wanted`, or something like it that was not used yet. It has 32 characters at most if it is new."""
        name, number = wanted, 1
        while name in self._used:
            number += 1
            name = f"{wanted[:26]}~{number}"
        self._used[name] = None
        if len(self._used) > MAX_NAMES:
            del self._used[next(iter(self._used))]
        return name


class Signs:
    """The reader of the model's events. `now` is in seconds."""

    def __init__(self, responses: ResponseGate) -> None:
        self._responses = responses
        self.known: tuple[str, str] | None = None
        """The response and the item of audio that means just what it says."""
        self._number = 0
        self._names = Names()
        self._wire: dict[str, str] = {}  # name of an item of the agent -> the server's id
        self._turn_number = 0
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}  # response id -> its number in the call
        self._items: dict[tuple[int, str], str] = {}  # (response, the server's id) -> name
        self._turns: deque[_Turn] = deque(maxlen=MAX_REMEMBERED)
        self._users: dict[str, str] = {}  # the server's id of a complete turn -> name
        self._textless: deque[str] = deque(maxlen=MAX_REMEMBERED)  # complete turns without a transcript
        self._answered = False  # the server has answered a turn that nothing had announced
        self._presumed_over = ""  # the response that counts as done because nothing followed
        self._announces = False  # the server has sent a response.created
        self._new_response()

    def _new_response(self) -> None:
        self._calls: dict[str, Item] = {}  # by item id: the tool calls of the response, complete or not
        self._last_item = ""
        self._item_over = False
        self._quiet_since = 0.0
        self._failure: tuple[float, Failure] | None = None
        self.known = None

    def new_session(self) -> None:
        """Another session takes over: nothing more comes of the one before, and its ids may come again."""
        self._forget()

    def number(self, response_id: str | None) -> int:
        """Return the number of a response in the call: the newest one's if the id is unknown."""
        return self._numbers.get(response_id or "", self._number)

    def wire_id(self, name: str) -> str:
        """Return the id by which the server knows an item."""
        return self._wire.get(name, name)

    # --- events -------------------------------------------------------------------------------------------------------

    def read(self, event: FromModel, now: float) -> Iterator[FromModel]:
        """Give the events that the bridge is to take in the place of `event`."""
        match event:
            case AudioDelta() | AudioDone() | TranscriptDelta() | TranscriptDone() | TextDelta():
                yield from self._output(event, now)
            case SpeechStarted():
                self._speech_started(event)
                yield event
            case SpeechStopped():
                yield from self._speech_stopped(event, now)
            case Committed():
                yield from self._committed(event, now)
            case InputTranscript() | InputTranscriptFailed():
                yield from self._transcript(event, now)
            case ResponseCreated():
                self._announces = True
                yield from self._created(event, now)
            case ResponseDone():
                yield from self._done(event, now)
            case OutputItemAdded():
                yield from self._of_response(event, now)
                self._call(event.item)
            case OutputItemDone(item=item):
                yield from self._of_response(event, now)
                self._item_over = True
                item.call_id = item.call_id or item.id
                yield event
            case ArgumentsDone():
                yield from self._of_response(event, now)
                self._arguments(event)
            case ItemAdded(item=item) | ItemDone(item=item):
                yield from self._item(item, now, done=isinstance(event, ItemDone))
                yield event
            case Unknown(type=kind):
                yield from self._unknown(kind, now)
                yield event
            case _:
                yield event

    # --- the caller's turn --------------------------------------------------------------------------------------------

    def _speech_started(self, event: SpeechStarted) -> None:
        item_id = event.item_id or ""
        turn = self._turns[-1] if self._turns else None
        if turn is not None and (turn.over_at is None or (item_id and turn.item_id == item_id)):
            turn.item_id, turn.over_at = item_id or turn.item_id, None
        else:
            self._turns.append(_Turn(item_id))

    def _speech_stopped(self, event: SpeechStopped, now: float) -> Iterator[FromModel]:
        if not self._turns or self._turns[-1].over_at is not None:
            if event.item_id and (event.item_id in self._users or self._turn(event.item_id) is not None):
                return
            started = SpeechStarted(event.item_id, event.audio_end_ms)
            self._speech_started(started)
            yield started
        self._turns[-1].over_at = now
        yield event

    def _committed(self, event: Committed, now: float) -> Iterator[FromModel]:
        turn = self._turn(event.item_id)
        if turn is not None:
            yield from self._complete(turn, event.item_id, now)
        elif event.item_id not in self._users or not event.item_id:
            yield Committed(self._user(event.item_id))

    def _turn(self, item_id: str) -> _Turn | None:
        """Return the turn that is meant: that of this id, or the oldest one that is over, or the only one."""
        for turn in self._turns:
            if item_id and turn.item_id == item_id:
                return turn
        if item_id in self._users:
            return None
        for turn in self._turns:
            if turn.over_at is not None or not (item_id and turn.item_id):
                return turn
        return None

    def _complete(self, turn: _Turn, item_id: str, now: float) -> Iterator[FromModel]:
        """Report that a turn became the item `item_id`, and with it those before, which did not become one."""
        while self._turns and self._turns.popleft() is not turn:
            pass
        if turn.over_at is None:
            yield SpeechStopped(turn.item_id)
        yield Committed(self._user(item_id or turn.item_id))

    def _user(self, item_id: str) -> str:
        self._turn_number += 1
        item_id = item_id or f"turn_{self._turn_number}"
        name = self._users[item_id] = self._names.new(item_id)
        self._textless.append(item_id)
        if len(self._users) > MAX_REMEMBERED:
            del self._users[next(iter(self._users))]
        return name

    def _transcript(self, event: InputTranscript | InputTranscriptFailed, now: float) -> Iterator[FromModel]:
        if not event.item_id and self._textless:
            event.item_id = self._textless[0]
        turn = self._turn(event.item_id)
        if turn is None and event.item_id not in self._users and len(self._textless) == 1:
            event.item_id = self._textless[
                0
            ]  # LocalAI names another item here than in the turn; only this can be meant
        if turn is not None:
            yield from self._complete(turn, event.item_id, now)
            event.item_id = event.item_id or self._textless[-1]
        elif event.item_id not in self._users and isinstance(event, InputTranscript) and event.transcript.strip():
            name = self._user(event.item_id)
            event.item_id = event.item_id or self._textless[-1]
            answered, self._answered = self._answered, False
            yield AnsweredTurn(name) if answered else Committed(name)
        if event.item_id in self._textless:
            self._textless.remove(event.item_id)
        event.item_id = self._users.get(event.item_id, event.item_id)
        yield event

    def _item(self, item: Item, now: float, *, done: bool) -> Iterator[FromModel]:
        """Take an item of the conversation, which may be one of ours."""
        if item.role == "user" and item.id:
            turn = next((turn for turn in self._turns if turn.item_id == item.id), None)
            if turn is not None:
                yield from self._complete(turn, item.id, now)
        if item.type != "function_call" or not self._responses.running:
            return
        if done and item.status != "incomplete" and (item.id or "") in self._calls:
            self._calls[item.id or ""] = item
            item.status = "completed"
        elif not done and item.status == "in_progress":
            self._call(item)

    # --- responses ----------------------------------------------------------------------------------------------------

    def _created(self, event: ResponseCreated, now: float) -> Iterator[FromModel]:
        gate, response = self._responses, event.response
        if gate.running and gate.id is not None:
            if response.id == gate.id:
                return
            yield ResponseDone(Response(id=gate.id, status="completed"))
        if not gate.expects(response):
            turn = next((turn for turn in self._turns if turn.over_at is not None), None)
            if turn is not None:
                yield from self._complete(turn, turn.item_id, now)
            else:
                self._answered = True
        self._number += 1
        if response.id:
            self._remember(response.id)
        self._new_response()
        yield event

    def _remember(self, response_id: str) -> None:
        self._numbers.pop(response_id, None)
        self._numbers[response_id] = self._number
        if len(self._numbers) > MAX_REMEMBERED:
            del self._numbers[next(iter(self._numbers))]
            self._items = {key: name for key, name in self._items.items() if key[0] > self._number - MAX_REMEMBERED}

    def _of_response(self, event: Output | _OfItem, now: float) -> Iterator[FromModel]:
        """Take anything of a response, which may be the first that is seen of it."""
        gate = self._responses
        if not event.response_id and gate.running:
            event.response_id = gate.id or ""
        elif not event.response_id and gate.state is State.NONE:
            event.response_id = next(reversed(self._numbers), "")  # it comes late
        response_id = event.response_id
        if response_id not in self._numbers:
            if gate.running and gate.id is None:
                if response_id:
                    self._remember(response_id)  # the gate learns it as well
            elif gate.running and self._announces:
                event.response_id = gate.id or ""  # a new one would have been announced: this id is odd
            else:
                event.response_id = response_id or f"response_{self._number + 1}"
                yield from self._created(ResponseCreated(Response(id=event.response_id)), now)
        elif (
            response_id == self._presumed_over
            and gate.state is State.NONE
            and isinstance(event, AudioDelta | OutputItemAdded)
        ):  # it was only thinking
            self._presumed_over = ""
            yield ResponseCreated(Response(id=response_id))
        self._item_over, self._quiet_since, self._failure = False, now, None

    def _output(self, event: Output, now: float) -> Iterator[FromModel]:
        yield from self._of_response(event, now)
        number = self.number(event.response_id)
        given = event.item_id or self._last_item or f"item_{number}"
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
            self._item_over, self.known = given == self._last_item, None  # that of an item before may come late
        yield event

    def _call(self, item: Item) -> None:
        if item.type == "function_call" and len(self._calls) < MAX_REMEMBERED:
            self._calls[item.id or ""] = item

    def _arguments(self, event: ArgumentsDone) -> None:
        """Take the arguments of a call. They also come of a call that was cut off, so its end is waited for."""
        if self.number(event.response_id) != self._number:
            return
        call = self._calls.get(event.item_id or "") or Item(id=event.item_id, type="function_call")
        call.call_id = event.call_id or call.call_id or call.id
        call.name = event.name or call.name
        call.arguments, call.status = event.arguments, "completed"
        self._call(call)
        self._item_over = True

    def _done(self, event: ResponseDone, now: float) -> Iterator[FromModel]:
        gate, response = self._responses, event.response
        unknown = response.id not in self._numbers
        if unknown and gate.running and (response.status != "cancelled" or not response.id):
            response.id = gate.id or response.id  # only this one can be meant
        elif unknown and gate.busy and not gate.running and response.status != "cancelled":
            yield from self._created(ResponseCreated(Response(id=response.id)), now)
        elif unknown and response.id:
            self._remember(response.id)
        details = response.status_details
        response.status = response.status or ("failed" if details is not None and details.error else "completed")
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
            yield from self._done(ResponseDone(Response(id=self._responses.id, status=_ENDINGS[kind])), now)
            return
        self._quiet_since, self._failure = now, None
        self._item_over = self._item_over and kind.endswith(".done")

    def failed(self, failure: Failure, now: float) -> None:
        """Take an error that answers no request: perhaps the active response, or the requested one, has failed."""
        if self._responses.state is State.ACTIVE:
            self._failure = (now + FAILED_SECONDS, failure)
            self.known = None
        else:
            self._responses.hurry(now + FAILED_SECONDS)

    # --- time ---------------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `overdue` has something to give, unless another sign comes before."""
        times = [turn.over_at + COMMIT_SECONDS for turn in self._turns if turn.over_at is not None]
        if self._responses.state is State.ACTIVE:
            if self._failure is not None:
                times.append(self._failure[0])
            if self._item_over:
                times.append(self._quiet_since + DONE_SECONDS)
        return min(times, default=None)

    def overdue(self, now: float) -> Iterator[FromModel]:
        """Give the events that stand for facts that no further sign has announced in time."""
        for turn in tuple(self._turns):
            if turn.over_at is not None and now >= turn.over_at + COMMIT_SECONDS:
                yield from self._complete(turn, turn.item_id, now)
        if self._responses.state is not State.ACTIVE:
            return
        response = Response(id=self._responses.id)
        if self._failure is not None and now >= self._failure[0]:
            response.status, response.status_details = "failed", StatusDetails(error=self._failure[1])
            yield from self._done(ResponseDone(response), now)
        elif self._item_over and now >= self._quiet_since + DONE_SECONDS:
            self._presumed_over = response.id or ""
            yield from self._done(ResponseDone(response), now)
