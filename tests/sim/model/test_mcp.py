"""MCP servers that the model's provider calls: listed, called, approved or refused; each event fits the SDK's types."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phoneagent.errors import DefinitionError
from phoneagent.sim import Faults, Script
from phoneagent.sim.model.records import McpCallRecord
from phoneagent.sim.model.service import ANY_BETA
from tests.sim.model.conftest import Client, Dial

pytestmark = pytest.mark.anyio

SCRIPT = """
default = "I do not know."

[[turn]]
heard = "parcel"
say = "Let me look."
call = "track"
server = "shop"
arguments = { number = 41 }
output = "It left on Monday."
then = "{output}"

[[turn]]
heard = "refund"
call = "refund"
server = "shop"
error = "The till is closed."
then = "Sorry: {output}"

[[turn]]
heard = "weather"
call = "forecast"
server = "sky"
output = "rain"
"""
SHOP = {"type": "mcp", "server_label": "shop", "server_url": "https://shop.example/mcp", "require_approval": "never"}
CALLED = [
    "response.output_item.added",
    "conversation.item.added",
    "response.mcp_call_arguments.done",
    "response.output_item.done",
]
RUN = ["response.mcp_call.in_progress", "response.mcp_call.completed", "conversation.item.done"]


async def ready(client: Client, *servers: dict[str, Any], **session: Any) -> None:
    """Configure a written session with these servers and wait until the last has told its tools."""
    await client.configure(tools=list(servers), output_modalities=["text"], **session)
    for _ in servers:
        await client.until("mcp_list_tools.completed")


async def ask(client: Client, text: str) -> int:
    """Ask for an answer to `text` and wait for its end. Returns where its events begin."""
    await client.add(text)
    start = len(client.events)
    await client.answer()
    return start


def items(client: Client, kind: str, event: str = "conversation.item.done") -> list[dict[str, Any]]:
    found = [each["item"] for each in client.events if each["type"] == event]
    return [item for item in found if item["type"] == kind]


async def test_a_server_is_asked_for_its_tools(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        effective = await client.configure(tools=[SHOP | {"authorization": "secret"}])
        assert "secret" not in str(effective)
        start = len(client.events)
        await client.until("mcp_list_tools.completed")
        assert client.steps(start) == [
            "mcp_list_tools.in_progress",
            "conversation.item.added",
            "conversation.item.done",
            "mcp_list_tools.completed",
        ]
        (listed,) = items(client, "mcp_list_tools")
        assert (listed["server_label"], [tool["name"] for tool in listed["tools"]]) == ("shop", ["track", "refund"])
        assert {event["item_id"] for event in client.events if event["type"].startswith("mcp_")} == {listed["id"]}
    assert model.violations == []


async def test_the_list_of_tools_is_known_while_it_is_made(make_model: Any, dial: Dial) -> None:
    """A client of OpenAI's asks for the item as soon as it is named."""
    async with make_model(SCRIPT, think_ms=300) as model, dial(model) as client:
        await client.send("session.update", session={"type": "realtime", "tools": [SHOP]})
        item_id = (await client.until("mcp_list_tools.in_progress"))["item_id"]
        await client.send("conversation.item.retrieve", item_id=item_id)
        assert (await client.until("conversation.item.retrieved"))["item"]["tools"] == []
        await client.until("mcp_list_tools.completed")
        await client.send("conversation.item.retrieve", item_id=item_id)
        listed = (await client.until("conversation.item.retrieved"))["item"]["tools"]
        assert [tool["name"] for tool in listed] == ["track", "refund"]
    assert model.violations == []


async def test_a_call_runs_after_its_response_and_the_client_asks_for_what_follows(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, SHOP)
        start = await ask(client, "Where is my parcel?")
        steps = client.steps(start)
        assert steps[-5:] == [*CALLED, "response.done"]
        assert "response.output_text.done" in steps[:-5], "it says a word before"
        (call,) = items(client, "mcp_call", "response.output_item.done")
        assert (call["output"], call["error"], call["approval_request_id"]) == (None, None, None)
        start = len(client.events)
        await client.until("conversation.item.done")
        assert client.types[start:] == RUN
        (call,) = items(client, "mcp_call")
        assert (call["name"], call["arguments"], call["output"]) == ("track", '{"number": 41}', "It left on Monday.")
        assert (await client.answer())["output"][0]["content"][0]["text"] == "It left on Monday."
    (record,) = model.sessions[0].mcp_calls
    assert record == McpCallRecord("shop", "track", '{"number": 41}', output="It left on Monday.")
    assert model.violations == []
    assert [response.by for response in model.sessions[0].responses] == ["client", "client"]


