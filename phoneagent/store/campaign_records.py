"""The records of campaigns and of the numbers on their lists, and the possible next steps of a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from phoneagent.errors import DefinitionError

CampaignState: TypeAlias = Literal["loading", "running", "stopping", "stopped", "done"]
"""The state of a campaign: its list is being written · its numbers are called · no new calls, and the last ones are
finishing · no call is left · every number is finished."""

ACTIVE: tuple[CampaignState, ...] = ("running", "stopping")

NumberState: TypeAlias = Literal["waiting", "calling", "finished", "given_up", "skipped"]
"""The state of a number: it waits for its next call · its call is queued or in progress · it was reached · it was not,
and is not called again · it is never called, because its line has a problem."""

EndState: TypeAlias = Literal["finished", "given_up"]


class OtherCampaign(DefinitionError):
    """A campaign's name belongs to another list, or to other rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A campaign in its current state.

    `numbers` counts the numbers by state, and `results` those that were called by the result of their last call.
    """

    id: str
    name: str
    state: CampaignState
    plan: Mapping[str, Any] = field(repr=False)
    created_at: datetime
    ended_at: datetime | None
    numbers: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many lines the list has."""
        return sum(self.numbers.values())

    @property
    def over(self) -> bool:
        """Whether no call is in progress, and none will be made."""
        return self.state in ("stopped", "done")

    def as_dict(self) -> dict[str, Any]:
        """Return the campaign as a dict for JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "total": self.total,
            "numbers": dict(self.numbers),
            "results": dict(self.results),
            "created_at": self.created_at.isoformat(),
            "ended_at": None if self.ended_at is None else self.ended_at.isoformat(),
            "rules": dict(self.plan.get("rules", {})),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignCall:
    """One number of a campaign in its current state; `position` is its line in the list.

    `attempts` is how many calls were made to it, `result` how the last one ended, and `outcome` what its agent noted.
    """

    position: int
    to: str = field(repr=False)
    context: Mapping[str, Any] = field(repr=False)
    state: NumberState
    attempts: int
    due_at: datetime | None
    call_sid: str | None
    result: str | None
    reason: str | None
    ended_at: datetime | None
    outcome: Any = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the number's line of the report, without its context."""
        return {
            "line": self.position,
            "to": self.to,
            "state": self.state,
            "attempts": self.attempts,
            "result": self.result,
            "call_sid": self.call_sid,
            "outcome": self.outcome,
            "reason": self.reason,
            "due_at": None if self.due_at is None else self.due_at.isoformat(),
            "ended_at": None if self.ended_at is None else self.ended_at.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCall:
    """A number to put on a campaign's list. With a `problem` it is never called."""

    position: int
    to: str = field(repr=False)
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    due_at: datetime | None = None
    problem: str | None = None


# --- the next step of a number ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dial:
    """Call it now, but not after `until`."""

    until: datetime


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Check it again at that moment."""

    moment: datetime
    why: str


@dataclass(frozen=True, slots=True)
class End:
    """Do not call it again."""

    state: EndState
    why: str


Step: TypeAlias = Dial | WaitUntil | End


@dataclass(frozen=True, slots=True)
class Moved:
    """The result of one move of a campaign, and when the next one is due.

    `more` tells whether there is more to do at once.
    """

    started: int
    calling: int
    next_at: datetime | None
    more: bool
