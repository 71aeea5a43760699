"""Tools of MCP servers: of one that the model's provider calls by itself, and of one that we call.

`McpServer` is part of the session's configuration: the provider connects to it, and we only see what comes of it.
`LocalMcpServer` is started or reached from here, with the `mcp` package (`pip install 'phoneagent[mcp]'`); its tools
are offered to the model as functions, and run like any other tool.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pydantic_core

from phoneagent.agent.tools import FILLER_SECONDS, TOOL_SECONDS, Tool
from phoneagent.errors import DefinitionError, ToolError

if TYPE_CHECKING:
    import mcp

log = logging.getLogger("phoneagent.agent.mcp")

READY_SECONDS = 3.0
"""How long a call waits for a server that is not up yet; without it the call has none of its tools."""

START_SECONDS = 30.0
"""A server that is not up after so long is given up, and started anew for the next call."""

CLOSE_SECONDS = 5.0

HTTP_SECONDS = 10.0
"""How long it may take to connect over HTTP, and to send."""

MAX_PAGES = 20
"""More of a list of tools is not read."""


@dataclass(frozen=True, slots=True)
class McpServer:
    """An MCP server that the model's provider reaches over the internet; put it among an agent's tools.

    `authorization` is an OAuth token. `allowed_tools` are the tools that the model may see, None for all. Nobody is
    there to approve a call, so none needs approval (`"never"`); with a list, the tools in it do, and are refused.
    """

    label: str
    url: str = field(repr=False)  # some have their key in it
    _: KW_ONLY
    description: str | None = None
    authorization: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_tools: Sequence[str] | None = None
    require_approval: Literal["never"] | Sequence[str] = "never"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.label):
            raise DefinitionError(
                f"MCP server label {self.label!r} cannot be used: 1 to 64 letters, digits, _ and - are allowed"
            )
        if not re.match(r"https?://[^/]", self.url):
            raise DefinitionError(f"MCP server {self.label!r} has a url that is none: write https://…")
        if self.authorization is not None and any(name.lower() == "authorization" for name in self.headers):
            raise DefinitionError(f"MCP server {self.label!r} has authorization and such a header: give one of them")
        if self.require_approval != "never":
            if isinstance(self.require_approval, str) or self.allowed_tools is None:
                raise DefinitionError(
                    f"MCP server {self.label!r} has require_approval={self.require_approval!r}: write 'never', or a "
                    "list of tools, and all of them in allowed_tools"
                )
            if unknown := set(self.require_approval) - set(self.allowed_tools):
                raise DefinitionError(
                    f"MCP server {self.label!r} requires approval for {sorted(unknown)}: add it to allowed_tools"
                )

    def definition(self) -> dict[str, Any]:
        """Return the server as the Realtime API takes it among a session's tools."""
        given: dict[str, Any] = {
            "type": "mcp",
            "server_label": self.label,
            "server_url": self.url,
            "require_approval": "never",
        }
        if self.require_approval != "never":
            asked = list(self.require_approval)
            free = [name for name in self.allowed_tools or () if name not in asked]
            given["require_approval"] = {"always": {"tool_names": asked}, "never": {"tool_names": free}}
        optional = {
            "server_description": self.description,
            "authorization": self.authorization,
            "headers": dict(self.headers) or None,
            "allowed_tools": None if self.allowed_tools is None else list(self.allowed_tools),
        }
        return given | {key: value for key, value in optional.items() if value is not None}


