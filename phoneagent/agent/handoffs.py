"""Hand-offs: the tools that let the model pass a call from one agent to another.

An agent lists the agents that it may hand a call to, or their names where the hand-offs form a circle:

    billing = Agent(name="billing", instructions="...", tools=[refund], handoffs=["front desk"])
    front = Agent(name="front desk", instructions="...", handoffs=[billing])

The model gets one tool for each of them, for example `hand_off_to_billing`. The model session stays the same; its
instructions and tools change. The phone's settings, the voice (once the caller has heard it) and the `hearing` options
remain those of the agent that answered the call.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from phoneagent.agent.tools import MAX_NAME_CHARS, Tool
from phoneagent.errors import DefinitionError

INSTRUCTIONS_SECONDS = 5.0
"""How long it may take to choose an agent and to prepare its session: the caller waits in silence."""


@functools.lru_cache(maxsize=256)
def hand_off_tool(name: str) -> Tool:
    """Return the tool that hands a call to the agent with that name, as the model sees it.

    A tool's name takes only Latin letters and digits, so an agent's name that has none of them becomes a hash.
    """
    spelled = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()
    return Tool(
        name=f"hand_off_to_{spelled or hashlib.sha256(name.encode()).hexdigest()[:8]}"[:MAX_NAME_CHARS],
        description=f'Hand this call over to "{name}", who then goes on with the caller. Tell the caller so first.',
        parameters={"type": "object", "properties": {}, "additionalProperties": False},
        handler=_placeholder,
    )


def is_hand_off(tool: Tool) -> bool:
    """Return whether a tool was made by `hand_off_tool`."""
    return tool.handler is _placeholder


def hand_off_output(name: str) -> str:
    """Return the output of a hand-off to the agent with that name. In a call's record it shows which agent speaks."""
    return (
        f'The call is handed over: you are "{name}" now, with the instructions and tools that you have just been '
        "given. Go on with the caller, and do not greet them again."
    )


def check_once(team: Iterable[tuple[str, Iterable[object]]]) -> None:
    """Check the tools of a team, by the agents' names: no two agents may have different tools of one name with `once`.

    A call knows what has run by the tool's name alone, so one of the tools would not run after the other.

    Raises:
        DefinitionError: two agents have such tools.
    """
    first: dict[str, tuple[str, Tool]] = {}
    for name, tools in team:
        for each in tools:
            if not isinstance(each, Tool):
                continue
            other, known = first.setdefault(each.name, (name, each))
            if known != each and (known.once or each.once):
                raise DefinitionError(
                    f"agents {other!r} and {name!r} have different tools named {each.name!r}, and one has once=True: "
                    "rename one of them"
                )


async def _placeholder(arguments: Mapping[str, Any]) -> str:
    raise AssertionError("a hand-off runs in the call's session, never here")
