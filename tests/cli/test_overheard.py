"""What `phoneagent sim call` writes of the agent's words."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import Result

from phoneagent.cli import overheard
from phoneagent.protocol.audio import BYTES_PER_MS, rms, tone
from phoneagent.sim.recogniser import MoonshineEar
from phoneagent.sim.speech import Ear, agent_voice
from tests.cli.test_sim_call import quick as quick
from tests.cli.test_sim_call import run
from tests.sim.conftest import Leg, Server

pytestmark = pytest.mark.anyio


class Ruler:
    """An ear that measures how long it hears sound."""

    async def hear(self, ulaw: bytes) -> str:
        frames = [ulaw[at : at + 160] for at in range(0, len(ulaw), 160)]
        loud = sum(len(frame) for frame in frames if rms(frame) > 500)
        return f"{round(loud / BYTES_PER_MS, -2):.0f} ms" if loud else ""


async def two_lines(leg: Leg) -> None:
    """Says one line before the caller's, in two parts, and another one after it."""
    await leg.play(tone(440, 400))
    await leg.play(tone(440, 200))
    await leg.until(lambda: any(leg.loud()))
    await leg.until(lambda: not any(leg.loud()[-10:]))
    await leg.play(tone(500, 300))
    await leg.event("closed")


async def call(server: Server, monkeypatch: pytest.MonkeyPatch, ear: Ear | None, *arguments: str) -> Result:
    monkeypatch.setattr(overheard, "default_ear", lambda: ear)
    return await run(server.url, *arguments)


async def test_each_of_the_agents_lines_is_written_when_it_is_over(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.agent = two_lines
    monkeypatch.setattr(overheard, "PAUSE_MS", 300)
    shown = (await call(server, monkeypatch, Ruler(), "--say", "Hello")).output
    told = [line.split(maxsplit=2)[2] for line in shown.splitlines() if '"' in line or "caller   Hello" in line]
    assert told == ['agent    "600 ms"', "caller   Hello", 'agent    "300 ms"'], shown
    assert overheard.NO_EAR not in shown


async def test_what_was_heard_last_is_written_when_the_call_ends_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talker(leg: Leg) -> None:
        await leg.play(tone(440, 500))
        await leg.mark("heard")
        await leg.event("mark")

    server.agent = talker
    monkeypatch.setattr(overheard, "PAUSE_MS", 60_000)
    shown = (await call(server, monkeypatch, Ruler())).output
    assert shown.count('agent    "500 ms"') == 1, shown


async def test_without_an_ear_it_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def brief(leg: Leg) -> None:
        await leg.play(tone(440, 200))

    server.agent = brief
    shown = (await call(server, monkeypatch, None)).output
    assert shown.splitlines()[1] == "What the agent says is not written out: pip install 'phoneagent[demo]'."


@pytest.mark.skipif(not MoonshineEar.available(), reason="the extra `demo` is not installed")
async def test_words_are_understood(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    speech = await asyncio.to_thread(agent_voice().render, "Good evening, how can I help you?")

    async def talker(leg: Leg) -> None:
        await leg.play(speech)
        await leg.mark("heard")
        await leg.event("mark")

    server.agent = talker
    ear = MoonshineEar()
    assert "how can i help you" in (await call(server, monkeypatch, ear)).output.lower()
