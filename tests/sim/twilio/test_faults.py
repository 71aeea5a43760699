"""Faults of a connection, met for real: a self-signed certificate, a server without TLS, none at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.faults import no_connection, tls_failure
from phoneagent.sim.twilio.stream import open_socket
from phoneagent.sim.twilio.webhook import Web

pytestmark = pytest.mark.anyio

CERTIFICATE = Path(__file__).parents[2] / "data" / "self-signed.pem"


@contextlib.asynccontextmanager
async def listening(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A server that answers nothing that makes sense, with or without TLS, and its port."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def failures(port: int) -> tuple[CallFailed, CallFailed]:
    """What the webhook's request and the media socket's handshake fail with."""
    async with Web(f"https://127.0.0.1:{port}/voice?token=secret", None, None) as web:
        with pytest.raises(CallFailed) as request:
            await web.request(web.entry, {})
    with pytest.raises(CallFailed) as handshake:
        await open_socket(f"wss://127.0.0.1:{port}/media/secret", host="127.0.0.1", port=port, headers={})
    assert "secret" not in f"{request.value} {handshake.value}"
    return request.value, handshake.value


async def test_a_certificate_that_is_refused_is_told_with_its_reason():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with listening(context) as port:
        request, handshake = await failures(port)
    assert (request.code, handshake.code) == (11220, 31910)
    for failed in (request, handshake):
        assert "certificate is refused (self-signed certificate)" in failed.reason
        assert "SSL_CERT_FILE" in failed.reason
    assert request.reason.endswith(f"asked for POST https://127.0.0.1:{port}/voice")
    assert handshake.reason.endswith(f"dialled wss://127.0.0.1:{port} at 127.0.0.1:{port}")


async def test_a_server_without_tls():
    async with listening(None) as port:
        request, handshake = await failures(port)
    assert (request.code, handshake.code) == (11220, 31910)
    for failed in (request, handshake):
        assert "does not speak TLS there, or none that is accepted" in failed.reason


async def test_no_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        request, handshake = await failures(port)
    assert (request.code, handshake.code) == (11205, 31902)
    for failed in (request, handshake):
        assert "no connection (Connection refused); is the server running?" in failed.reason


def test_other_errors():
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert no_connection(unknown) == "the server's name has no address (Name or service not known); is the name right?"
    assert tls_failure(ValueError("x")) is None
    assert no_connection(OSError("Multiple exceptions: one, two")).startswith("no connection (Multiple exceptions")
    assert no_connection(TimeoutError()) == "no connection (TimeoutError); is the server running?"
    assert tls_failure(ssl.SSLError()) is not None
