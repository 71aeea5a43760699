"""Whole calls from the browser: what the page asks for, the media socket that it opens, and what the call leaves."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from phoneagent import Agent, Call, CallEnded, CallStarted, TurnEnded, hang_up, tool
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from phoneagent.twilio import verification
from phoneagent.twilio.browser import is_browser_call
from phoneagent.twilio.signatures import TOKEN_SECONDS
from tests.end_to_end.by_hand import CALL_SID, STREAM_SID, listen, post, start
from tests.end_to_end.conftest import PUBLIC_URL, World, Worlds

pytestmark = pytest.mark.anyio

TOKEN = {"Authorization": "Bearer let-me-in"}
OPEN = {"api_token": SecretStr("let-me-in")}
CLIP = Murmur().render("A table for two, please.")
SCRIPT = """
[[turn]]
caller = "A table for two, please."
call = "book"
arguments = { guests = 2 }
then = "Your table is booked, goodbye!"
[[turn]]
caller = "Bye."
say = "Goodbye!"
call = "hang_up"
"""


@tool
async def book(guests: int) -> str:
    """Book a table."""
    return f"Booked for {guests}."


AGENT = Agent(name="host", instructions="x", greeting="Chez Nous, good evening!", tools=[book, hang_up])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    kept = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    yield kept
    await kept.close()


@dataclass
class Page:
    """What the page does, up to its sound."""

    w: World
    http: aiohttp.ClientSession
    parties: dict[str, str] = field(default_factory=dict)
    call_sid: str = ""

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        async with self.http.post(f"/console/phone/calls{path}", json=body or {}, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text

    async def begin(self, **parties: str) -> str:
        self.parties = parties
        status, answer = await self.post("", parties)
        assert status == 201, answer
        self.call_sid = answer["call_sid"]
        return str(answer["twiml"])

    async def ask(self, url: str) -> str:
        status, answer = await self.post(f"/{self.call_sid}", {**self.parties, "url": url})
        assert (status, answer["call_sid"]) == (200, self.call_sid)
        return str(answer["twiml"])

    async def report_end(self) -> None:
        assert await self.post(f"/{self.call_sid}", {**self.parties, "status": "completed"}) == (204, "")

    async def open(self, twiml: str, **headers: str) -> ClientConnection:
        url = self.w.url.replace("http", "ws") + f"/console/phone/media/{token_in(twiml)}"
        return await connect(url, additional_headers={**TOKEN, **headers})

    async def stream(self, twiml: str, stream_sid: str = STREAM_SID) -> ClientConnection:
        socket = await self.open(twiml)
        await socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        parameters = dict(re.findall(r'<Parameter name="([^"]*)" value="([^"]*)"', twiml))
        message = json.loads(start(self.call_sid, stream_sid, **parameters))
        del message["start"]["accountSid"]  # the page knows none
        await socket.send(json.dumps(message))
        return socket


@asynccontextmanager
async def page_of(w: World) -> AsyncIterator[Page]:
    async with aiohttp.ClientSession(w.url, headers=TOKEN) as http:
        yield Page(w, http)


@contextmanager
def listening(socket: ClientConnection) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(listen(socket))
    try:
        yield task
    finally:
        task.cancel()


async def say(socket: ClientConnection, speech: bytes, stream_sid: str = STREAM_SID) -> None:
    """Say something as the page does, and be silent after it, so that the turn ends."""
    for at in range(0, len(speech) + 8000, 160):
        payload = base64.b64encode(speech[at : at + 160].ljust(160, b"\xff")).decode()
        media = {"track": "inbound", "chunk": "1", "timestamp": str(at // 8), "payload": payload}
        await socket.send(
            json.dumps({"event": "media", "sequenceNumber": "1", "media": media, "streamSid": stream_sid})
        )
        await asyncio.sleep(0.02)


def token_in(twiml: str) -> str:
    found = re.search(r'url="wss://agent.example/twilio/media/([^"]+)"', twiml)
    assert found is not None, twiml
    return found[1]


def action(twiml: str) -> str:
    found = re.search(r'action="([^"]*)"', twiml)
    assert found is not None, twiml
    return found[1].replace("&amp;", "&")


async def test_a_call_goes_the_way_of_a_phone_call(world: Worlds, store: Store) -> None:
    calls: list[Call] = []

    def answer(call: Call) -> Agent:
        calls.append(call)
        return AGENT if call.called == "+15550100002" else Agent(instructions="x", greeting="Wrong number.")

    async with world(answer, SCRIPT, store=store, **OPEN) as w, page_of(w) as page:
        twiml = await page.begin(called="+15550100002", caller="+15550100001")
        assert is_browser_call(page.call_sid)
        socket = await page.stream(twiml)
        with listening(socket) as heard:
            await w.until(lambda: w.app.calls)
            (call,) = calls
            assert (call.sid, call.caller, call.direction) == (page.call_sid, "+15550100001", "inbound")
            assert call.parameters == {"Source": "browser"}
            await say(socket, CLIP)
            await w.until(lambda: any(each.turn.text.startswith("Your table") for each in w.of(TurnEnded)))
            with suppress(ConnectionClosed):  # the agent is quick
                await say(socket, CLIP)
            await heard  # the agent hangs up: that closes the socket
        assert "<Hangup" in await page.ask(action(twiml))
        await page.report_end()
        (started,), (ended,) = w.of(CallStarted), w.of(CallEnded)
        assert (started.direction, started.resumed, ended.ended_by) == ("inbound", False, "agent")
        record = await store.call(page.call_sid)
        assert record is not None
        assert record.tools[0].output == "Booked for 2."
        assert record.turns[0].heard_text == "Chez Nous, good evening!"
        assert 'phoneagent_calls_ended_total{ended_by="agent"} 1.0' in w.app._parts.metrics.text().decode()


async def test_a_socket_that_breaks_is_followed_by_another_one(world: Worlds, store: Store) -> None:
    async with world(AGENT, SCRIPT, store=store, **OPEN) as w, page_of(w) as page:
        twiml = await page.begin()
        socket = await page.stream(twiml)
        await w.until(lambda: w.app.calls)
        socket.transport.abort()
        await w.until(lambda: not w.app.calls)
        again = await page.ask(action(twiml))
        socket = await page.stream(again, "MZ" + "6" * 32)
        with listening(socket):
            await w.until(lambda: len(w.of(CallStarted)) == 2)
            assert w.of(CallStarted)[1].resumed
            await socket.close()
        await w.until(lambda: not w.app.calls)
        await page.report_end()
        record = await store.call(page.call_sid)
        assert record is not None
        assert record.ended_by in ("caller", "line")
        assert record.caller == "client:browser"


async def test_without_records_a_call_ends_with_its_socket(world: Worlds) -> None:
    async with world(AGENT, SCRIPT, **OPEN) as w, page_of(w) as page:
        twiml = await page.begin()
        assert "action=" not in twiml
        socket = await page.stream(twiml)
        await w.until(lambda: w.app.calls)
        await socket.close()
        await w.until(lambda: w.of(CallEnded))


async def test_a_token_opens_one_socket_for_a_short_time(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(AGENT, SCRIPT, **OPEN) as w, page_of(w) as page:
        twiml = await page.begin()
        socket = await page.stream(twiml)
        await refused(page.open(twiml))
        await socket.close()
        late = await page.begin()
        later = time.time() + TOKEN_SECONDS + 1
        monkeypatch.setattr(verification, "time", SimpleNamespace(time=lambda: later))
        await refused(page.open(late))
        await page.report_end()
        assert "a media token is too old" in w.log.text
        assert "a media token was used twice" in w.log.text


async def refused(opening: Any) -> None:
    with pytest.raises(InvalidStatus) as raised:
        await opening
    assert raised.value.response.status_code == 403


async def test_a_page_of_another_site_gets_nothing(world: Worlds) -> None:
    async with world(AGENT, SCRIPT, **OPEN, local_api=True) as w:
        here = {"Origin": w.url}
        foreign = {"Origin": "https://evil.example"}
        async with aiohttp.ClientSession(w.url) as http:
            page = Page(w, http)
            assert (await page.post("", **foreign))[0] in (401, 403)
            assert w.app._parts.calls.pending == {}
            status, answer = await page.post("", **here)
            assert status == 201
            url = w.url.replace("http", "ws") + f"/console/phone/media/{token_in(answer['twiml'])}"
            await refused(connect(url, additional_headers=foreign))
            socket = await connect(url, additional_headers=here)  # the refused one has not spent the token
            await socket.close()


async def test_without_access_nothing_is_there(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w, page_of(w) as page:
        assert (await page.post(""))[0] == 404
        assert (await page.post("/CA1"))[0] == 404
    async with world(AGENT, SCRIPT, **OPEN) as w, aiohttp.ClientSession(w.url) as http:
        page = Page(w, http)
        assert (await page.post(""))[0] == 401
        async with page_of(w) as mine:
            twiml = await mine.begin()
            await mine.report_end()
        token = token_in(twiml)
        await refused(connect(w.url.replace("http", "ws") + f"/console/phone/media/{token}"))


async def test_the_token_of_a_phone_call_opens_no_socket_here(world: Worlds) -> None:
    async with world(AGENT, SCRIPT, **OPEN) as w, page_of(w) as page:
        twiml = await post(w, "/twilio/voice", CALL_SID, CallStatus="ringing")
        await refused(page.open(twiml))
        assert "a media token is of a phone call" in w.log.text
        assert (await page.post(f"/{CALL_SID}", {"status": "completed"}))[0] == 404
        assert CALL_SID in w.app._parts.calls.pending


async def test_admission_is_that_of_phone_calls(world: Worlds) -> None:
    async with world(AGENT, SCRIPT, **OPEN, max_calls=1, deny_callers=["+15550100009"]) as w, page_of(w) as page:
        assert '<Reject reason="rejected"' in await page.begin(caller="+15550100009")
        socket = await page.stream(await page.begin())
        await w.until(lambda: w.app.calls)
        async with page_of(w) as other:
            assert '<Reject reason="busy"' in await other.begin()
        await socket.close()


async def test_while_the_process_drains_the_page_is_asked_to_wait(world: Worlds) -> None:
    async with world(AGENT, SCRIPT, **OPEN) as w, page_of(w) as page:
        w.app.draining = True
        twiml = await page.begin()
        redirect = re.search(r"<Redirect[^>]*>([^<]*)</Redirect>", twiml)
        assert redirect is not None
        w.app.draining = False
        assert f"{PUBLIC_URL.replace('https', 'wss')}/twilio/media/" in await page.ask(
            redirect[1].replace("&amp;", "&")
        )
        await page.report_end()
        assert w.app._parts.calls.pending == {}
