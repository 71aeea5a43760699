"""Calls that are elsewhere for a while: with other TwiML, on their way to another process, or given up on their way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded, CallStarted, ToolReturned, TurnEnded, tool
from phoneagent.bridge.steps import HangUp
from phoneagent.calls import journal, pending
from phoneagent.errors import StoreError
from phoneagent.sim.speech import Murmur
from phoneagent.store import CallDetails, Store
from tests.end_to_end.by_hand import CALL_SID, after, listen, open_stream, post, stop, told
from tests.end_to_end.conftest import World, Worlds
from tests.patience import HANG_SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]  # which stream is the later one goes by the date
AGENT = Agent(instructions="x", greeting="Hello!")
WHO = {"From": "+15550100001", "To": "+15550100002", "Direction": "inbound"}
RINGS, LIVES, OVER = ({"CallStatus": status, **WHO} for status in ("ringing", "in-progress", "completed"))
STREAMS = [f"MZ{number:032x}" for number in range(3)]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, its database answers in time."""
    for name in ("WRITE_SECONDS", "PATIENT_SECONDS", "READ_SECONDS", "KNOWN_READ_SECONDS"):
        monkeypatch.setattr(journal, name, HANG_SECONDS)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as kept:
        yield kept


async def record(kept: Store) -> CallDetails:
    details = await kept.call(CALL_SID)
    assert details is not None
    return details


async def first_stream(w: World) -> None:
    """A call that is greeted, and then taken away by other TwiML: its stream is stopped, the call lives."""
    socket = await open_stream(w, await post(w, "/twilio/voice", CALL_SID, **RINGS), STREAMS[0])
    listening = asyncio.create_task(listen(socket))
    await w.until(lambda: w.of(TurnEnded))
    await socket.send(stop(STREAMS[0]))
    await listening
    await w.until(lambda: w.of(CallEnded))


async def test_a_call_that_comes_back_from_other_twiml_goes_on_and_can_be_handed_over(
    world: Worlds, store: Store
) -> None:
    async with world(AGENT, store=store) as w:
        await first_stream(w)
        assert (await record(store)).ended_by == "caller"  # as far as anybody could know
        second = await open_stream(w, await post(w, "/twilio/voice", CALL_SID, **LIVES), STREAMS[1])
        await w.until(lambda: len(w.model.sessions) == 2 and told(w.model.sessions[1]))
        assert w.of(CallStarted)[1].resumed
        assert w.model.sessions[1].said != ["Hello!"]
        assert "This is the same phone call" in told(w.model.sessions[1])[-1]
        async with asyncio.timeout(HANG_SECONDS):  # it is noted as soon as the database is back
            while (details := await record(store)).stream_sid != STREAMS[1]:
                await asyncio.sleep(0.01)
        assert details.ended_by is None
        w.app.hand_over_now(CALL_SID, "test")
        await second.wait_closed()
        third = await open_stream(w, await after(w, CALL_SID), STREAMS[2])
        await w.until(lambda: len(w.of(CallStarted)) == 3)
        await third.send(stop(STREAMS[2]))
        await w.until(lambda: len(w.of(CallEnded)) == 2)
        details = await record(store)
        assert (details.stream_sid, details.ended_by, len(details.streams)) == (STREAMS[2], "caller", 3)
        assert "Hangup" in await after(w, CALL_SID)


async def test_a_call_that_has_come_back_survives_a_crash_too(world: Worlds, store: Store) -> None:
    async with world(AGENT, store=store) as w:
        await first_stream(w)
        second = await open_stream(w, await post(w, "/twilio/voice", CALL_SID, **LIVES), STREAMS[1])
        await w.until(lambda: len(w.of(CallStarted)) == 2)
        await store.flush()
        async with Store.from_url(store._database.url) as other:  # another process, which knows nothing by itself
            answer = await journal.CallJournal(other, None, fallback_number=None).answer(CALL_SID)
        assert answer == journal.Continuation("recover", STREAMS[1])
        await second.close()


async def test_the_caller_and_the_parameters_stay_when_a_call_goes_on(world: Worlds, store: Store) -> None:
    sip = {"From": f"sip:{WHO['From']}@pbx.example:5061", "SipHeader_X-Queue": "vip", "CallerName": "ANNA"}
    seen: list[tuple[str | None, dict[str, str]]] = []

    def choose(call: Call) -> Agent:
        seen.append((call.caller, dict(call.parameters)))
        return AGENT

    async with world(choose, store=store) as w:
        first = await open_stream(w, await post(w, "/twilio/voice", CALL_SID, **RINGS | sip), STREAMS[0])
        await w.until(lambda: w.of(CallStarted))
        await first.close()
        second = await open_stream(w, await after(w, CALL_SID), STREAMS[1], stream="x")
        await w.until(lambda: len(w.of(CallStarted)) == 2)
        assert w.of(CallStarted)[0].caller == WHO["From"]
        assert seen[0] == (WHO["From"], sip)
        # Twilio's request for what comes next has none of it. The stream's own may be there already.
        assert {**seen[1][1], "stream": "x"} == {**sip, "stream": "x"}
        assert len(seen) == 2
        assert w.app.calls[CALL_SID].parameters == sip | {"stream": "x"}
        await second.close()
    assert (await record(store)).caller == WHO["From"]
    assert "vip" not in w.log.text


