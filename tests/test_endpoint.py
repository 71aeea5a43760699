"""Opening model sessions: addresses, and everything that a far end can do wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import Request, Response, ServerConnection, serve

from phoneagent import Agent, Endpoint, EndpointRefused, EndpointUnreachable, Settings, endpoint
from phoneagent.endpoint import open_session, realtime_url
from phoneagent.protocol.realtime import AudioAppend, Dialect

pytestmark = pytest.mark.anyio
SESSION = Agent(instructions="Be brief.").session("Be brief.")
CREATED = {"type": "session.created", "session": {"type": "realtime", "audio": {}}}
Behaviour = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def server(behaviour: Behaviour, refuse: HTTPStatus | None = None) -> AsyncIterator[Endpoint]:
    def check(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(refuse, "no\n") if refuse else None

    async with serve(behaviour, "127.0.0.1", 0, process_request=check, compression=None) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        yield Endpoint(f"ws://127.0.0.1:{port}/v1/realtime?model=m", transcription_models=("first", "second"))


async def say(connection: ServerConnection, **event: Any) -> None:
    await connection.send(json.dumps(event))


def updated(session: dict[str, Any]) -> dict[str, Any]:
    return {"type": "session.updated", "session": session}


async def agreeable(connection: ServerConnection) -> None:
    await say(connection, **CREATED)
    update = json.loads(await connection.recv())
    await say(connection, **updated(update["session"]))
    async for message in connection:
        await connection.send(message)


async def test_a_session_is_configured_and_carries_events() -> None:
    async with server(agreeable) as far:
        session = await open_session(far, SESSION)
        assert (session.dialect, session.dropped) == (Dialect.GA, ())
        await session.send(AudioAppend("AAAA"))
        assert json.loads(await session.receive()) == {"type": "input_audio_buffer.append", "audio": "AAAA"}
        await session.close()
        with pytest.raises(EndpointUnreachable):
            await session.receive()
        with pytest.raises(EndpointUnreachable):
            await session.send(AudioAppend("AAAA"))


async def test_the_key_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with server(agreeable) as far:
        session = await open_session(Endpoint(far.url, {"Authorization": "Bearer sk-secret"}), SESSION)
        await session.close()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    assert not any("sk-secret" in line for line in ours)


async def test_beta_is_found_out_by_itself() -> None:
    async def beta(connection: ServerConnection) -> None:
        await say(connection, type="session.created", session={"modalities": ["audio", "text"]})
        update = json.loads(await connection.recv())
        assert update["session"]["input_audio_format"] == "g711_ulaw"
        await say(connection, **updated(update["session"]))
        await connection.wait_closed()

    async with server(beta) as far:
        session = await open_session(far, SESSION)
        assert session.dialect is Dialect.BETA
        await session.close()


async def test_refused_fields_are_dropped_and_said() -> None:
    async def picky(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        refusals = iter(["session.audio.input.transcription.model", "session.audio.output.voice"])
        while True:
            update = json.loads(await connection.recv())
            param = next(refusals, None)
            if param is None:
                break
            error = {"code": "invalid_value", "message": "no", "param": param, "event_id": update["event_id"]}
            await say(connection, type="error", error=error)
        assert update["session"]["audio"]["input"]["transcription"] == {"model": "second"}
        assert "voice" not in update["session"]["audio"]["output"]
        await say(connection, **updated(update["session"]))
        await connection.wait_closed()

    async with server(picky) as far:
        session = await open_session(far, SESSION)
        assert [line.split(" (")[0] for line in session.dropped] == ["transcription by first", "audio.output.voice"]
        await session.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (HTTPStatus.UNAUTHORIZED, EndpointRefused),
        (HTTPStatus.NOT_FOUND, EndpointRefused),
        (HTTPStatus.OK, EndpointUnreachable),
        (HTTPStatus.SERVICE_UNAVAILABLE, EndpointUnreachable),
        (HTTPStatus.TOO_MANY_REQUESTS, EndpointUnreachable),
    ],
)
async def test_http_refusals(status: HTTPStatus, kind: type[Exception]) -> None:
    async with server(agreeable, refuse=status) as far:
        with pytest.raises(kind, match=str(status.value)):
            await open_session(far, SESSION)


async def fatal_error(connection: ServerConnection) -> None:
    await say(connection, type="error", error={"code": "beta_api_shape_disabled", "message": "use GA"})
    await connection.close(4000)


async def hangs_up(connection: ServerConnection) -> None:
    await connection.close(1008, "policy")


async def breaks_off(connection: ServerConnection) -> None:
    connection.transport.abort()


async def speaks_pcm(connection: ServerConnection) -> None:
    await say(connection, **CREATED)
    await connection.recv()
    await say(connection, **updated({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}}))
    await connection.wait_closed()


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        (fatal_error, EndpointRefused, "beta_api_shape_disabled"),
        (hangs_up, EndpointRefused, "1008 policy"),
        (breaks_off, EndpointUnreachable, "without a close"),
        (speaks_pcm, EndpointRefused, "audio/pcm, but"),
    ],
)
async def test_bad_servers(behaviour: Behaviour, kind: type[Exception], words: str) -> None:
    async with server(behaviour) as far:
        with pytest.raises(kind, match=words):
            await open_session(far, SESSION)


async def silent(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def half(connection: ServerConnection) -> None:
    await connection.send('{"type": "session.created"')
    await connection.wait_closed()


@pytest.mark.parametrize("behaviour", [silent, half])
async def test_a_server_that_never_answers(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "CONNECT_SECONDS", 0.2)
    async with server(behaviour) as far:
        with pytest.raises(EndpointUnreachable, match=r"within 0\.2 s"):
            await open_session(far, SESSION)
        assert len(asyncio.all_tasks()) < 20


async def test_nobody_there() -> None:
    async with server(agreeable) as far:
        gone = far
    with pytest.raises(EndpointUnreachable, match="no connection"):
        await open_session(gone, SESSION)


async def test_a_url_that_is_none() -> None:
    with pytest.raises(EndpointRefused, match="REALTIME_URL"):
        await open_session(Endpoint("http://127.0.0.1"), SESSION)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("wss://api.openai.com/v1/realtime", "wss://api.openai.com/v1/realtime?model=m"),
        ("ws://host", "ws://host/v1/realtime?model=m"),
        ("ws://host/v1/", "ws://host/v1/realtime?model=m"),
        ("ws://host/openai/v1", "ws://host/openai/v1/realtime?model=m"),
        ("ws://host/realtime?model=other&a=b", "ws://host/realtime?model=other&a=b"),
        ("ws://host/realtime?deployment=d", "ws://host/realtime?deployment=d"),
    ],
)
def test_addresses_are_completed(base: str, expected: str) -> None:
    assert realtime_url(base, "m") == expected


def test_keys_go_where_they_belong() -> None:
    given: dict[str, Any] = {
        "twilio_account_sid": "AC" + "0" * 32,
        "twilio_auth_token": "0123456789",
        "public_url": "https://a.example",
        "openai_api_key": "sk-openai",
    }
    far = Endpoint.from_settings(Settings(**given))
    assert far.url == "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1"
    assert far.headers == {"Authorization": "Bearer sk-openai"}
    assert "sk-openai" not in repr(far)
    assert Endpoint.from_settings(Settings(**given, realtime_url="ws://x")).headers == {}
    other = Endpoint.from_settings(Settings(**given, realtime_url="ws://x", realtime_api_key="k"))
    assert other.headers == {"Authorization": "Bearer k"}


async def test_a_far_end_that_does_not_answer_a_close_keeps_nothing_open() -> None:
    async def deaf(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        update = json.loads(await connection.recv())
        await say(connection, **updated(update["session"]))
        connection.transport.pause_reading()
        await checked.wait()
        connection.transport.abort()

    checked = asyncio.Event()
    async with server(deaf) as far:
        session = await open_session(far, SESSION)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.close()
            assert session._connection.transport.is_closing()
        finally:
            checked.set()
