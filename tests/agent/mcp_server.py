"""A small MCP server for tests: `python mcp_server.py`, or `python mcp_server.py PORT` for streamable HTTP."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp import MCPError
from mcp.server import MCPServer

server = MCPServer("shop", log_level="CRITICAL")
holding, released = asyncio.Event(), asyncio.Event()


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def who() -> str:
    """Tell the process, and what it was given."""
    return f"{os.getpid()} {os.environ.get('SHOP', '')}".strip()


@server.tool()
def broken() -> str:
    """Fail."""
    raise ValueError("out of stock")


@server.tool()
def die() -> str:
    """End the process."""
    os._exit(1)


@server.tool(name="wait.for-ever")
async def wait_for_ever() -> str:
    """Never return."""
    await asyncio.Event().wait()
    return ""


@server.tool()
async def hold() -> str:
    """Return once `release` is called."""
    holding.set()
    await released.wait()
    return "held"


@server.tool()
async def refuse(code: int) -> str:
    """Answer with an error of the protocol, once `hold` runs."""
    await holding.wait()
    raise MCPError(code, "refused")


@server.tool()
def release() -> str:
    """Let `hold` return."""
    released.set()
    return "released"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
