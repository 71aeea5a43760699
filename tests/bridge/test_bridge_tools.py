"""Tools: run once, posted at once, answered once."""

from __future__ import annotations

import pytest

from phoneagent.bridge.policy import Floor
from phoneagent.bridge.requests import RunTool
from phoneagent.bridge.toolcalls import HOSTED_SECONDS, MAX_TOOL_CALLS
from phoneagent.events import ToolCalled, ToolReturned
from phoneagent.protocol import realtime
from phoneagent.protocol.realtime import ItemCreate
from tests.bridge.rig import Rig, function_call


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- tools ---


def test_a_tool_runs_once_whatever_says_that_it_is_called(rig: Rig) -> None:
    rig.created()
    rig.calls("c1")
    rig.calls("c1")
    rig.done(output=[function_call("c1"), function_call("c2")])
    assert rig.asked == [RunTool("c1", "look_up", '{"a": 1}'), RunTool("c2", "look_up", '{"a": 1}')]


@pytest.mark.parametrize(
    "item",
    [
        realtime.Item(type="message", status="completed"),
        realtime.Item(type="function_call", status="incomplete", call_id="c1", name="f"),
        realtime.Item(type="function_call", status="completed", name="f"),
        realtime.Item(type="function_call", status="completed", call_id="c1"),
    ],
)
def test_half_a_call_is_none(rig: Rig, item: realtime.Item) -> None:
    rig.created()
    rig.model(realtime.OutputItemDone(item=item))
    assert rig.asked == []


def test_a_call_without_arguments_or_status(rig: Rig) -> None:
    rig.created()
    rig.model(realtime.OutputItemDone(item=realtime.Item(type="function_call", call_id="c1", name="f")))
    assert rig.asked == [RunTool("c1", "f", "{}")]


def test_the_calls_of_a_response_that_was_cut_are_not_taken_from_its_end(rig: Rig) -> None:
    rig.created()
    rig.done(status="incomplete", output=[function_call()])
    assert rig.asked == []


