"""What fails behind a proxy is raised, and nothing is logged beside it."""

from __future__ import annotations

import asyncio
import os

import pytest

from phoneagent.errors import EndpointUnreachable
from phoneagent.model.connection import open_session
from phoneagent.model.endpoint import Endpoint

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([b""], "does not answer as a proxy does"),
        ([b"HTTP/1.1 407 No\r\nConnection: close\r\n\r\n"], "asks for a name and a password"),
        ([b"HTTP/1.1 200 OK\r\n\r\n"], "ends the connection"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"220 mail.example ESMTP"], "does not speak TLS"),
    ],
    ids=["no answer", "a refusal", "no tunnel", "no TLS in the tunnel"],
)
async def test_a_proxy_s_fault_is_one_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answers: list[bytes], expected: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(4096)
            writer.write(answer)
        writer.close()

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:s3cret-word@{address}")
        with pytest.raises(EndpointUnreachable) as raised:
            await open_session(Endpoint("wss://realtime.example/v1/realtime?model=m"), {})
    assert str(raised.value).startswith("no connection to the model at realtime.example: ")
    assert f"the proxy of HTTPS_PROXY (http://{address})" in str(raised.value)
    assert expected in str(raised.value)
    assert "s3cret-word" not in str(raised.value)
    assert caplog.records == []


async def test_a_server_on_this_machine_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(EndpointUnreachable, match=f"model at {host}: {host}:1 refuses the connection") as raised:
            await open_session(Endpoint(f"ws://{host}:1/realtime?model=m"), {})
        assert raised.value.code == "network"
