"""The progress of all live calls, saved during their turns: after a crash, the next session must know it.

A turn is recorded when it ends. Until then, what was said and heard of it is saved here about once a second, if it has
changed. One timer checks all calls of the process, one part of them at a time, so that no frame waits for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.steps import Pending
from phoneagent.events import Event, Turn, TurnEnded

log = logging.getLogger("phoneagent.calls.progress")

LOOK_SECONDS = 0.9
"""How often each call is checked. With a tenth of a second to write it, what was heard is durable within a second."""

PARTS = 9
"""How many times the timer fires within that time."""

FULL_PART = 30
"""How many calls are checked together, and written in one transaction, before the next part gets any."""

Keep: TypeAlias = Callable[[str, str, Sequence[Turn], Pending | None], None]
"""A function that takes the sids of a call and its stream, the changed turns in progress, and what is open (None:
unchanged). It never waits."""


class Progress:
    """The progress of the live calls of one process. `keep` saves it."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._parts: list[list[_CallProgress]] = [[] for _ in range(PARTS)]
        self._newest: dict[str, _CallProgress] = {}  # by CallSid
        self._due_soon: set[_CallProgress] = set()
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def follow(self, call_sid: str, bridge: Bridge) -> Callable[[], None]:
        """Follow a call in a media stream; return the function that stops following it."""
        call = _CallProgress(call_sid, bridge, self._keep)
        part = next((each for each in self._parts if len(each) < FULL_PART), min(self._parts, key=len))
        part.append(call)
        self._newest[call_sid] = call
        self._due_soon.add(call)  # it may be a short one
        if self._timer is None:
            self._due = asyncio.get_running_loop().time()
            self._set_timer()

        def leave() -> None:
            part.remove(call)
            self._due_soon.discard(call)
            if self._newest.get(call_sid) is call:
                del self._newest[call_sid]
            if not any(self._parts) and self._timer is not None:
                self._timer.cancel()
                self._timer = None

        return leave

    def tell(self, event: Event) -> None:
        """Handle an event of a call. When a turn ends, what is open changes, and is checked when the timer fires next.

        Otherwise, after a crash, the caller's words would be known and yet reported as lost.
        """
        if isinstance(event, TurnEnded) and (call := self._newest.get(event.call_sid)) is not None:
            self._due_soon.add(call)

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = max(self._due + LOOK_SECONDS / PARTS, loop.time())  # a late check must not delay the later ones
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._set_timer()
        now = asyncio.get_running_loop().time()
        due, self._due_soon = self._due_soon.union(self._parts[self._next]), set()
        for call in due:
            try:
                call.look(now)
            except Exception:  # an observer must not harm the call that it observes, or any other
                log.exception("the progress of the call was not kept", extra={"call_sid": call.call_sid})
        self._next = (self._next + 1) % PARTS


class _CallProgress:
    """The progress of one call in one media stream, and what was saved of it."""

    def __init__(self, call_sid: str, bridge: Bridge, keep: Keep) -> None:
        self.call_sid = call_sid
        self._bridge = bridge
        self._keep = keep
        self._kept: dict[str, tuple[str, int]] = {}
        self._kept_pending: Pending | None = None

    def look(self, now: float) -> None:
        """Save what has changed."""
        bridge = self._bridge
        if bridge.stream_sid is None or bridge.ended is not None:
            return
        turns = bridge.dialogue.unfinished(bridge.playback.so_far(now), now)
        changed = [turn for turn in turns if self._kept.get(turn.item_id) != (turn.text, turn.heard_ms)]
        self._kept = {turn.item_id: (turn.text, turn.heard_ms) for turn in turns}
        pending = bridge.pending(now)
        news = None if pending in (self._kept_pending, "unknown") else pending  # what was saved before is better
        self._kept_pending = pending
        if changed or news is not None:
            self._keep(self.call_sid, bridge.stream_sid, changed, news)
