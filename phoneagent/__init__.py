"""An AI voice agent on a phone number."""

from .agent import Agent
from .call import Call
from .endpoint import Endpoint, TokenProvider
from .errors import (
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
from .events import (
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
from .mcp import LocalMcpServer, McpServer
from .options import Hearing, Limits, Turns, Voice
from .protocol.billing import Price
from .server import PhoneApp
from .settings import Settings
from .tools import Tool, hang_up, tool

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
