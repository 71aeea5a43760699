"""An AI voice agent on a phone number.

The public API: these names, and those of `phoneagent.events`, `phoneagent.sim` and `phoneagent.sim.speech`.
ARCHITECTURE.md in the repository is the map of what is behind them.
"""

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call
from phoneagent.agent.mcp import LocalMcpServer, McpServer
from phoneagent.agent.options import Hearing, Limits, Turns, Voice
from phoneagent.agent.tools import Tool, hang_up, tool
from phoneagent.billing.prices import Price
from phoneagent.errors import (
    ConfigurationError,
    DefinitionError,
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
