"""The telephone network behind a phone: the parties that a `<Dial>` reaches, and the conferences of the account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from phoneagent.sim.twilio.line import Line


class Party(Protocol):
    """A party that can be dialed, like a `Callee`."""

    @property
    def number(self) -> str:
        """Its number, or its address: `sip:user@host` or `client:name`."""

    @property
    def conduct(self) -> Callable[[Line], Awaitable[object]]:
        """Its behavior on an answered call."""

    async def ring(self, timeout: float) -> str:
        """Ring, and return the call's status: in-progress once it is answered."""

    async def note(self, line: Line | None = None) -> None:
        """Record a call that was answered, or, without a `line`, one that is over."""


@dataclass(eq=False, slots=True)
class Conference:
    """One conference: its current and former calls, whether one of them `starts` it, and whether it has started."""

    members: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    starts: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Network:
    """The parties by their addresses, and the conferences by their names.

    Attributes:
        parties: those that can be dialed; if there are any, a `<Dial>` to any other party fails.
        conferences: all conferences ever begun, in order; a name may occur again.
    """

    def __init__(self) -> None:
        self.parties: dict[str, Party] = {}
        self.conferences: list[tuple[str, Conference]] = []

    async def join(self, name: str, line: Line, *, starts: bool, ends: bool) -> None:
        """Stay in a conference until it is over, or until this is canceled because the call is over.

        Until it has started, the call hears music. It starts once it has two members, one of which `starts` it, and is
        over when a member that `ends` it leaves.
        """
        conference = next((each for known, each in self.conferences if known == name and not each.over.is_set()), None)
        if conference is None:
            conference = Conference()
            self.conferences.append((name, conference))
        conference.members.append(line.call_sid)
        conference.joined.append(line.call_sid)
        conference.starts |= starts
        if len(conference.members) > 1 and conference.starts:
            conference.started.set()
        try:
            if not conference.started.is_set():
                with line.announcing("Music", ""):
                    await _either(conference.started, conference.over)
            await conference.over.wait()
        finally:
            conference.members.remove(line.call_sid)
            if ends or not conference.members:
                conference.over.set()


async def _either(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
