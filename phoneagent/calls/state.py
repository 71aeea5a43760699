"""The persistence of `call.state`, `call.parameters` and `call.muted` for the next media stream, in any process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping

from phoneagent.agent.call import Call
from phoneagent.events import CallHandedOver, CallStarted, Event, ToolReturned, TurnEnded
from phoneagent.twilio.parameters import bounded

log = logging.getLogger("phoneagent.calls.state")

MAX_CHARS = 16 * 1024
"""The maximum length of the state as JSON. A longer state is not kept at all: half of it is worse than none."""

PARAMETERS = "phoneagent.parameters"
"""The name under which the parameters are kept in the state's JSON."""

MUTED = "phoneagent.muted"
"""The name of the flag that says that the agent is muted."""


class CallState:
    """Passes the state of a call to `keep` as JSON if it has changed: after a turn, after a tool, before a hand-over.

    The parameters never change: they are passed at the start, and with every state.

    Values that JSON cannot express are left out, and that is logged once.
    """

    def __init__(self, call: Call, keep: Callable[[str], None]) -> None:
        self._call = call
        self._keep = keep
        self._warned = False
        self._kept = "" if call.parameters else self._pack()

    def look(self, event: Event) -> None:
        """Look for a changed state, if the event may have changed it."""
        if not isinstance(event, CallStarted | ToolReturned | TurnEnded | CallHandedOver):
            return
        if (text := self._pack()) != self._kept:
            self._kept = text
            self._keep(text)

    def _pack(self) -> str:
        parts: dict[str, str] = {}
        left_out: list[str] = []
        for name, value in dict(self._call.state).items():
            try:
                parts[json.dumps(str(name))] = json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                left_out.append(str(name))
            except RuntimeError:  # a thread is changing the value: the next event looks again
                return self._kept
        if left_out:
            self._warn(f"JSON cannot express {', '.join(left_out)}")
        if len(_joined(parts)) > MAX_CHARS:
            self._warn(f"it has more than {MAX_CHARS} characters as JSON")
            parts.clear()
        if self._call.parameters:
            parts[json.dumps(PARAMETERS)] = json.dumps(dict(self._call.parameters))
        if self._call.muted:
            parts[json.dumps(MUTED)] = "true"
        return _joined(parts)

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("call.state is lost at a hand-over: %s", why, extra={"call_sid": self._call.sid})


def _joined(parts: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {part}" for name, part in parts.items()) + "}"


def restore(call: Call, text: str | None) -> None:
    """Give a call the state and the parameters that were kept as `text`. Parameters that it already has stay."""
    try:
        state = json.loads(text or "{}")
    except ValueError:
        return
    if isinstance(state, dict):
        kept = state.pop(PARAMETERS, None)
        if state.pop(MUTED, None) is True:
            call.mute()
        call.state.update(state)
        if isinstance(kept, dict):
            earlier = {name: str(value) for name, value in kept.items() if name not in call.parameters}
            call.parameters = bounded({**call.parameters, **earlier}, call.sid)
