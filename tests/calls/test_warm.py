"""Warm transfers of a process: what Twilio is answered about the party, and when the caller gives it up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phoneagent.bridge.steps import Transfer
from phoneagent.calls import warm
from phoneagent.calls.warm import MAX_SUMMARY_CHARS, WarmTransfers
from phoneagent.errors import StoreError, TelephonyError, ToolError
from phoneagent.store import Store
from phoneagent.store.records import ACCEPTED, JOINED, LEFT, OVER, TransferRecord
from phoneagent.twilio.placing import MaybePlaced, NotPlaced, Placing
from phoneagent.twilio.rest import LiveCalls
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
CALL, PARTY = "CA" + "1" * 32, "CA" + "2" * 32
STEP = Transfer(to="+12025550107", name="billing", timeout=20)


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Rest(LiveCalls):
    """Twilio's REST API, as far as it comes to be asked here."""

    def __init__(self) -> None:
        self.placed: list[Placing] = []
        self.done: list[tuple[str, str]] = []
        self.error: TelephonyError | None = None

    async def place(self, wanted: Placing, *, repeat: bool = False) -> str:
        assert repeat
        self.placed.append(wanted)
        if self.error is not None:
            raise self.error
        return PARTY

    async def complete(self, call_sid: str) -> None:
        self.done.append(("complete", call_sid))

    async def redirect(self, call_sid: str, twiml: str) -> None:
        self.done.append(("redirect", twiml))


class Desk:
    """The warm transfers of one process, whose party a test plays."""

    def __init__(self, store: Store) -> None:
        self.rest, self.store = Rest(), store
        self.warm = WarmTransfers(store.transfers, self.rest, url=_url, own_number=None)

    def offer(self, summary: str = "Anna asks.", step: Transfer = STEP) -> asyncio.Task[TransferRecord | None]:
        async def tell() -> str:
            if not summary:
                raise ToolError("the model does not answer")
            return summary

        return asyncio.create_task(self.warm.offer(CALL, step, from_="+15550100002", summary=tell))

    async def placed(self) -> str:
        async with asyncio.timeout(HANG_SECONDS):
            while not self.rest.placed:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        return self.rest.placed[0].url.partition("transfer=")[2].partition("#")[0].partition("&")[0]

    async def twilio(self, transfer_id: str, **form: str) -> str:
        return await self.warm.answer({"transfer": transfer_id, "CallSid": PARTY, "CallStatus": "in-progress", **form})


def _url(path: str, query: dict[str, Any]) -> str:
    return f"https://agent.example{path}?" + "&".join(f"{name}={value}" for name, value in sorted(query.items()))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store:
        made = Desk(store)
        yield made
        await made.warm.close()


async def test_a_party_hears_the_summary_and_takes_the_call(desk: Desk) -> None:
    task = desk.offer("Anna  asks\nabout <1>\x01 invoice.")
    transfer_id = await desk.placed()
    (wanted,) = desk.rest.placed
    assert (wanted.to, wanted.from_, wanted.ring_seconds) == (STEP.to, "+15550100002", 20)
    assert wanted.events == ("completed",)
    first = await desk.twilio(transfer_id)
    assert first.count("A caller for billing. Anna asks about &lt;1&gt; invoice. Press 1 to take the call.") == 2
    assert first.endswith("</Gather><Hangup /></Response>")
    assert await desk.twilio(transfer_id) == first  # Twilio asks twice
    assert f">{transfer_id}</Conference>" in await desk.twilio(transfer_id, Digits="1")
    row = await task
    assert row is not None
    assert (row.state, row.callee_sid) == (ACCEPTED, PARTY)
    assert f">{transfer_id}</Conference>" in await desk.twilio(transfer_id, Digits="1")
    assert await desk.warm.join(transfer_id)
    assert await desk.warm.join(transfer_id)
    assert await desk.warm.finish(transfer_id)
    row = await desk.store.transfers.get(transfer_id)
    assert row is not None
    assert row.state == OVER
    assert len(desk.rest.placed) == 1