async def test_an_old_goodbye_does_not_end_a_call_that_has_come_back(world: Worlds, store: Store) -> None:
    """It was about to be hung up when other TwiML took it away."""
    async with world(AGENT, store=store) as w:
        await first_stream(w)
        await store.next_step(CALL_SID, HangUp(stream_sid=STREAMS[0]))
        second = await open_stream(w, await post(w, "/twilio/voice", CALL_SID, **LIVES), STREAMS[1])
        await w.until(lambda: len(w.of(CallStarted)) == 2)
        await second.close()


@pytest.mark.parametrize("known", [True, False])
async def test_a_call_that_lives_and_has_never_been_here_is_greeted(world: Worlds, store: Store, known: bool) -> None:
    """Others have answered it before, or we have dialled. Without a database too, as before the first call of all."""
    if known:
        await store.next_step("CA" + "8" * 32, HangUp())
    async with world(AGENT, store=store) as w:
        socket = await open_stream(w, await post(w, "/twilio/voice", CALL_SID, **LIVES), STREAMS[0])
        await w.until(lambda: w.model.sessions and w.model.sessions[0].said == ["Hello!"])
        assert not w.of(CallStarted)[0].resumed
        await socket.close()


async def test_without_the_database_a_call_that_comes_back_begins_and_is_recorded_later(
    world: Worlds, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise StoreError("the database is away")

    async with world(AGENT, store=store) as w:
        await first_stream(w)
        with monkeypatch.context() as outage:
            outage.setattr(store._database, "read", away)
            twiml = await post(w, "/twilio/voice", CALL_SID, **LIVES)
        second = await open_stream(w, twiml, STREAMS[1])
        await w.until(lambda: len(w.of(CallStarted)) == 2)
        async with asyncio.timeout(HANG_SECONDS):  # it is noted as soon as the database is back
            while (details := await record(store)).stream_sid != STREAMS[1]:
                await asyncio.sleep(0.01)
        assert details.ended_by is None
        w.app.hand_over_now(CALL_SID, "test")
        await second.wait_closed()
        assert "<Connect" in await after(w, CALL_SID)
        await w.app._parts.calls.forget(CALL_SID)


# --- call.state ---


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("crash", [False, True])
async def test_what_a_tool_keeps_is_there_in_the_next_stream(
    world: Worlds, store: Store, crash: bool, processes: int
) -> None:
    """The functions that choose the agent and write its instructions see it too."""
    seen: list[dict[str, Any]] = []

    @tool
    async def note(call: Call) -> str:
        """Note."""
        call.state["guests"] = {"Anna": 2}
        call.state["connection"] = object()
        return "noted"

    def instructions(call: Call) -> str:
        seen.append({**call.state})
        return "x"

    script = '[[turn]]\ncaller = "Note it."\ncall = "note"\nthen = "Done."\n'
    agent = Agent(instructions=instructions, tools=[note])
    async with world(agent, script, store=store, web_concurrency=processes) as w, w.phone().dial() as line:
        await line.say(Murmur().render("Note it."))
        await w.until(lambda: w.of(ToolReturned))
        if crash:
            line.drop()
        else:
            w.app.hand_over_now(line.call_sid, "test")
        await w.until(lambda: len(w.of(CallStarted)) == 2)
        assert w.app.calls[line.call_sid].state == {"guests": {"Anna": 2}}
        assert seen == [{}, {"guests": {"Anna": 2}}]


# --- on the way ---


async def test_what_was_opened_for_a_call_that_went_to_another_process_is_closed(
    world: Worlds, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 3600.0)
    other = Store.from_url(store._database.url)
    async with world(AGENT, store=store) as here, world(AGENT, store=other) as there:
        twiml = await post(here, "/twilio/voice", CALL_SID, **RINGS)
        await here.until(lambda: here.model.sessions)
        assert here.app.coming == 1
        first = await open_stream(there, twiml, STREAMS[0])
        await here.until(lambda: here.app.coming == 0 and here.model.sessions[0].closed)

        there.app.hand_over_now(CALL_SID, "test")  # and the same for a call that goes on
        await first.wait_closed()
        twiml = await after(here, CALL_SID)
        await here.until(lambda: len(here.model.sessions) == 2)
        assert here.app.coming == 1
        second = await open_stream(there, twiml, STREAMS[1])
        await here.until(lambda: here.app.coming == 0 and here.model.sessions[1].closed)
        await second.close()


@pytest.mark.parametrize("path", ["/twilio/status", "/twilio/after"])
async def test_a_caller_who_hangs_up_on_the_way_is_forgotten_at_once(
    world: Worlds, store: Store, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 3600.0)
    async with world(AGENT, store=store, max_calls=1) as w:
        await post(w, "/twilio/voice", CALL_SID, **RINGS)
        await w.until(lambda: w.model.sessions)
        await post(w, path, CALL_SID, **OVER)
        assert (w.app.coming, w.app._parts.calls.pending) == (0, {})
        await w.until(lambda: w.model.sessions[0].closed)
        assert re.search("<Connect", await post(w, "/twilio/voice", "CA" + "6" * 32, **RINGS))  # there is room
        await w.app._parts.calls.forget("CA" + "6" * 32)


async def test_a_made_up_account_asks_nothing_of_twilio(world: Worlds, store: Store) -> None:
    async with world(AGENT, store=store, insecure=True) as w:
        assert w.app._parts.journal is not None
        assert w.app._parts.journal._live_calls is None
    async with world(AGENT, store=store, insecure=True, twilio_api_url="http://127.0.0.1:1") as w:
        assert w.app._parts.journal is not None
        assert w.app._parts.journal._live_calls is not None
