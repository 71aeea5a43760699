"""The parameters of a call: what Twilio's webhook says, what the call keeps, and what its media stream carries.

The webhook's form has the call's own facts, Twilio's further ones, SIP headers, and the query of the webhook's address.
Everything but the first is `call.parameters`. The media socket may reach another process, so the stream carries all of
it as custom parameters.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from phoneagent.agent.call import Call

log = logging.getLogger("phoneagent.twilio.parameters")

MAX_PARAMETERS = 64
MAX_PARAMETER_CHARS = 499
"""The maximum length of a parameter's name and value together: Twilio's limit for a stream."""
MAX_CHARS = 4096
"""The maximum length of all parameters together. Escaped in TwiML or JSON, they are several times as long."""
MAX_REDIRECTED_CHARS = 1024
"""The maximum length of the parameters in a redirect's URL."""

_HELD = frozenset(
    {
        *("CallSid", "AccountSid", "Direction", "CallStatus", "ApiVersion", "Caller", "Called", "bodySHA256"),
        *("ErrorCode", "ErrorUrl"),
        *(f"{party}{what}" for party in ("Caller", "Called") for what in ("City", "State", "Zip", "Country")),
        "CallToken",  # a secret, and longer than a stream can carry
    }
)
"""What the call has itself, what also has a shorter name, and what is about a single request."""

_REPEATED = frozenset(
    {
        *(f"{party}{what}" for party in ("From", "To") for what in ("", "City", "State", "Zip", "Country")),
        *("CallerName", "ForwardedFrom", "ParentCallSid", "AnsweredBy", "StirVerstat", "StirStatus"),
    }
)
"""What Twilio sends with every request about a call."""

_OWN = ("caller", "called", "direction")
"""The custom parameters in which a stream carries the call's own facts."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIRECTION = re.compile(r"[a-z-]{1,32}", re.ASCII)


def call_of_form(call_sid: str, form: Mapping[str, str], without: Collection[str] = ()) -> Call:
    """Return the call of a webhook; `without` are names of the query that are not parameters of the call."""
    call = _call(call_sid, form.get("From"), form.get("To"), form.get("Direction"))
    same = {"From": call.caller, "To": call.called}
    given = {
        name: form[name]
        for name in form
        if name not in _HELD and name not in without and form[name] and form[name] != same.get(name)
    }
    rest = [name for name in given if name not in _REPEATED]
    call.parameters = bounded({name: given[name] for name in rest} | given, call_sid)
    return call


def call_of_stream(call_sid: str, custom: Mapping[str, str]) -> Call:
    """Return the call of a media stream, from its custom parameters."""
    call = _call(call_sid, *map(custom.get, _OWN))
    given = {_from_stream(name): value for name, value in custom.items() if name not in _OWN and value}
    call.parameters = bounded(given, call_sid)
    return call


def stream_parameters(call: Call) -> dict[str, str]:
    """Return the custom parameters with which a media stream carries a call to its process."""
    own = {"caller": call.caller or "", "called": call.called or "", "direction": call.direction}
    return own | {_to_stream(name): value for name, value in call.parameters.items()}


def redirected(call: Call) -> dict[str, str]:
    """Return the parameters that a redirect of the call must repeat, because Twilio does not."""
    found: dict[str, str] = {}
    chars = 0
    for name in sorted(call.parameters.keys() - _REPEATED):
        chars += len(name) + len(call.parameters[name])
        if chars <= MAX_REDIRECTED_CHARS:
            found[name] = call.parameters[name]
    return found


def shown_by_forward(call: Call, own_number: str | None) -> str | None:
    """Return the number that a forward of the call shows; None for the caller's own, which is shown by itself.

    Twilio takes the caller's own only if it is a number. A caller who withholds it, or calls by SIP or from a browser,
    has none, so the forward shows the number that was called, or else `own_number`.
    """
    if call.caller is not None and call.caller.startswith("+"):
        return None
    called = call.called if call.called is not None and call.called.startswith("+") else None
    return called or own_number


def _call(call_sid: str, caller: str | None, called: str | None, direction: str | None) -> Call:
    known = direction is not None and _DIRECTION.fullmatch(direction)
    return Call(
        sid=call_sid,
        caller=caller,
        called=called,
        direction=direction if direction and known else "inbound",
        started_at=datetime.now(UTC),
    )


def bounded(given: Mapping[str, str], call_sid: str) -> dict[str, str]:
    """Return the parameters that a stream can carry, first come, first served.

    Neither names nor values are logged, because a caller may have chosen them.
    """
    kept: dict[str, str] = {}
    chars = left_out = 0
    for name, value in ((_NOT_XML.sub("", name), _NOT_XML.sub("", value)) for name, value in given.items()):
        size = len(name) + len(value)
        if not name or not value:
            continue
        if len(kept) < MAX_PARAMETERS and size < MAX_PARAMETER_CHARS and chars + size <= MAX_CHARS:
            kept[name] = value
            chars += size
        else:
            left_out += 1
    if left_out:
        log.warning(
            "call.parameters lacks %d of Twilio's: a call has up to %d, each shorter than %d characters, %d in all",
            *(left_out, MAX_PARAMETERS, MAX_PARAMETER_CHARS, MAX_CHARS),
            extra={"call_sid": call_sid},
        )
    return kept


def _to_stream(name: str) -> str:
    """Return the name under which a stream carries a parameter: `_caller` for one that has one of our names."""
    return f"_{name}" if name.lstrip("_") in _OWN else name


def _from_stream(name: str) -> str:
    return name[1:] if name.startswith("_") and name.lstrip("_") in _OWN else name