@pytest.mark.parametrize(
    ("form", "state"),
    [
        ({"Digits": "2"}, "declined"),
        ({"ended": "1", "CallStatus": "completed"}, "declined"),
        ({"ended": "1", "CallStatus": "busy"}, "busy"),
        ({"ended": "1", "CallStatus": "no-answer"}, "no-answer"),
        ({"ended": "1", "CallStatus": "failed"}, "failed"),
        ({"ended": "1", "CallStatus": "a new one"}, "unknown"),
    ],
)
async def test_a_party_that_does_not_take_the_call(desk: Desk, form: dict[str, str], state: str) -> None:
    task = desk.offer()
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id, **form)
    row = await task
    assert row is not None
    assert row.state == state
    for late in ({}, {"Digits": "1"}):
        assert "no longer waiting" in await desk.twilio(transfer_id, **late)


async def test_without_a_summary_the_party_is_asked_all_the_same(desk: Desk) -> None:
    task = desk.offer("")
    assert "A caller for billing. Press 1" in await desk.twilio(await desk.placed())
    task.cancel()
    await asyncio.wait({task})


async def test_a_party_may_be_asked_in_another_language(desk: Desk) -> None:
    german = replace(STEP, ask="Drücken Sie die Eins.", language="de-DE")
    task = desk.offer("Anna fragt nach der Rechnung.", german)
    transfer_id = await desk.placed()
    words = '<Say language="de-DE">Anna fragt nach der Rechnung. Drücken Sie die Eins.</Say>'
    assert (await desk.twilio(transfer_id)).count(words) == 2
    await desk.twilio(transfer_id, Digits="2")
    await task
    late = await desk.twilio(transfer_id)
    assert ("Say" in late, "<Hangup />" in late) == (False, True), "nothing in English either"


async def test_a_summary_is_short(desk: Desk) -> None:
    task = desk.offer("word " * 500)
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id)
    row = await desk.store.transfers.get(transfer_id)
    assert row is not None
    assert len(row.summary or "") == MAX_SUMMARY_CHARS
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize(
    ("error", "state", "seconds"),
    [
        (NotPlaced("401", code=20003), "error", 1),
        (MaybePlaced("500", code=20500, retry=True), "error", 1),
        (NotPlaced("no connection", retry=True), "error", 1),
        (MaybePlaced("no answer", retry=True), "unknown", 40),
    ],
)
async def test_a_party_that_may_not_have_been_called(
    desk: Desk, error: TelephonyError, state: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "LOST_SECONDS", -20.0)  # the dates are real, so that the time is up at once
    desk.rest.error = error
    loop = asyncio.get_running_loop()
    began = loop.time()
    row = await desk.offer()
    assert row is not None
    assert row.state == state
    assert loop.time() - began < seconds
    assert len(desk.rest.placed) == 1


async def test_a_party_that_rings_although_no_answer_came(desk: Desk) -> None:
    desk.rest.error = MaybePlaced("no answer", retry=True)
    task = desk.offer()
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id)
    assert "</Conference>" in await desk.twilio(transfer_id, Digits="1")
    row = await task
    assert row is not None
    assert row.state == ACCEPTED


async def test_a_party_that_thinks_too_long_is_hung_up_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "DECIDE_SECONDS", -20.0)
    row = await desk.offer()
    assert row is not None
    assert row.state == "unknown"
    assert desk.rest.done == [("complete", PARTY)]


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_caller_who_is_gone(desk: Desk, accepted: bool) -> None:
    task = desk.offer()
    transfer_id = await desk.placed()
    if accepted:
        await desk.twilio(transfer_id, Digits="1")
    await desk.warm.give_up(CALL)
    await desk.warm.give_up(CALL)
    assert desk.rest.done == [("complete", PARTY)]
    assert "no longer waiting" in await desk.twilio(transfer_id)
    assert not await desk.warm.join(transfer_id)
    await task


@pytest.mark.parametrize("over", [False, True])
async def test_a_caller_who_hangs_up_on_the_way_to_the_party(desk: Desk, over: bool) -> None:
    """Twilio was told to connect them, and reports the end of the call. The end of a stream says nothing about it."""
    task = desk.offer()
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id, Digits="1")
    await task
    assert await desk.warm.join(transfer_id)
    await desk.warm.give_up(CALL, over=over)
    await desk.warm.give_up(CALL, over=over)
    assert desk.rest.done == [("complete", PARTY)] * over
    row = await desk.store.transfers.get(transfer_id)
    assert row is not None
    assert row.state == (OVER if over else JOINED)
    assert await desk.warm.finish(transfer_id), "the report may come before the end of the conference"
    await desk.twilio(transfer_id, ended="1", CallStatus="completed")
    await asyncio.sleep(10)
    assert len(desk.rest.done) == over, "nobody is brought back"


