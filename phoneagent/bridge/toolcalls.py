"""The tools that the model has called: each call runs once, whatever announces it, and while one takes long, the agent
says a word.

The *filler* is said when a tool has been at work for so long, and nobody has said anything for as long: one word for
all tools that run then, and never a second one for the same call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from phoneagent.bridge import prompts
from phoneagent.bridge.history import ToolRun
from phoneagent.bridge.responses import ResponseGate, State
from phoneagent.protocol.realtime import Item, ItemCreate, SessionUpdate, ToModel

HOSTED_SECONDS = 30.0
"""How long a tool of an MCP server that the model's provider calls counts as being at work."""

MAX_TOOL_CALLS = 1_000
"""So many tool calls in one call are a loop; further ones are refused."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of the model: `arguments` is its JSON as it came, `since` when, in seconds."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    since: float


@dataclass(frozen=True, slots=True)
class Filler:
    """What the agent says while a tool works, after so many seconds of silence."""

    text: str
    after: float


class ToolCalls:
    """The tool calls of a call. What is to be sent goes to `outbox`; `past` are those of an earlier media stream."""

    def __init__(self, outbox: deque[ToModel], past: Sequence[ToolRun] = ()) -> None:
        self._outbox = outbox
        self.past = tuple(past)
        """The calls that were made before this media stream, in order."""
        self._seen: set[str] = set()
        self._hosted: set[str] = set()
        self._elsewhere: dict[str, float] = {}  # hosted calls at work, and since when
        self._running: dict[str, ToolCall] = {}
        self._made: dict[str, ToolCall] = {}
        self._outputs: dict[str, str] = {}
        self._fillers: dict[str, Filler] = {}
        self._quiet_since: float | None = None

    @property
    def running(self) -> bool:
        """Whether any tool is at work, here or at the model's provider."""
        return bool(self._running or self._elsewhere)

    @property
    def too_many(self) -> bool:
        """Whether there were more calls than any conversation has."""
        return len(self._seen) > MAX_TOOL_CALLS

    def begin(self, item: Item, now: float) -> ToolCall | None:
        """Take an output item. Returns the call to run if it is one, complete, and new."""
        self._refuse(item)
        if item.type == "mcp_call" and item.id and item.id not in self._hosted and item.status != "completed":
            self._elsewhere.setdefault(item.id, now)
        if item.type != "function_call" or item.status not in (None, "completed") or not item.call_id or not item.name:
            return None
        if item.call_id in self._seen:
            return None
        self._seen.add(item.call_id)
        call = ToolCall(item.call_id, item.name, item.arguments or "{}", now)
        self._running[item.call_id] = self._made[item.call_id] = call
        return call

    def _refuse(self, item: Item) -> None:
        if item.type == "mcp_approval_request" and item.id is not None and item.id not in self._seen:
            self._seen.add(item.id)
            self._hosted.update(self._elsewhere)  # the call that waits for it is not made
            self._elsewhere.clear()
            self._outbox.append(ItemCreate(item=_refusal(item.id, len(self._seen))))

    def hosted(self, item: Item, responses: ResponseGate) -> None:
        """Take a complete item: what came of a tool of an MCP server that the provider calls, or its wish for approval.

        Nothing follows by itself: an answer is owed to either, and a server that gives one unasked has given it.
        """
        if item.id is None or item.id in self._hosted or item.type not in ("mcp_call", "mcp_approval_request"):
            return
        self._hosted.add(item.id)
        self._elsewhere.pop(item.id, None)
        self._refuse(item)
        responses.output_posted(item.id)
        responses.output_added(item.id)

    def new_session(self) -> None:
        """Another model session takes over: of what the provider of the one before was at, nothing comes any more."""
        self._elsewhere.clear()

    def runs(self, ms: Callable[[float], int]) -> list[ToolRun]:
        """Return the calls of this media stream, in order; `ms` tells the call's time of a moment."""
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
        """Take the end of a call. Returns None if none of that id is running."""
        self._fillers.pop(call_id, None)
        return self._running.pop(call_id, None)

    def post(self, call_id: str, output: str) -> None:
        """Give the model the output of a call."""
        self._outputs[call_id] = output
        self._outbox.append(ItemCreate(item={"type": "function_call_output", "call_id": call_id, "output": output}))

    def reconfigure(self, session: dict[str, object], event_id: str) -> None:
        """Change the model's session: what is sent from here on finds it changed. `session` is in GA's shape."""
        self._outbox.append(SessionUpdate(event_id=event_id, session=session))

    # --- a word while it takes long ---

    def fill(self, call_id: str, filler: Filler) -> None:
        """Have something said should that call take long."""
        if call_id in self._running:
            self._fillers[call_id] = filler

    def get_timer(self) -> float | None:
        """Return when `poll` is due."""
        times = [since + HOSTED_SECONDS for since in self._elsewhere.values()]
        if self._quiet_since is not None:
            times += map(self._due, self._fillers)
        return min(times, default=None)

    def poll(self, now: float, responses: ResponseGate, *, quiet: bool) -> None:
        """Ask for a filler, if one is due. `quiet`: tools run, and nobody speaks."""
        self._elsewhere = {call: since for call, since in self._elsewhere.items() if now < since + HOSTED_SECONDS}
        if not quiet or responses.state is not State.NONE:
            self._quiet_since = None
            return
        if self._quiet_since is None:
            self._quiet_since = now
        due = [call_id for call_id in self._fillers if now >= self._due(call_id)]
        if due:
            responses.want(prompts.filler(self._fillers[due[0]].text))
            responses.poll(now, speech=False, tools_running=True)
            self._fillers.clear()

    def _due(self, call_id: str) -> float:
        assert self._quiet_since is not None
        return max(self._quiet_since, self._running[call_id].since) + self._fillers[call_id].after


def _refusal(request_id: str, number: int) -> dict[str, object]:
    """Return the answer to a tool of an MCP server that needs somebody's approval: nobody sits there."""
    return {
        "id": f"refusal_{number}",
        "type": "mcp_approval_response",
        "approval_request_id": request_id,
        "approve": False,
        "reason": "Nobody can approve this during a phone call. Tell the caller that it cannot be done here.",
    }
