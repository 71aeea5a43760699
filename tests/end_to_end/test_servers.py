"""Whole calls against the stand-in of every server, and the page that says what works with which.

    PHONEAGENT_WRITE_DOCS=1 pytest tests/end_to_end/test_servers.py -k page     writes docs/servers.md

`MISSING` declares what does not work, and why. Each server's calls have to show exactly that: nothing more is missing,
and nothing that is declared works after all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, BargeIn, Call, CallEnded, Endpoint, ToolReturned, TurnEnded, UsageReported, hang_up, tool
from phoneagent.sim import Line, Model
from phoneagent.sim.model.session import SimulatedSession
from phoneagent.sim.model.standins import STAND_INS
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds, settings
from tests.end_to_end.test_endpoints import Running

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "servers.md"
KEY = "sk-provider"
VOICE = Murmur()
GREETING = "Good evening!"
OFFER = "Of course. We have one by the window at seven, another by the fireplace at half past seven, and one outside."
SCRIPT = f"""
[[turn]]
caller = "A table, please."
say = "{OFFER}"
[[turn]]
caller = "At seven."
call = "book_table"
arguments = {{ guests = 4 }}
then = "Done. {{output}}"
[[turn]]
caller = "Goodbye."
say = "Goodbye!"
call = "hang_up"
"""

GREETED = "the agent speaks first"
IN_WORDS = "it greets with the words of `greeting`"
ANSWERED = "a question is answered"
RECORDED = "the caller's words are recorded"
STOPPED = "the agent stops when the caller interrupts, and what was heard is known to 0.1 s"
TRUNCATED = "the model learns how much was heard"
CALLED = "a tool runs, and its outcome is spoken"
HUNG_UP = "the agent hangs up after its goodbye"
USED = "token usage is reported, so the cost is known"
RENEWED = "a lost session is replaced, and the call goes on"
CAPABILITIES = (GREETED, IN_WORDS, ANSWERED, RECORDED, STOPPED, TRUNCATED, CALLED, HUNG_UP, USED, RENEWED)

MISSING: dict[str, dict[str, str]] = {
    "localai": {
        TRUNCATED: "it takes `conversation.item.truncate` and does nothing",
        USED: "its responses carry no usage",
    },
    "speaches": {USED: "its responses carry no usage"},
    "speech-to-speech": {
        IN_WORDS: "it drops messages of the role `system`, and with them the request to say these words",
        TRUNCATED: "it does not know `conversation.item.truncate`",
    },
    "vllm": {RECORDED: "it transcribes nothing"},
}

SERVERS: dict[str, tuple[str, Callable[[Model], dict[str, Any]]]] = {
    "openai": ("OpenAI", lambda model: {"openai_api_key": KEY, "openai_base_url": model.base_url}),
    "azure": (
        "Azure OpenAI",
        lambda model: {
            "azure_openai_endpoint": model.base_url.removesuffix("/openai/v1"),
            "azure_openai_deployment": "talk",
            "azure_openai_api_key": KEY,
        },
    ),
    "helicone": (
        "Helicone",
        lambda model: {"openai_api_key": KEY, "helicone_api_key": "sk-helicone", "helicone_url": model.base_url},
    ),
    "litellm": ("LiteLLM", lambda model: preset("litellm", model)),
    "xai": ("xAI", lambda model: preset("xai", model)),
    "inworld": ("Inworld", lambda model: preset("inworld", model)),
    "localai": ("LocalAI", lambda model: preset("localai", model)),
    "speaches": ("speaches", lambda model: preset("speaches", model)),
    "speech-to-speech": ("Hugging Face speech-to-speech", lambda model: preset("speech-to-speech", model)),
    "vllm": ("vLLM-Omni", lambda model: preset("vllm", model)),
}
"""Each server's name, and how an installation is configured for its stand-in."""

FAMILIES = {
    "near OpenAI": ("openai", "azure", "helicone", "litellm"),
    "neighbors": ("xai", "inworld"),
    "self-hosted": ("localai", "speaches", "speech-to-speech", "vllm"),
}


def preset(name: str, model: Model) -> dict[str, Any]:
    url = model.url.removesuffix("/realtime")
    return {"realtime_provider": name, "realtime_url": url, "realtime_api_key": KEY}


@tool
async def book_table(call: Call, guests: int) -> str:
    """Book a table."""
    return f"Booked for {guests}."


HOST = Agent(instructions=lambda call: call.sid, greeting=GREETING, tools=[book_table, hang_up])


@asynccontextmanager
async def at(name: str, world: Worlds) -> AsyncIterator[World]:
    """Make a world whose settings name the stand-in. At its end no client has broken a rule."""
    async with Model(SCRIPT, dialect=name, api_key=KEY) as model:
        configured = settings(**{"realtime_url": None, **SERVERS[name][1](model)})
        async with world(HOST, model=Running(model), endpoint=Endpoint.from_settings(configured)) as w:
            yield w
            assert model.violations == []


def spoken(w: World, line: Line) -> list[str]:
    """Return what the caller has heard of the agent, turn by turn."""
    turns = [each.turn for each in w.of(TurnEnded) if each.call_sid == line.call_sid]
    return [turn.heard_text for turn in turns if turn.role == "agent"]


def heard(w: World, line: Line, words: str) -> bool:
    """Tell whether the caller has heard these words of the agent to their end."""
    return words in spoken(w, line)


