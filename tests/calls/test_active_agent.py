"""The agent that has a call, and what a hand-off does to the model's session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, tool
from phoneagent.agent.handoffs import INSTRUCTIONS_SECONDS
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.history import Role, ToolRun
from phoneagent.bridge.requests import RunTool, SessionChanged
from phoneagent.bridge.toolcalls import ToolCall
from phoneagent.calls import active_agent
from phoneagent.calls.active_agent import ActiveAgent
from phoneagent.protocol.realtime import Error, Failure, SessionUpdate, SessionUpdated

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


@tool
async def refund() -> str:
    """Refund."""
    return "refunded"


@tool
async def take_message() -> str:
    """Take message."""
    return "taken"


BILLING = Agent(name="billing", instructions="You do bills.", tools=[refund], handoffs=["Front desk"], voice="cedar")
FRONT = Agent(name="Front desk", instructions="You answer.", tools=[take_message], handoffs=[BILLING])


class Ignored:
    """An observer that needs to know nothing."""

    def trouble(self, what: str, now: float) -> None: ...
    def tool_called(self, call: ToolCall, now: float) -> None: ...
    def tool_returned(self, call: ToolCall, output: str, now: float) -> None: ...
    def message_added(self, role: Role, text: str, now: float) -> None: ...


class Office:
    """An agent that has a call, over a real conversation, and what was changed in its session.

    The server takes each change, refuses it (`refuses` is a code), or does not answer (`refuses` is empty). It sees a
    change once the office has flushed it.
    """

    def __init__(self, agent: Agent = FRONT, past: Sequence[ToolRun] = (), refuses: str | None = None) -> None:
        self.updates: list[dict[str, Any]] = []
        self.refuses = refuses
        self.refuses_only: str | None = None
        self.names_event = True
        self.away = False
        self.speakers: list[str] = []
        self.spoken = True
        self.call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
        self.conversation = Conversation(self.take, Ignored())
        self.desk = ActiveAgent(
            agent,
            self.call,
            past=past,
            change_session=self.change_session,
            flush=self.flush,
            agent_named=self.speakers.append,
            voice_fixed=lambda: self.spoken,
        )

    def take(self, request: RunTool | SessionChanged) -> None:
        assert isinstance(request, SessionChanged)
        self.desk.session_changed(request)

    def change_session(self, session: Mapping[str, Any]) -> str:
        self.updates.append(dict(session))
        return self.conversation.change_session(session)

    def flush(self) -> None:
        asyncio.get_running_loop().call_soon(self.serve)

    def serve(self) -> None:
        """Answer the next change as the model's server does."""
        if self.away or not self.conversation.outbox:
            return
        update = self.conversation.outbox.popleft()
        assert isinstance(update, SessionUpdate)
        if self.refuses is None or self.refuses_only not in (None, *update.session):
            self.hear(SessionUpdated(session=update.session))
        elif self.refuses:
            of = update.event_id if self.names_event else None
            self.hear(Error(error=Failure(code=self.refuses, param="session.tools", event_id=of)))

    def hear(self, event: SessionUpdated | Error) -> None:
        self.conversation.receive(event, 0.0)

    async def session_opened(self) -> None:
        self.conversation.opened()
        await self.desk.session_opened()

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


async def test_a_voice_that_is_refused_does_not_undo_the_hand_off() -> None:
    office = Office(refuses="invalid_value")
    office.spoken, office.refuses_only = False, "audio"
    assert "billing" in await office.run("hand_off_to_billing")
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(office.updates) == 2
    assert office.desk.agent is BILLING


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


