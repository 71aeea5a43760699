"""The exceptions of phoneagent: what went wrong, and where.

    PhoneAgentError
    ├── ConfigurationError      the environment: every setting that is missing or malformed
    ├── DefinitionError         the user's own code: an agent or a tool that cannot work
    ├── ToolError               raised by a tool: its text goes to the model
    ├── ProtocolError           a peer sent a message that its protocol does not allow
    ├── RequestRefused          a request did not prove where it comes from
    ├── TelephonyError          Twilio's REST API refused a request or did not answer
    ├── StoreError              the database of call records failed
    ├── OutcomeUnavailable      the outcome of a call cannot be filled in now; another attempt may help
    └── EndpointError           the model session failed
        ├── EndpointUnreachable     no session was established; another attempt may help
        └── EndpointRefused         the server refused; another attempt will not help

Every message is one line that names the thing, the value and the remedy. No message holds a secret or a phone number.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_SHOWN_CHARS = 500
"""How much of a far end's own words a message repeats."""


def shown(words: object, limit: int = MAX_SHOWN_CHARS) -> str:
    """Return a far end's own words, safe for a log, an event or an error: printable, on one line, and cut."""
    text = str(words)[: 4 * limit]  # so that no work goes into text that is cut anyway
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= limit else f"{line[:limit]}…"


class PhoneAgentError(Exception):
    """Anything that phoneagent raises on purpose."""


class ConfigurationError(PhoneAgentError):
    """The settings are incomplete or malformed. `problems` has one line for each setting to correct."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class DefinitionError(PhoneAgentError):
    """An agent or a tool is defined in a way that cannot work."""


class DefinitionWarning(UserWarning):
    """An agent or a tool is defined in a way that works, but not well: the model lacks information that it needs."""


class ToolError(PhoneAgentError):
    """An error for your tools to raise: its message tells the model, in your own words, what did not work."""


class ProtocolError(PhoneAgentError):
    """A peer sent a message that its protocol does not allow. The message is ignored, and the call goes on."""


class RequestRefused(PhoneAgentError):
    """A webhook or a media socket did not prove that it comes from Twilio. It is answered with 403."""


class StoreError(PhoneAgentError):
    """The database of call records failed a read or a write.

    `retry` is False if the database refused the data itself, so that another attempt cannot help.
    """

    def __init__(self, message: str, *, retry: bool = True) -> None:
        self.retry = retry
        super().__init__(message)


class OutcomeUnavailable(PhoneAgentError):
    """The outcome of a call cannot be filled in now: the model, the database or a user's function failed.

    Nothing is recorded, so that another attempt may help.
    """


class TelephonyError(PhoneAgentError):
    """Twilio's REST API refused a request or did not answer.

    `code` is Twilio's error code; `retry` says whether another attempt may help.
    """

    def __init__(self, message: str, *, code: int | None = None, retry: bool = False) -> None:
        self.code = code
        self.retry = retry
        super().__init__(message)


class EndpointError(PhoneAgentError):
    """The model session failed.

    `code` names the failure: an HTTP status, a close code or an error code. `retry` says whether another attempt may
    help. `answered` is what the server answered before that, in order.
    """

    retry = False

    def __init__(self, message: str, *, code: str | None = None, answered: Sequence[str] = ()) -> None:
        self.code = code
        self.answered = tuple(answered)
        super().__init__(message)


class EndpointUnreachable(EndpointError):
    """No session was established, or it broke off: a network failure, a timeout, a server error."""

    retry = True


class EndpointRefused(EndpointError):
    """The server refused for a lasting reason: a bad key, an unknown model, no quota, the wrong dialect."""
