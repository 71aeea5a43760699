"""Who is put through: a list of callers, a share for each of them, and what the process can carry.

    denied by the list → rejected, as a number that does not take such calls
    too many calls of one caller → busy
    too many calls at all → whoever answers at FALLBACK_NUMBER, busy without one

The other party of a call is a number in E.164, `sip:…`, `client:…`, or a word where the number is withheld; a party is
never named in what is returned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

_IDENTIFIED = ("+", "sip:", "sips:", "client:")
_SPELLED = frozenset({"+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253"})
"""ANONYMOUS, RESTRICTED, BLOCKED, UNKNOWN and UNAVAILABLE on a phone's keys: some carriers withhold numbers so."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not taken, and what its caller gets.

    `reason` is for the log and the metrics; `answer` is `busy` or `rejected`, or `fallback`: somebody else answers.
    """

    reason: Literal["full", "denied", "caller", "draining", "limited"]
    answer: Literal["busy", "rejected", "fallback"]


DENIED = Refusal("denied", "rejected")
CALLER = Refusal("caller", "busy")
FULL = Refusal("full", "fallback")
LIMITED = Refusal("limited", "fallback")
"""Little is left of the model's rate limits, and that is for the calls that are live."""
DRAINING = Refusal("draining", "fallback")
"""The process ends, and no other one has come to take the call."""


class Admission:
    """Decides about one call at a time, from what is live at that moment; it keeps no count of its own.

    Args:
        max_calls: how many calls the process takes at once.
        max_calls_per_caller: how many of them one party may have; withheld parties are not counted.
        allow, deny: numbers in E.164, or the beginning of some and an asterisk, as `+1555*`. `deny` beats `allow`;
            where `allow` has entries, whoever is not on it is denied, withheld parties too.
    """

    def __init__(
        self, *, max_calls: int, max_calls_per_caller: int, allow: Sequence[str] = (), deny: Sequence[str] = ()
    ) -> None:
        self._max_calls = max_calls
        self._max_calls_per_caller = max_calls_per_caller
        self._allow = _Numbers(allow) if allow else None
        self._deny = _Numbers(deny)

    def refuse(self, party: str | None, live: Collection[str | None]) -> Refusal | None:
        """Return why a call with `party` is not taken, None if it is.

        `live` has the party of each call that counts. Somebody who is denied learns nothing of how busy we are, so that
        comes first.
        """
        known = _identity(party)
        if known in self._deny or (self._allow is not None and known not in self._allow):
            return DENIED
        if known is not None and sum(_identity(each) == known for each in live) >= self._max_calls_per_caller:
            return CALLER
        if len(live) >= self._max_calls:
            return FULL
        return None


class _Numbers:
    """A set of numbers and of beginnings of numbers."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._exact = frozenset(entry for entry in entries if not entry.endswith("*"))
        self._beginnings = tuple(entry[:-1] for entry in entries if entry.endswith("*"))

    def __contains__(self, party: str | None) -> bool:
        return party is not None and (party in self._exact or party.startswith(self._beginnings))


def _identity(party: str | None) -> str | None:
    """Return who that is, None where it is withheld."""
    who = (party or "").strip()
    return who if who.lower().startswith(_IDENTIFIED) and who not in _SPELLED else None
