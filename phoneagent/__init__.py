"""An AI voice agent on a phone number.

The public API: these names, and those of `phoneagent.events`, `phoneagent.sim` and `phoneagent.sim.speech`.
ARCHITECTURE.md in the repository is the map of what is behind them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phoneagent.agent.agent import Agent
    from phoneagent.agent.call import Call
    from phoneagent.agent.mcp import LocalMcpServer, McpServer
    from phoneagent.agent.options import Hearing, Limits, Turns, Voice
    from phoneagent.agent.tools import Tool, hang_up, tool
    from phoneagent.billing.prices import Price
    from phoneagent.errors import (
        ConfigurationError,
        DefinitionError,
        DefinitionWarning,
        EndpointError,
        EndpointRefused,
        EndpointUnreachable,
        PhoneAgentError,
        ProtocolError,
        RequestRefused,
        TelephonyError,
        ToolError,
    )
    from phoneagent.events import (
        AgentAnswered,
        BargeIn,
        CallEnded,
        CallerSpoke,
        CallHandedOver,
        CallStarted,
        Cost,
        Event,
        KeyPressed,
        MessageAdded,
        ModelEvent,
        RateLimit,
        RateLimitsUpdated,
        ToolCalled,
        ToolReturned,
        Trouble,
        Turn,
        TurnEnded,
        Usage,
        UsageReported,
    )
    from phoneagent.model.endpoint import Endpoint, TokenProvider
    from phoneagent.server import PhoneApp
    from phoneagent.settings import Settings

__all__ = [
    "Agent",
    "AgentAnswered",
    "BargeIn",
    "Call",
    "CallEnded",
    "CallHandedOver",
    "CallStarted",
    "CallerSpoke",
    "ConfigurationError",
    "Cost",
    "DefinitionError",
    "DefinitionWarning",
    "Endpoint",
    "EndpointError",
    "EndpointRefused",
    "EndpointUnreachable",
    "Event",
    "Hearing",
    "KeyPressed",
    "Limits",
    "LocalMcpServer",
    "McpServer",
    "MessageAdded",
    "ModelEvent",
    "PhoneAgentError",
    "PhoneApp",
    "Price",
    "ProtocolError",
    "RateLimit",
    "RateLimitsUpdated",
    "RequestRefused",
    "Settings",
    "TelephonyError",
    "TokenProvider",
    "Tool",
    "ToolCalled",
    "ToolError",
    "ToolReturned",
    "Trouble",
    "Turn",
    "TurnEnded",
    "Turns",
    "Usage",
    "UsageReported",
    "Voice",
    "hang_up",
    "tool",
]

_HOMES = {
    "phoneagent.agent.agent": "Agent",
    "phoneagent.agent.call": "Call",
    "phoneagent.agent.mcp": "LocalMcpServer McpServer",
    "phoneagent.agent.options": "Hearing Limits Turns Voice",
    "phoneagent.agent.tools": "Tool hang_up tool",
    "phoneagent.billing.prices": "Price",
    "phoneagent.errors": (
        "ConfigurationError DefinitionError DefinitionWarning EndpointError EndpointRefused EndpointUnreachable "
        "PhoneAgentError ProtocolError RequestRefused TelephonyError ToolError"
    ),
    "phoneagent.events": (
        "AgentAnswered BargeIn CallEnded CallerSpoke CallHandedOver CallStarted Cost Event KeyPressed "
        "MessageAdded ModelEvent RateLimit RateLimitsUpdated ToolCalled ToolReturned Trouble Turn TurnEnded "
        "Usage UsageReported"
    ),
    "phoneagent.model.endpoint": "Endpoint TokenProvider",
    "phoneagent.server": "PhoneApp",
    "phoneagent.settings": "Settings",
}
"""The names above by their modules. A name is imported when it is first used: an agent's own tests need no server, and
`phoneagent --help` needs neither."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            return globals().setdefault(name, getattr(import_module(home), name))
    if name == "events":  # public too, and it need not be imported by its own name
        return import_module("phoneagent.events")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
