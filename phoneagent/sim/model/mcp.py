"""MCP servers that the simulated Realtime server calls by itself. The script holds their tools and their answers.

The server lists an MCP server's tools as soon as a session names it. A call runs when its response is over, and the
client has to request the response that follows: several clients saw this of the real server in 2026.

    response.output_item.added · response.mcp_call_arguments.delta, done · response.output_item.done
    [conversation.item.added, done: mcp_approval_request   —   the client: mcp_approval_response]
    response.done
    response.mcp_call.in_progress · completed or failed · conversation.item.done, with output or error

Other documents describe a call that runs inside its response, an approval request that is an output item, and a next
response that follows by itself; `Faults.mcp_inline` does that. The effect of a refused approval is undocumented: here
the refusal becomes the call's error. MCP servers that only a `response.create` names are never listed, so never called.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from phoneagent.sim.model.checks import EventRefused, invalid_value, missing_parameter
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.records import McpCallRecord
from phoneagent.sim.model.replies import PlannedCall
from phoneagent.sim.model.state import SessionState

_PLACES = ("server_url", "connector_id", "tunnel_id")
_DELTA_CHARS = 16


class CallingResponse(Protocol):
    """The part of `Response` that calls need. A protocol, so that `response` can import this module."""

    after_end: list[HostedCall]
    """Calls that run when the response is over."""

    def emit(self, kind: str, *, item: Json, **fields: Any) -> None:
        """Send an event about one of the response's items."""

    def index(self, item: Json) -> int:
        """Return the index of one of the response's items."""

    def open_item(self, item: Json) -> None:
        """Announce an item."""

    def end_output(self, item: Json) -> None:
        """Announce that the response is done with an item."""


@dataclass(frozen=True, slots=True)
class HostedCall:
    """A call of an MCP server's tool: its item, the response that made it, and the script's plan for it."""

    item: Json
    response: CallingResponse
    plan: PlannedCall
    record: McpCallRecord


def named_servers(tools: Iterable[Json], known: Mapping[str, Json]) -> dict[str, Json]:
    """Return the servers among a session's tools, by label. A `known` server may be named by its label alone.

    Raises `EventRefused`: no address or several, a duplicate label, two authorizations.
    """
    servers: dict[str, Json] = {}
    for index, tool in enumerate(tools):
        if tool["type"] != "mcp":
            continue
        at, label = f"session.tools[{index}]", tool["server_label"]
        places = [name for name in _PLACES if tool.get(name) is not None]
        if label in servers:
            raise invalid_value(f"Duplicate server_label '{label}' found in tools.", f"{at}.server_label")
        if len(places) > 1:
            message = f"Mutually exclusive parameters: {', '.join(map(repr, places))}. Provide only one of them."
            raise EventRefused(message, code="mutually_exclusive_parameters", param=at)
        if not places and label not in known:
            raise missing_parameter(f"{at}.server_url")
        if tool.get("authorization") and any(name.lower() == "authorization" for name in tool.get("headers") or {}):
            raise invalid_value("Provide 'authorization' or such a header, not both.", f"{at}.authorization")
        servers[label] = tool if places else {**known[label], **tool}
    return servers


