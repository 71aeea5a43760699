"""The persistence of `call.state`, so that the call's next media stream has it, in this process or in another."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from phoneagent.agent.call import Call
from phoneagent.events import CallHandedOver, Event, ToolReturned, TurnEnded

log = logging.getLogger("phoneagent.calls.state")

MAX_CHARS = 16 * 1024
"""The maximum length of the state as JSON. A longer state is not kept at all: half of it is worse than none."""


class CallState:
    """Passes the state of a call to `keep` as JSON if it has changed: after a turn, after a tool, before a hand-over.

    Values that JSON cannot express are left out, and that is logged once.
    """

    def __init__(self, call: Call, keep: Callable[[str], None]) -> None:
        self._call = call
        self._keep = keep
        self._warned = False
        self._kept = self._pack()

    def look(self, event: Event) -> None:
        """Look for a changed state, if the event may have changed it."""
        if isinstance(event, ToolReturned | TurnEnded | CallHandedOver) and (text := self._pack()) != self._kept:
            self._kept = text
            self._keep(text)

    def _pack(self) -> str:
        parts: dict[str, str] = {}
        left_out: list[str] = []
        for name, value in dict(self._call.state).items():
            try:
                parts[json.dumps(str(name))] = json.dumps(value)
            except (TypeError, ValueError, RecursionError):
                left_out.append(str(name))
            except RuntimeError:  # a thread is changing the value: the next event looks again
                return self._kept
        text = "{" + ", ".join(f"{name}: {part}" for name, part in parts.items()) + "}"
        if left_out:
            self._warn(f"JSON cannot express {', '.join(left_out)}")
        if len(text) <= MAX_CHARS:
            return text
        self._warn(f"it has more than {MAX_CHARS} characters as JSON")
        return "{}"

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("call.state is lost at a hand-over: %s", why, extra={"call_sid": self._call.sid})


def unpack(text: str | None) -> dict[str, Any]:
    """Return the state that was kept as `text`, empty if none was."""
    try:
        state = json.loads(text or "{}")
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}