def test_an_output_is_posted_at_once_and_answered_after_the_response(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.returns()
    (item,) = rig.sent(ItemCreate)
    assert item.item == {"type": "function_call_output", "call_id": "c1", "output": "42"}
    assert rig.creates == []
    rig.done()
    assert len(rig.creates) == 1
    assert [(event.name, event.arguments) for event in rig.events(ToolCalled)] == [("look_up", '{"a": 1}')]
    assert [(event.name, event.output) for event in rig.events(ToolReturned)] == [("look_up", "42")]


def test_several_outputs_are_one_answer(rig: Rig) -> None:
    rig.created()
    for call in ("c1", "c2", "c3"):
        rig.calls(call)
    rig.done()
    rig.returns("c2")
    rig.returns("c1")
    assert len(rig.sent(ItemCreate)) == 2
    rig.returns("c3")
    rig.says(100, "i1", "r2", ours=True)
    rig.wait(6)
    assert len(rig.creates) == 1


def test_an_output_is_owed_until_a_response_that_knows_it(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.turn()
    rig.returns(added=False)
    rig.created("r2", ours=False)  # begun before the output came
    rig.added()
    rig.audio(response="r2")
    rig.done("r2")
    assert len(rig.creates) == 1


def test_a_response_that_began_after_the_output_was_added_is_its_answer(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.speech()
    rig.returns()
    rig.turn()
    rig.says(100, "i2", "r2", ours=False)
    rig.wait(6)
    assert rig.creates == []


def test_a_tool_that_returns_twice_or_unasked_is_nothing(rig: Rig) -> None:
    rig.returns("c9")
    rig.created()
    rig.calls()
    rig.returns()
    rig.returns()
    assert len(rig.sent(ItemCreate)) == 1


def test_a_call_without_words_is_no_empty_response(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.talk(6)
    assert rig.creates == []


def test_an_output_that_comes_after_the_response_is_answered_at_once(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    assert rig.creates == []
    rig.returns(added=False)
    assert len(rig.creates) == 1


def test_a_loop_of_calls_is_ended(rig: Rig) -> None:
    rig.created()
    for number in range(MAX_TOOL_CALLS + 2):
        rig.calls(f"c{number}")
    assert len(rig.asked) == MAX_TOOL_CALLS
    assert "too many" in rig.sent(ItemCreate)[-1].item["output"]


# --- tools that the model's provider calls ---


def test_a_call_by_the_provider_is_no_empty_response(rig: Rig) -> None:
    rig.turn()
    rig.created()
    rig.model(realtime.OutputItemDone(item=realtime.Item(id="m1", type="mcp_call", status="completed")))
    rig.done()
    rig.says(100, "i2", "r2", ours=False)
    rig.talk(6)
    assert rig.creates == []
    assert rig.asked == []


def test_approval_requests_are_declined_once(rig: Rig) -> None:
    rig.created()
    for _ in range(2):
        rig.model(realtime.OutputItemDone(item=realtime.Item(id="a1", type="mcp_approval_request")))
    (answer,) = rig.sent(ItemCreate)
    assert answer.item["approval_request_id"] == "a1"
    assert answer.item["approve"] is False


def test_what_the_provider_s_call_returned_is_answered(rig: Rig) -> None:
    """It comes after the response, and no server goes on by itself; one that does has given the answer."""
    rig.turn()
    rig.created()
    rig.model(realtime.OutputItemDone(item=realtime.Item(id="m1", type="mcp_call")))
    rig.done()
    rig.talk(6)
    assert rig.creates == []
    for _ in range(2):
        rig.model(realtime.ItemDone(item=realtime.Item(id="m1", type="mcp_call")))
    assert len(rig.creates) == 1
    rig.created("r2")
    rig.says(100, "i2", "r2")
    rig.talk(6)
    assert len(rig.creates) == 1


def test_the_refusal_of_a_wish_for_approval_is_answered(rig: Rig) -> None:
    rig.turn()
    rig.created()
    for kind in (realtime.ItemDone, realtime.OutputItemDone):
        rig.model(kind(item=realtime.Item(id="a1", type="mcp_approval_request")))
    (answer,) = rig.sent(ItemCreate)
    assert answer.item["approve"] is False
    assert rig.creates == []
    rig.done()
    assert len(rig.creates) == 1


def test_while_the_provider_calls_a_tool_the_agent_is_at_work(rig: Rig) -> None:
    rig.turn()
    rig.created()
    rig.model(realtime.OutputItemDone(item=realtime.Item(id="m1", type="mcp_call", status="in_progress")))
    rig.done()
    assert rig.bridge.floor() is Floor.THINKING
    assert not rig.bridge.quiet(rig.now)
    rig.model(realtime.ItemDone(item=realtime.Item(id="m1", type="mcp_call", status="completed")))
    rig.says(100, "i2", "r2", ours=True)
    rig.wait(0.2)
    rig.hear()
    assert rig.bridge.floor() is Floor.OPEN


def test_a_hosted_tool_of_which_nothing_comes_holds_nothing_up_forever(rig: Rig) -> None:
    rig.turn()
    rig.created()
    rig.model(realtime.OutputItemDone(item=realtime.Item(id="m1", type="mcp_call")))
    rig.done()
    rig.talk(HOSTED_SECONDS - 1)
    assert rig.bridge.floor() is Floor.THINKING
    rig.talk(2)
    assert rig.bridge.floor() is Floor.OPEN


def test_a_tool_that_wants_no_response_gets_none(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.bridge.conversation.tool_returned("c1", "done", rig.now, respond=False)
    rig.bridge.move_on(rig.now)
    rig.flush()
    assert [message.item["output"] for message in rig.sent(realtime.ItemCreate)] == ["done"]
    rig.added()
    rig.wait(5)
    assert rig.creates == []
    assert rig.bridge.floor() is Floor.OPEN


def test_keys_while_a_tool_runs_are_told_and_answered_with_its_output(rig: Rig) -> None:
    rig.created()
    rig.audio(1000)
    rig.calls()
    rig.key("1")
    assert rig.cancels == ["r1"]
    rig.done(status="cancelled")
    rig.returns()
    assert rig.creates == []  # the caller types
    rig.key("#")
    assert len(rig.creates) == 1
