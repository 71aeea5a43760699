"""Names for the ids of a server: unique in a call, while the server's ids may repeat or be missing."""

from __future__ import annotations

from collections.abc import Iterable

MAX_NAMES = 10_000
"""How many ids are kept apart; more than a call has items."""

MADE_UP = "~"
"""The prefix of an id that the server does not know, because it gave none."""


def known_id(name: str | None) -> str | None:
    """Return an id as the server knows it; None if it does not."""
    return None if name is None or name.startswith(MADE_UP) else name


class Names:
    """Names that are unique in a call, for ids that may repeat. `reserved` are already in use."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._used = dict.fromkeys(reserved)

    def new(self, wanted: str) -> str:
        """Return `wanted`, or something like it that is still unused. A new name has at most 32 characters."""
        name, number = wanted, 1
        while name in self._used:
            number += 1
            name = f"{wanted[:26]}~{number}"
        self._used[name] = None
        if len(self._used) > MAX_NAMES:
            del self._used[next(iter(self._used))]
        return name