async def test_a_call_may_fail(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, SHOP)
        await ask(client, "I want a refund.")
        await client.until("response.mcp_call.failed")
        await client.until("conversation.item.done")
        (call,) = items(client, "mcp_call")
        assert call["error"] == {"type": "tool_execution_error", "message": "The till is closed."}
        assert call["output"] is None
        assert (await client.answer())["output"][0]["content"][0]["text"] == "Sorry: The till is closed."
    assert model.sessions[0].mcp_calls[0].error == "The till is closed."


async def test_while_a_call_runs_an_answer_asked_for_does_not_know_of_it(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT, think_ms=300) as model, dial(model) as client:
        await ready(client, SHOP)
        await ask(client, "Where is my parcel?")
        assert (await client.answer())["output"][0]["content"][0]["text"] == "One moment, please."
        await model.wait_for(lambda: model.sessions[0].mcp_calls[0].output)
        assert (await client.answer())["output"][0]["content"][0]["text"] == "It left on Monday."


NEEDED = [{}, {"require_approval": "always"}, {"require_approval": {"always": {"tool_names": ["track"]}}}]


@pytest.mark.parametrize("approval", NEEDED, ids=["by default", "always", "by a list"])
async def test_an_approval_is_waited_for(make_model: Any, dial: Dial, approval: dict[str, Any]) -> None:
    server = {key: value for key, value in SHOP.items() if key != "require_approval"} | approval
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, server)
        start = await ask(client, "Where is my parcel?")
        assert client.steps(start)[-7:] == [
            *CALLED,
            "conversation.item.added",
            "conversation.item.done",
            "response.done",
        ]
        (request,) = items(client, "mcp_approval_request")
        assert (request["server_label"], request["name"], request["arguments"]) == ("shop", "track", '{"number": 41}')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.next()
        decision = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
        await client.send("conversation.item.create", item={"id": "mine", **decision})
        await client.until("response.mcp_call.completed")
        await client.until("conversation.item.done")
        (call,) = items(client, "mcp_call")
        assert (call["output"], call["approval_request_id"]) == ("It left on Monday.", request["id"])
        error = await client.refused("conversation.item.create", item=decision)
        assert error["param"] == "item.approval_request_id", "it was decided already"
    assert model.sessions[0].mcp_calls[0].approved is True


async def test_what_is_refused_does_not_run(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, SHOP | {"require_approval": "always"})
        await ask(client, "Where is my parcel?")
        (request,) = items(client, "mcp_approval_request")
        item = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": False}
        await client.send("conversation.item.create", item={**item, "reason": "Not by phone."})
        assert (await client.answer())["output"][0]["content"][0]["text"] == "Not by phone."
        assert not any(kind.startswith("response.mcp_call.") for kind in client.types)
    (record,) = model.sessions[0].mcp_calls
    assert (record.approved, record.output, record.error) == (False, None, "Not by phone.")
    assert model.violations == []


async def test_a_tool_on_the_list_of_free_ones_needs_no_approval(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, SHOP | {"require_approval": {"never": {"tool_names": ["track"]}}})
        await ask(client, "Where is my parcel?")
        await client.until("response.mcp_call.completed")
    assert model.sessions[0].mcp_calls[0].approved is None


@pytest.mark.parametrize(
    "item",
    [
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_none", "approve": True},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_none"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_none", "approve": "yes"},
        {"type": "mcp_call", "name": "track", "server_label": "shop", "arguments": "{}"},
    ],
    ids=["unknown", "undecided", "no boolean", "not the client's"],
)
async def test_a_decision_about_nothing_is_refused(make_model: Any, dial: Dial, item: dict[str, Any]) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.refused("conversation.item.create", item=item)
        assert model.sessions[0].items == []
    assert len(model.violations) == 1


@pytest.mark.parametrize("name", [{}, {"name": "refund"}])
async def test_a_tool_of_a_server_may_be_chosen(make_model: Any, dial: Dial, name: dict[str, str]) -> None:
    choice = {"type": "mcp", "server_label": "shop", **name}
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, SHOP)
        for text in ("What is new?", "Where is my parcel?"):
            await client.add(text)
            await client.answer(tool_choice=choice)
        await client.answer(tool_choice={**choice, "server_label": "sky"})
    first = name.get("name", "track")
    called = ["track", first] if first != "track" else ["track"]
    assert [call.name for call in model.sessions[0].mcp_calls] == [first, *called]


# --- which servers ---


async def test_only_what_is_allowed_is_offered(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, SHOP | {"allowed_tools": ["refund"]})
        assert [tool["name"] for tool in items(client, "mcp_list_tools")[0]["tools"]] == ["refund"]
        await ask(client, "Where is my parcel?")
        await ask(client, "What will the weather be?")
    assert model.sessions[0].mcp_calls == []


