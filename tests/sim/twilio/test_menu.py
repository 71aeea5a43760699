"""A menu at the far end: it speaks, hears keys in the audio, and gives up on callers that press none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.protocol.tones import tones
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.menu import Menu
from phoneagent.sim.twilio.microphone import FRAME_MS
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

LOANS = Menu("You have reached loans.")
BANK = Menu("For cards, one. For loans, two.", {"1": Menu("Cards: one.", {"1": LOANS}), "2": LOANS})


class Quick:
    def __init__(self) -> None:
        self.said: list[str] = []

    def render(self, text: str) -> bytes:
        self.said.append(text)
        return b"\x55" * 100 * BYTES_PER_MS


@asynccontextmanager
async def live() -> AsyncIterator[Line]:
    """A line whose frames are taken, as its stream does."""
    line = Line(call_sid="CA1", account_sid="AC1")
    line.started_at = line.playout.started_at = time.monotonic()

    async def take() -> None:
        number = 0
        while True:
            line.microphone.frame(number)
            number += 1
            await asyncio.sleep(FRAME_MS / 1000)

    frames = asyncio.create_task(take())
    try:
        yield line
    finally:
        frames.cancel()


def send(line: Line, keys: str) -> None:
    line.playout.media(tones(keys), time.monotonic())


async def test_the_keys_lead_to_the_end_also_while_it_speaks() -> None:
    voice = Quick()
    async with asyncio.timeout(HANG_SECONDS), live() as line:
        send(line, "1w1")
        assert await BANK.answer(line, voice=voice) == "11"
    assert voice.said == [BANK.prompt, "Cards: one.", LOANS.prompt]


async def test_a_wrong_key_has_it_say_itself_again() -> None:
    voice = Quick()
    async with asyncio.timeout(HANG_SECONDS), live() as line:
        send(line, "7ww2")
        assert await BANK.answer(line, voice=voice) == "2"
    assert voice.said == [BANK.prompt, BANK.prompt, LOANS.prompt]


async def test_it_gives_up() -> None:
    voice = Quick()
    async with asyncio.timeout(HANG_SECONDS), live() as line:
        with pytest.raises(CallFailed, match="heard none of its keys"):
            await BANK.answer(line, voice=voice, patience_seconds=0.01)
    assert voice.said == [BANK.prompt] * 3


async def test_the_call_may_end_before() -> None:
    async with live() as line:
        line.ended_by = "agent"
        with pytest.raises(CallFailed, match="the call ended"):
            await BANK.answer(line, voice=Quick())
