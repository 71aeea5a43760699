"""Whole calls of the simulated phone: the webhook, TwiML, the handshake, callbacks, and every way to end."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from twilio.request_validator import RequestValidator

from phoneagent.protocol.audio import tone
from phoneagent.sim.model.audio import from_ulaw
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio import call_flow, dial, stream
from phoneagent.sim.twilio.phone import CallFailed, Phone
from tests.patience import HANG_SECONDS
from tests.sim.conftest import Leg, Server
from tests.sim.twilio.calls import TOKEN, called, close_at_once, signed

pytestmark = pytest.mark.anyio


async def until_closed(leg: Leg) -> None:
    await leg.event("closed")


async def refused(server: Server, **options: object) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await called(server, **options)
    return caught.value


# The way in.


async def test_a_call_reaches_the_media_socket_as_twilio_does(server: Server):
    server.connect(inside='<Parameter name="token" value="a&amp;b"/>')
    async with Phone(server.url, auth_token=TOKEN).dial(call_sid="CA" + "7" * 32) as line:
        leg = server.legs[0]
        assert line.call_sid == "CA" + "7" * 32
        assert line.stream_sid == (await leg.event("start"))["streamSid"]
        assert line.ended_by is None
    (webhook,), (handshake,) = server.requests, server.sockets
    assert signed(server.url, webhook)
    assert webhook.form["CallSid"] == line.call_sid
    assert webhook.form["CallStatus"] == "ringing"
    assert webhook.form["From"] == webhook.form["Caller"] == "+15550100001"
    assert webhook.form["ToCity"] == ""
    assert len(webhook.form) == 27
    assert RequestValidator(TOKEN).compute_signature(server.stream_url, {}) == handshake.headers["x-twilio-signature"]
    assert handshake.headers["user-agent"] == "Twilio.TmeWs/1.0"
    assert handshake.headers["accept-encoding"] == "gzip"
    assert not {"origin", "sec-websocket-extensions", "sec-websocket-protocol"} & handshake.headers.keys()
    connected, start = leg.messages[:2]
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert start["start"]["customParameters"] == {"token": "a&b"}
    assert start["start"]["callSid"] == line.call_sid
    assert [message["event"] for message in leg.messages] == ["connected", "start", "stop", "closed"]
    assert leg.messages[-1]["code"] == 1000
    assert (line.ended_by, line.close_code, line.violations, line.verbs) == ("caller", 1000, [], ["Connect"])


async def test_a_public_address_is_signed_and_the_local_one_dialled(server: Server):
    server.connect(url="wss://agent.example/base/media/token", connect='action="/base/after"')
    server.agent = close_at_once
    server.pages["/after"] = "<Response><Hangup/></Response>"
    line = await called(server, public_url="https://agent.example/base")
    webhook, after = server.requests
    (handshake,) = server.sockets
    assert signed("https://agent.example/base/voice", webhook)
    assert signed("https://agent.example/base/after", after)
    assert (handshake.path, handshake.headers["host"]) == ("/media/token", "agent.example")
    expected = RequestValidator(TOKEN).compute_signature("wss://agent.example/base/media/token", {})
    assert handshake.headers["x-twilio-signature"] == expected
    for seen in (server.requests[0], handshake):
        forwarded = {name: value for name, value in seen.headers.items() if name.startswith("x-forwarded-")}
        assert forwarded == {
            "x-forwarded-for": "203.0.113.1",
            "x-forwarded-host": "agent.example",
            "x-forwarded-proto": "https",
        }
    assert (line.ended_by, line.violations, line.verbs) == ("agent", [], ["Connect", "Hangup"])


async def test_a_withheld_number_a_get_and_more_fields(server: Server):
    server.agent = close_at_once
    await called(server, caller=None, method="GET", extra_params={"ForwardedFrom": "+15550100005"})
    (webhook,) = server.requests
    assert webhook.method == "GET"
    assert "&From=anonymous&" in "&" + webhook.query
    assert "ForwardedFrom=%2B15550100005" in webhook.query


async def test_a_relative_stream_address(server: Server):
    server.connect(url="/media/relative")
    server.agent = close_at_once
    assert (await called(server)).violations == []
    assert server.sockets[0].path == "/media/relative"


async def test_two_calls_at_once_do_not_mix(server: Server):
    phone = Phone(server.url)
    async with phone.dial() as first, phone.dial() as second:
        assert first.call_sid != second.call_sid
        assert first.stream_sid != second.stream_sid
        await second.hang_up()
        assert (first.ended_by, second.ended_by) == (None, "caller")


async def test_pcm_is_noise_to_the_caller(server: Server):
    spoken = from_ulaw(Murmur().render("The bicycle shop, hello!"), {"type": "audio/pcm", "rate": 24000})

    async def talks_pcm(leg: Leg) -> None:
        await leg.play(spoken)

    server.agent = talks_pcm
    (violation,) = (await called(server)).violations
    assert "looks like 16-bit PCM" in violation


# Refusals.


async def test_a_webhook_that_refuses(server: Server):
    server.pages["/voice"] = lambda request: Response("Forbidden", 403)
    failed = await refused(server)
    assert (failed.status, failed.code, failed.verbs) == (403, 11200, ())
    assert str(failed) == f"11200 HTTP retrieval failure: the server answered HTTP 403 to POST {server.url}"


@pytest.mark.parametrize(
    ("page", "code", "words"),
    [
        ("<Response><Reject reason='busy'/></Response>", None, "rejected: busy"),
        ("<Response><Reject/></Response>", None, "rejected: rejected"),
        ("<Response><Pause length='0'/><Hangup/></Response>", None, "without a media stream"),
        ("<Response/>", None, "without a media stream"),
        ("no TwiML", 12100, "not well-formed"),
        ("<Response><Record/></Response>", None, "more than the simulated phone can carry out"),
    ],
)
async def test_twiml_without_a_stream(server: Server, page: str, code: int | None, words: str):
    server.pages["/voice"] = page
    failed = await refused(server)
    assert failed.code == code
    assert words in str(failed)


async def test_a_socket_that_is_refused_and_what_comes_after_it(server: Server):
    server.refuse_socket = True
    server.connect(after="<Say>Sorry.</Say>", stream=f'statusCallback="{server.at("/status")}" name="voice"')
    server.pages["/status"] = "<Response/>"
    failed = await refused(server)
    assert (failed.status, failed.code) == (403, 31920)
    assert failed.verbs == ("Connect", "Say Sorry.")
    assert failed.violations == (str(failed),)
    (status,) = server.seen("/status")
    assert status.form["StreamEvent"] == "stream-error"
    assert "403" in status.form["StreamError"]
    assert signed(server.url.replace("/voice", "/status"), status)


@pytest.mark.parametrize(
    ("public", "url", "attributes", "code"),
    [
        ("https://agent.example", "ws://agent.example/media/t", "", 31922),
        (None, "wss://127.0.0.1/media/t?token=1", "", 31920),
        (None, "wss://127.0.0.1/media /t", "", 31923),
        (None, "", 'track="both_tracks"', 31941),
    ],
)
async def test_a_stream_that_twilio_would_not_dial(
    server: Server, public: str | None, url: str, attributes: str, code: int
):
    server.connect(url=url, stream=attributes)
    assert (await refused(server, public_url=public)).code == code
    assert server.sockets == []


async def test_nothing_listens_at_the_socket_s_address(server: Server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server.connect(url=f"ws://127.0.0.1:{port}/media")
    assert (await refused(server)).code == 31902


async def test_a_redirect_of_the_handshake_is_not_followed(server: Server):
    server.connect(url=server.stream_url)
    answered = asyncio.Event()

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {server.stream_url}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        answered.set()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as other:
        server.connect(url=f"ws://127.0.0.1:{other.sockets[0].getsockname()[1]}/media")
        failed = await refused(server)
    assert (failed.status, failed.code, answered.is_set(), server.sockets) == (302, 31920, True, [])


async def test_a_socket_that_never_answers(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server.connect(url=f"ws://127.0.0.1:{silent.getsockname()[1]}/media")
        assert (await refused(server)).code == 31901


async def test_an_address_that_is_none():
    with pytest.raises(ValueError, match="webhook_url"):
        Phone("127.0.0.1:8000")


# TwiML around the stream.


async def test_verbs_before_and_after_the_stream_are_carried_out_in_order(server: Server):
    stream_part = f'<Connect><Stream url="{server.stream_url}"/></Connect>'
    server.pages["/voice"] = (
        f"<Response><Say>Hi</Say><Pause length='0'/>{stream_part}<Say>Bye</Say><Hangup/><Say>No</Say></Response>"
    )
    server.agent = close_at_once
    line = await called(server)
    assert line.verbs == ["Say Hi", "Pause 0", "Connect", "Say Bye", "Hangup"]
    assert (line.ended_by, line.violations) == ("agent", [])


async def test_unknown_twiml_is_a_violation_and_ignored(server: Server):
    server.connect(after="<say>Bye</say>")
    server.agent = close_at_once
    line = await called(server)
    assert line.verbs == ["Connect"]
    (violation,) = line.violations
    assert violation.startswith("12200 Schema validation warning: <say>")


async def test_the_action_takes_over_when_the_server_closes(server: Server):
    server.connect(connect='action="/after?x=1" method="GET"', after="<Say>never</Say>")
    server.pages["/after"] = "<Response><Say>Bye</Say></Response>"
    server.agent = close_at_once
    line = await called(server)
    (after,) = server.seen("/after")
    assert after.method == "GET"
    assert after.query.startswith("x=1&CallSid=CA")
    assert "CallStatus=in-progress" in after.query
    assert line.verbs == ["Connect", "Say Bye"]


async def test_a_redirect_brings_a_second_stream_of_the_same_call(server: Server):
    server.connect(after="<Redirect>/again</Redirect>")
    server.pages["/again"] = f'<Response><Connect><Stream url="{server.stream_url}"/></Connect></Response>'

    async def agent(leg: Leg) -> None:
        await leg.play(tone(440, 100))
        await leg.mark("heard")
        await leg.event("mark")

    server.agent = agent
    line = await called(server)
    first, second = server.legs
    assert first.stream_sid != second.stream_sid == line.stream_sid
    assert first.messages[1]["start"]["callSid"] == second.messages[1]["start"]["callSid"] == line.call_sid
    assert [(span.stream_start, span.stream_end) for span in line.heard] == [(0, 800), (800, 1600)]
    assert (line.violations, line.verbs) == ([], ["Connect", "Redirect /again", "Connect"])


async def test_a_webhooks_redirect_is_the_base_of_what_follows(server: Server):
    server.pages["/old"] = lambda request: RedirectResponse("/new/voice", 307)
    server.pages["/new/voice"] = (
        f'<Response><Connect action="after"><Stream url="{server.stream_url}"/></Connect></Response>'
    )
    server.pages["/new/after"] = "<Response/>"
    server.agent = close_at_once
    server.url = server.url.replace("/voice", "/old")
    assert (await called(server)).violations == []
    assert server.seen("/new/after")


async def test_a_dialled_party(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dial, "DIALLED_SECONDS", 0.05)
    server.connect(after="<Dial action='/dialled'><Number>+15550100003</Number></Dial>")
    server.pages["/dialled"] = "<Response/>"
    server.agent = close_at_once
    async with Phone(server.url).dial() as line:
        line.dial_status = "busy"
        await line.wait_ended(15)
    assert line.verbs == ["Connect", "Dial +15550100003"]
    assert server.seen("/dialled")[0].form["DialCallStatus"] == "busy"


async def test_documents_in_a_circle_end(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(call_flow, "MAX_DOCUMENTS", 5)
    server.pages["/voice"] = "<Response><Redirect>/voice</Redirect></Response>"
    failed = await refused(server)
    assert (failed.code, len(server.requests)) == (11215, 5)


async def test_an_action_that_fails_is_a_violation_of_a_call_that_was_up(server: Server):
    server.connect(connect='action="/missing"')
    server.agent = close_at_once
    line = await called(server)
    assert line.ended_by == "error"
    assert line.violations == [
        f"11200 HTTP retrieval failure: the server answered HTTP 404 to POST {server.url.replace('/voice', '/missing')}"
    ]


# The end.


async def test_the_caller_hangs_up_during_a_verb(server: Server):
    server.connect(after="<Pause length='600'/>", connect="")
    server.agent = close_at_once
    async with Phone(server.url).dial() as line:
        async with asyncio.timeout(HANG_SECONDS):
            while line.verbs != ["Connect", "Pause 600"]:
                await asyncio.sleep(0)
            await line.hang_up()
    assert (line.ended_by, line.violations) == ("caller", [])


async def test_leaving_hangs_up_even_after_an_error(server: Server):
    with pytest.raises(ZeroDivisionError):
        async with Phone(server.url).dial() as line:
            raise ZeroDivisionError
    assert line.ended_by == "caller"
    assert (await server.legs[0].event("closed"))["code"] == 1000
    assert server.legs[0].events("stop")


async def test_a_cancelled_call_leaves_nothing(server: Server):
    before = asyncio.all_tasks()
    up = asyncio.Event()

    async def talk() -> None:
        async with Phone(server.url).dial():
            up.set()
            await asyncio.Event().wait()

    call = asyncio.create_task(talk())
    await asyncio.wait_for(up.wait(), HANG_SECONDS)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.legs[0].event("closed")
    assert not {task for task in asyncio.all_tasks() - before if "phoneagent" in repr(task.get_coro())}


async def test_giving_up_before_the_stream_is_up(server: Server):
    asked = asyncio.Event()
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.close()

    async with await asyncio.start_server(slow, "127.0.0.1", 0) as other:
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}/"
        call = asyncio.create_task(Phone(url).dial().__aenter__())
        await asyncio.wait_for(asked.wait(), HANG_SECONDS)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()


async def test_no_secret_and_no_number_in_what_can_be_printed(server: Server):
    def page(request: Request) -> Response:
        return Response("", 500)

    server.pages["/voice"] = page
    failed = await refused(server)
    assert "155501" not in f"{failed!r} {failed}"
    assert TOKEN not in f"{failed!r} {Phone(server.url, auth_token=TOKEN)!r}"
