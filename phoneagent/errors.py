"""What can go wrong, and whose fault it is.

    PhoneAgentError
    ├── ConfigurationError      the environment: what is missing or malformed, everything in one go
    ├── DefinitionError         the user's own code: an agent or a tool that cannot work
    ├── ToolError               raised by a tool: its text is what the model is told
    ├── ProtocolError           a peer sent something its protocol does not allow
    ├── RequestRefused          a request that did not prove where it comes from
    ├── TelephonyError          Twilio's REST API refused, or could not be asked
    ├── StoreError              the database of call records
    └── EndpointError           the model session
        ├── EndpointUnreachable     no session came up; another try may help
        └── EndpointRefused         the far end said no; trying again will not help

Every message is one line that names the thing, the value and the remedy. No message holds a secret or a phone number.
"""

from __future__ import annotations

from collections.abc import Sequence


class PhoneAgentError(Exception):
    """Anything that phoneagent raises on purpose."""


class ConfigurationError(PhoneAgentError):
    """The environment does not allow a start. `problems` has one line for each setting to repair."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class DefinitionError(PhoneAgentError):
    """An agent or a tool is defined in a way that cannot work."""


class ToolError(PhoneAgentError):
    """Raise it in a tool to tell the model, in your own words, what did not work."""


class ProtocolError(PhoneAgentError):
    """A peer sent a message that its protocol does not allow; the message is ignored, the call goes on."""


class RequestRefused(PhoneAgentError):
    """A webhook or a media socket did not prove that it comes from Twilio; it is answered with 403."""


class StoreError(PhoneAgentError):
    """The database of call records did not take a write or answer a question.

    `retry` is False where the data itself was refused, so that writing it again is in vain.
    """

    def __init__(self, message: str, *, retry: bool = True) -> None:
        self.retry = retry
        super().__init__(message)


class TelephonyError(PhoneAgentError):
    """Twilio's REST API refused, or could not be asked. `code` is Twilio's, `retry` whether another try may help."""

    def __init__(self, message: str, *, code: int | None = None, retry: bool = False) -> None:
        self.code = code
        self.retry = retry
        super().__init__(message)


class EndpointError(PhoneAgentError):
    """The model session could not be used. `retry` tells whether another attempt may help; `code` is the far end's."""

    retry = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        self.code = code
        super().__init__(message)


class EndpointUnreachable(EndpointError):
    """No session came up, or it broke off: the network, a time-out, a server in trouble."""

    retry = True


class EndpointRefused(EndpointError):
    """The far end refused for a reason that stays: a bad key, an unknown model, no quota, the wrong dialect."""
