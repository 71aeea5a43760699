"""Tool calls: each runs once, whatever announces it, and a filler is said while one takes long.

The *filler* is said when a tool has run for some seconds in which neither side spoke: one filler for all tools that are
running, and never a second one for the same call.

The calls of an answer wait while it is unclear whether what it answers counts (`held_turns`): a cough must not book a
table. If it does not count, they are dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from phoneagent.bridge import prompts
from phoneagent.bridge.history import ToolRun
from phoneagent.bridge.names import Names
from phoneagent.bridge.requests import State
from phoneagent.bridge.responses import ResponseGate
from phoneagent.protocol.items import approval_refusal, tool_output
from phoneagent.protocol.realtime import Item, ItemCreate, ToModel

HOSTED_SECONDS = 30.0
"""How long a tool of a hosted MCP server, which the model's provider calls, counts as running."""

MAX_TOOL_CALLS = 1_000
"""More tool calls than this in one call are a loop; further ones are refused."""

MAX_VOID = 64
"""How many responses whose calls do not run are remembered, for late events."""

_NO_APPROVAL = (
    "This needs approval, which is not possible during a phone call. Tell the caller that it cannot be done here."
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made: `arguments` is its JSON as received, `since` when it arrived, in seconds.

    `call_id` is unique in the call. It is the model's own id unless that was already used.
    """

    call_id: str
    name: str
    arguments: str = field(repr=False)
    since: float


@dataclass(frozen=True, slots=True)
class Filler:
    """What the agent says while a tool runs, after this many seconds of silence."""

    text: str
    after_seconds: float


class ToolCalls:
    """The tool calls of a call. Its messages go to `outbox`; `past` are the calls of earlier media streams."""

    def __init__(self, outbox: deque[ToModel], responses: ResponseGate, past: Sequence[ToolRun] = ()) -> None:
        self._outbox = outbox
        self._responses = responses
        self.past = tuple(past)
        """The calls that were made before this media stream, in order."""
        self._names = Names(run.call_id for run in past)
        self._seen: dict[int, list[Item]] = {}  # of this session: the calls of each response, by its number
        self._held: int | None = None  # the response whose calls wait
        self._waiting: list[Item] = []
        self._void: dict[int, None] = {}  # responses whose calls do not run
        self._wire: dict[str, str] = {}  # call_id -> the id by which this session knows the call
        self._refusals: set[str] = set()
        self._number = 0
        self._hosted_done: set[str] = set()
        self._hosted_since: dict[str, float] = {}  # running hosted calls, and since when
        self._running: dict[str, ToolCall] = {}
        self._made: dict[str, ToolCall] = {}
        self._outputs: dict[str, str] = {}
        self._fillers: dict[str, Filler] = {}
        self._quiet_since: float | None = None

    @property
    def running(self) -> bool:
        """Whether any tool runs, here or at the model's provider."""
        return bool(self._running or self._hosted_since)

    @property
    def too_many(self) -> bool:
        """Whether there were more calls than `MAX_TOOL_CALLS`."""
        return self._number > MAX_TOOL_CALLS

    def new_session(self) -> bool:
        """Switch to another session, where ids may repeat. Return whether calls were lost with the one before.

        These are calls to hosted tools, and calls that waited. The new session knows the other calls so far by
        `ToolCall.call_id`.
        """
        lost = bool(self._hosted_since or self._waiting)
        self.drop()
        for ids in (self._hosted_since, self._hosted_done, self._refusals, self._seen, self._wire, self._void):
            ids.clear()
        return lost

    def begin(self, item: Item, response: int, now: float) -> ToolCall | None:
        """Handle an output item of a response, by its number. Return the call to run, if it is a complete, new call
        that need not wait.
        """
        if item.type in ("mcp_call", "mcp_approval_request"):  # called by the model's provider
            self._responses.tool_called()
        self._refuse_approval(item)
        if item.type == "mcp_call" and item.id and item.id not in self._hosted_done and item.status != "completed":
            self._hosted_since.setdefault(item.id, now)
        if item.type != "function_call" or item.status not in (None, "completed") or not item.call_id or not item.name:
            return None
        seen = self._seen.setdefault(response, [])
        if any(_same(item, before) for before in seen):
            return None
        seen.append(item)
        if response in self._void:
            return None
        self._responses.tool_called()
        if response == self._held:
            self._waiting.append(item)
            return None
        return self._make(item, now)

    def _make(self, item: Item, now: float) -> ToolCall:
        assert item.call_id
        assert item.name
        self._number += 1
        call = ToolCall(self._names.new(item.call_id), item.name, item.arguments or "{}", now)
        self._wire[call.call_id] = item.call_id
        self._running[call.call_id] = self._made[call.call_id] = call
        return call

    def hold(self, response: int) -> None:
        """Let the calls of a response wait, until `release` or `drop`."""
        self._held = response

    def release(self, now: float) -> list[ToolCall]:
        """Return the calls that waited, to run now. Further ones of their response do not wait."""
        waiting, self._waiting, self._held = self._waiting, [], None
        return [self._make(item, now) for item in waiting]

    def drop(self) -> None:
        """Drop the calls that wait, and any further ones of their response."""
        if self._held is not None:
            self.void(self._held)
        self._waiting, self._held = [], None

    def void(self, response: int) -> None:
        """Run no call of a response."""
        self._void[response] = None
        if len(self._void) > MAX_VOID:
            del self._void[next(iter(self._void))]

    def announced(self, item: Item) -> None:
        """Handle an item that begins: if its id has come before, it now belongs to another hosted call."""
        if item.id is not None and item.status != "completed":
            self._hosted_done.discard(item.id)

    def _refuse_approval(self, item: Item) -> None:
        if item.type == "mcp_approval_request" and item.id is not None and item.id not in self._refusals:
            self._refusals.add(item.id)
            self._number += 1
            self._hosted_done.update(self._hosted_since)  # the call that waits for approval will not be made
            self._hosted_since.clear()
            refusal = approval_refusal(f"refusal_{self._number}", item.id, _NO_APPROVAL)
            self._outbox.append(ItemCreate(item=refusal))

    def hosted(self, item: Item) -> None:
        """Handle a complete item: the output of a tool of a hosted MCP server, or its request for approval.

        No response follows by itself: either one is owed an answer, unless the server gives one unasked.
        """
        if item.id is None or item.id in self._hosted_done or item.type not in ("mcp_call", "mcp_approval_request"):
            return
        self._hosted_done.add(item.id)
        self._hosted_since.pop(item.id, None)
        self._refuse_approval(item)
        self._responses.output_posted(item.id, added=True)

    def runs(self, ms: Callable[[float], int]) -> list[ToolRun]:
        """Return the calls of this media stream, in order; `ms` converts a moment to the call's time."""
        return [
            ToolRun(
                call_id=call.call_id,
                name=call.name,
                arguments=call.arguments,
                output=self._outputs.get(call.call_id),
                at_ms=ms(call.since),
                running=call.call_id in self._running,
            )
            for call in self._made.values()
        ]

    def end(self, call_id: str) -> ToolCall | None:
        """Handle the end of a call. Return None if no call with that id is running."""
        self._fillers.pop(call_id, None)
        return self._running.pop(call_id, None)

    def post(self, call_id: str, output: str, *, respond: bool = True) -> None:
        """Give the model the output of a call, and have it `respond`."""
        self._outputs[call_id] = output
        wire_id = self._wire.get(call_id, call_id)
        self._outbox.append(ItemCreate(item=tool_output(wire_id, output)))
        if respond:
            self._responses.output_posted(wire_id)

    # --- the filler ---

    def fill(self, call_id: str, filler: Filler) -> None:
        """Have something said if that call takes long."""
        if call_id in self._running:
            self._fillers[call_id] = filler

    def get_timer(self) -> float | None:
        """Return when a filler is due, or when to give up a hosted call."""
        times = [since + HOSTED_SECONDS for since in self._hosted_since.values()]
        if self._quiet_since is not None:
            times += map(self._due, self._fillers)
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Give up hosted calls that have run for too long."""
        late = [call for call, since in self._hosted_since.items() if now >= since + HOSTED_SECONDS]
        for call in late:
            del self._hosted_since[call]

    def poll(self, now: float, *, quiet: bool) -> None:
        """Ask for a filler, if one is due. `quiet`: tools run, and neither side speaks."""
        self.handle_timer(now)
        if not quiet or not self.running or self._responses.state is not State.NONE:
            self._quiet_since = None
            return
        if self._quiet_since is None:
            self._quiet_since = now
        due = [call_id for call_id in self._fillers if now >= self._due(call_id)]
        if due:
            self._responses.want(prompts.filler(self._fillers[due[0]].text))
            self._responses.poll(now, speech=False, tools_running=True)
            self._fillers.clear()

    def _due(self, call_id: str) -> float:
        assert self._quiet_since is not None
        return max(self._quiet_since, self._running[call_id].since) + self._fillers[call_id].after_seconds


def _same(item: Item, before: Item) -> bool:
    """Return whether two items of a response are one call. A server may correct an id, or give one id to several."""
    if item.id is not None and item.id == before.id:
        return True
    alike = (item.name, item.arguments) == (before.name, before.arguments)
    return item.call_id == before.call_id and (alike or item.id is None or before.id is None)