@pytest.mark.parametrize("state", ["spoke", "left"])
async def test_the_end_of_a_call_after_the_conference_ends_no_other_call(desk: Desk, state: str) -> None:
    task = desk.offer()
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id, Digits="1")
    await task
    if state == "spoke":
        assert await desk.warm.join(transfer_id)
        assert await desk.warm.finish(transfer_id)
    else:
        await desk.twilio(transfer_id, ended="1", CallStatus="completed")
    await desk.warm.give_up(CALL, over=True)
    assert desk.rest.done == []


async def test_a_caller_who_hangs_up_at_the_moment_of_joining(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    task = desk.offer()
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id, Digits="1")
    await task
    reading = desk.store.transfers.open

    async def read_and_join(call_sid: str, **options: bool) -> TransferRecord | None:
        row = await reading(call_sid, **options)
        await desk.warm.join(transfer_id)  # in another process
        return row

    monkeypatch.setattr(desk.store.transfers, "open", read_and_join)
    await desk.warm.give_up(CALL, over=True)
    assert desk.rest.done == [("complete", PARTY)]


async def test_a_party_that_has_left(desk: Desk) -> None:
    task = desk.offer()
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id, Digits="1")
    await desk.twilio(transfer_id, ended="1", CallStatus="completed")
    await task
    assert not await desk.warm.join(transfer_id)
    assert not await desk.warm.finish(transfer_id)
    row = await desk.store.transfers.get(transfer_id)
    assert row is not None
    assert row.state == LEFT


@pytest.mark.parametrize("alone", [False, True])
async def test_a_caller_who_would_be_alone_in_the_conference(desk: Desk, alone: bool) -> None:
    task = desk.offer()
    transfer_id = await desk.placed()
    await desk.twilio(transfer_id, Digits="1")
    await task
    assert await desk.warm.join(transfer_id)
    await desk.twilio(transfer_id, ended="1", CallStatus="completed")
    if not alone:
        await desk.warm.finish(transfer_id)  # the caller's own call has come out of it
    await asyncio.sleep(10)
    redirects = [twiml for what, twiml in desk.rest.done if what == "redirect"]
    assert len(redirects) == alone
    assert all(f"conference={transfer_id}" in each for each in redirects)
    row = await desk.store.transfers.get(transfer_id)
    assert row is not None
    assert row.state == (LEFT if alone else OVER)
    assert row.state != JOINED


async def test_another_process_goes_on_with_a_transfer(desk: Desk) -> None:
    task = desk.offer()
    transfer_id = await desk.placed()
    other = WarmTransfers(desk.store.transfers, desk.rest, url=_url, own_number=None)
    row = await other.open(CALL)
    assert row is not None

    async def tell() -> str:
        return "Anna asks."

    watching = asyncio.create_task(other.follow(row.id, tell))
    await other.answer({"transfer": transfer_id, "CallSid": PARTY, "CallStatus": "in-progress", "Digits": "1"})
    found = [await task, await watching]
    assert [each is not None and each.state for each in found] == [ACCEPTED, ACCEPTED]
    assert await other.open("CA9") is None


async def test_an_unknown_transfer_is_hung_up_on(desk: Desk) -> None:
    assert "no longer waiting" in await desk.twilio("nothing")


async def test_without_the_database_no_call_is_placed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: object) -> None:
        raise StoreError("it is away")

    monkeypatch.setattr(desk.store.transfers, "begin", away)
    assert await desk.offer() is None
    assert desk.rest.placed == []


async def test_a_party_that_is_being_placed_when_the_caller_hangs_up_is_hung_up_on(desk: Desk) -> None:
    answer = asyncio.Event()
    place = desk.rest.place

    async def placing(wanted: Placing, *, repeat: bool = False) -> str:
        sid = await place(wanted, repeat=repeat)
        await answer.wait()
        return sid

    desk.rest.place = placing  # type: ignore[method-assign]
    task = desk.offer()
    await desk.placed()
    task.cancel()  # the caller's media stream is over
    await asyncio.wait({task})
    await desk.warm.give_up(CALL)
    assert desk.rest.done == []  # nothing is known of the party yet
    answer.set()
    async with asyncio.timeout(HANG_SECONDS):
        while not desk.rest.done:
            await asyncio.sleep(0.01)
    assert desk.rest.done == [("complete", PARTY)]
