"""The calls that the demo can play. Each is a script for the simulated model that includes the caller's lines."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from phoneagent.sim.model.script import Script

FOLDER: Traversable = files(__package__)
AGENT_CLIPS = FOLDER.joinpath("clips", "agent")
CALLER_CLIPS = FOLDER.joinpath("clips", "caller")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One call: the app that answers, the script, and when the caller's second line interrupts.

    `target` is the app as `module:app`, or None if the user names one. The caller says the lines of the turns in order,
    each after the agent has finished. The second line is the exception: it starts when the caller has heard the agent's
    answer for `interrupts_after_ms`; None: no line interrupts. In a `free` story the agent may end the call early.
    """

    target: str | None
    source: Traversable | Script
    interrupts_after_ms: int | None
    free: bool = False

    def script(self) -> Script:
        """Return the script, from its file if it is in one."""
        if isinstance(self.source, Script):
            return self.source
        return Script.parse(self.source.read_text(encoding="utf-8"), source=self.source.name)


RESTAURANT = Story(
    target="phoneagent.demo.restaurant:app",
    source=FOLDER.joinpath("restaurant.toml"),
    interrupts_after_ms=7000,
)
"""The built-in example: a restaurant host that books tables."""

VISITOR = Story(target=None, source=FOLDER.joinpath("visitor.toml"), interrupts_after_ms=4500)
"""The call for a user's own agent: questions that fit any agent."""
