"""A script for a user's agent, which is chosen for a made-up call; its MCP servers are started, and its tools read."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import chain

from phoneagent.agent.agent import Agent, choose, team_of
from phoneagent.agent.call import Call
from phoneagent.agent.keypad import KeypadTool
from phoneagent.cli.failures import users_code
from phoneagent.cli.target import Target
from phoneagent.demo.derived import derive
from phoneagent.server import PhoneApp
from phoneagent.sim.model.script import Script


async def derived_script(app: PhoneApp, target: str) -> str:
    """Return a commented script for the app's agent, as TOML. `target` is the app as the user names it.

    Raises:
        DefinitionError: the user's code fails to choose an agent for a made-up call.
    """
    async with _opened(app) as agent:
        tools = [tool for each in team_of(agent).values() for tool in each.tools]
        keys = {tool.name: tool.example_keys for tool in tools if isinstance(tool, KeypadTool)}
        return script_of(agent, target, keys)


def script_of(agent: Agent, target: str, keys: Mapping[str, str] | None = None) -> str:
    """Return what `derive` returns for an open agent, with the tools of its whole team."""
    own, *others = (each.session("", written=True)["tools"] for each in team_of(agent).values())
    return derive(agent.name, own, others=list(chain(*others)), greeting=agent.greeting, target=target, keys=keys)


async def unknown_calls_of(app: PhoneApp, script: Script) -> list[str]:
    """Return what `unknown_calls` returns for the agent that the app chooses for a made-up call."""
    async with _opened(app) as agent:
        return unknown_calls(agent, script)


def unknown_calls(agent: Agent, script: Script) -> list[str]:
    """Return a line for each tool that a script calls and that neither the open agent nor one it hands off to has."""
    known = [tool.name for each in team_of(agent).values() for tool in each.all_tools]
    called = [call.name for turn in script.turns for call in turn.calls if call.server is None]
    names = ", ".join(dict.fromkeys(known)) or "none"
    return [
        f"the script calls {name}, which is no tool of {agent.name}: correct it; its tools: {names}"
        for name in dict.fromkeys(called)
        if name not in known
    ]


@asynccontextmanager
async def _opened(app: PhoneApp) -> AsyncIterator[Agent]:
    call = Call(
        sid=f"CA{secrets.token_hex(16)}",
        caller="+15550100001",
        called="+15550100002",
        direction="inbound",
        started_at=datetime.now(UTC),
    )
    with users_code():
        agent = await choose(app.agent, call)
    try:
        await agent.open()
        yield agent
    finally:
        await agent.close()


def target_named(text: str | None) -> tuple[PhoneApp, str]:
    """Return the app that a target names, and the target as text.

    Raises:
        DefinitionError: there is none.
    """
    found = Target.find(text)
    return found.load(), text or f"{found.module}.py"