class LocalMcpServer:
    """An MCP server that we start (`command`) or reach (`url`); put it among an agent's tools.

    The process of a `command` gets `env` beside a few harmless variables of ours, starts with the first call or
    `ready()`, and ends with the event loop or `close()`. `headers` go with each request to a `url`. Of the server's
    tools the model is offered the `allowed_tools`, None for all. `timeout` (seconds), `filler` and `filler_after` are
    as for any tool. A server that has died is started, or connected to, once more for the next tool call.
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
        if bool(command) == (url is not None) or isinstance(command, str):
            raise DefinitionError(f"MCP server {name!r} needs either command=[program, argument, …] or url=…")
        if importlib.util.find_spec("mcp") is None:
            raise DefinitionError(f"MCP server {name!r} needs the mcp package: pip install 'phoneagent[mcp]'")
        self.name = name
        self.tools: tuple[Tool, ...] = ()
        """Its tools, once it was asked for them."""
        self._command = tuple(command)
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._url = url
        self._headers = dict(headers or {})
        self._allowed = None if allowed_tools is None else frozenset(allowed_tools)
        self._options: dict[str, Any] = {"timeout": timeout, "filler": filler, "filler_after": filler_after}
        self._link: _Link | None = None
        self._listed: _Link | None = None

    def __repr__(self) -> str:
        return f"<LocalMcpServer {self.name!r}, {len(self.tools)} tools>"  # arguments and addresses may hold keys

    async def ready(self, seconds: float = READY_SECONDS) -> bool:
        """Have the server up and its tools listed; returns False, and says so in the log, if that does not work."""
        try:
            async with asyncio.timeout(seconds):
                link = self._open()
                if self._listed is not link:
                    self.tools = await self._list(await link.client())
                    self._listed = link
        except TimeoutError:
            log.error("the MCP server %s is not up after %g s: its tools are missing", self.name, seconds)
            return False
        except Exception as error:  # noqa: BLE001 - a server may do anything, and it is reported
            log.error("the MCP server %s cannot be used: %s", self.name, self.words(error))
            return False
        return True

    async def close(self) -> None:
        """End the connection, and with it the process."""
        link, self._link, self._listed = self._link, None, None
        if link is not None and link.loop is asyncio.get_running_loop():
            await link.close()

    def words(self, error: BaseException) -> str:
        """Return what went wrong, for the log; an address is not repeated, it may hold a key."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return f"{type(error).__name__}: {error}" if self._url is None else type(error).__name__

    def _open(self) -> _Link:
        """Return the connection, a new one if there is none any more."""
        link = self._link
        if link is None or link.over or link.loop is not asyncio.get_running_loop():
            link = self._link = _Link(self)
        return link

    async def _list(self, client: mcp.Client) -> tuple[Tool, ...]:
        found: dict[str, Tool] = {}
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for listed in page.tools:
                if self._allowed is None or listed.name in self._allowed:
                    try:
                        tool = self._tool(listed)
                    except DefinitionError as error:
                        log.error("a tool of the MCP server %s is left out: %s", self.name, str(error))
                        continue
                    found.setdefault(tool.name, tool)
            cursor = page.next_cursor
            if cursor is None:
                break
        return tuple(found.values())

    def _tool(self, listed: mcp.Tool) -> Tool:
        async def run(arguments: dict[str, Any]) -> str:
            return await self._call(listed.name, arguments)

        return Tool(
            name=re.sub(r"[^A-Za-z0-9_-]", "_", listed.name)[:64] or "tool",
            description=listed.description or listed.title or "",
            parameters=listed.input_schema,
            handler=run,
            **self._options,
        )

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        link = self._open()
        try:
            client = await link.client()
        except Exception as error:
            log.error("the MCP server %s cannot be used: %s", self.name, self.words(error))
            raise ToolError(f"{self.name} cannot be reached at the moment") from error
        try:
            result = await client.call_tool(name, arguments)
        except MCPError as error:
            log.error("the MCP server %s failed in %s: %s", self.name, name, self.words(error))
            ended = link.over or error.code == CONNECTION_CLOSED
            if self._url is not None:
                link.leave()  # whether the server has forgotten us is not told: the next call introduces itself anew
            if ended:
                raise ToolError(f"{self.name} ended while {name} ran: the outcome is unknown") from error
            raise ToolError(f"{name} failed: {error.message}") from error
        text = "\n".join(part.text for part in result.content if part.type == "text")
        if not text and result.structured_content is not None:
            text = pydantic_core.to_json(result.structured_content).decode()
        if result.is_error:
            raise ToolError(text or f"{name} failed")
        return text

    @asynccontextmanager
    async def connect(self, ended: asyncio.Event) -> AsyncIterator[mcp.Client]:
        """Connect to the server; `ended` is set when it ends the connection."""
        import httpx2
        from mcp import Client
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        async with AsyncExitStack() as stack:
            if self._url is not None:
                patience = httpx2.Timeout(HTTP_SECONDS, read=None)  # answers may take long, each call has its own limit
                http = await stack.enter_async_context(httpx2.AsyncClient(headers=self._headers, timeout=patience))
                transport = streamable_http_client(self._url, http_client=http)
            else:
                program, *arguments = self._command
                transport = stdio_client(
                    StdioServerParameters(command=program, args=arguments, env=self._env, cwd=self._cwd)
                )
            yield await stack.enter_async_context(Client(_watched(transport, ended)))


class _Link:
    """A connection, held by a task of its own: what opens a connection has to close it."""

    def __init__(self, server: LocalMcpServer) -> None:
        self._server = server
        self.loop = asyncio.get_running_loop()
        self._client: asyncio.Future[mcp.Client] = self.loop.create_future()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._hold(), name=f"phoneagent mcp {server.name}")

    @property
    def over(self) -> bool:
        """Whether it is of no use any more."""
        return self._ended.is_set() or self._task.done()

    async def client(self) -> mcp.Client:
        """Return the client, as soon as it is connected. Raises whatever prevented that."""
        return await asyncio.shield(self._client)

    def leave(self) -> None:
        """End it, in its own time."""
        self._ended.set()

    async def close(self) -> None:
        """End it, and wait for that."""
        self.leave()
        if not self._client.done():
            self._task.cancel()
        await asyncio.wait([self._task], timeout=CLOSE_SECONDS)

    async def _hold(self) -> None:
        try:
            async with asyncio.timeout(START_SECONDS) as limit, self._server.connect(self._ended) as client:
                limit.reschedule(None)
                self._client.set_result(client)
                await self._ended.wait()
            log.info("the connection to the MCP server %s has ended", self._server.name)
        except Exception as error:  # noqa: BLE001 - a server may do anything; whoever waits for it is told
            if self._client.done():
                log.warning("the MCP server %s: %s", self._server.name, self._server.words(error))
            else:
                self._fail(error)
        finally:
            if not self._client.done():
                self._fail(ConnectionAbortedError("the connection was given up"))

    def _fail(self, error: Exception) -> None:
        self._client.set_exception(error)
        self._client.exception()  # perhaps nobody waits for it


@asynccontextmanager
async def _watched(transport: Any, ended: asyncio.Event) -> AsyncIterator[Any]:
    async with transport as (read, write):
        yield _Watched(read, ended), write


class _Watched:
    """What a server sends; its end is noted."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        return await self._stream.__anext__()

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        self._ended.set()
        done: bool | None = await self._stream.__aexit__(*error)
        return done
