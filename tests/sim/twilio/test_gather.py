"""Gather: the keys that it takes, and when it has enough."""

from __future__ import annotations

import asyncio

import pytest

from phoneagent.sim.twilio.gather import Gathering, Keypad, carry_out
from phoneagent.sim.twilio.twiml import Verb

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


@pytest.mark.parametrize(
    ("attributes", "keys", "digits", "most_seconds"),
    [
        ({"numDigits": "1"}, "15", "1", 1.5),
        ({"numDigits": "2"}, "15", "15", 2.5),
        ({}, "12#3", "12", 3.5),
        ({"finishOnKey": "*"}, "1#*", "1#", 3.5),
        ({"finishOnKey": "", "timeout": "3"}, "1#", "1#", 5.5),
        ({"timeout": "3"}, "", "", 5.5),
    ],
)
async def test_when_a_gather_has_enough(
    attributes: dict[str, str], keys: str, digits: str, most_seconds: float
) -> None:
    gathering = Gathering(attributes)

    async def press() -> None:
        for key in keys:
            await asyncio.sleep(1)
            gathering.press(key)

    pressing = asyncio.create_task(press())
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await gathering.collect(asyncio.sleep(2)) == digits
    assert loop.time() - began <= most_seconds
    await pressing


async def test_a_key_ends_the_prompt_and_goes_to_the_gather_alone() -> None:
    class Line(Keypad):
        gathering: Gathering | None = None

    line, said = Line(), []
    verb = Verb("Gather", {"numDigits": "1"}, "", (Verb("Say", {}, "Press 1."), Verb("Pause", {"length": "5"}, "")))

    async def announce(child: Verb) -> None:
        said.append(child.text)

    task = asyncio.create_task(carry_out(line, verb, announce))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(1)
    assert line.gathering is not None
    line.gathering.press("1")
    assert await task == "1"
    assert loop.time() - began < 2
    assert (line.gathering, said) == (None, ["Press 1."])
