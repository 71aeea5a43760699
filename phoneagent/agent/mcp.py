"""MCP servers: those that the model's provider calls, and those that this process calls.

`McpServer` is part of the session's configuration: the provider connects to it, and this process only sees the results.
`LocalMcpServer` is started or reached from here, with the `mcp` package (`pip install 'phoneagent[mcp]'`). Its tools
are offered to the model as functions and run like any other tool.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pydantic_core

from phoneagent.agent.call import is_text, sendable
from phoneagent.agent.mcp_link import Link, watched
from phoneagent.agent.schemas import ALTERNATIVES
from phoneagent.agent.tools import (
    FILLER_SECONDS,
    MAX_DESCRIPTION_CHARS,
    MAX_NAME_CHARS,
    TOOL_SECONDS,
    Tool,
    check_pace,
    shortened,
)
from phoneagent.errors import DefinitionError, ToolError, shown

if TYPE_CHECKING:
    import mcp
    import mcp_types

log = logging.getLogger("phoneagent.agent.mcp")

READY_SECONDS = 3.0
"""How long a call waits for a server that is not up yet; after that the call goes on without the server's tools."""

HTTP_SECONDS = 10.0
"""How long connecting over HTTP may take, and sending."""

MAX_TOLD = 200
"""How many different problems with a server's tools are logged."""

MAX_NAMED = 20
"""How many of a server's tools are named if a wanted one is missing."""

MAX_PAGES = 20
"""How many pages of a server's list of tools are read."""

_PROTOCOL_CODES = range(-32768, -31999)
"""The error codes that JSON-RPC reserves for itself; those of applications lie outside."""


@dataclass(frozen=True, slots=True)
class McpServer:
    """An MCP server that the model's provider reaches over the internet; put it among an agent's tools.

    `authorization` is an OAuth token. `allowed_tools` are the tools that the model may see, None for all of them.

    A phone call has no operator to approve tool calls, so by default none needs approval (`"never"`). If
    `require_approval` is a list, the tools in it need approval, and each call of one is refused.

    Raises:
        DefinitionError: an option has the wrong type, or the provider would refuse it.
    """

    label: str
    url: str = field(repr=False)  # some URLs contain a key
    _: KW_ONLY
    description: str | None = None
    authorization: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_tools: Sequence[str] | None = None
    require_approval: Literal["never"] | Sequence[str] = "never"

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.label):
            raise DefinitionError(
                f"MCP server label {self.label!r} cannot be used: 1 to 64 letters, digits, _ and - are allowed"
            )
        if not is_text(self.url) or not re.match(r"https?://[^/]", self.url):
            raise DefinitionError(f"MCP server {self.label!r} has a malformed url: write https://…")
        for name in ("description", "authorization"):
            if (value := getattr(self, name)) is not None and not is_text(value):
                raise DefinitionError(
                    f"MCP server {self.label!r} has {name} of type {type(value).__name__}: write text"
                )
        _check_texts(self.label, "headers", self.headers)
        _check_names(self.label, self.allowed_tools)
        if self.authorization is not None and any(name.lower() == "authorization" for name in self.headers):
            raise DefinitionError(
                f"MCP server {self.label!r} has both authorization= and an Authorization header: give one of them"
            )
        if self.require_approval != "never":
            if (
                isinstance(self.require_approval, str)
                or not _are_texts(self.require_approval)
                or self.allowed_tools is None
            ):
                raise DefinitionError(
                    f"MCP server {self.label!r} has require_approval={self.require_approval!r}: write 'never', or a "
                    "list of tools that are all in allowed_tools"
                )
            if unknown := set(self.require_approval) - set(self.allowed_tools):
                raise DefinitionError(
                    f"MCP server {self.label!r} requires approval for {sorted(unknown)}: add them to allowed_tools"
                )

    def definition(self) -> dict[str, Any]:
        """Return the server in the shape that the Realtime API takes among a session's tools."""
        given: dict[str, Any] = {
            "type": "mcp",
            "server_label": self.label,
            "server_url": self.url,
            "require_approval": "never",
        }
        if self.require_approval != "never":
            always = list(self.require_approval)
            never = [name for name in self.allowed_tools or () if name not in always]
            given["require_approval"] = {"always": {"tool_names": always}, "never": {"tool_names": never}}
        optional = {
            "server_description": self.description,
            "authorization": self.authorization,
            "headers": dict(self.headers) or None,
            "allowed_tools": None if self.allowed_tools is None else list(self.allowed_tools),
        }
        return given | {key: value for key, value in optional.items() if value is not None}


