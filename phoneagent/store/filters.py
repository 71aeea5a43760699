"""The filter of a list of recorded calls: by caller, agent, time, or words that were said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from phoneagent.events import EndedBy
from phoneagent.store.schema import calls, turns


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """The conditions that a call must meet; None matches any. Texts match anywhere in the searched text.

    The case of ASCII letters does not matter. `until` is the first moment that is too late.
    """

    party: str | None = None
    """A part of the caller's number, or of the number called."""
    agent: str | None = None
    """The name of an agent that spoke, in full."""
    ended_by: EndedBy | None = None
    since: datetime | None = None
    until: datetime | None = None
    words: str | None = None
    """Words that either side said, even if they were not heard."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions that a row of `calls` must meet."""
        found: list[sa.ColumnElement[bool]] = []
        if self.party is not None:
            found.append(_has(calls.c.caller, self.party) | _has(calls.c.called, self.party))
        if self.ended_by is not None:
            found.append(calls.c.ended_by == self.ended_by)
        if self.since is not None:
            found.append(calls.c.started_at >= self.since)
        if self.until is not None:
            found.append(calls.c.started_at < self.until)
        if self.agent is not None:
            found.append(_has_turn(turns.c.agent == self.agent))
        if self.words is not None:
            found.append(_has_turn(_has(turns.c.text, self.words)))
        return found


def _has(column: sa.Column[Any], text: str) -> sa.ColumnElement[bool]:
    return column.icontains(text, autoescape=True)


def _has_turn(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(turns.c.call_sid == calls.c.sid, condition)
