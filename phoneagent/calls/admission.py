"""Admission: which new calls are taken, and what happens to the others.

    the caller is denied by a list → rejected
    the caller has too many calls → busy
    the process has too many calls → forwarded to FALLBACK_NUMBER, or busy if there is none

Parties are compared by their caller IDs, so another spelling of an address changes nothing. A withheld party has none.
A refusal never contains the party.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from phoneagent.protocol.callerid import caller_id


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of a new call.

    `reason` is for the log and the metrics. `answer` is what the caller gets: `busy`, `rejected`, or `fallback`, which
    forwards the call.
    """

    reason: Literal["full", "denied", "caller", "draining", "limited"]
    answer: Literal["busy", "rejected", "fallback"]


DENIED = Refusal("denied", "rejected")
CALLER = Refusal("caller", "busy")
FULL = Refusal("full", "fallback")
LIMITED = Refusal("limited", "fallback")
"""The model's rate limits are nearly used up; the rest is reserved for live calls."""
DRAINING = Refusal("draining", "fallback")
"""This process is shutting down, and no other process has taken the call."""


class Admission:
    """Decides which new calls are taken. It counts nothing itself: each decision gets the live calls.

    Args:
        max_calls: the maximum number of calls of this process.
        max_calls_per_caller: the maximum number of calls of one party; withheld parties are not counted.
        allow, deny: numbers in E.164, or prefixes with an asterisk, like `+1555*`. `deny` overrides `allow`. If `allow`
            has entries, every party that it does not list is denied, and so are withheld parties.
    """

    def __init__(
        self, *, max_calls: int, max_calls_per_caller: int, allow: Sequence[str] = (), deny: Sequence[str] = ()
    ) -> None:
        self._max_calls = max_calls
        self._max_calls_per_caller = max_calls_per_caller
        self._allow = _Numbers(allow) if allow else None
        self._deny = _Numbers(deny)

    def refuse(self, party: str | None, live: Collection[str | None]) -> Refusal | None:
        """Return the refusal of a call with `party`, None if the call is taken.

        `live` has the party of each live call.
        """
        known = caller_id(party)
        # The lists come first, so that a denied caller does not learn how busy the process is.
        if known in self._deny or (self._allow is not None and known not in self._allow):
            return DENIED
        if known is not None and sum(caller_id(each) == known for each in live) >= self._max_calls_per_caller:
            return CALLER
        if len(live) >= self._max_calls:
            return FULL
        return None


class _Numbers:
    """A set of numbers and of prefixes of numbers."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._exact = frozenset(caller_id(entry) for entry in entries if not entry.endswith("*"))
        self._prefixes = tuple(entry[:-1] for entry in entries if entry.endswith("*"))

    def __contains__(self, party: str | None) -> bool:
        return party is not None and (party in self._exact or party.startswith(self._prefixes))
