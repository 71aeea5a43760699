"""A script for a user's agent, which is chosen for a made-up call; its MCP servers are started, and its tools read."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from phoneagent.agent.agent import choose
from phoneagent.agent.call import Call
from phoneagent.agent.keypad import KeypadTool
from phoneagent.cli.failures import users_code
from phoneagent.cli.target import Target
from phoneagent.demo.derived import derive
from phoneagent.server import PhoneApp


async def derived_script(app: PhoneApp, target: str) -> str:
    """Return a commented script for the app's agent, as TOML. `target` is the app as the user names it.

    Raises:
        DefinitionError: the user's code fails to choose an agent for a made-up call.
    """
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
        session = agent.session("", written=True)
        keys = {tool.name: tool.example_keys for tool in agent.tools if isinstance(tool, KeypadTool)}
        return derive(agent.name, session["tools"], greeting=agent.greeting, target=target, keys=keys)
    finally:
        await agent.close()


def target_named(text: str | None) -> tuple[PhoneApp, str]:
    """Return the app that a target names, and the target as text.

    Raises:
        DefinitionError: there is none.
    """
    found = Target.find(text)
    return found.load(), text or f"{found.module}.py"
