"""MCP servers: what the model's provider is told of one, and one of our own that runs, fails, hangs and dies."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from phoneagent import Agent, Call, DefinitionError, LocalMcpServer, McpServer, tool
from phoneagent.agent.agent import MAX_TOKENS
from phoneagent.agent.mcp import MAX_TOLD
from phoneagent.protocol.realtime import Dialect, SessionUpdate, encode
from tests.patience import HANG_SECONDS
from tests.ports import free_port
from tests.protocol import sdk

pytestmark = pytest.mark.anyio
SCRIPT = str(Path(__file__).parent / "mcp_server.py")
COMMAND = [sys.executable, SCRIPT]
UP_SECONDS = HANG_SECONDS
CALL = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


# --- one that the model's provider calls ---

HOSTED = McpServer(
    "shop",
    "https://shop.example/mcp?key=secret",
    description="The shop.",
    headers={"X-Key": "secret"},
    allowed_tools=["look", "buy"],
    require_approval=["buy"],
)


def test_a_hosted_server_is_a_part_of_the_session() -> None:
    session = Agent(instructions="x", tools=[HOSTED]).session("x")
    assert session["tools"] == [
        {
            "type": "mcp",
            "server_label": "shop",
            "server_url": "https://shop.example/mcp?key=secret",
            "server_description": "The shop.",
            "headers": {"X-Key": "secret"},
            "allowed_tools": ["look", "buy"],
            "require_approval": {"always": {"tool_names": ["buy"]}, "never": {"tool_names": ["look"]}},
        }
    ]
    plain = McpServer("shop", "https://shop.example", authorization="secret")
    assert plain.definition() == {
        "type": "mcp",
        "server_label": "shop",
        "server_url": "https://shop.example",
        "authorization": "secret",
        "require_approval": "never",
    }
    sdk.check(json.loads(encode(SessionUpdate(session=session), Dialect.GA)), Dialect.GA)


def test_the_beta_has_none() -> None:
    update = SessionUpdate(session=Agent(instructions="x", tools=[HOSTED]).session("x"))
    assert json.loads(encode(update, Dialect.BETA))["session"]["tools"] == []


class Lister:
    """A client of a server with those tools."""

    def __init__(self, *tools: SimpleNamespace) -> None:
        self._tools = list(tools)

    async def list_tools(self, cursor: str | None) -> SimpleNamespace:
        return SimpleNamespace(tools=self._tools, next_cursor=None)


def listed(name: str, schema: dict[str, Any] | None = None, description: str | None = None) -> SimpleNamespace:
    given = {"type": "object"} if schema is None else schema
    return SimpleNamespace(name=name, description=description, title=None, input_schema=given)


async def test_of_too_many_tools_or_bad_ones_the_rest_are_offered(caplog: pytest.LogCaptureFixture) -> None:
    many = [listed(f"tool_{number}") for number in range(200)]

    @tool
    def own() -> None:
        """Own."""

    server = LocalMcpServer("shop", command=["run"])
    server.tools = await server._list(cast("Any", Lister(listed("odd", {"type": "array"}), *many)))
    assert "odd" not in [each.name for each in server.tools]
    assert "tool 'odd' has parameters of type 'array'" in caplog.text
    offered = Agent(instructions="x", tools=[own, server, HOSTED]).session("x")["tools"]
    assert len(offered) == 128
    assert "own" in [each.get("name") for each in offered]


async def test_what_the_api_refuses_in_its_tools_is_cut_or_left_out_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    either = {"type": "object", "properties": {"a": {"type": "array"}}, "anyOf": [{"required": ["a"]}]}
    client = Lister(
        listed("long", description="👍🏽" * 1000),
        listed("either", either),
        listed("whole", {"type": "object", "oneOf": [{"properties": {}}]}),
        listed("bad.type", {"type": "object", "properties": {"a": {"type": "int"}}}),
        listed("x" * 70),
        listed("a.b"),
        listed("a_b"),
    )
    server = LocalMcpServer("shop", command=["run"])
    for _ in range(2):
        server.tools = await server._list(cast("Any", client))
    assert [each.name for each in server.tools] == ["long", "either", "x" * 64, "a_b"]
    assert len(server.tools[0].description) == 1023
    assert server.tools[1].parameters == {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {}}},
    }
    assert caplog.messages == [
        "MCP server shop: tool 'long' has a description of 2000 characters, which is cut",
        "MCP server shop: tool 'either' has anyOf at the top of its schema, which is left out",
        "MCP server shop: a tool is left out: tool 'whole' has 'oneOf' at the top of its parameters: write it into one "
        "of the `properties`",
        "MCP server shop: a tool is left out: tool 'bad_type' has parameters.properties.a.type='int': choose from "
        "'object', 'array', 'string', 'number', 'integer', 'boolean', 'null'",
        "MCP server shop: tool 'a_b' is left out: another one is spelled 'a_b' as well",
    ]


async def test_what_the_session_has_no_room_for_is_left_out_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    def own() -> None:
        """Own."""

    async def ready() -> bool:
        return True

    server = LocalMcpServer("shop", command=["run"])
    monkeypatch.setattr(server, "ready", ready)
    many = [listed(f"tool_{number}", description="word " * 200) for number in range(100)]
    server.tools = await server._list(cast("Any", Lister(listed("own"), *many)))
    agent = Agent(instructions="word " * 10_000, tools=[server, own])
    for _ in range(2):
        await agent.instructions_for(CALL)
    offered = agent.all_tools
    assert offered[0] is own
    assert [each.name for each in offered[1:]] == [f"tool_{number}" for number in range(len(offered) - 1)]
    assert 5000 < sum(each.tokens for each in offered) <= MAX_TOKENS - 10_000
    assert agent.tool("tool_0") is offered[1]
    assert agent.tool("tool_99") is None
    (message,) = caplog.messages
    assert message.startswith(
        "MCP server shop: agent 'agent' goes without some of its tools: own (another tool has that name), tool_"
    )
    assert "tool_99 (the session has no room for it)" in message


async def test_a_tool_that_is_allowed_and_does_not_exist_is_told(caplog: pytest.LogCaptureFixture) -> None:
    server = LocalMcpServer("shop", command=["run"], allowed_tools=["look", "bye"])
    (found,) = await server._list(cast("Any", Lister(listed("look"), listed("buy"))))
    assert found.name == "look"
    assert caplog.messages == [
        "MCP server shop: allowed_tools has ['bye'], which the server does not: it has ['buy', 'look']"
    ]


def test_what_is_told_of_a_server_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    server = LocalMcpServer("shop", command=["run"])
    for number in range(2 * MAX_TOLD):
        server.tell(f"complaint {number}")
    assert len(caplog.messages) == MAX_TOLD


def test_no_secret_in_a_repr() -> None:
    local = LocalMcpServer("shop", url="http://localhost/?key=secret", headers={"X": "secret"})
    process = LocalMcpServer("shop", command=["run", "secret"], env={"X": "secret"})
    with_token = McpServer("shop", "https://shop.example", authorization="secret")
    for each in (HOSTED, with_token, local, process, Agent(instructions="x", tools=[HOSTED, local])):
        assert "secret" not in repr(each)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"label": "my shop"}, "letters, digits"),
        ({"url": "shop.example"}, "write https"),
        ({"authorization": "x", "headers": {"Authorization": "y"}}, "give one of them"),
        ({"require_approval": "always"}, "write 'never'"),
        ({"require_approval": ["buy"]}, "allowed_tools"),
        ({"require_approval": ["sell"], "allowed_tools": ["buy"]}, "add them to allowed_tools"),
        ({"require_approval": [5], "allowed_tools": ["buy"]}, "write 'never'"),
        ({"require_approval": None}, "write 'never'"),
        ({"label": 5}, "letters, digits"),
        ({"url": None}, "write https"),
        ({"description": 5}, "MCP server 'shop' has description of type int: write text"),
        ({"authorization": b"secret"}, "MCP server 'shop' has authorization of type bytes: write text"),
        ({"headers": {"X": 5}}, "MCP server 'shop' has headers that are not text: write a dict of texts"),
        ({"headers": ["X"]}, "headers that are not text"),
        ({"allowed_tools": "buy"}, "MCP server 'shop' has allowed_tools='buy': write a list of names"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        McpServer(**{"label": "shop", "url": "https://shop.example", **options})


@pytest.mark.parametrize("options", [{}, {"command": ["x"], "url": "http://x"}, {"command": "python server.py"}])
def test_a_local_one_is_either_started_or_reached(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="either command"):
        LocalMcpServer("shop", **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"command": ["run", 5]}, "either command="),
        ({"name": " "}, "an MCP server has name=' ': write text"),
        ({"command": (), "url": "shop.example"}, "MCP server 'shop' has a malformed url: write http"),
        ({"cwd": 5}, "MCP server 'shop' has cwd=5: write the path of a folder"),
        ({"env": {"X": 5}}, "MCP server 'shop' has env that are not text"),
        ({"headers": {"X": None}}, "MCP server 'shop' has headers that are not text"),
        ({"allowed_tools": "buy"}, "MCP server 'shop' has allowed_tools='buy': write a list of names"),
        ({"timeout": 0}, "MCP server 'shop' has timeout=0: it must be more than 0 seconds"),
        ({"filler": " "}, "MCP server 'shop' has filler=' ': write what the agent says"),
    ],
)
def test_a_local_one_that_cannot_work_is_refused_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        LocalMcpServer(**{"name": "shop", "command": ["run"], **options})


def test_a_local_one_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(DefinitionError, match=r"pip install 'phoneagent\[mcp\]'"):
        LocalMcpServer("shop", command=COMMAND)


def test_two_of_one_label_are_refused() -> None:
    with pytest.raises(DefinitionError, match="two tools named 'shop'"):
        Agent(instructions="", tools=[HOSTED, McpServer("shop", "https://other.example")])


# --- one that we call ---


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[LocalMcpServer]:
    server = LocalMcpServer("shop", **{"command": COMMAND, **options})
    try:
        assert await server.ready(UP_SECONDS)
        yield server
    finally:
        await server.close()


async def run(server: LocalMcpServer, name: str, arguments: str = "{}") -> str:
    (found,) = (each for each in server.tools if each.name == name)
    return await found.run(CALL, arguments)


async def gone(pid: int) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.01)


async def test_its_tools_are_offered_and_run_and_its_process_ends_with_it() -> None:
    async with running(env={"SHOP": "open"}) as server:
        assert [each.name for each in server.tools][:5] == ["add", "who", "broken", "die", "wait_for-ever"]
        agent = Agent(instructions="x", tools=[server])
        definition = agent.session("x")["tools"][0]
        assert (definition["name"], definition["description"]) == ("add", "Add two numbers.")
        assert definition["parameters"]["required"] == ["a", "b"]
        assert await asyncio.gather(*(run(server, "add", f'{{"a": {n}, "b": 1}}') for n in range(5))) == list("12345")
        assert "error" in json.loads(await run(server, "add", '{"a": 1}'))
        assert "broken" in json.loads(await run(server, "broken"))["error"]
        pid, shop = (await run(server, "who")).split()
        assert shop == "open"
    await gone(int(pid))


async def test_one_that_died_is_started_once_more_and_nothing_is_repeated() -> None:
    async with running() as server:
        pid = await run(server, "who")
        assert "outcome is unknown" in json.loads(await run(server, "die"))["error"]
        again = await run(server, "who")
        assert again.isdecimal()
        assert again != pid
        os.kill(int(again), 9)
        async with asyncio.timeout(HANG_SECONDS):
            while server._link is not None and not server._link.over:
                await asyncio.sleep(0.01)
        assert await server.ready(UP_SECONDS)
        assert (await run(server, "who")).isdecimal()


async def test_one_that_hangs_is_answered_for_and_goes_on() -> None:
    async with running(timeout=0.5, allowed_tools=["who", "wait.for-ever"]) as server:
        assert [each.name for each in server.tools] == ["who", "wait_for-ever"]
        assert "outcome is unknown" in await run(server, "wait_for-ever")
        who = next(each for each in server.tools if each.name == "who")
        assert (await replace(who, timeout=HANG_SECONDS).run(CALL, "{}")).isdecimal()


async def test_it_ends_with_the_event_loop() -> None:
    def elsewhere() -> int:
        async def start() -> int:
            server = LocalMcpServer("shop", command=COMMAND)
            assert await server.ready(UP_SECONDS)
            return int(await run(server, "who"))

        return asyncio.run(start())

    await gone(await asyncio.to_thread(elsewhere))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"command": ["/nowhere/at/all"]}, "/nowhere/at/all"),
        ({"command": [sys.executable, "-c", "print('hello')"]}, "Connection closed"),
        ({"url": "http://127.0.0.1:9/secret"}, "cannot be used"),
    ],
)
async def test_one_that_does_not_start_leaves_the_agent_without_its_tools(
    options: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = LocalMcpServer("shop", **options)
    assert await server.ready(UP_SECONDS) is False
    (told,) = (record.getMessage() for record in caplog.records if record.name == "phoneagent.agent.mcp")
    assert why in told
    assert "secret" not in told
    agent = Agent(instructions="x", tools=[server])
    assert agent.session(await agent.instructions_for(CALL))["tools"] == []
    await agent.close()


async def test_a_call_does_not_wait_for_one_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = LocalMcpServer("shop", command=[sys.executable, "-c", "import sys; sys.stdin.read()"])
    assert await server.ready(0.1) is False
    assert "not up after 0.1 s" in caplog.text
    await server.close()


async def test_closing_a_server_that_is_not_ready_ends_the_wait_for_it(caplog: pytest.LogCaptureFixture) -> None:
    server = LocalMcpServer("shop", command=[sys.executable, "-c", "import sys; sys.stdin.read()"])
    waiting = asyncio.create_task(server.ready(UP_SECONDS))
    while server._link is None:
        await asyncio.sleep(0)
    await server.close()
    assert await waiting is False
    assert "the connection was closed before it was ready" in caplog.text


async def test_our_own_tools_come_before_those_of_a_server() -> None:
    @tool
    async def add() -> str:
        """Ours."""
        return "ours"

    async with running(allowed_tools=["add", "who"]) as server:
        agent = Agent(instructions="x", tools=[server, add])
        found = {each["name"]: each["description"] for each in agent.session("x")["tools"]}
        assert found == {"add": "Ours.", "who": "Tell the process, and what it was given."}
        assert agent.tool("add") is add


async def test_all_servers_of_a_team_are_started_at_once() -> None:
    shop = LocalMcpServer("shop", command=COMMAND)
    agent = Agent(
        instructions="x",
        tools=[shop],
        handoffs=[Agent(name="billing", instructions="y", tools=[shop], handoffs=["agent"])],
    )
    await agent.open()
    assert shop.tools
    pid = int(await run(shop, "who"))
    await agent.close()
    await gone(pid)


@asynccontextmanager
async def shop(port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*COMMAND, str(port))
    try:
        async with asyncio.timeout(UP_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                await writer.wait_closed()
                break
        yield
    finally:
        process.kill()
        await process.wait()


async def test_one_that_is_reached_over_http_may_go_and_come_back() -> None:
    port = free_port()
    async with shop(port):
        server = LocalMcpServer("shop", url=f"http://127.0.0.1:{port}/mcp", headers={"X-Key": "secret"})
        assert await server.ready(UP_SECONDS)
        assert await run(server, "add", '{"a": 1, "b": 2}') == "3"
    assert "outcome is unknown" in await run(server, "add", '{"a": 1, "b": 2}')
    async with shop(port):
        assert await run(server, "add", '{"a": 1, "b": 2}') == "3"
        await server.close()


@pytest.mark.parametrize(("code", "anew"), [(-32602, False), (7, False), (-32603, True), (-32600, True)])
async def test_an_error_of_one_call_s_tool_ends_no_tool_of_another_call(code: int, anew: bool) -> None:
    port = free_port()
    async with shop(port), running(command=(), url=f"http://127.0.0.1:{port}/mcp", timeout=HANG_SECONDS) as server:
        link = server._link
        assert link is not None
        other = asyncio.create_task(run(server, "hold"))
        assert json.loads(await run(server, "refuse", f'{{"code": {code}}}')) == {"error": "refuse failed: refused"}
        assert await run(server, "release") == "released"
        assert await other == "held"
        assert (server._link is not link) is anew  # the session may be lost: further tools run in another one
        assert link.over is anew
        assert await run(server, "add", '{"a": 1, "b": 2}') == "3"


async def test_a_server_that_has_lost_the_session_is_asked_in_a_new_one() -> None:
    port = free_port()
    async with shop(port):
        server = LocalMcpServer("shop", url=f"http://127.0.0.1:{port}/mcp", timeout=HANG_SECONDS)
        assert await server.ready(UP_SECONDS)
        before = server._link
        assert before is not None
        before.retire()
        assert await run(server, "add", '{"a": 1, "b": 2}') == "3"
        assert server._link is not before
        await server.close()


@pytest.mark.parametrize(
    ("url", "environment", "words"),
    [
        ("http://127.0.0.1:1/mcp?key=s3cret-word", {}, "127.0.0.1:1 refuses the connection: nothing listens there"),
        ("https://127.0.0.1:{}/mcp?key=s3cret-word", {}, "TLS"),
        (
            "https://shop.example/mcp?key=s3cret-word",
            {"ALL_PROXY": "socks5://me:s3cret-word@127.0.0.1:9"},
            "ALL_PROXY names a SOCKS proxy (socks5://127.0.0.1:9), which needs another package: pip install 'socksio'",
        ),
        (
            "https://shop.example/mcp?key=s3cret-word",
            {"HTTPS_PROXY": "gopher://me:s3cret-word@127.0.0.1:9"},
            "HTTPS_PROXY is not the address of a proxy",
        ),
        (
            "https://shop.example/mcp?key=s3cret-word",
            {"SSL_CERT_FILE": "/no/such/ca.pem"},
            "SSL_CERT_FILE names /no/such/ca.pem, which does not exist",
        ),
    ],
    ids=["refused", "no TLS", "SOCKS", "broken", "no certificates"],
)
async def test_why_one_cannot_be_reached_is_told_without_its_key(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    url: str,
    environment: dict[str, str],
    words: str,
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as plain:
        server = LocalMcpServer("shop", url=url.format(plain.sockets[0].getsockname()[1]))
        assert not await server.ready(UP_SECONDS)
        await server.close()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "phoneagent.agent.mcp"]
    assert line.startswith("the MCP server shop cannot be used: ")
    assert words in line
    assert "s3cret-word" not in line