async def test_an_agent_whose_instructions_fail_does_not_get_the_call(caplog: pytest.LogCaptureFixture) -> None:
    async def never(call: Call) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    front = Agent(
        instructions="",
        handoffs=[
            Agent(name="broken", instructions=lambda call: str(1 / 0)),
            Agent(name="slow", instructions=never),
        ],
    )
    office = Office(front)
    assert "error" in json.loads(await office.run("hand_off_to_broken"))
    caplog.clear()
    assert json.loads(await office.run("hand_off_to_slow")) == {
        "error": "the call was not handed over, because 'slow' was not ready within 5 s: you still have it"
    }
    assert caplog.messages == ["a call was not handed over: agent 'slow' was not ready within 5 s"]
    assert office.desk.agent is front
    assert office.updates == []


async def test_instructions_whose_own_time_limit_expires_are_not_called_late(caplog: pytest.LogCaptureFixture) -> None:
    async def look_up(call: Call) -> str:
        raise TimeoutError("the CRM is away")

    office = Office(Agent(instructions="", handoffs=[Agent(name="billing", instructions=look_up)]))
    assert "failed" in json.loads(await office.run("hand_off_to_billing"))["error"]
    assert "the CRM is away" in caplog.text


async def test_an_agent_that_is_slow_gets_the_call_of_a_server_that_says_nothing() -> None:
    """The tools that the model was given are those that run."""

    async def slow(call: Call) -> str:
        await asyncio.sleep(INSTRUCTIONS_SECONDS - 0.5)
        return "You do bills."

    billing = Agent(name="billing", instructions=slow, tools=[refund])
    office = Office(Agent(instructions="", tools=[take_message], handoffs=[billing]), refuses="")
    assert "billing" in await office.run("hand_off_to_billing")
    assert [each["name"] for each in office.updates[0]["tools"]] == ["refund"]
    assert office.desk.agent is billing
    assert office.desk.tool("refund") is not None


def test_the_name_of_an_unknown_agent_is_no_tool() -> None:
    assert Office(BILLING).desk.tool("hand_off_to_front_desk") is None
    assert Office().desk.tool("hand_off_to_ghost") is None


@pytest.mark.parametrize("names_event", [True, False])
async def test_an_agent_that_the_server_refuses_does_not_get_the_call(names_event: bool) -> None:
    office = Office(refuses="invalid_value")
    office.names_event = names_event
    output = json.loads(await office.run("hand_off_to_billing"))
    assert output == {"error": "the call was not handed over (invalid_value): you still have it"}
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
        office.hear(Error(error=other))
    office.hear(SessionUpdated(session={}))
    assert "billing" in await handing_over
    office.hear(SessionUpdated(session={}))  # of nobody


async def test_a_server_that_says_nothing_has_taken_it() -> None:
    office = Office(refuses="")
    assert "billing" in await office.run("hand_off_to_billing")
    assert office.desk.agent is BILLING


async def test_a_session_that_is_lost_meanwhile_leaves_the_call_where_it_is() -> None:
    office = Office(refuses="")
    handing_over = asyncio.create_task(office.run("hand_off_to_billing"))
    while not office.updates:
        await asyncio.sleep(0)
    await office.session_opened()
    assert "the connection was lost" in await handing_over
    assert office.desk.agent is FRONT


async def test_a_change_that_was_not_sent_before_the_session_was_lost_is_not_sent_to_the_next() -> None:
    office = Office()
    office.away = True
    handing_over = asyncio.create_task(office.run("hand_off_to_billing"))
    while not office.updates:
        await asyncio.sleep(0)
    assert len(office.conversation.outbox) == 1
    await office.session_opened()
    assert not office.conversation.outbox
    assert "the connection was lost" in await handing_over
    office.away = False
    assert "billing" in await office.run("hand_off_to_billing")


async def test_an_answer_that_comes_too_late_is_not_the_answer_to_the_next_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(active_agent, "ANSWER_SECONDS", 0.01)
    office = Office(refuses="")
    await office.run("hand_off_to_billing")
    monkeypatch.setattr(active_agent, "ANSWER_SECONDS", 60.0)
    going_back = asyncio.create_task(office.run("hand_off_to_front_desk"))
    while len(office.updates) < 2:
        await asyncio.sleep(0)
    office.hear(Error(error=Failure(code="invalid_value", param="session.tools")))  # to the first change
    office.hear(SessionUpdated(session={}))
    assert "Front desk" in await going_back
    assert office.desk.agent is FRONT