class McpServers:
    """The MCP servers of one session. `settled` is called when a call has returned or has been refused."""

    def __init__(self, session: SessionState, settled: Callable[[], None]) -> None:
        self._session = session
        self._settled = settled
        self._inline = session.setup.faults.mcp_inline
        self._known: dict[str, Json] = {}
        self._tools: dict[str, tuple[str, ...]] = {}
        self._undecided: dict[str, HostedCall] = {}
        self._owes = False

    # -- servers and their tools --

    def resolve(self, tools: Iterable[Json]) -> dict[str, Json]:
        """Return the servers among a session's tools, by label; see `named_servers`."""
        return named_servers(tools, self._known)

    def configure(self, servers: dict[str, Json]) -> None:
        """List the tools of servers that are new or have changed."""
        for label, server in servers.items():
            if self._known.get(label) != server:
                self._known[label] = server
                self._tools.pop(label, None)
                self._session.spawn(self._list(label, server))

    async def _list(self, label: str, server: Json) -> None:
        session = self._session
        item_id = session.new_id("item")
        item: Json = {"id": item_id, "type": "mcp_list_tools", "server_label": label, "tools": []}
        session.emit("mcp_list_tools.in_progress", item_id=item_id)
        # The item must exist from here on: clients ask for it as soon as they have its id.
        session.conversation.add(item, done=False)
        await self._pause()
        if label in session.setup.faults.mcp_unreachable or not _is_public(server.get("server_url")):
            session.emit("mcp_list_tools.failed", item_id=item_id)
            return
        calls = (call for turn in session.setup.script.turns for call in turn.calls if call.server == label)
        names = tuple(dict.fromkeys(call.name for call in calls if _allows(server, call.name)))
        item["tools"] = [{"name": name, "description": "", "input_schema": {"type": "object"}} for name in names]
        session.conversation.finish(item)
        session.emit("mcp_list_tools.completed", item_id=item_id)
        self._tools[label] = names

    def offered(self, tools: Iterable[Json]) -> set[tuple[str, str]]:
        """Return the listed tools of the servers among `tools`, as (label, name): what the model may call."""
        labels = {tool["server_label"] for tool in tools if tool["type"] == "mcp"}
        return {(label, name) for label in labels for name in self._tools.get(label, ())}

    # -- calls --

    async def call(self, response: CallingResponse, plan: PlannedCall) -> None:
        """Make a call, as part of a response."""
        assert plan.server is not None
        session, item_id = self._session, self._session.new_id("item")
        about = {"server_label": plan.server, "name": plan.name}
        # Keys without a value yet are null, because clients read them.
        unknown = {"approval_request_id": None, "output": None, "error": None}
        item: Json = {"id": item_id, "type": "mcp_call", **about, "arguments": "", **unknown}
        response.open_item(item)
        kind = "response.mcp_call_arguments"
        for at in range(0, len(plan.arguments), _DELTA_CHARS):
            response.emit(f"{kind}.delta", item=item, delta=plan.arguments[at : at + _DELTA_CHARS])
        item["arguments"] = plan.arguments
        response.emit(f"{kind}.done", item=item, arguments=plan.arguments)
        call = HostedCall(item, response, plan, McpCallRecord(plan.server, plan.name, plan.arguments))
        session.mcp_calls.append(call.record)
        session.replies.called(item_id, plan)
        if not self._inline:
            response.end_output(item)
        if _needs_approval(self._known[plan.server], plan.name):
            self._request_approval(call, about)
        elif self._inline:
            await self.run(call)
        else:
            response.after_end.append(call)

    def _request_approval(self, call: HostedCall, about: Json) -> None:
        request_id = self._session.new_id("mcpr")
        self._undecided[request_id] = call
        call.item["approval_request_id"] = request_id
        request = {"id": request_id, "type": "mcp_approval_request", **about, "arguments": call.item["arguments"]}
        if self._inline:
            call.response.open_item(request)
            call.response.end_output(request)
            self._session.conversation.finish(request)
        else:
            self._session.conversation.add(request)

    def check_decision(self, item: Json) -> None:
        """Refuse an `mcp_approval_response` to an unknown or settled request."""
        request_id = item["approval_request_id"]
        if request_id not in self._undecided:
            message = f"Approval request with id '{request_id}' not found, or answered already."
            raise EventRefused(message, code="invalid_approval_request_id", param="item.approval_request_id")

    def decide(self, item: Json) -> None:
        """Carry out an `mcp_approval_response`."""
        call = self._undecided.pop(item["approval_request_id"])
        call.record.approved = item["approve"]
        if item["approve"]:
            self._session.spawn(self.run(call))
        else:
            self._settle(call, error=item.get("reason") or "The call was not approved.")

    async def run(self, call: HostedCall) -> None:
        """Run a call: the MCP server answers it."""
        place = {"item_id": call.item["id"], "output_index": call.response.index(call.item)}
        await self._pause()
        self._session.emit("response.mcp_call.in_progress", **place)
        await self._pause()
        self._session.emit(f"response.mcp_call.{'completed' if call.plan.error is None else 'failed'}", **place)
        self._settle(call, error=call.plan.error)
        if self._inline:
            call.response.end_output(call.item)
        self._session.conversation.finish(call.item)

    def _settle(self, call: HostedCall, *, error: str | None) -> None:
        if error is None:
            call.item["output"] = call.record.output = call.plan.output
        else:
            call.item["error"] = {"type": "tool_execution_error", "message": error}
            call.record.error = error
        self._session.replies.returned(call.item["id"])
        self._owes = self._inline
        self._settled()

    def take_owed(self) -> bool:
        """Return whether the server owes a response about a call, once: the debt is then cleared."""
        owed, self._owes = self._owes, False
        return owed

    async def _pause(self) -> None:
        await asyncio.sleep(self._session.setup.think_ms / 1000)


def _allows(server: Json, tool: str) -> bool:
    allowed = server.get("allowed_tools")
    if isinstance(allowed, dict):
        allowed = allowed.get("tool_names")
    return allowed is None or tool in allowed


def _needs_approval(server: Json, tool: str) -> bool:
    """Return whether the client has to approve a call: always, unless the session says never."""
    wanted = server.get("require_approval")
    if isinstance(wanted, dict):
        return tool not in ((wanted.get("never") or {}).get("tool_names") or ())
    return wanted != "never"


def _is_public(url: str | None) -> bool:
    """Return whether a server's address looks public. Connectors have no address and count as public."""
    if url is None:
        return True
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal"))
