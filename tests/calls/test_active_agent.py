"""The agent that has a call, and what a hand-off does to the model's session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, tool
from phoneagent.bridge.history import ToolRun
from phoneagent.calls import active_agent
from phoneagent.calls.active_agent import ActiveAgent
from phoneagent.protocol.realtime import Error, Failure, SessionUpdated

pytestmark = pytest.mark.anyio


@tool
async def refund() -> str:
    return "refunded"


@tool
async def take_message() -> str:
    return "taken"


BILLING = Agent(name="billing", instructions="You do bills.", tools=[refund], handoffs=["Front desk"], voice="cedar")
FRONT = Agent(name="Front desk", instructions="You answer.", tools=[take_message], handoffs=[BILLING])


class Office:
    """A desk, what it did to the session, and the server that takes it, refuses it (a code) or does not answer ("")."""

    def __init__(self, agent: Agent = FRONT, past: Sequence[ToolRun] = (), refuses: str | None = None) -> None:
        self.updates: list[dict[str, Any]] = []
        self.refuses = refuses
        self.names_event = True
        self.speakers: list[str] = []
        self.spoken = True
        self.call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
        self.desk = ActiveAgent(
            agent,
            self.call,
            past=past,
            reconfigure=self.reconfigure,
            speaks=self.speakers.append,
            voice_fixed=lambda: self.spoken,
        )

    def reconfigure(self, session: dict[str, Any], event_id: str) -> None:
        self.updates.append(session)
        if self.refuses is None:
            asyncio.get_running_loop().call_soon(self.desk.receive, SessionUpdated(session=session))
        elif self.refuses:
            of = event_id if self.names_event else None
            failure = Failure(code=self.refuses, param="session.tools", event_id=of)
            asyncio.get_running_loop().call_soon(self.desk.receive, Error(error=failure))

    async def run(self, name: str) -> str:
        found = self.desk.tool(name)
        assert found is not None
        return await found.run(self.call, "{}")


async def test_the_call_is_handed_over() -> None:
    office = Office()
    assert "billing" in await office.run("hand_off_to_billing")
    assert office.desk.agent is BILLING
    (update,) = office.updates
    assert update["instructions"] == "You do bills."
    assert [each["name"] for each in update["tools"]] == ["refund", "hand_off_to_front_desk"]
    assert update.keys() == {"type", "instructions", "tools"}
    assert office.speakers == ["Front desk", "billing"]
    assert office.desk.tool("take_message") is None
    assert await office.run("refund") == "refunded"


async def test_and_back() -> None:
    office = Office()
    await office.run("hand_off_to_billing")
    await office.run("hand_off_to_front_desk")
    assert office.desk.agent is FRONT
    assert office.speakers[-1] == "Front desk"


async def test_before_anything_was_heard_the_voice_changes_too() -> None:
    office = Office()
    office.spoken = False
    await office.run("hand_off_to_billing")
    spoken = {"type": "realtime", "audio": {"output": {"voice": "cedar"}}}
    assert [each.keys() for each in office.updates] == [{"type", "instructions", "tools"}, {"type", "audio"}]
    assert office.updates[1] == spoken  # alone: where it is refused, the rest holds
    office.spoken = True
    await office.run("hand_off_to_front_desk")
    assert office.updates[3] == spoken  # as it is: that is always allowed


async def test_a_choice_of_tools_goes_along() -> None:
    silent = Agent(name="silent", instructions="", tool_choice="none")
    office = Office(Agent(instructions="", handoffs=[silent]))
    await office.run("hand_off_to_silent")
    assert office.updates[1:] == [{"type": "realtime", "tool_choice": "none"}]


async def test_instructions_may_depend_on_the_call() -> None:
    later = Agent(name="later", instructions=lambda call: f"For {call.sid}.")
    office = Office(Agent(instructions="", handoffs=[later]))
    await office.run("hand_off_to_later")
    assert office.updates[0]["instructions"] == "For CA1."


async def test_an_agent_who_cannot_take_it_leaves_it_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(call: Call) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(active_agent, "INSTRUCTIONS_SECONDS", 0.01)
    front = Agent(
        instructions="",
        handoffs=[
            Agent(name="broken", instructions=lambda call: str(1 / 0)),
            Agent(name="slow", instructions=never),
        ],
    )
    office = Office(front)
    for name in ("broken", "slow"):
        assert "error" in json.loads(await office.run(f"hand_off_to_{name}"))
    assert office.desk.agent is front
    assert office.updates == []


def test_a_name_that_nobody_has_is_no_tool() -> None:
    assert Office(BILLING).desk.tool("hand_off_to_front_desk") is None
    assert Office().desk.tool("hand_off_to_ghost") is None


@pytest.mark.parametrize("names_event", [True, False])
async def test_one_whom_the_server_refuses_does_not_get_the_call(names_event: bool) -> None:
    office = Office(refuses="invalid_value")
    office.names_event = names_event
    output = json.loads(await office.run("hand_off_to_billing"))
    assert output == {"error": "the call was not handed over (invalid_value): you are still the one who has it"}
    assert office.desk.agent is FRONT
    assert office.desk.tool("take_message") is not None
    assert office.speakers == ["Front desk"]
    assert len(office.updates) == 1  # nothing of the other agent's follows
    office.refuses = None
    assert "billing" in await office.run("hand_off_to_billing")
    assert office.desk.agent is BILLING


async def test_other_errors_refuse_nothing() -> None:
    office = Office(refuses="")
    handing_over = asyncio.create_task(office.run("hand_off_to_billing"))
    while not office.updates:
        await asyncio.sleep(0)
    for other in (Failure(code="server_error"), Failure(event_id="create_1"), Failure(param="item.id")):
        office.desk.receive(Error(error=other))
    office.desk.receive(SessionUpdated(session={}))
    assert "billing" in await handing_over
    office.desk.receive(SessionUpdated(session={}))  # of nobody


async def test_a_server_that_says_nothing_has_taken_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_agent, "ANSWER_SECONDS", 0.01)
    office = Office(refuses="")
    assert "billing" in await office.run("hand_off_to_billing")
    assert office.desk.agent is BILLING


async def test_a_session_that_is_lost_meanwhile_leaves_the_call_where_it_is() -> None:
    office = Office(refuses="")
    handing_over = asyncio.create_task(office.run("hand_off_to_billing"))
    while not office.updates:
        await asyncio.sleep(0)
    await office.desk.session_opened()
    assert "the connection was lost" in await handing_over
    assert office.desk.agent is FRONT


# --- a call that goes on in another session ---


async def handed_over(*names: str) -> list[ToolRun]:
    office = Office()
    return [
        ToolRun(call_id=name, name=name, arguments="{}", output=await office.run(name), at_ms=at)
        for at, name in enumerate(names)
    ]


async def test_whoever_had_the_call_has_it_again() -> None:
    office = Office(past=await handed_over("hand_off_to_billing"))
    assert office.desk.agent is BILLING
    assert office.speakers == ["billing"]
    await office.desk.session_opened()
    assert office.updates[0]["instructions"] == "You do bills."
    assert office.desk.agent is BILLING


async def test_where_it_came_back_nothing_is_changed() -> None:
    office = Office(past=await handed_over("hand_off_to_billing", "hand_off_to_front_desk"))
    await office.desk.session_opened()
    assert office.desk.agent is FRONT
    assert office.updates == []


async def test_whom_the_next_session_refuses_leaves_the_call_to_the_one_who_answered() -> None:
    office = Office(past=await handed_over("hand_off_to_billing"), refuses="invalid_value")
    await office.desk.session_opened()
    assert office.desk.agent is BILLING
    while office.desk.agent is BILLING:
        await asyncio.sleep(0)
    assert office.desk.agent is FRONT
    assert office.speakers[-1] == "Front desk"


@pytest.mark.parametrize("output", [None, '{"error": "hand_off_to_billing failed"}'])
def test_one_that_failed_or_was_cut_off_did_not_happen(output: str | None) -> None:
    run = ToolRun(call_id="c", name="hand_off_to_billing", arguments="{}", output=output, at_ms=0)
    assert Office(past=[run]).desk.agent is FRONT


async def test_who_cannot_go_on_leaves_the_call_to_the_one_who_answered() -> None:
    broken = Agent(name="billing", instructions=lambda call: str(1 / 0))
    office = Office(Agent(name="front", instructions="", handoffs=[broken]), await handed_over("hand_off_to_billing"))
    with pytest.raises(ZeroDivisionError):
        await office.desk.session_opened()
    assert office.desk.agent.name == "front"
    assert office.speakers[-1] == "front"


class Moody:
    """Instructions that are written once, and then fail, or take for ever."""

    def __init__(self, *, fails: bool) -> None:
        self.asked = 0
        self.fails = fails

    async def __call__(self, call: Call) -> str:
        self.asked += 1
        if self.asked > 1 and self.fails:
            raise OSError("the CRM is away")
        if self.asked > 1:
            await asyncio.Event().wait()
        return f"You do bills, {self.asked}."


@pytest.mark.parametrize("fails", [True, False])
async def test_who_was_handed_the_call_keeps_it_where_their_instructions_fail_the_next_time(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_agent, "INSTRUCTIONS_SECONDS", 0.05)
    moody = Moody(fails=fails)
    billing = Agent(name="billing", instructions=moody, tools=[refund])
    office = Office(Agent(name="front", instructions="", handoffs=[billing]))
    await office.run("hand_off_to_billing")
    for renewal in range(2):
        await office.desk.session_opened()
        assert office.desk.agent is billing
        assert office.speakers[-1] == "billing"
        assert office.updates[-1] == office.updates[0]
        assert len(office.updates) == moody.asked == renewal + 2


async def test_instructions_are_written_anew_for_the_next_session_where_that_works() -> None:
    asked: list[str] = []

    def write(call: Call) -> str:
        asked.append(call.sid)
        if len(asked) == 3:
            raise OSError("the CRM is away")
        return f"You do bills, {len(asked)}."

    billing = Agent(name="billing", instructions=write)
    office = Office(Agent(name="front", instructions="", handoffs=[billing]))
    await office.run("hand_off_to_billing")
    await office.desk.session_opened()
    await office.desk.session_opened()
    assert [update["instructions"][-2:] for update in office.updates] == ["1.", "2.", "2."]


async def test_whoever_had_the_call_in_an_earlier_stream_keeps_it_as_well() -> None:
    moody = Moody(fails=True)
    billing = Agent(name="billing", instructions=moody)
    office = Office(Agent(name="front", instructions="", handoffs=[billing]), await handed_over("hand_off_to_billing"))
    await office.desk.session_opened()
    await office.desk.session_opened()
    assert moody.asked == 2
    assert office.desk.agent is billing
