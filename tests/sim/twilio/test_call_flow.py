"""A call that outlives its stream: the server goes away, is asked what now, and a new stream takes up the same call."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.twilio import call_flow, dial
from phoneagent.sim.twilio.phone import CallFailed, Phone
from phoneagent.sim.twilio.quirks import Quirks
from tests.clock import ROUNDING_SECONDS
from tests.patience import HANG_SECONDS
from tests.sim.conftest import Leg, Server

pytestmark = pytest.mark.anyio

shares_ports = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="two processes take turns on a port")

BROKEN = "31903 Stream - WebSocket - Connection Broken: the connection ended without a closing frame"


class Process:
    """A server process that can be killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[dict[str, dict[str, str]]] = []

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), HANG_SECONDS)).decode().strip()

    async def listen(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        assert await self.line() == "listening"

    async def report(self, what: str) -> dict[str, str]:
        """Wait for the first request of a kind that it has not been asked for yet."""
        while not any(what in each for each in self.told):
            self.told.append(json.loads(await self.line()))
        told = next(each for each in self.told if what in each)
        self.told.remove(told)
        return told[what]


@asynccontextmanager
async def process(port: int) -> AsyncIterator[Process]:
    """A server that has started and does not listen yet."""
    script = str(Path(__file__).with_name("killable.py"))
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(sys.executable, script, str(port), stdin=pipe, stdout=pipe)
    try:
        server = Process(running)
        assert await server.line() == "ready"
        yield server
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


@shares_ports
async def test_a_call_survives_the_sigkill_of_its_server():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with process(port) as first, process(port) as second:
            await first.listen()
            async with Phone(f"http://127.0.0.1:{port}/voice").dial() as line:
                assert (await first.report("status"))["StreamEvent"] == "stream-started"
                await line.wait_for_agent(ms=200, timeout=HANG_SECONDS)
                saying = asyncio.create_task(line.say(tone(200, 60_000), "a long story"))
                async with asyncio.timeout(HANG_SECONDS):
                    while not line.speech:  # words that had not begun would wait for the next stream
                        await asyncio.sleep(0.01)
                first.process.kill()
                assert (await saying).end_ms < 60_000, "the words broke off with the stream"
                assert (line.stream, line.ended_by) == (None, None)
                await second.listen()
                stream = await line.wait_for_stream(2, HANG_SECONDS)
                status, after = await second.report("status"), await second.report("after")
                await line.say(silence(100), "hello?")
                await line.wait_for_agent(ms=200, timeout=HANG_SECONDS)
    assert (status["StreamEvent"], status["StreamSid"]) == ("stream-error", line.streams[0].sid)
    assert (after["CallStatus"], after["CallSid"]) == ("in-progress", line.call_sid)
    lost, resumed = line.streams
    assert resumed is stream
    assert lost.sid != resumed.sid == line.stream_sid
    assert (lost.ended_by, lost.close_code) == ("line", 1006)
    assert (resumed.ended_by, resumed.close_code) == ("caller", 1000)
    assert line.gaps_ms == [resumed.start_ms - (lost.end_ms or 0)]
    assert 0 < line.gaps_ms[0] < 15_000
    before, since = line.heard_during(lost), line.heard_during(resumed)
    assert before + since == line.heard
    assert before[-1].end_ms <= (lost.end_ms or 0)
    assert since[0].start_ms >= resumed.start_ms
    assert line.speech[1].start_ms > resumed.start_ms - 20
    assert (line.violations, line.verbs) == ([BROKEN], ["Connect", "Connect"])


@shares_ports
async def test_a_call_moves_to_another_process_at_once():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with process(port) as first, process(port) as second:
            await first.listen()
            async with Phone(f"http://127.0.0.1:{port}/voice").dial() as line:
                await line.wait_for_agent(ms=100, timeout=HANG_SECONDS)
                await second.listen()
                first.process.kill()
                await line.wait_for_stream(2, HANG_SECONDS)
                await line.press("1")  # the agent closes the socket, and is asked once more
                await line.wait_for_stream(3, HANG_SECONDS)
    assert [stream.ended_by for stream in line.streams] == ["line", "agent", "caller"]
    assert len(line.gaps_ms) == 2
    assert line.ended_by == "caller"


async def test_a_call_ends_if_its_action_keeps_failing(server: Server, monkeypatch: pytest.MonkeyPatch):
    server.connect(connect='action="/after#rc=2&amp;rp=5xx"')
    server.pages["/after"] = lambda request: Response("", 503)

    async def broken(leg: Leg) -> None:
        server.cut()

    server.agent = broken
    async with Phone(server.url, quirks=Quirks(retry_waits_seconds=(0,))).dial() as line:
        await line.wait_ended()
        with pytest.raises(CallFailed, match=r"the call ended \(by error\) before stream 2 had started"):
            await line.wait_for_stream(2)
    assert len(server.seen("/after")) == 3
    assert len({seen.headers["i-twilio-idempotency-token"] for seen in server.seen("/after")}) == 1
    assert line.violations == [
        BROKEN,
        "11200 HTTP retrieval failure: the server answered HTTP 503 to POST " + server.url.replace("/voice", "/after"),
    ]


async def test_words_wait_for_the_next_stream(server: Server):
    asked, go = asyncio.Event(), asyncio.Event()

    async def close_once(leg: Leg) -> None:
        if len(server.legs) > 1:
            await leg.event("closed")

    async def after(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await go.wait()
        await Response(server.pages["/voice"], media_type="text/xml")(scope, receive, send)

    server.agent = close_once
    server.connect(connect='action="/after"')
    server.pages["/after"] = lambda request: after  # type: ignore[assignment,return-value]
    async with Phone(server.url).dial() as line:
        await asyncio.wait_for(asked.wait(), HANG_SECONDS)
        with pytest.raises(CallFailed, match="cannot press a key: no stream is running"):
            await line.press("1")
        saying = asyncio.create_task(line.say(tone(200, 200), "hello?"))
        await asyncio.sleep(0)
        assert not line.speech
        go.set()
        said = await saying
    assert said.start_ms > line.streams[1].start_ms - 20, "a frame is 20 ms"
    assert said.end_ms - said.start_ms == 200
    assert any(server.legs[1].loud())


# The apology.


async def test_after_the_stream_an_apology_and_another_number(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dial, "DIALLED_SECONDS", 0.05)
    monkeypatch.setattr(call_flow, "SPEECH_RATE", 1000.0)
    server.connect(connect='action="/after"')
    server.pages["/after"] = "<Response><Say>I am sorry.</Say><Dial>+15550100009</Dial><Hangup/></Response>"

    async def broken(leg: Leg) -> None:
        server.cut()

    server.agent = broken
    async with Phone(server.url).dial() as line:
        await line.wait_ended()
    assert line.verbs == ["Connect", "Say I am sorry.", "Dial +15550100009", "Hangup"]
    assert line.ended_by == "line"


async def test_a_pause_does_not_pick_up_so_that_the_call_can_still_be_rejected(server: Server):
    server.pages["/voice"] = "<Response><Pause length='0'/><Redirect>/again</Redirect></Response>"
    server.pages["/again"] = "<Response><Reject reason='busy'/></Response>"
    with pytest.raises(CallFailed, match="rejected: busy"):
        async with Phone(server.url).dial():
            pass
    assert [seen.form["CallStatus"] for seen in server.requests] == ["ringing", "ringing"]


# The fallback.


async def test_the_fallback_takes_a_call_that_the_webhook_lost(server: Server):
    server.pages["/fallback"] = server.pages["/voice"]
    server.pages["/voice"] = lambda request: Response("", 503)
    phone = Phone(server.url + "#rc=1&rp=5xx", voice_fallback_url="/fallback", quirks=Quirks(retry_waits_seconds=(0,)))
    async with phone.dial() as line:
        pass
    (asked,) = server.seen("/fallback")
    assert len(server.seen("/voice")) == 2
    assert (asked.form["ErrorCode"], asked.form["ErrorUrl"]) == ("11200", server.url)
    assert (asked.form["CallSid"], asked.form["CallStatus"]) == (line.call_sid, "ringing")
    assert line.violations == [f"11200 HTTP retrieval failure: the server answered HTTP 503 to POST {server.url}"]
    assert line.ended_by == "caller"


@pytest.mark.parametrize(("answer", "code"), [("<Response>", "12100"), ("", "11200")])
async def test_the_fallback_takes_a_call_whose_action_fails(server: Server, answer: str, code: str):
    server.connect(connect='action="/after"')
    server.pages["/after"] = answer
    server.pages["/fallback"] = "<Response><Hangup/></Response>"

    async def close_at_once(leg: Leg) -> None:
        pass

    server.agent = close_at_once
    async with Phone(server.url, voice_fallback_url="/fallback").dial() as line:
        await line.wait_ended()
    (asked,) = server.seen("/fallback")
    assert (asked.form["ErrorCode"], asked.form["CallStatus"]) == (code, "in-progress")
    assert (line.ended_by, line.verbs) == ("agent", ["Connect", "Hangup"])


async def test_a_fallback_that_fails_too_ends_the_call(server: Server):
    def page(request: Request) -> Response:
        return Response("", 500)

    server.pages["/voice"] = server.pages["/fallback"] = page
    with pytest.raises(CallFailed) as caught:
        async with Phone(server.url, voice_fallback_url="/fallback").dial():
            pass
    assert [seen.path for seen in server.requests] == ["/voice", "/fallback"]
    assert caught.value.code == 11200


# The end of a call without a stream.


@pytest.mark.parametrize(
    ("page", "status"),
    [
        ("<Response><Reject/></Response>", "no-answer"),
        ("<Response><Reject reason='busy'/></Response>", "busy"),
        ("<Response><Hangup/></Response>", "completed"),
        ("<Response/>", "completed"),
        ("<Response><Pause length='0'/></Response>", "completed"),
        ("no TwiML", "completed"),  # the caller hears of an application error
        ("", "completed"),
    ],
)
async def test_the_status_of_a_call_that_comes_to_nothing(server: Server, page: str, status: str):
    server.pages["/voice"], server.pages["/status"] = page, "<Response/>"
    with pytest.raises(CallFailed):
        async with Phone(server.url, status_callback="/status").dial():
            pass
    (seen,) = server.seen("/status")
    assert seen.form["CallStatus"] == status


async def test_a_loop_of_0_goes_on(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(call_flow, "SPEECH_RATE", 1000.0)
    monkeypatch.setattr(call_flow, "MAX_TIMES", 100)
    server.connect(after="<Say loop='0'>Hi</Say>")

    async def close_at_once(leg: Leg) -> None:
        pass

    server.agent = close_at_once
    async with Phone(server.url).dial() as line:
        await line.wait_ended()
    (said,) = line.announcements
    assert said.ended_at is not None
    assert said.ended_at - said.started_at > 100 * 2 / 1000 - ROUNDING_SECONDS


async def test_a_gather_without_an_action_asks_its_own_address_again(server: Server):
    server.pages["/voice"] = "<Response><Gather timeout='0' actionOnEmptyResult='true'/></Response>"

    def page(request: Request) -> Response:
        server.pages["/voice"] = "<Response/>"
        return Response("<Response><Gather timeout='0' actionOnEmptyResult='true'/></Response>", media_type="text/xml")

    server.pages["/voice"] = page
    async with Phone(server.url + "?shop=1", method="GET").dial():
        pass
    first, again = server.seen("/voice")
    assert (first.method, again.method, again.query) == ("GET", "POST", "shop=1")