def sessions(w: World, line: Line) -> list[SimulatedSession]:
    return [session for session in w.model.sessions if session.session.get("instructions") == line.call_sid]


async def whole_call(w: World, shown: set[str]) -> None:
    """Have a call: a greeting, a question, an interruption, a tool, a goodbye. Note in `shown` what worked."""
    async with w.phone().dial() as line:
        await w.until(lambda: spoken(w, line))
        shown.add(GREETED)
        if heard(w, line, GREETING):
            shown.add(IN_WORDS)
        start = len(line.received)
        await line.say(VOICE.render("A table, please."))
        await line.wait_for_agent(ms=900)
        shown.add(ANSWERED)
        await line.say(VOICE.render("At seven."))
        clear = await line.wait_for_clear()
        truth_ms = (clear.heard_to - start) / 8
        (cut,) = await w.until(lambda: [each for each in w.of(BargeIn) if each.call_sid == line.call_sid])
        if -150 <= cut.audio_end_ms - truth_ms <= 50:
            shown.add(STOPPED)
        await w.until(lambda: heard(w, line, "Done. Booked for 4."))
        if any(each.call_sid == line.call_sid and each.output == "Booked for 4." for each in w.of(ToolReturned)):
            shown.add(CALLED)
        told = [each for each in sessions(w, line)[0].truncations if each.ok]
        if [(each.item_id, each.audio_end_ms) for each in told] == [(cut.item_id, cut.audio_end_ms)]:
            shown.add(TRUNCATED)
        await line.say(VOICE.render("Goodbye."))
        await line.wait_ended(10)
        if line.ended_by == "agent" and heard(w, line, "Goodbye!"):
            shown.add(HUNG_UP)
        assert line.violations == []
    ended = (await w.until(lambda: [each for each in w.of(CallEnded) if each.call_sid == line.call_sid]))[0]
    words = [turn.text for turn in ended.transcript if turn.role == "caller"]
    if words == ["A table, please.", "At seven.", "Goodbye."]:
        shown.add(RECORDED)
    usage = [each for each in w.of(UsageReported) if each.call_sid == line.call_sid and each.source == "response"]
    if any(each.usage.audio_out for each in usage):
        shown.add(USED)


async def interrupted_call(w: World, shown: set[str]) -> None:
    """Have a call whose session is lost in the middle of an answer. Note whether another one goes on."""
    async with w.phone().dial() as line:
        await w.until(lambda: spoken(w, line))
        await line.say(VOICE.render("A table, please."))
        await line.wait_for_agent(ms=900)
        (first,) = sessions(w, line)
        first.kill()
        await w.until(lambda: len(sessions(w, line)) == 2)
        await line.wait_for_silence(ms=300)
        asked = len(line.received)
        await line.say(VOICE.render("At seven."))
        await w.until(lambda: len(line.received) > asked + 8 * 300)
        if sessions(w, line)[1].said:
            shown.add(RENEWED)


async def outcomes(name: str, world: Worlds) -> tuple[set[str], list[str]]:
    """Have both calls at once; return what worked, and where they got stuck."""
    shown: set[str] = set()
    async with at(name, world) as w:
        calls = await asyncio.gather(whole_call(w, shown), interrupted_call(w, shown), return_exceptions=True)
        stuck = [f"{name}: {call!r}, after {w.events[-3:]}" for call in calls if isinstance(call, BaseException)]
    return shown, stuck


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_works_is_what_the_page_says(world: Worlds, family: str) -> None:
    names = FAMILIES[family]
    found = await asyncio.gather(*(outcomes(name, world) for name in names))
    stuck = [each for _, problems in found for each in problems]
    missing = {name: sorted(set(CAPABILITIES) - shown) for name, (shown, _) in zip(names, found, strict=True)}
    assert missing == {name: sorted(MISSING.get(name, {})) for name in names}, stuck


def test_every_stand_in_is_called() -> None:
    assert sorted(SERVERS) == sorted(STAND_INS) == sorted(name for names in FAMILIES.values() for name in names)
    assert MISSING.keys() <= SERVERS.keys()
    assert {capability for missing in MISSING.values() for capability in missing} <= set(CAPABILITIES)


def page() -> str:
    """Return docs/servers.md."""
    lines = [
        "# What works with which server",
        "",
        "Made from calls that `tests/end_to_end/test_servers.py` has with a simulation of each server",
        "(`phoneagent.sim.Model(dialect=...)`). The facts behind a stand-in, and how sure they are, are listed in",
        "`phoneagent/sim/model/standins.py`. A server is named by `REALTIME_PROVIDER`; OpenAI, Azure and Helicone have",
        "settings of their own, see `.env.example`. The Helicone of this table has a provider that speaks the beta.",
        "",
        f"| | {' | '.join(SERVERS)} |",
        f"|---|{'---|' * len(SERVERS)}",
    ]
    notes: list[str] = []
    for capability in CAPABILITIES:
        cells = []
        for name, (title, _) in SERVERS.items():
            why = MISSING.get(name, {}).get(capability)
            if why is not None:
                notes.append(f"{title}: {why}.")
            cells.append("yes" if why is None else f"no ({len(notes)})")
        lines.append(f"| {capability} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


def test_the_page_is_the_table() -> None:
    if os.environ.get("PHONEAGENT_WRITE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew with PHONEAGENT_WRITE_DOCS=1"
