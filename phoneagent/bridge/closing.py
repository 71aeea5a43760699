"""The end of a call: it comes when the last words were heard, and not much later, whatever else comes or not."""

from __future__ import annotations

from phoneagent.bridge.deadlines import Deadlines
from phoneagent.bridge.history import Pending
from phoneagent.bridge.playback import Playback
from phoneagent.events import EndedBy, NextStep

GOODBYE_SECONDS = 5.0
"""In CLOSING the model may be silent for so long before we hang up without waiting for it."""

CLOSING_SECONDS = 15.0
"""The longest that CLOSING waits for words that were not received yet."""

HEARD_GRACE_SECONDS = 1.0
"""How much later than computed the last mark may come."""


class Closing:
    """Whether the call is about to end, why, and when. `now` is in seconds."""

    def __init__(self) -> None:
        self.active = False
        self.goodbye_due = False
        """A goodbye is still to be said by the model."""
        self.by: EndedBy = "agent"
        self.reason = ""
        self._since = 0.0

    def begin(self, now: float, by: EndedBy, reason: str, *, goodbye: bool = False) -> None:
        """The call is about to end; with `goodbye` the model says one before. Whoever says so first ends it."""
        if not self.active:
            self.by, self.reason = by, reason
        self.active, self._since, self.goodbye_due = True, now, goodbye

    def due(self, playback: Playback, deadlines: Deadlines, *, coming: bool) -> float:
        """Return when to hang up; `coming` tells whether more words may come from the model."""
        if playback.idle and not coming:
            return self._since
        written = max(playback.dry_at, self._since, deadlines.started_at)
        heard = written + playback.unsent_ms / 1000 + HEARD_GRACE_SECONDS
        if not coming:
            return heard
        silent = max(deadlines.model_at, self._since) + GOODBYE_SECONDS
        return max(heard, min(silent, self._since + CLOSING_SECONDS))


def step_after(by: EndedBy | None, pending: Pending) -> NextStep | None:
    """Return what comes after a media stream that `by` has ended; None, and the caller has hung up.

    A call that nobody has ended goes on in another stream, and so does one whose line broke, if it is still up.
    """
    if by == "caller":
        return None
    if by == "agent":
        return NextStep(kind="hang_up")
    if by == "error":
        return NextStep(kind="fall_back")
    return NextStep(kind="resume", data={"pending": pending, "broke": by is not None})