class LocalMcpServer:
    """An MCP server that this process starts (`command`) or connects to (`url`); put it among an agent's tools.

    The process of a `command` gets `env` and a few harmless variables of this process's environment. It starts with the
    first call or `ready()`, and ends with the event loop or `close()`. `headers` go with each request to a `url`.

    The model may see the `allowed_tools` of the server, None for all of them. `timeout` (seconds), `filler` and
    `filler_after` (seconds) are as for any tool. If the server dies, the next tool call restarts it or reconnects.

    What the Realtime API would refuse is cut or left out, and logged once: descriptions of more than 1024 characters,
    schemas that are not objects or that are malformed, and tools for which the session has no room.

    Raises:
        DefinitionError: an option has the wrong type, or the `mcp` package is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        allowed_tools: Sequence[str] | None = None,
        timeout: float = TOOL_SECONDS,
        filler: str | None = None,
        filler_after: float = FILLER_SECONDS,
    ) -> None:
        if not is_text(name) or not name.strip():
            raise DefinitionError(f"an MCP server has name={name!r}: write text that is not empty")
        if bool(command) == (url is not None) or isinstance(command, str) or not _are_texts(command):
            raise DefinitionError(f"MCP server {name!r} needs either command=[program, argument, …] or url=…")
        if url is not None and not (is_text(url) and re.match(r"https?://[^/]", url)):
            raise DefinitionError(f"MCP server {name!r} has a malformed url: write http://… or https://…")
        if cwd is not None and not isinstance(cwd, str | os.PathLike):
            raise DefinitionError(f"MCP server {name!r} has cwd={cwd!r}: write the path of a folder")
        _check_texts(name, "env", env or {})
        _check_texts(name, "headers", headers or {})
        _check_names(name, allowed_tools)
        check_pace(f"MCP server {name!r}", timeout=timeout, filler=filler, filler_after=filler_after)
        if importlib.util.find_spec("mcp") is None:
            raise DefinitionError(f"MCP server {name!r} needs the mcp package: pip install 'phoneagent[mcp]'")
        self.name = name
        self.tools: tuple[Tool, ...] = ()
        """The server's tools, empty until it has listed them."""
        self._command = tuple(command)
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._url = url
        self._headers = dict(headers or {})
        self._allowed = None if allowed_tools is None else frozenset(allowed_tools)
        self._options: dict[str, Any] = {"timeout": timeout, "filler": filler, "filler_after": filler_after}
        self._link: Link | None = None
        self._listed: Link | None = None
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"<LocalMcpServer {self.name!r}, {len(self.tools)} tools>"  # its arguments and its URL may contain keys

    async def ready(self, seconds: float = READY_SECONDS) -> bool:
        """Start or reach the server and list its tools. Log a failure and return False."""
        try:
            async with asyncio.timeout(seconds):
                link = self._open()
                if self._listed is not link:
                    with link.in_use():
                        self.tools = await self._list(await link.client())
                    self._listed = link
        except TimeoutError:
            log.error("the MCP server %s is not up after %g s: its tools are missing from the call", self.name, seconds)
            return False
        except Exception as error:  # noqa: BLE001 - a server may do anything, and it is reported
            log.error("the MCP server %s cannot be used: %s", self.name, self.describe(error))
            return False
        return True

    async def close(self) -> None:
        """Close the connection, which ends a server that this process started."""
        link, self._link, self._listed = self._link, None, None
        if link is not None and link.loop is asyncio.get_running_loop():
            await link.close()

    def describe(self, error: BaseException) -> str:
        """Describe an error for the log. An error of a `url` may repeat it, key and all, so its text is not shown."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if self._url is None:
            return f"{type(error).__name__}: {shown(error)}"
        from phoneagent.errors import network  # it imports urllib and ssl, which only this needs

        fault = network.find(error, self._url, network.HTTPX)
        return type(error).__name__ if fault is None else str(fault)

    def tell(self, message: str) -> None:
        """Log something about this server's tools, once."""
        if message not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(message)
            log.warning("MCP server %s: %s", self.name, message)

    def _open(self) -> Link:
        """Return the connection; open a new one if there is none that takes new requests."""
        link = self._link
        if link is None or not link.usable:
            link = self._link = Link(self.name, self.connect, self.describe)
        return link

    async def _list(self, client: mcp.Client) -> tuple[Tool, ...]:
        found: dict[str, Tool] = {}
        seen: set[str] = set()
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for listed in page.tools:
                seen.add(listed.name)
                if self._allowed is None or listed.name in self._allowed:
                    try:
                        tool = self._tool(listed)
                    except DefinitionError as error:
                        self.tell(f"a tool is left out: {error}")
                        continue
                    if tool.name in found:
                        self.tell(f"tool {listed.name!r} is left out: another one is spelled {tool.name!r} as well")
                    found.setdefault(tool.name, tool)
            cursor = page.next_cursor
            if cursor is None:
                break
        if missing := (self._allowed or frozenset()) - seen:
            self.tell(
                f"allowed_tools has {sorted(missing)}, which the server does not: it has {sorted(seen)[:MAX_NAMED]}"
            )
        return tuple(found.values())

    def _tool(self, listed: mcp.Tool) -> Tool:
        async def run(arguments: dict[str, Any]) -> str:
            return await self._call(listed.name, arguments)

        description = sendable(listed.description or listed.title or "")
        if len(description) > MAX_DESCRIPTION_CHARS:
            self.tell(f"tool {listed.name!r} has a description of {len(description)} characters, which is cut")
            description = shortened(description)
        schema = dict(listed.input_schema)
        if "properties" in schema and (extra := schema.keys() & set(ALTERNATIVES)):
            self.tell(
                f"tool {listed.name!r} has {', '.join(sorted(extra))} at the top of its schema, which is left out"
            )
            schema = {key: value for key, value in schema.items() if key not in extra}
        return Tool(
            name=re.sub(r"[^A-Za-z0-9_-]", "_", listed.name)[:MAX_NAME_CHARS] or "tool",
            description=description,
            parameters=schema,
            handler=run,
            **self._options,
        )

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        link = self._open()
        with link.in_use():
            result = await self._request(link, name, arguments)
        text = "\n".join(part.text for part in result.content if part.type == "text")
        if not text and result.structured_content is not None:
            text = pydantic_core.to_json(result.structured_content, inf_nan_mode="null").decode()
        if result.is_error:
            raise ToolError(text or f"{name} failed")
        return text

    async def _request(self, link: Link, name: str, arguments: dict[str, Any]) -> mcp_types.CallToolResult:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        try:
            client = await link.client()
        except Exception as error:
            log.error("the MCP server %s cannot be used: %s", self.name, self.describe(error))
            raise ToolError(f"{self.name} cannot be reached at the moment") from error
        try:
            return await client.call_tool(name, arguments)
        except MCPError as error:
            log.error("the MCP server %s failed in %s: %s", self.name, name, self.describe(error))
            if self._url is not None and _doubts_session(error.code):
                link.retire()
            if link.over or error.code == CONNECTION_CLOSED:
                raise ToolError(f"{self.name} ended while {name} ran: the outcome is unknown") from error
            raise ToolError(f"{name} failed: {error.message}") from error

    @asynccontextmanager
    async def connect(self, ended: asyncio.Event) -> AsyncIterator[mcp.Client]:
        """Connect to the server; `ended` is set when the server ends the connection."""
        import httpx2
        from mcp import Client
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        async with AsyncExitStack() as stack:
            if self._url is not None:
                patience = httpx2.Timeout(HTTP_SECONDS, read=None)  # each call has its own time limit
                http = await stack.enter_async_context(httpx2.AsyncClient(headers=self._headers, timeout=patience))
                transport = streamable_http_client(self._url, http_client=http)
            else:
                program, *arguments = self._command
                transport = stdio_client(
                    StdioServerParameters(command=program, args=arguments, env=self._env, cwd=self._cwd)
                )
            yield await stack.enter_async_context(Client(watched(transport, ended)))


def _are_texts(values: object) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, str) for value in values)


def _check_texts(name: str, what: str, values: object) -> None:
    if not isinstance(values, Mapping) or not _are_texts([*values.keys(), *values.values()]):
        raise DefinitionError(f"MCP server {name!r} has {what} that are not text: write a dict of texts")


def _check_names(name: str, allowed_tools: object) -> None:
    if allowed_tools is not None and (isinstance(allowed_tools, str) or not _are_texts(allowed_tools)):
        raise DefinitionError(f"MCP server {name!r} has allowed_tools={allowed_tools!r}: write a list of names")


def _doubts_session(code: int) -> bool:
    """Return whether an error may mean that the server has lost the session, so that the next call needs a new one.

    Servers, proxies and the `mcp` package use various of JSON-RPC's own codes for that. A server that refuses the
    arguments, or has codes of its own, knows the session.
    """
    from mcp_types import INVALID_PARAMS

    return code in _PROTOCOL_CODES and code != INVALID_PARAMS
