"""Twilio's alerts, as lines of text, and the exception of a call that failed.

Twilio shows these codes in its console's debugger. Here each of them is a violation: a line of text with the code,
Twilio's title for it, and the observation.
"""

from __future__ import annotations

from collections.abc import Sequence

from phoneagent.errors import PhoneAgentError

TITLES = {
    11100: "Invalid URL format",
    11200: "HTTP retrieval failure",
    11205: "HTTP connection failure",
    11215: "HTTP too many redirects",
    11216: "HTTP invalid redirect",
    11220: "SSL/TLS Handshake Error",
    11240: "HTTP connection edge location is invalid",
    11243: "HTTP retry policy is invalid",
    11750: "TwiML response body too large",
    12100: "Document parse failure",
    12200: "Schema validation warning",
    12300: "Invalid Content-Type",
    13201: "Dial: Cannot Dial out from a Dial Call Segment",
    13214: "Dial: Invalid callerId value",
    13223: "Dial: Invalid phone number format",
    31901: "Stream - WebSocket - Connection Timeout",
    31902: "Stream - WebSocket - Connection Refused",
    31903: "Stream - WebSocket - Connection Broken",
    31910: "Stream - WebSocket - SSL Protocol Error",
    31920: "Stream - WebSocket - Handshake Error",
    31922: "Stream - WebSocket - URL Schema Not Supported",
    31923: "Stream - WebSocket - Malformed URL",
    31924: "Stream - Websocket - Protocol Error",
    31930: "Stream - WebSocket - Congestion",
    31941: "Stream - Invalid Track configuration",
    31950: "Stream - Protocol - Malformed Message",
    31951: "Stream - Protocol - Invalid Message",
}
"""Twilio's titles by code. The titles of 31903 and 31930 are ours: Twilio's exact wording was not found."""


def alert(code: int, detail: str) -> str:
    """Return one violation as a line: the code, Twilio's title, and `detail`, the observation."""
    return f"{code} {TITLES[code]}: {detail}"


class CallFailed(PhoneAgentError):
    """The call failed: the server refused it, or it ended too early.

    `reason` says why in a few words. `code` is Twilio's code and `status` the server's HTTP status, if there is one.
    `verbs` are the TwiML verbs carried out so far and `violations` the rules the server broke: a call that fails
    before its stream starts has no `Line` to read them from.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: int | None = None,
        verbs: Sequence[str] = (),
        violations: Sequence[str] = (),
    ) -> None:
        self.reason = reason
        self.status = status
        self.code = code
        self.verbs = tuple(verbs)
        self.violations = tuple(violations)
        super().__init__(reason if code is None else alert(code, reason))
