"""The short examples: a piano tuners' receptionist, a dice table, and one app behind two numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from phoneagent import CallEnded
from tests.examples.conftest import Caller, Players, load

pytestmark = pytest.mark.anyio

BYE = """
[[turn]]
heard = "bye"
say = "Goodbye!"
call = "hang_up"
"""


async def say_goodbye(caller: Caller) -> None:
    await caller.says("Bye!", hears="Goodbye!")
    await caller.line.wait_ended(timeout=20)
    assert caller.line.ended_by == "agent"


async def test_the_receptionist_takes_messages(played: Players, capsys: pytest.CaptureFixture[str]) -> None:
    script = """
[[turn]]
heard = "tune"
call = "take_message"
arguments = { name = "Ann", message = "Tune my piano." }
then = "{output}"
[[turn]]
heard = "sell"
call = "take_message"
arguments = { name = "Ann", message = "Sell me a stool." }
then = "{output}"
"""
    module = load("receptionist")
    async with played(module, script + BYE) as number, number.call() as caller:
        assert re.search(r"It is \w+, \d\d \w+ \d{4}, \d\d:\d\d\.", caller.session.session["instructions"])
        await caller.says("Tune my piano.", hears="The message is written down.")
        await caller.says("And sell me a stool.", hears="The message is written down.")
        state = number.world.app.calls[caller.line.call_sid].state
        assert state == {"messages": [("Ann", "Tune my piano."), ("Ann", "Sell me a stool.")]}
        await say_goodbye(caller)
        (ended,) = await number.world.until(lambda: number.world.of(CallEnded))
    module.note(ended)
    assert capsys.readouterr().out == f"{ended.call_sid}: {len(ended.transcript)} turns, ended by agent\n"


async def test_the_croupier_rolls_what_is_asked_for(played: Players) -> None:
    script = """
[[turn]]
heard = "three"
call = "roll"
arguments = { dice = 3 }
then = "Here you are."
[[turn]]
heard = "again"
call = "roll"
then = "And again."
[[turn]]
heard = "hundred"
call = "roll"
arguments = { dice = 100 }
then = "Not so many."
"""
    async with played(load("dice"), script + BYE) as number, number.call() as caller:
        for text, answer, count in [("Three!", "Here you are.", 3), ("Again!", "And again.", 2)]:
            await caller.says(text, hears=answer)
            rolled = json.loads(caller.returned)
            assert len(rolled) == count
            assert all(1 <= each <= 6 for each in rolled)
        await caller.says("A hundred!", hears="Not so many.")
        assert "less than or equal to 10" in json.loads(caller.returned)["error"]
        await say_goodbye(caller)


TWO_NUMBERS = """
[[turn]]
heard = "open"
call = "opening_hours"
then = "{output}"
[[turn]]
heard = "flat"
call = "open_ticket"
arguments = { trouble = "A flat tyre." }
then = "{output}"
"""


async def test_the_called_number_selects_the_agent(played: Players) -> None:
    module: Any = load("two_numbers")
    async with played(module, TWO_NUMBERS + BYE) as number:
        async with number.call() as caller:
            assert caller.greeting is not None
            assert caller.greeting.text == "The bicycle shop, hello!"
            assert caller.session.session["audio"]["output"]["speed"] == 1.05
            await caller.says("Are you open?", hears="Nine to six, Monday to Saturday.")
            await say_goodbye(caller)
        async with number.call(called=module.HOTLINE_NUMBER) as caller:
            assert caller.greeting is not None
            assert caller.greeting.text == "The breakdown line. What happened?"
            assert caller.session.session["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"
            await caller.says("A flat tyre.", hears="The ticket is open.")
            assert number.world.app.calls[caller.line.call_sid].state == {"ticket": "A flat tyre."}
            assert ("system", "The workshop calls back within the hour.") in caller.session.told
