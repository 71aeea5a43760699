"""The transfers of a call in its media stream: when it cannot be transferred, and the tone while a party rings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Call
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.steps import Transfer
from phoneagent.calls.transfers import QUIET_SECONDS, CallTransfers
from phoneagent.errors import StoreError
from phoneagent.events import CallTransferred, Event
from phoneagent.protocol.carrier import Started
from phoneagent.store.records import ACCEPTED, TransferRecord
from phoneagent.twilio.browser import new_call_sid

pytestmark = pytest.mark.anyio
STEP = Transfer(to="+12025550107", name="billing")
ROW = TransferRecord(
    id="t1", call_sid="CA1", state=ACCEPTED, step=STEP, summary="", callee_sid="CA2", at=datetime.now(UTC)
)


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Warm:
    """The warm transfers of a process, whose end a test decides."""

    own_number: str | None = None

    def __init__(self) -> None:
        self.decided: asyncio.Future[TransferRecord | None] = asyncio.get_running_loop().create_future()
        self.offered: list[str] = []
        self.given_up: list[str] = []

    async def offer(self, call_sid: str, step: Transfer, *, from_: str, summary: Any) -> TransferRecord | None:
        self.offered.append(from_)
        return await asyncio.shield(self.decided)

    async def open(self, call_sid: str) -> TransferRecord | None:
        return ROW

    async def follow(self, transfer_id: str, summary: Any) -> TransferRecord | None:
        return await asyncio.shield(self.decided)

    async def give_up(self, call_sid: str) -> None:
        self.given_up.append(call_sid)


class Bench:
    def __init__(self, *, can_return: bool = True, warm: bool = True, **parties: Any) -> None:
        self.loop = asyncio.get_running_loop()
        known = {"sid": "CA1", "caller": "+15550100001", "called": "+15550100002", "direction": "inbound", **parties}
        self.call = Call(started_at=datetime.now(UTC), **known)
        self.bridge = Bridge(Policy(apology="", max_call_seconds=3600), call_sid="CA1")
        self.warm = Warm()
        self.events: list[Event] = []
        given: Any = self.warm if warm else None
        self.transfers = CallTransfers(
            self.call, self.bridge, given, lambda: None, self.events.append, can_return=can_return
        )
        self.bridge.receive_from_caller(Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1"), self.loop.time())
        self.bridge.model_opened({}, self.loop.time())
        self.bridge.model_connected(self.loop.time())

    async def close(self) -> None:
        """End the media stream, as a session does."""
        assert self.transfers.task is not None
        self.transfers.task.cancel()
        await asyncio.wait({self.transfers.task})
        await self.transfers.close()


async def test_a_call_that_cannot_be_transferred() -> None:
    assert "DATABASE_URL" in str(Bench(can_return=False).transfers.problem(warm=False))
    assert "REST" in str(Bench(warm=False).transfers.problem(warm=True))
    assert Bench(warm=False).transfers.problem(warm=False) is None
    browser = Bench(sid=new_call_sid())
    assert "in a browser" in str(browser.transfers.problem(warm=True))
    assert browser.transfers.problem(warm=False) is None
    assert "TWILIO_PHONE_NUMBER" in str(Bench(called="client:anna").transfers.problem(warm=True))
    bench = Bench()
    assert bench.transfers.problem(warm=True) is None
    bench.bridge.hang_up(bench.loop.time(), goodbye=True)
    assert "about to end" in str(bench.transfers.problem(warm=False))
    bench.bridge.end(bench.loop.time(), "caller", "x")
    assert "it is over" in str(bench.transfers.problem(warm=False))
    bench = Bench()
    bench.transfers.begin(STEP, warm=False)
    assert "already" in str(bench.transfers.problem(warm=False))


@pytest.mark.parametrize(
    ("direction", "number"), [("inbound", "+15550100002"), ("outbound-api", "+15550100001")], ids=str
)
async def test_the_party_sees_a_number_of_ours(direction: str, number: str) -> None:
    bench = Bench(direction=direction)
    bench.transfers.begin(STEP, warm=True)
    await asyncio.sleep(0.1)
    assert bench.warm.offered == [number]
    bench.transfers.begin(STEP, warm=True)  # a second one at once
    assert "already" in str(bench.transfers.problem(warm=True))
    bench.bridge.end(bench.loop.time(), "caller", "x")
    await bench.close()
    assert (bench.warm.offered, bench.warm.given_up) == ([number], ["CA1"])


async def test_the_caller_hears_a_tone_while_nothing_else_is_heard() -> None:
    bench = Bench()
    bench.transfers.begin(STEP, warm=True)
    await asyncio.sleep(QUIET_SECONDS - 1)
    assert bench.bridge.playback.idle
    await asyncio.sleep(QUIET_SECONDS)
    assert not bench.bridge.playback.idle
    await bench.close()


async def test_a_party_that_takes_the_call_is_joined_and_another_one_reported() -> None:
    bench = Bench()
    bench.transfers.begin(STEP, warm=True)
    await asyncio.sleep(0.1)
    bench.warm.decided.set_result(ROW)
    await asyncio.sleep(2)
    assert bench.bridge.closing.step("MZ1") == replace(STEP, stream_sid="MZ1", conference="t1")
    assert bench.events == []
    for row, outcome in ((replace(ROW, state="busy"), "busy"), (replace(ROW, state="?"), "error"), (None, "error")):
        bench = Bench()
        bench.transfers.resume()
        await asyncio.sleep(0.1)
        bench.warm.decided.set_result(row)
        await asyncio.sleep(2)
        assert bench.events == [CallTransferred(call_sid="CA1", to_name="billing", outcome=outcome, warm=True)]  # type: ignore[arg-type]
        assert not bench.bridge.closing.active


async def test_a_call_that_moves_on_keeps_its_transfer() -> None:
    bench = Bench()
    bench.transfers.begin(STEP, warm=True)
    await asyncio.sleep(0.1)
    bench.bridge.hand_over(bench.loop.time(), "a deploy")
    await bench.close()
    assert bench.warm.given_up == []


async def test_a_broken_line_is_not_the_end_of_a_warm_transfer() -> None:
    bench = Bench()
    bench.transfers.begin(STEP, warm=True)
    await asyncio.sleep(0.05)
    bench.bridge.end(bench.loop.time())  # Twilio asks what comes next, and the call goes on
    await bench.close()
    assert bench.warm.given_up == []


async def test_a_warm_transfer_that_breaks_is_told_to_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.transfers.begin(STEP, warm=True)
    await asyncio.sleep(0.05)
    bench.warm.decided.set_exception(StoreError("the database is away"))
    await asyncio.sleep(5)
    (event,) = [each for each in bench.events if isinstance(each, CallTransferred)]
    assert (event.to_name, event.outcome) == ("billing", "error")
    assert "a warm transfer failed" in caplog.text


@pytest.mark.parametrize(("language", "words"), [("", "in English"), ("de-DE", "in the language with the code de-DE")])
async def test_the_summary_is_asked_for_in_the_party_s_language(
    language: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def ask(call: Call, instructions: str) -> str:
        asked.append(instructions)
        return "Anna."

    monkeypatch.setattr(Call, "ask", ask)
    bench = Bench()
    assert await bench.transfers._summary(Transfer(name="Werkstatt", language=language)) == "Anna."
    assert words in asked[0]