@pytest.mark.parametrize(
    ("faults", "url"),
    [(Faults(mcp_unreachable={"shop"}), SHOP["server_url"])]
    + [
        (Faults(), url)
        for url in ("http://localhost:8000/mcp", "http://127.0.0.1/mcp", "http://10.0.0.7/", "http://db/")
    ],
)
async def test_a_server_out_of_reach(make_model: Any, dial: Dial, faults: Faults, url: str) -> None:
    async with make_model(SCRIPT, faults=faults) as model, dial(model) as client:
        await client.configure(tools=[SHOP | {"server_url": url}], output_modalities=["text"])
        await client.until("mcp_list_tools.failed")
        await ask(client, "Where is my parcel?")
    assert model.sessions[0].mcp_calls == []
    assert model.violations == []


async def test_a_server_that_is_known_goes_by_its_label(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await ready(client, SHOP)
        start = len(client.events)
        await client.configure(tools=[{"type": "mcp", "server_label": "shop"}])
        await ask(client, "Where is my parcel?")
        await client.until("response.mcp_call.completed")
        assert "mcp_list_tools.in_progress" not in client.types[start:], "nor is it asked again"
    assert model.violations == []


@pytest.mark.parametrize(
    ("servers", "param"),
    [
        ([{"type": "mcp", "server_label": "shop"}], "session.tools[0].server_url"),
        ([{"type": "mcp", "server_url": "https://shop.example"}], "session.tools[0].server_label"),
        ([SHOP, SHOP], "session.tools[1].server_label"),
        ([SHOP | {"connector_id": "connector_gmail"}], "session.tools[0]"),
        ([SHOP | {"authorization": "a", "headers": {"authorization": "b"}}], "session.tools[0].authorization"),
        ([SHOP | {"require_approval": "sometimes"}], "session.tools[0].require_approval"),
        ([SHOP | {"tools": []}], "session.tools[0].tools"),
    ],
)
async def test_a_server_that_is_described_wrongly(
    make_model: Any, dial: Dial, servers: list[dict[str, Any]], param: str
) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        error = await client.refused("session.update", session={"type": "realtime", "tools": servers})
        assert error["param"] == param
        assert model.sessions[0].session["tools"] == []


BETA = [("OpenAI-Beta", "realtime=v1")]


async def test_the_beta_knows_no_servers(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT, service=ANY_BETA) as model, dial(model, headers=BETA) as client:
        error = await client.refused("session.update", session={"tools": [SHOP]})
        assert error["param"] == "session.tools[0].type"


# --- as some documents have it ---


async def test_inline_a_call_runs_in_its_response_and_the_model_goes_on(make_model: Any, dial: Dial) -> None:
    async with make_model(SCRIPT, faults=Faults(mcp_inline=True)) as model, dial(model) as client:
        await ready(client, SHOP)
        start = await ask(client, "Where is my parcel?")
        assert client.steps(start)[-8:] == [*CALLED[:-1], *RUN[:-1], CALLED[-1], RUN[-1], "response.done"]
        done = await client.until("response.done")
        assert done["response"]["output"][0]["content"][0]["text"] == "It left on Monday."
    assert [response.by for response in model.sessions[0].responses] == ["client", "server"]
    assert model.violations == []


@pytest.mark.parametrize("approve", [True, False])
async def test_inline_an_approval_is_an_output_item(make_model: Any, dial: Dial, approve: bool) -> None:
    async with make_model(SCRIPT, faults=Faults(mcp_inline=True)) as model, dial(model) as client:
        await ready(client, SHOP | {"require_approval": "always"})
        await ask(client, "Where is my parcel?")
        (request,) = items(client, "mcp_approval_request", "response.output_item.done")
        item = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": approve}
        await client.send("conversation.item.create", item=item | ({} if approve else {"reason": "No."}))
        done = await client.until("response.done")
        assert done["response"]["output"][0]["content"][0]["text"] == ("It left on Monday." if approve else "No.")
    assert model.violations == []


# --- the script ---


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('call = "track"\noutput = "x"', "`output` is what an MCP server answers; name the `server`"),
        ('say = "x"\nserver = "shop"', "`server` belongs to a `call`"),
        ('call = "track"\nserver = 7', "`server` must be text"),
        ('calls = [{ name = "track", server = "shop", result = "x" }]', "unknown key `result`"),
    ],
)
def test_a_script_that_makes_no_sense(line: str, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        Script.parse(f"[[turn]]\n{line}\n")
