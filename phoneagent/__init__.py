"""An AI voice agent on a phone number.

The public API: these names, and those of `phoneagent.events`, `phoneagent.sim`, `phoneagent.sim.speech` and
`phoneagent.store`. ARCHITECTURE.md in the repository maps the code behind them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phoneagent.agent.agent import Agent
    from phoneagent.agent.call import Call
    from phoneagent.agent.clip import Clip
    from phoneagent.agent.keypad import keypad, press_keys
    from phoneagent.agent.mcp import LocalMcpServer, McpServer
    from phoneagent.agent.options import Hearing, Limits, Recording, Turns, Voice
    from phoneagent.agent.tools import Tool, hang_up, tool
    from phoneagent.agent.transcriber import Transcriber
    from phoneagent.agent.transfer import transfer
    from phoneagent.billing.prices import Price
    from phoneagent.bridge.policy import Interruption, Silence
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
        AgentPaused,
        AgentResumed,
        BargeIn,
        CallControlled,
        CallEnded,
        CallerSpoke,
        CallHandedOver,
        CallNotAnswered,
        CallStarted,
        CallTransferred,
        Cost,
        Event,
        KeyPressed,
        MessageAdded,
        ModelEvent,
        OutcomeFilled,
        RateLimit,
        RateLimitsUpdated,
        RecordingChanged,
        SilenceFilled,
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
    "AgentPaused",
    "AgentResumed",
    "BargeIn",
    "Call",
    "CallControlled",
    "CallEnded",
    "CallHandedOver",
    "CallNotAnswered",
    "CallStarted",
    "CallTransferred",
    "CallerSpoke",
    "Clip",
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
    "Interruption",
    "KeyPressed",
    "Limits",
    "LocalMcpServer",
    "McpServer",
    "MessageAdded",
    "ModelEvent",
    "OutcomeFilled",
    "PhoneAgentError",
    "PhoneApp",
    "Price",
    "ProtocolError",
    "RateLimit",
    "RateLimitsUpdated",
    "Recording",
    "RecordingChanged",
    "RequestRefused",
    "Settings",
    "Silence",
    "SilenceFilled",
    "TelephonyError",
    "TokenProvider",
    "Tool",
    "ToolCalled",
    "ToolError",
    "ToolReturned",
    "Transcriber",
    "Trouble",
    "Turn",
    "TurnEnded",
    "Turns",
    "Usage",
    "UsageReported",
    "Voice",
    "hang_up",
    "keypad",
    "press_keys",
    "tool",
    "transfer",
]

_HOMES = {
    "phoneagent.agent.agent": "Agent",
    "phoneagent.agent.call": "Call",
    "phoneagent.agent.clip": "Clip",
    "phoneagent.agent.keypad": "keypad press_keys",
    "phoneagent.agent.mcp": "LocalMcpServer McpServer",
    "phoneagent.agent.options": "Hearing Limits Recording Turns Voice",
    "phoneagent.agent.tools": "Tool hang_up tool",
    "phoneagent.agent.transcriber": "Transcriber",
    "phoneagent.agent.transfer": "transfer",
    "phoneagent.billing.prices": "Price",
    "phoneagent.bridge.policy": "Interruption Silence",
    "phoneagent.errors": (
        "ConfigurationError DefinitionError DefinitionWarning EndpointError EndpointRefused EndpointUnreachable "
        "PhoneAgentError ProtocolError RequestRefused TelephonyError ToolError"
    ),
    "phoneagent.events": (
        "AgentAnswered AgentPaused AgentResumed BargeIn CallControlled CallEnded CallerSpoke CallHandedOver "
        "CallNotAnswered CallStarted CallTransferred Cost Event KeyPressed MessageAdded ModelEvent OutcomeFilled "
        "RateLimit RateLimitsUpdated RecordingChanged "
        "SilenceFilled ToolCalled ToolReturned Trouble Turn TurnEnded Usage UsageReported"
    ),
    "phoneagent.model.endpoint": "Endpoint TokenProvider",
    "phoneagent.server": "PhoneApp",
    "phoneagent.settings": "Settings",
}
"""The names above, by module. A name is imported when it is first used: an agent's own tests need no server, and
`phoneagent --help` needs neither."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            return globals().setdefault(name, getattr(import_module(home), name))
    if name == "events":  # public too, and available without an import of its own
        return import_module("phoneagent.events")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