# --- a call that goes on in another session ---


async def handed_over(*names: str) -> list[ToolRun]:
    office = Office()
    return [
        ToolRun(call_id=name, name=name, arguments="{}", output=await office.run(name), at_ms=at)
        for at, name in enumerate(names)
    ]


async def test_the_agent_of_the_earlier_stream_has_the_call_again() -> None:
    office = Office(past=await handed_over("hand_off_to_billing"))
    assert office.desk.agent is BILLING
    assert office.speakers == ["billing"]
    await office.session_opened()
    assert office.updates[0]["instructions"] == "You do bills."
    assert office.desk.agent is BILLING


async def test_where_it_came_back_nothing_is_changed() -> None:
    office = Office(past=await handed_over("hand_off_to_billing", "hand_off_to_front_desk"))
    await office.session_opened()
    assert office.desk.agent is FRONT
    assert office.updates == []


async def test_an_agent_that_the_next_session_refuses_returns_the_call_to_the_first_agent() -> None:
    office = Office(past=await handed_over("hand_off_to_billing"), refuses="invalid_value")
    await office.session_opened()
    assert office.desk.agent is BILLING
    while office.desk.agent is BILLING:
        await asyncio.sleep(0)
    assert office.desk.agent is FRONT
    assert office.speakers[-1] == "Front desk"


@pytest.mark.parametrize("output", [None, '{"error": "hand_off_to_billing failed"}'])
def test_one_that_failed_or_was_cut_off_did_not_happen(output: str | None) -> None:
    run = ToolRun(call_id="c", name="hand_off_to_billing", arguments="{}", output=output, at_ms=0)
    assert Office(past=[run]).desk.agent is FRONT


async def test_an_agent_that_cannot_go_on_returns_the_call_to_the_first_agent() -> None:
    broken = Agent(name="billing", instructions=lambda call: str(1 / 0))
    office = Office(Agent(name="front", instructions="", handoffs=[broken]), await handed_over("hand_off_to_billing"))
    with pytest.raises(ZeroDivisionError):
        await office.session_opened()
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
async def test_an_agent_keeps_the_call_if_its_instructions_fail_the_next_time(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_agent, "INSTRUCTIONS_SECONDS", 0.05)
    moody = Moody(fails=fails)
    billing = Agent(name="billing", instructions=moody, tools=[refund])
    office = Office(Agent(name="front", instructions="", handoffs=[billing]))
    await office.run("hand_off_to_billing")
    for renewal in range(2):
        await office.session_opened()
        assert office.desk.agent is billing
        assert office.speakers[-1] == "billing"
        assert office.updates[-1] == office.updates[0]
        assert len(office.updates) == moody.asked == renewal + 2


async def test_instructions_are_written_again_for_the_next_session_where_that_works() -> None:
    asked: list[str] = []

    def write(call: Call) -> str:
        asked.append(call.sid)
        if len(asked) == 3:
            raise OSError("the CRM is away")
        return f"You do bills, {len(asked)}."

    billing = Agent(name="billing", instructions=write)
    office = Office(Agent(name="front", instructions="", handoffs=[billing]))
    await office.run("hand_off_to_billing")
    await office.session_opened()
    await office.session_opened()
    assert [update["instructions"][-2:] for update in office.updates] == ["1.", "2.", "2."]


async def test_an_agent_of_an_earlier_stream_keeps_the_call_if_its_instructions_fail_later() -> None:
    moody = Moody(fails=True)
    billing = Agent(name="billing", instructions=moody)
    office = Office(Agent(name="front", instructions="", handoffs=[billing]), await handed_over("hand_off_to_billing"))
    await office.session_opened()
    await office.session_opened()
    assert moody.asked == 2
    assert office.desk.agent is billing
