"""What users keep in `call.state`, on its way to the call's next media stream, which may be in another process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from phoneagent.agent.call import Call
from phoneagent.events import CallHandedOver, Event, ToolReturned, TurnEnded

log = logging.getLogger("phoneagent.calls.state")

MAX_CHARS = 16 * 1024
"""How long the state may be, as JSON. A longer one is not carried at all: half of one is worse than none."""


class CallState:
    """Tells `keep` the state of a call as JSON whenever it has changed, after a turn, a tool and before a hand-over.

    What JSON cannot carry is left out, and that is logged once.
    """

    def __init__(self, call: Call, keep: Callable[[str], None]) -> None:
        self._call = call
        self._keep = keep
        self._complained = False
        self._kept = self._pack()

    def look(self, event: Event) -> None:
        """Something has happened in the call."""
        if isinstance(event, ToolReturned | TurnEnded | CallHandedOver) and (text := self._pack()) != self._kept:
            self._kept = text
            self._keep(text)

    def _pack(self) -> str:
        parts: dict[str, str] = {}
        left: list[str] = []
        for name, value in dict(self._call.state).items():
            try:
                parts[json.dumps(str(name))] = json.dumps(value)
            except (TypeError, ValueError, RecursionError):
                left.append(str(name))
            except RuntimeError:  # a thread is just changing it: it is told the next time
                return self._kept
        text = "{" + ", ".join(f"{name}: {part}" for name, part in parts.items()) + "}"
        if left:
            self._complain(f"JSON cannot carry {', '.join(left)}")
        if len(text) <= MAX_CHARS:
            return text
        self._complain(f"it has more than {MAX_CHARS} characters as JSON")
        return "{}"

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("call.state is lost at a hand-over: %s", why, extra={"call_sid": self._call.sid})


def unpack(text: str | None) -> dict[str, Any]:
    """Return the state that was kept; none, where nothing was."""
    try:
        state = json.loads(text or "{}")
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}
