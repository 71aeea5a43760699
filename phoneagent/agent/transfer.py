"""The ready tool that transfers a call to one of a fixed list of parties.

    put_through = transfer(to={"billing": "+12025550107", "front desk": "sip:desk@pbx.example"})
    agent = Agent(instructions="...", tools=[put_through])

The model chooses a name. It never sees a number, so that no caller can talk it into dialing one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phoneagent.agent.call import Call
from phoneagent.agent.destinations import destination
from phoneagent.agent.tools import Tool
from phoneagent.bridge.steps import CallerId, Transfer
from phoneagent.errors import DefinitionError, ToolError

MAX_DESTINATIONS = 100
"""More names would be a phone book, and the model reads all of them in each session."""

_COLD = (
    "Transfer the caller to one of these parties. Tell the caller so in the same breath. If nobody takes the call, the "
    "caller comes back to you."
)
_WARM = (
    "Call one of these parties and offer them the caller. Tell the caller in the same breath that you are asking. You "
    "stay with the caller meanwhile, and learn how it ends."
)


@dataclass(frozen=True, slots=True)
class _Parties:
    """The parties of one tool, and its handler."""

    steps: Mapping[str, Transfer]
    warm: bool

    async def handle(self, arguments: Mapping[str, Any], call: Call) -> str:
        chosen = arguments.get("to")
        step = self.steps.get(chosen) if isinstance(chosen, str) else None
        if step is None:
            raise ToolError(f"no party has that name: choose one of {', '.join(self.steps)}")
        call.begin_transfer(step, warm=self.warm)
        if self.warm:
            return f"{step.name} is being called. Stay with the caller; you will be told how it ends."
        return f"The caller will be connected to {step.name} once they have heard what you are saying."


def destinations(tools: Iterable[object]) -> dict[str, tuple[Transfer, bool]]:
    """Return the parties of all transfer tools among `tools`: for each name, the transfer and whether it is warm.

    If several tools have a name, the first one counts.
    """
    owners = [getattr(each.handler, "__self__", None) for each in tools if isinstance(each, Tool)]
    found = [each for each in owners if isinstance(each, _Parties)]
    return {name: (step, each.warm) for each in reversed(found) for name, step in each.steps.items()}


def transfer(
    *,
    to: Mapping[str, str],
    warm: bool = False,
    screen: bool = False,
    caller_id: CallerId = "caller",
    timeout: int = 20,
    ask: str | None = None,
    language: str | None = None,
    name: str = "transfer",
    describe: str | None = None,
) -> Tool:
    """Return a tool that lets the model transfer the call to a party in `to`, by name.

    `to` maps names to phone numbers in E.164, to `sip:user@host` or to `client:name`. The model can choose only among
    the names. Emergency, premium-rate and satellite numbers are refused here.

    The caller first hears what the agent says. Then the party is dialed, and rings for `timeout` seconds. If it is
    busy, does not answer or declines, the caller comes back to the agent, which knows what happened. With `screen`, the
    party must press 1 to take the call, which no answering machine does.

    With `warm`, the party is called while the caller stays with the agent. The party hears a summary of the call and
    presses 1 to take it; then the two are connected.

    `ask` is the text that asks the party to press 1. `language` is the language of that text and of the summary, as in
    `<Say>`: "de-DE". `caller_id` is the number that the party sees: "caller" for the caller's own, or "called" for the
    one they called.

    Raises:
        DefinitionError: an address must not be dialed, or an option cannot be used.
    """
    owner = f"transfer {name!r}"
    if not isinstance(to, Mapping) or not 0 < len(to) <= MAX_DESTINATIONS:
        raise DefinitionError(f"{owner} needs to= with 1 to {MAX_DESTINATIONS} names and their addresses")
    if not isinstance(warm, bool):
        raise DefinitionError(f"{owner} has warm={warm!r}: write True or False")
    options = {"timeout": timeout, "caller_id": caller_id, "screen": screen, "ask": ask, "language": language}
    steps = {each: destination(owner, address, name=each, **options) for each, address in to.items()}

    return Tool(
        name=name,
        description=(describe or "").strip() or (_WARM if warm else _COLD),
        parameters={
            "type": "object",
            "properties": {"to": {"type": "string", "enum": list(steps), "description": "who takes the call"}},
            "required": ["to"],
            "additionalProperties": False,
        },
        handler=_Parties(steps, warm).handle,
    )
