"""The calls of one process, between media sockets and model servers that are lists of messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from phoneagent import Agent, Call, tool
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.steps import Resume
from phoneagent.calls import calls as calls_module
from phoneagent.calls.session import Session
from phoneagent.errors import ProtocolError
from phoneagent.events import CallEnded, CallHandedOver, CallStarted, Event, ToolCalled, ToolReturned
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Started, Stopped
from tests.calls.office import SID, Journal, Model, Rig, Socket, new_call, until

pytestmark = pytest.mark.anyio

# --- one call ---


async def test_a_call_is_live_while_its_stream_runs(rig: Callable[..., Rig]) -> None:
    office = rig()
    call = new_call()
    async with office.running(call=call) as (socket, _):
        assert office.live == office.calls.answered == {SID: call}
        assert office.calls.unfinished == 1
    assert office.live == office.calls.answered == {}
    assert office.calls.unfinished == 0
    assert socket.closed
    assert all(model.closed for model in office.models)
    assert {stream_sid for _, stream_sid in office.told} == {"MZ1"}
    assert [event.ended_by for event in office.events(CallEnded)] == ["caller"]


@pytest.mark.parametrize("past", [None, Past(pending="answer")])
async def test_a_stream_that_begins_tells_whether_the_call_goes_on(rig: Callable[..., Rig], past: Past | None) -> None:
    office = rig()
    async with office.running(past=past):
        pass
    (started,) = office.events(CallStarted)
    assert (started.stream_sid, started.caller, started.resumed) == ("MZ1", "+15550100001", past is not None)


async def test_a_live_call_can_be_looked_at(rig: Callable[..., Rig]) -> None:
    office = rig(Agent(instructions="Be brief.", name="host"))
    assert office.calls.look(SID) is None
    async with office.running():
        seen = office.calls.look(SID)
        assert seen is not None
        assert (seen[0], seen[1].name) == (Floor.OPEN, "host")
    assert office.calls.look(SID) is None


async def test_the_session_is_that_of_the_agent_and_greets(rig: Callable[..., Rig]) -> None:
    office = rig(Agent(instructions="Be brief.", greeting="Chez Nous!"))
    async with office.running():
        await until(lambda: bool(office.models and len(office.models[0].sent) == 2))
    (model,) = office.models
    assert model.session["instructions"] == "Be brief."
    assert "Chez Nous!" in str(model.sent)


async def test_the_agent_may_depend_on_the_call(rig: Callable[..., Rig]) -> None:
    office = rig(lambda call: Agent(instructions=f"You speak with {call.caller}."))
    async with office.running():
        await until(lambda: bool(office.models))
    assert office.models[0].session["instructions"] == "You speak with +15550100001."


@pytest.mark.parametrize(
    "answerer",
    [lambda call: 1 / 0, Agent(instructions=lambda call: str(1 / 0))],
    ids=["the choice of the agent", "the agent's instructions"],
)
async def test_where_users_code_fails_the_caller_hears_the_apology(
    rig: Callable[..., Rig], answerer: Any, request: pytest.FixtureRequest
) -> None:
    office = rig(answerer)
    async with office.running():
        await until(lambda: bool(office.calls._sessions[SID].bridge.closing.active))
    assert office.asked == []
    assert request.node.callspec.id in str(office.told)
    assert "failed: ZeroDivisionError" in str(office.told)


async def test_a_process_that_ends_while_the_agent_is_chosen_leaves_nothing(rig: Callable[..., Rig]) -> None:
    asked = asyncio.Event()

    async def undecided(call: Call) -> Agent:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    office = rig(undecided)
    before = asyncio.all_tasks()
    start = Started(stream_sid="MZ1", call_sid=SID, account_sid="AC1")
    running = asyncio.create_task(office.calls.run(new_call(), start, Socket(), None))  # type: ignore[arg-type]
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before


async def test_the_next_session_elsewhere_is_at_the_next_endpoint(rig: Callable[..., Rig]) -> None:
    office = rig(endpoints=2)
    async with office.running():
        await until(lambda: bool(office.models and office.calls._sessions[SID].bridge.conversation.connected))
        office.calls._sessions[SID]._models.renew(elsewhere=True)
        await until(lambda: len(office.models) == 2)
        assert [model.endpoint.host for model in office.models] == ["0", "1"]
        await until(lambda: office.calls._sessions[SID].bridge.conversation.connected)
    assert office.models[1].closed


# --- sessions that are opened ahead ---


async def test_a_session_that_was_opened_ahead_is_the_calls(rig: Callable[..., Rig]) -> None:
    office = rig()
    call = new_call()
    office.calls.expect(call, prepare=True)
    assert office.calls.coming == 1
    assert office.calls.answered == {SID: call}
    await until(lambda: bool(office.models))
    async with office.running() as _:
        assert office.live == {SID: call}  # and not the one that was made for the socket
        assert office.calls.coming == 0
        await until(lambda: office.calls._sessions[SID].bridge.conversation.connected)
    assert len(office.asked) == 1


async def test_without_opening_ahead_the_call_is_expected_all_the_same(rig: Callable[..., Rig]) -> None:
    office = rig()
    office.calls.expect(new_call(), prepare=False)
    assert office.calls.coming == 1
    for _ in range(5):
        await asyncio.sleep(0)
    assert office.asked == []
    await office.calls.forget(SID)
    assert office.calls.coming == 0


async def test_where_twilio_asks_twice_one_session_is_opened(rig: Callable[..., Rig]) -> None:
    office = rig()
    office.calls.expect(new_call(), prepare=True)
    office.calls.arrived(SID)
    assert office.calls.coming == 0
    office.calls.expect(new_call(), prepare=True)
    assert office.calls.coming == 1
    await until(lambda: bool(office.models))
    await office.calls.close()
    assert [model.closed for model in office.models] == [True]
    assert office.calls.answered == {}


async def test_of_too_many_calls_the_sessions_are_opened_at_their_sockets(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "MAX_PREPARED", 2)
    office = rig()
    for number in range(4):
        office.calls.expect(new_call(f"CA{number}"), prepare=True)
    assert office.calls.coming == 4
    await until(lambda: len(office.models) == 2)
    await office.calls.close()
    assert len(office.asked) == 2


async def test_for_a_call_that_is_live_nothing_is_opened_ahead(rig: Callable[..., Rig]) -> None:
    office = rig()
    async with office.running():
        await until(lambda: bool(office.models))
        office.calls.expect(new_call(), prepare=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(office.asked) == 1
        await office.calls.forget(SID)


async def test_a_call_that_is_not_expected_can_be_forgotten(rig: Callable[..., Rig]) -> None:
    await rig().calls.forget(SID)


# --- media sockets ---


async def test_a_media_socket_counts_as_unfinished_until_it_is_done(rig: Callable[..., Rig]) -> None:
    calls = rig().calls

    def fail() -> None:
        with calls.counted():
            assert calls.unfinished == 1
            raise ProtocolError("no start")

    with pytest.raises(ProtocolError):
        fail()
    assert calls.unfinished == 0


async def test_of_two_media_sockets_of_a_call_the_later_one_is_the_newest(rig: Callable[..., Rig]) -> None:
    calls = rig().calls
    first, second = calls.arrived(SID), calls.arrived(SID)
    assert not calls.is_newest(SID, first)
    assert calls.is_newest(SID, second)
    calls.left(SID, first)
    assert calls.is_newest(SID, second)
    calls.left(SID, second)
    assert not calls.is_newest(SID, second)


# --- a call that ends, or goes on elsewhere ---


async def test_a_call_that_twilio_reports_as_over_ends(rig: Callable[..., Rig]) -> None:
    office = rig()
    async with office.running() as (_, running):
        assert office.calls.end(SID, "Twilio reports that it is completed")
        await running
    assert not office.calls.end(SID, "again")
    (ended,) = office.events(CallEnded)
    assert (ended.ended_by, ended.reason) == ("caller", "Twilio reports that it is completed")


async def test_a_call_without_a_stream_here_has_nothing_to_supersede(rig: Callable[..., Rig]) -> None:
    assert rig().calls.supersede(SID) is None


async def test_without_a_journal_a_second_media_socket_is_refused(rig: Callable[..., Rig]) -> None:
    office = rig()
    async with office.running() as (_, running):
        with pytest.raises(ProtocolError, match="has a media socket already"):
            office.calls.supersede(SID)
        assert not running.done()


async def test_a_newer_media_socket_takes_over_and_learns_what_was_open(rig: Callable[..., Rig]) -> None:
    office = rig(journal=Journal())
    async with office.running() as (_, running):
        await until(lambda: bool(office.models and office.calls._sessions[SID].bridge.conversation.connected))
        assert office.calls.supersede(SID) == "nothing"
        await running
    (handed_over,) = office.events(CallHandedOver)
    assert handed_over.reason == "a newer media stream took over"


async def test_of_a_call_that_was_about_to_end_it_is_unknown_what_was_open(rig: Callable[..., Rig]) -> None:
    office = rig(journal=Journal())
    call = new_call()
    async with office.running(call=call):
        await until(lambda: bool(office.models and office.calls._sessions[SID].bridge.conversation.connected))
        call.hang_up()
        assert office.calls.supersede(SID) == "unknown"


async def test_a_stream_that_came_while_the_older_one_was_looked_up_ends_that(rig: Callable[..., Rig]) -> None:
    office = rig(journal=Journal())
    async with office.running("MZ1") as (_, older), office.running("MZ2", past=Past(pending="nothing")):
        await older
        assert SID in office.live  # it is the newer stream's
        assert [stream_sid for event, stream_sid in office.told if isinstance(event, CallHandedOver)] == ["MZ1"]
    assert office.live == {}
    assert [stream_sid for event, stream_sid in office.told if isinstance(event, CallEnded)] == ["MZ2"]


def call_tools(session: Session, name: str, count: int) -> None:
    """Let the model call a tool so many times in one response."""
    calls = [
        {"id": f"f{n}", "type": "function_call", "call_id": f"c{n}", "name": name, "arguments": "{}"}
        for n in range(count)
    ]

    def come(kind: str, **fields: Any) -> None:
        session._take_event(session._models.current, json.dumps({"type": kind, **fields}).encode())

    come("response.created", response={"id": "r1", "status": "in_progress"})
    for index, item in enumerate(calls):
        begun = {**item, "arguments": "", "status": "in_progress"}
        come("response.output_item.added", response_id="r1", output_index=index, item=begun)
        come("response.output_item.done", response_id="r1", output_index=index, item={**item, "status": "completed"})
    come("response.done", response={"id": "r1", "status": "completed", "output": calls})


@pytest.mark.parametrize("streams", [1, 2])
async def test_what_tools_return_after_the_last_stream_reaches_records_and_hooks_and_delays_no_other_event(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    returns = asyncio.Event()
    heard: list[Event] = []

    @tool
    async def book() -> str:
        """Book a table."""
        await returns.wait()
        return "booked"

    async def note(event: Event) -> None:
        heard.append(event)

    monkeypatch.setattr(Model, "decode", lambda self, raw: realtime.decode(raw))
    office = rig(Agent(instructions="x", tools=[book]), journal=Journal())
    office.calls._hooks.add(CallEnded | ToolReturned, note)
    async with office.running("MZ1") as (socket, _):
        await until(lambda: bool(office.models and office.calls._sessions[SID].bridge.conversation.connected))
        call_tools(office.calls._sessions[SID], "book", 2)
        await until(lambda: len(office.events(ToolCalled)) == 2)
        if streams == 1:
            socket.incoming.put_nowait(Stopped())
        else:
            async with office.running("MZ2", past=Past(pending="answer")):  # which takes the call over
                pass
        await until(lambda: [type(each) for each in heard] == [CallEnded])
        assert office.calls.unfinished == 1, "the tools still run"
        returns.set()
    assert {each.call_id for each in office.events(ToolReturned)} == {"c0", "c1"}
    assert [type(each) for each in heard] == [CallEnded, ToolReturned, ToolReturned]
    assert office.calls.unfinished == 0


async def test_when_the_process_leaves_its_calls_go_on_elsewhere_and_so_do_those_that_come(
    rig: Callable[..., Rig],
) -> None:
    journal = Journal()
    office = rig(journal=journal)
    async with office.running() as (_, running):
        await until(lambda: bool(office.models and office.calls._sessions[SID].bridge.conversation.connected))
        office.calls.hand_over("the process ends")
        await running
    async with office.running("MZ2", past=Past(pending="nothing")) as (_, running):
        await running
    assert [event.reason for event in office.events(CallHandedOver)] == ["the process ends"] * 2
    assert [step.stream_sid for step in journal.steps if isinstance(step, Resume) and not step.broke] == ["MZ1", "MZ2"]


async def test_a_call_can_be_handed_over_at_once(rig: Callable[..., Rig]) -> None:
    journal = Journal()
    office = rig(journal=journal)
    office.calls.hand_over_now("CA2", "not here")
    async with office.running() as (_, running):
        office.calls.hand_over_now(SID, "the process ends now")
        await running
    assert [type(step) for step in journal.steps] == [Resume]


async def test_a_call_that_cannot_be_handed_over_does_not_keep_the_others(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(reason: str) -> None:
        raise LookupError

    office = rig(journal=Journal())
    async with office.running():
        monkeypatch.setattr(office.calls._sessions[SID], "hand_over_now", broken)
        office.calls.hand_over_now(SID, "the process ends")
    assert caplog.messages == ["the call could not be handed over"]


# --- what is kept of a turn before it is over ---


async def test_what_was_read_of_a_made_call_at_its_media_socket_is_the_calls(rig: Callable[..., Rig]) -> None:
    office, first, later = rig(), new_call(), new_call()
    later.context = {"name": "Anna"}  # the database did not answer at the webhook
    office.calls.expect(first, prepare=True)
    async with office.running(call=later):
        assert office.live == {SID: first}
        assert first.context == {"name": "Anna"}
