"""Tunnels: a public address for this machine, from a running ngrok agent or from the official `ngrok` package."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from phoneagent.errors import PhoneAgentError

AGENT_APIS = tuple(f"http://127.0.0.1:{port}" for port in range(4040, 4045))
"""The APIs of ngrok agents on this machine, which list their tunnels. Each additional agent takes the next port."""

LOOK_SECONDS = 2.0
OPEN_SECONDS = 20.0
MAX_LIST_BYTES = 1 << 20

_PORT = re.compile(r"(?:^|:)(\d{1,5})/?$")
_CODE = re.compile(r"ERR_NGROK_(\d+)")
_BAD_TOKEN = frozenset({"105", "106", "107"})
_ANOTHER_RUNS = frozenset({"108", "334"})


class TunnelFailed(PhoneAgentError):
    """There is no public address. The message says what to do."""


@asynccontextmanager
async def tunnel(port: int, token: str | None, *, agent_apis: Sequence[str] = AGENT_APIS) -> AsyncIterator[str]:
    """Find a tunnel to that local port, or open one with the authtoken while the context lasts. Yields its address.

    Raises:
        TunnelFailed: no tunnel runs, and none could be opened.
    """
    found, others = await running_tunnel(port, agent_apis)
    if found is not None:
        yield found
        return
    listener = await _open(port, token, others)
    try:
        yield str(listener.url()).rstrip("/")
    finally:
        with suppress(ValueError, TimeoutError):  # it may be closed already, and the process is about to end
            await asyncio.wait_for(_awaited(listener.close()), LOOK_SECONDS)


async def running_tunnel(port: int, agent_apis: Sequence[str] = AGENT_APIS) -> tuple[str | None, bool]:
    """Return an https tunnel to that port from the agents' lists, and whether they have other tunnels."""
    others = False
    timeout = aiohttp.ClientTimeout(total=LOOK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        for api in agent_apis:
            for public, upstream in await _listed(http, api):
                leads_to = _PORT.search(upstream)
                if public.startswith("https://") and leads_to is not None and int(leads_to[1]) == port:
                    return public.rstrip("/"), others
                others = True
    return None, others


async def _listed(http: aiohttp.ClientSession, api: str) -> list[tuple[str, str]]:
    """Return the public address and the upstream of each tunnel of an agent, from its newer or its older API."""
    for path, address, section, upstream in (
        ("endpoints", "url", "upstream", "url"),
        ("tunnels", "public_url", "config", "addr"),
    ):
        try:
            async with http.get(f"{api}/api/{path}", allow_redirects=False) as answer:
                if answer.status != 200 or (answer.content_length or 0) > MAX_LIST_BYTES:
                    continue
                listed = await answer.json(content_type=None)
            if found := [(str(each[address]), str(each[section][upstream])) for each in listed[path]]:
                return found
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
            continue  # no agent there, or not an agent
    return []


async def _open(port: int, token: str | None, others: bool) -> Any:
    try:
        import ngrok  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        why = f"no tunnel of the ngrok agent leads to port {port}" if others else "no ngrok agent is running"
        remedy = f"run `ngrok http {port}`, pip install 'phoneagent[ngrok]', or use --public-url"
        raise TunnelFailed(f"no tunnel ({why}): {remedy}") from None
    if token is None:
        raise TunnelFailed(
            "NGROK_AUTHTOKEN is missing: copy it from https://dashboard.ngrok.com/get-started/your-authtoken"
        )
    try:
        return await asyncio.wait_for(_awaited(ngrok.forward(port, authtoken=token)), OPEN_SECONDS)
    except TimeoutError:
        raise TunnelFailed(f"ngrok opened no tunnel within {OPEN_SECONDS:g} s: check the network") from None
    except (ValueError, RuntimeError, OSError) as error:
        raise TunnelFailed(_refusal(error)) from None


def _refusal(error: Exception) -> str:
    """Explain ngrok's refusal. Its own message repeats the token, so none of it is used."""
    text = " ".join(str(part) for part in error.args)
    found = _CODE.search(text)
    if found is None:
        return "ngrok could not be reached: check the network, or use --public-url"
    code = found[1]
    if code in _BAD_TOKEN:
        return f"ngrok refuses NGROK_AUTHTOKEN (ERR_NGROK_{code}): copy it again from the ngrok dashboard"
    if code in _ANOTHER_RUNS:
        return f"another ngrok session uses the address (ERR_NGROK_{code}): end that session, or give --public-url"
    return f"ngrok refused the tunnel (ERR_NGROK_{code}): see https://ngrok.com/docs/errors/err_ngrok_{code}"


async def _awaited(pending: Any) -> Any:
    return await pending  # ngrok returns its own kind of future
