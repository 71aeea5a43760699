"""Calls from the browser: their CallSids, which no Twilio call has.

Such a call takes the path of a phone call, but has no leg at Twilio. Any process can tell by its sid, even if it has
only the record.
"""

from __future__ import annotations

import re
import secrets

_PREFIX = "CAca11ca11"
_SID = re.compile(_PREFIX + "[0-9a-f]{24}")


def new_call_sid() -> str:
    """Return a CallSid for a call from the browser."""
    return _PREFIX + secrets.token_hex(12)


def is_browser_call(call_sid: str) -> bool:
    """Return whether a call came from a browser."""
    return _SID.fullmatch(call_sid) is not None
