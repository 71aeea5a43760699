"""Verification in a running app: signatures before anything else, and tokens that open one call once."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from typing import Any

import aiohttp
import pytest
from twilio.request_validator import RequestValidator
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from phoneagent import Agent, CallEnded
from phoneagent.calls import pending
from phoneagent.twilio import signatures, verification
from phoneagent.twilio import socket as socket_module
from phoneagent.twilio.signatures import MediaTokens
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL, World, Worlds
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
AGENT = Agent(instructions="Wait.")
CALL_SID = "CA" + "7" * 32
FORM = {
    "CallSid": CALL_SID,
    "AccountSid": ACCOUNT_SID,
    "From": "+15550100001",
    "To": "+1",
    "Direction": "inbound",
    "Empty": "",
}
WEBHOOK = f"{PUBLIC_URL}/twilio/voice"


def sign(url: str, params: dict[str, str] | None = None, token: str = AUTH_TOKEN) -> dict[str, str]:
    return {"X-Twilio-Signature": RequestValidator(token).compute_signature(url, params or {})}


async def post(w: World, form: Any = FORM, headers: dict[str, str] | None = None, **options: Any) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{w.url}/twilio/voice", data=form, headers=headers, **options) as answer,
    ):
        return answer.status, await answer.text()


def socket_url(twiml: str) -> str:
    found = re.search(r'url="(wss://[^"]+)"', twiml)
    assert found is not None
    return found[1]


async def dial(w: World, url: str, headers: dict[str, str] | None = None) -> ClientConnection:
    local = w.url.replace("http", "ws") + url.removeprefix("wss://agent.example")
    headers = sign(url) if headers is None else headers
    return await connect(local, additional_headers=headers, compression=None, proxy=None)


async def ticket(w: World) -> str:
    status, twiml = await post(w, headers=sign(WEBHOOK, FORM))
    assert status == 200
    return socket_url(twiml)


def start(call_sid: str = CALL_SID, account_sid: str = ACCOUNT_SID, encoding: str = "audio/x-mulaw") -> str:
    details = {
        "accountSid": account_sid,
        "streamSid": "MZ1",
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": encoding, "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    }
    return json.dumps({"event": "start", "sequenceNumber": "1", "streamSid": "MZ1", "start": details})


# --- the webhook ---


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {"X-Twilio-Signature": ""},
        {"X-Twilio-Signature": "bm90IGl0"},
        sign(WEBHOOK, FORM, token="another-token"),
        sign(WEBHOOK, {**FORM, "From": "+1"}),
        sign("http://agent.example/twilio/voice", FORM),
        sign("https://evil.example/twilio/voice", FORM),
    ],
)
async def test_forged_webhooks_are_refused_before_any_model_session(world: Worlds, headers: dict[str, str]) -> None:
    async with world(AGENT) as w:
        spoofed = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", **(headers or {})}
        assert (await post(w, headers=spoofed))[0] == 403
        assert w.model.sessions == []
        assert not w.app._parts.calls.pending


async def test_webhooks_of_another_account_are_refused(world: Worlds) -> None:
    async with world(AGENT) as w:
        form = {**FORM, "AccountSid": "AC" + "9" * 32}
        assert (await post(w, form, sign(WEBHOOK, form)))[0] == 403


async def test_webhooks_without_a_call_are_refused(world: Worlds) -> None:
    async with world(AGENT) as w:
        form = {**FORM, "CallSid": "CA<script>"}
        status, text = await post(w, form, sign(WEBHOOK, form))
        assert (status, "script" in text) == (400, False)


async def test_oversized_and_unreadable_webhooks_are_refused(world: Worlds) -> None:
    async with world(AGENT) as w:
        assert (await post(w, "a=" + "x" * 100_000))[0] == 403
        assert (await post(w, "&".join(f"a{n}=1" for n in range(2000))))[0] == 403
        assert (await post(w, b"\xff\xfe=1"))[0] == 403


@pytest.mark.real_time
async def test_half_a_webhook_is_no_fault_of_ours(world: Worlds, caplog: pytest.LogCaptureFixture) -> None:
    async with world(AGENT) as w:
        host, port = w.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /twilio/voice HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        await writer.drain()
        writer.close()
        await w.until(lambda: "webhook refused" in caplog.text)
    assert "Exception" not in caplog.text


async def test_a_get_webhook_signs_its_raw_query(world: Worlds) -> None:
    async with world(AGENT) as w:
        query = f"CallSid={CALL_SID}&AccountSid={ACCOUNT_SID}&From=%2B15550100001&Odd=%22a%20b%22&To="
        from yarl import URL

        url = URL(f"{w.url}/twilio/voice?{query}", encoded=True)
        async with aiohttp.ClientSession() as http:
            async with http.get(url, headers=sign(f"{WEBHOOK}?{query}")) as answer:
                assert answer.status == 200
                assert 'value="+15550100001"' in await answer.text()
            async with http.get(url, headers=sign(WEBHOOK)) as answer:
                assert answer.status == 403
        await w.app._parts.calls.pending[CALL_SID].close()


async def test_the_answer_connects_a_stream_with_what_is_known_of_the_call(world: Worlds) -> None:
    async with world(AGENT) as w:
        status, twiml = await post(w, headers=sign(WEBHOOK, FORM))
        assert status == 200
        assert socket_url(twiml).startswith("wss://agent.example/twilio/media/")
        assert '<Parameter name="caller" value="+15550100001"' in twiml
        await w.until(lambda: w.model.sessions)  # opened ahead of the socket
        await post(w, headers=sign(WEBHOOK, FORM))  # delivered twice: still one session
        assert len(w.app._parts.calls.pending) == 1
        await w.app._parts.calls.pending[CALL_SID].close()
        assert len(w.model.sessions) == 1


async def test_a_call_that_never_comes_costs_no_session(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 0.2)
    async with world(AGENT) as w:
        await ticket(w)
        await w.until(lambda: w.model.sessions)
        await w.until(lambda: w.model.sessions[0].closed)


async def test_with_several_processes_nothing_is_opened_ahead(world: Worlds) -> None:
    async with world(AGENT, web_concurrency=2) as w:
        await ticket(w)
        assert w.app._parts.calls.pending[CALL_SID].opening is None
        async with w.phone().dial():
            await w.until(lambda: w.model.sessions)


# --- the media socket ---


async def refused(w: World, url: str, headers: dict[str, str] | None = None) -> bool:
    try:
        socket = await dial(w, url, headers)
    except InvalidStatus as error:
        return error.response.status_code == 403
    await socket.close()
    return False


async def test_forged_sockets_are_refused(world: Worlds) -> None:
    async with world(AGENT, web_concurrency=2) as w:
        url = await ticket(w)
        assert await refused(w, url, {})
        assert await refused(w, url, sign(url, token="another-token"))
        assert await refused(w, url, sign(url.replace("wss:", "https:")))
        assert await refused(w, url[:-1] + ("A" if url[-1] != "A" else "B"))
        assert await refused(w, f"wss://agent.example/twilio/media/{'A' * 90}")
        assert await refused(w, "wss://agent.example/twilio/media/")
        assert not await refused(w, url)  # a forged attempt did not spend the token
        assert await refused(w, url)  # but a good one did
        assert w.model.sessions == []


async def test_old_tokens_are_refused(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(AGENT, web_concurrency=2) as w:
        monkeypatch.setattr(signatures, "TOKEN_SECONDS", -5)
        assert await refused(w, await ticket(w))


async def test_a_token_of_another_process_is_good(world: Worlds) -> None:
    async with world(AGENT, web_concurrency=2) as w:
        token = MediaTokens([AUTH_TOKEN]).issue(CALL_SID, time.time())
        socket = await dial(w, f"wss://agent.example/twilio/media/{token}")
        await socket.send(start())
        await w.until(lambda: w.app.calls)
        await socket.close()


@pytest.mark.parametrize(
    "message",
    [
        start(call_sid="CA" + "8" * 32),
        start(account_sid="AC" + "8" * 32),
        start(encoding="audio/x-l16"),
    ],
)
async def test_a_start_that_does_not_fit_ends_the_socket(world: Worlds, message: str) -> None:
    async with world(AGENT, web_concurrency=2) as w:
        socket = await dial(w, await ticket(w))
        await socket.send(message)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert w.model.sessions == []


async def test_a_socket_without_start_is_closed(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "START_SECONDS", 0.2)
    async with world(AGENT, web_concurrency=2) as w:
        for messages in ([], ["garbage", b"binary", '{"event":"connected"}'], ["{}"] * 30):
            socket = await dial(w, await ticket(w))
            for message in messages:
                await socket.send(message)
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        assert w.model.sessions == []


async def test_a_second_socket_of_a_live_call_is_refused(world: Worlds) -> None:
    async with world(AGENT, web_concurrency=2) as w:
        first = await dial(w, await ticket(w))
        await first.send(start())
        await w.until(lambda: w.app.calls)
        second = await dial(w, await ticket(w))
        await second.send(start())
        with pytest.raises(ConnectionClosed):
            await second.recv()
        assert list(w.app.calls) == [CALL_SID]
        await first.close()
        await w.until(lambda: w.of(CallEnded))
        assert len(w.of(CallEnded)) == 1


async def test_a_webhook_that_never_comes_to_its_end_is_refused(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "BODY_SECONDS", 0.2)
    async with world(AGENT) as w:
        reader, writer = await asyncio.open_connection(*w.url.removeprefix("http://").split(":"))
        writer.write(b"POST /twilio/voice HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nCal")
        async with asyncio.timeout(HANG_SECONDS):
            assert b" 403 " in await reader.readline()
        writer.close()


async def test_no_token_number_or_secret_is_ever_logged(world: Worlds, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with world(AGENT) as w:
        async with w.phone().dial() as line:
            await w.until(lambda: w.app.calls)
        url = await ticket(w)
        await refused(w, url, {})
        await w.app._parts.calls.pending[CALL_SID].close()
    ours = [record for record in caplog.records if record.name.startswith(("phoneagent", "uvicorn"))]
    text = "\n".join(record.getMessage() for record in ours)
    assert line.call_sid in text
    assert "/twilio/media/…" in text
    assert re.search(r"/twilio/media/[A-Za-z0-9_-]", text) is None
    assert "+1555" not in text
    assert AUTH_TOKEN not in text


async def test_status_callbacks_are_taken_when_they_are_signed(world: Worlds) -> None:
    async with world(AGENT) as w:
        url, form = f"{w.url}/twilio/status", {**FORM, "CallStatus": "completed"}
        signed = sign(f"{PUBLIC_URL}/twilio/status", form)
        async with aiohttp.ClientSession() as http:
            async with http.post(url, data=form, headers=signed) as answer:
                assert answer.status == 204
            async with http.post(url, data=form, headers=sign(WEBHOOK, form)) as answer:
                assert answer.status == 403


async def test_health(world: Worlds) -> None:
    async with (
        world(AGENT) as w,
        aiohttp.ClientSession() as http,
        http.get(f"{w.url}/healthz") as answer,
    ):
        assert await answer.json() == {"status": "ok", "calls": 0}
