"""Helicone's gateway in front of a simulated model, with its quirks.

    async with Model(service=OPENAI) as model, Helicone(model, api_key="sk-helicone") as gateway:
        ...  # connect to gateway.url

It requests the beta dialect from its provider, whatever the client requested. If the provider refuses the handshake,
the client's socket stays open and silent. When the provider closes the connection, the client always sees code 1000.
"""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress
from urllib.parse import parse_qsl, urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.http11 import Request, Response

from phoneagent.sim.model.loopback import LoopbackServer
from phoneagent.sim.model.server import Model
from phoneagent.sim.model.service import ANY, rules_broken

PATH = "/v1/gateway/oai/realtime"
AZURE_PATH = "/openai/realtime"
AZURE_VERSION = "2024-10-01-preview"
RESOURCE = "phones"
"""The Azure resource behind the gateway; any other is unreachable."""


class Helicone(LoopbackServer):
    """The gateway, on 127.0.0.1 while the context is entered, in front of a running `Model`."""

    def __init__(self, upstream: Model, *, api_key: str) -> None:
        super().__init__(
            not_running="the simulated gateway does not run; enter it first: async with Helicone(...) as gateway"
        )
        self.upstream = upstream
        self.violations: list[str] = []
        """Rules that a client broke in its handshake with the gateway."""
        self.filed: list[dict[str, str]] = []
        """For each session, its `Helicone-…` headers without the key, under which the gateway files it."""
        self.failures: list[str] = []
        """Handshakes that the provider refused. The client never learns of them."""
        self._api_key = api_key

    @property
    def url(self) -> str:
        """The address to connect to: `ws://127.0.0.1:PORT/v1/gateway/oai/realtime`. Only while the gateway runs."""
        return self.origin + PATH

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if urlsplit(request.path).path != PATH:
            return connection.respond(404, "not found\n")
        offered = request.headers.get("Helicone-Auth", "").encode()
        if not hmac.compare_digest(offered, f"Bearer {self._api_key}".encode()):
            return connection.respond(401, "Unauthorized\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        headers = connection.request.headers
        self.violations += rules_broken(ANY, connection.request.path, headers)
        about = [item for item in headers.raw_items() if item[0].lower().startswith("helicone-")]
        self.filed.append({name: value for name, value in about if name.lower() != "helicone-auth"})
        url, forwarded = self._target(connection.request.path, headers)
        try:
            provider = await connect(url, additional_headers=forwarded, compression=None, max_size=None)
        except (OSError, InvalidHandshake) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            await _drain(connection)
            return
        async with provider:
            await _relay(connection, provider)

    def _target(self, target: str, headers: Headers) -> tuple[str, list[tuple[str, str]]]:
        """Return the provider's address for a session, and the headers to forward."""
        url, upstream = urlsplit(target), urlsplit(self.upstream.url)
        origin = f"ws://{upstream.netloc}"
        query = dict(parse_qsl(url.query))
        forwarded = [("OpenAI-Beta", "realtime=v1")]
        key = headers.get("Authorization", "")
        if "resource" not in query:
            return f"{origin}/v1/realtime?{url.query}", [*forwarded, ("Authorization", key)]
        if query["resource"] != RESOURCE:
            origin = "ws://127.0.0.1:1"  # stands for a host name that does not exist
        own = urlencode({"api-version": AZURE_VERSION, "deployment": query.get("deployment", "")})
        return f"{origin}{AZURE_PATH}?{own}", [*forwarded, ("api-key", key.removeprefix("Bearer "))]


async def _relay(client: ServerConnection, provider: ClientConnection) -> None:
    """Relay messages both ways until one side closes."""
    upward = asyncio.create_task(_pump(client, provider))
    try:
        await _pump(provider, client)
    finally:
        upward.cancel()
        await asyncio.gather(upward, return_exceptions=True)


async def _pump(source: ServerConnection | ClientConnection, target: ServerConnection | ClientConnection) -> None:
    with suppress(ConnectionClosed):
        async for message in source:
            await target.send(message)
    await target.close(1000, "Target connection closed")


async def _drain(client: ServerConnection) -> None:
    """Read the client's messages without an answer, until it closes the connection."""
    with suppress(ConnectionClosed):
        while True:
            await client.recv()
