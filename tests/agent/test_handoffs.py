"""Hand-off tools, and the agents that a call can reach by them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, DefinitionError, PhoneApp, Tool, tool
from phoneagent.agent.agent import check_handoffs, choose_answer, team_of
from phoneagent.agent.handoffs import hand_off_tool

pytestmark = pytest.mark.anyio
CALL = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


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


def test_an_agent_has_a_tool_for_each_hand_off() -> None:
    names = [each["name"] for each in FRONT.session("")["tools"]]
    assert names == ["take_message", "hand_off_to_billing"]
    assert [each["name"] for each in BILLING.session("")["tools"]] == ["refund", "hand_off_to_front_desk"]


def test_a_circle_is_a_team() -> None:
    assert team_of(FRONT) == {"Front desk": FRONT, "billing": BILLING}
    check_handoffs(FRONT)


def test_a_hand_off_to_an_unknown_agent_is_refused() -> None:
    with pytest.raises(
        DefinitionError, match="'billing' hands off to 'Front desk', and no agent has that name: use one of"
    ):
        check_handoffs(BILLING)


def test_two_agents_of_one_name() -> None:
    other = Agent(name="billing", instructions="Another one.")
    middle = Agent(name="middle", instructions="", handoffs=[other])
    with pytest.raises(DefinitionError, match="two agents are named 'billing'"):
        Agent(name="front", instructions="", handoffs=[BILLING, middle])


def test_one_agent_may_be_reached_in_two_ways() -> None:
    middle = Agent(name="middle", instructions="", handoffs=[BILLING])
    Agent(name="front", instructions="", handoffs=[BILLING, middle])


@pytest.mark.parametrize("member", ["me", 7, None])
def test_a_hand_off_is_to_another_agent(member: Any) -> None:
    with pytest.raises(DefinitionError, match="name another agent"):
        Agent(name="me", instructions="", handoffs=[member])


def test_names_that_make_one_tool_are_refused() -> None:
    with pytest.raises(DefinitionError, match="two tools named 'hand_off_to_a_b'"):
        Agent(name="me", instructions="", handoffs=["a b", "a-b"])


def paying(*, once: bool) -> Tool:
    async def pay(euros: int) -> str:
        """Pay."""
        return "paid"

    return tool(once=once)(pay)


PAY = paying(once=True)


def pair(one: Tool, other: Tool) -> Agent:
    second = Agent(name="second", instructions="", tools=[other])
    return Agent(name="first", instructions="", tools=[one], handoffs=[second])


@pytest.mark.parametrize("other", [paying(once=True), paying(once=False)])
async def test_a_tool_that_runs_once_shares_its_name_with_no_other_of_the_team(other: Tool) -> None:
    words = "agents 'first' and 'second' have different tools named 'pay', and one has once=True: rename one of them"
    for team in (pair(PAY, other), pair(other, PAY)):
        with pytest.raises(DefinitionError, match=words):
            PhoneApp(team)
        with pytest.raises(DefinitionError, match=words):
            await choose_answer(lambda call, team=team: team, CALL)


def test_agents_may_share_a_tool_that_runs_once_and_the_names_of_others() -> None:
    check_handoffs(pair(PAY, PAY))
    check_handoffs(pair(paying(once=False), paying(once=False)))


def test_every_name_makes_a_tool() -> None:
    names = ["Facturation & devis", "予約", "会計", "x" * 100]
    tools = [hand_off_tool(name).name for name in names]
    assert tools[0] == "hand_off_to_facturation_devis"
    assert len(set(tools)) == 4
    assert tools == [hand_off_tool(name).name for name in names]  # in any process
    assert all(re.fullmatch("[a-z0-9_]{1,64}", tool) for tool in tools)
    Agent(name="me", instructions="", handoffs=names)


def test_a_tool_may_not_have_the_name_of_a_hand_off() -> None:
    own = hand_off_tool("billing")
    with pytest.raises(DefinitionError, match="two tools named"):
        Agent(name="me", instructions="", handoffs=["billing"], tools=[own])
