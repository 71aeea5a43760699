"""Status callbacks, one after another, beside the call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.callbacks import Callbacks
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.phone import Phone
from phoneagent.sim.twilio.quirks import Quirks
from tests.patience import HANG_SECONDS
from tests.sim.conftest import Server
from tests.sim.twilio.calls import TOKEN, called, close_at_once, signed

pytestmark = pytest.mark.anyio


async def test_callbacks_of_stream_and_call_in_order(server: Server):
    server.connect(stream=f'statusCallback="{server.at("/stream")}" name="voice"')
    server.pages["/stream"] = server.pages["/status"] = "<Response/>"
    async with Phone(server.url, auth_token=TOKEN, status_callback="/status").dial() as line:
        pass
    first, second, last = server.seen("/stream") + server.seen("/status")
    assert server.requests[1:] == [first, second, last]
    assert [first.form["StreamEvent"], second.form["StreamEvent"]] == ["stream-started", "stream-stopped"]
    assert first.form["StreamName"] == "voice"
    assert first.form["StreamSid"] == line.stream_sid
    assert first.form["Timestamp"].endswith("Z")
    assert last.form["CallStatus"] == "completed"
    assert last.form["CallSid"] == line.call_sid
    assert signed(server.url.replace("/voice", "/status"), last)
    assert line.violations == []


async def test_a_callback_that_fails_is_a_violation(server: Server):
    server.connect(stream=f'statusCallback="{server.at("/nowhere")}"')
    server.agent = close_at_once
    line = await called(server)
    assert line.violations == [
        "11200 HTTP retrieval failure: the server answered HTTP 404 to POST "
        f"{server.url.replace('/voice', '/nowhere')} (status callback)"
    ]
    assert line.ended_by == "agent"


async def test_callbacks_twice_and_last_first(server: Server):
    server.connect(stream=f'statusCallback="{server.at("/status")}"')
    server.pages["/status"] = "<Response/>"
    phone = Phone(server.url, status_callback="/status")
    phone.quirks = Quirks(callbacks_twice=True, callbacks_reversed=True)
    async with phone.dial():
        assert not server.seen("/status")
    seen = server.seen("/status")
    events = [each.form.get("StreamEvent") or each.form["CallStatus"] for each in seen]
    assert events == ["completed"] * 2 + ["stream-stopped"] * 2 + ["stream-started"] * 2
    tokens = [each.headers["i-twilio-idempotency-token"] for each in seen]
    assert tokens[::2] == tokens[1::2]
    assert len(set(tokens)) == 3


class SlowWeb:
    """Takes requests one by one, each as long as `gate` is closed; fails those to /fails."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.requests: list[tuple[str, dict[str, str], str]] = []
        self.at_once = self.most_at_once = 0

    async def request(self, url: str, params: Mapping[str, str], method: str, *, token: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        self.requests.append((url, dict(params), method))
        if url.endswith("/fails"):
            raise CallFailed("the server answered HTTP 500", code=11200)


def callbacks(web: Any, **quirks: bool) -> Callbacks:
    return Callbacks(Line(call_sid="CA1", account_sid="AC1"), web, Quirks(**quirks))  # type: ignore[arg-type]


async def test_a_slow_server_gets_one_callback_at_a_time_and_all_in_order():
    web = SlowWeb()
    posted = callbacks(web)
    for number in range(3):
        posted.post_stream(f"/{number}", "GET", "MZ1", "voice", "stream-started")
    asyncio.get_running_loop().call_soon(web.gate.set)
    await posted.finish()
    assert [(url, method) for url, _, method in web.requests] == [("/0", "GET"), ("/1", "GET"), ("/2", "GET")]
    assert web.most_at_once == 1


async def test_a_callback_that_fails_does_not_stop_the_next():
    web = SlowWeb()
    web.gate.set()
    posted = callbacks(web)
    posted.post_stream("/fails", "POST", "MZ1", "voice", "stream-error", "the connection was lost")
    posted.post_status("/end", {"CallSid": "CA1"}, "completed", "POST", 61)
    await posted.finish()
    assert [url for url, _, _ in web.requests] == ["/fails", "/end"]
    assert web.requests[0][1]["StreamError"] == "the connection was lost"
    assert posted.line.violations == ["11200 HTTP retrieval failure: the server answered HTTP 500 (status callback)"]


@pytest.mark.parametrize(("seconds", "minutes"), [(0, "0"), (1, "1"), (60, "1"), (61, "2"), (120, "2")])
async def test_the_end_tells_the_seconds_and_the_minutes_that_are_billed(seconds: int, minutes: str):
    web = SlowWeb()
    web.gate.set()
    posted = callbacks(web)
    posted.post_status("/end", {"CallSid": "CA1", "CallStatus": "in-progress"}, "no-answer", "POST", seconds)
    await posted.finish()
    ((_, fields, method),) = web.requests
    assert (fields["CallDuration"], fields["Duration"], fields["CallStatus"]) == (str(seconds), minutes, "no-answer")
    assert method == "POST"
    assert "StreamError" not in fields


async def test_the_events_of_a_call_are_numbered_and_only_the_last_has_a_duration():
    web = SlowWeb()
    web.gate.set()
    posted = callbacks(web)
    posted.post_status("/status", {}, "ringing", "GET", None)
    posted.post_status("/status", {}, "completed", "GET", 3)
    await posted.finish()
    numbered = [(each["CallStatus"], each["SequenceNumber"], "Duration" in each) for _, each, _ in web.requests]
    assert numbered == [("ringing", "0", False), ("completed", "1", True)]


async def test_a_call_that_is_cancelled_while_it_waits_leaves_no_delivery_behind():
    web = SlowWeb()
    posted = callbacks(web, callbacks_reversed=True)
    posted.post_stream("/0", "POST", "MZ1", "voice", "stream-started")
    finishing = asyncio.create_task(posted.finish())
    async with asyncio.timeout(HANG_SECONDS):
        while not web.at_once:
            await asyncio.sleep(0)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    await asyncio.sleep(0)
    assert web.at_once == 0
    assert web.requests == []
