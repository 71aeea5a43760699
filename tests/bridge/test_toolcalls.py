"""The tools that the model calls: each call runs once, and a long one gets a filler."""

from __future__ import annotations

import json
from collections import deque

import pytest

from phoneagent.bridge import toolcalls
from phoneagent.bridge.responses import ResponseGate
from phoneagent.bridge.toolcalls import ToolCall, ToolCalls
from phoneagent.protocol.realtime import Dialect, Item, ToModel, encode
from tests.bridge.rig import function_call
from tests.protocol import sdk


@pytest.fixture
def outbox() -> deque[ToModel]:
    return deque()


@pytest.fixture
def responses(outbox: deque[ToModel]) -> ResponseGate:
    return ResponseGate(outbox)


@pytest.fixture
def calls(outbox: deque[ToModel], responses: ResponseGate) -> ToolCalls:
    return ToolCalls(outbox, responses)


def test_a_call_begins_once_and_ends_once(calls: ToolCalls) -> None:
    call = calls.begin(function_call("c1"), 1, 5.0)
    assert call == ToolCall("c1", "look_up", '{"a": 1}', 5.0)
    assert calls.running
    assert calls.begin(function_call("c1"), 1, 6.0) is None
    assert calls.end("c1") == call
    assert not calls.running
    assert calls.end("c1") is None
    assert calls.begin(function_call("c1"), 1, 7.0) is None


def test_calls_of_a_response_wait_until_they_are_released(calls: ToolCalls) -> None:
    calls.hold(2)
    assert calls.begin(function_call("c1"), 2, 5.0) is None
    assert calls.begin(function_call("c1"), 2, 5.0) is None
    assert calls.begin(function_call("c2"), 1, 5.0) is not None, "another response's"
    assert calls.release(6.0) == [ToolCall("c1", "look_up", '{"a": 1}', 6.0)]
    assert calls.release(6.0) == []
    assert calls.begin(function_call("c3"), 2, 7.0) is not None


def test_calls_that_were_dropped_never_run(calls: ToolCalls) -> None:
    calls.drop()
    calls.hold(2)
    calls.begin(function_call("c1"), 2, 5.0)
    calls.drop()
    assert calls.release(6.0) == []
    assert calls.begin(function_call("c2"), 2, 7.0) is None
    assert calls.begin(function_call("c3"), 3, 7.0) is not None
    assert [run.call_id for run in calls.runs(round)] == ["c3"]


def test_responses_whose_calls_do_not_run_are_remembered_for_a_while(calls: ToolCalls) -> None:
    for number in range(toolcalls.MAX_VOID + 1):
        calls.void(number)
    assert calls.begin(function_call("c1"), 0, 5.0) is not None
    assert calls.begin(function_call("c2"), 1, 5.0) is None


def test_a_lost_session_takes_the_calls_that_wait_with_it(calls: ToolCalls) -> None:
    calls.hold(2)
    calls.begin(function_call("c1"), 2, 5.0)
    assert calls.new_session()
    assert calls.begin(function_call("c1"), 2, 6.0) is not None


def test_several_calls_run_beside_each_other(calls: ToolCalls) -> None:
    calls.begin(function_call("c1"), 1, 5.0)
    calls.begin(function_call("c2"), 1, 5.0)
    calls.end("c1")
    assert calls.running


@pytest.mark.parametrize(
    "item",
    [
        Item(type="message", status="completed", call_id="c1", name="f"),
        Item(type="function_call", status="in_progress", call_id="c1", name="f"),
        Item(type="function_call", status="incomplete", call_id="c1", name="f"),
        Item(type="function_call", status="completed", call_id="c1"),
        Item(type="function_call", status="completed", name="f"),
        Item(),
    ],
)
def test_half_a_call_is_none(calls: ToolCalls, item: Item) -> None:
    assert calls.begin(item, 1, 5.0) is None
    assert not calls.running


def test_a_call_may_have_no_arguments(calls: ToolCalls) -> None:
    call = calls.begin(Item(type="function_call", call_id="c1", name="f"), 1, 5.0)
    assert call is not None
    assert call.arguments == "{}"


def test_so_many_calls_are_too_many(calls: ToolCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolcalls, "MAX_TOOL_CALLS", 2)
    told = []
    for number in range(3):
        calls.begin(function_call(f"c{number}"), 1, 5.0)
        told.append(calls.too_many)
    assert told == [False, False, True]


def test_arguments_stay_out_of_what_is_printed(calls: ToolCalls) -> None:
    assert '"a"' not in repr(calls.begin(function_call("c1"), 1, 5.0))


def test_what_it_sends_is_what_the_service_takes(calls: ToolCalls, outbox: deque[ToModel]) -> None:
    calls.begin(Item(type="mcp_approval_request", id="mcpr_1"), 1, 5.0)
    calls.begin(Item(type="mcp_approval_request", id="mcpr_2"), 1, 5.0)
    calls.post("c1", "42")
    events = [json.loads(encode(message, Dialect.GA)) for message in outbox]
    for event in events:
        sdk.check(event, Dialect.GA)
    assert events[0]["item"]["id"] != events[1]["item"]["id"]
    assert len(events) == 3
