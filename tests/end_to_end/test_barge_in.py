"""What the model is told was heard, against what the phone really played."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from phoneagent import Agent, BargeIn
from phoneagent.demo.report import Report, measure
from phoneagent.protocol.audio import silence
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import BOTH_SOCKETS, World, Worlds

pytestmark = [pytest.mark.anyio, BOTH_SOCKETS]

TALKATIVE = Agent(instructions=lambda call: call.sid)  # tells the sessions apart
REST = "there is a lot to say about this, and every word of it takes its time, so listen well until I have finished it."
SCRIPT = f"""
[[turn]]
caller = "one"
say = ["First, {REST}", "And this is a second part, which comes in an item of its own, and is a good deal shorter."]
[[turn]]
caller = "two"
say = "Secondly, {REST} Besides, {REST}"
[[turn]]
caller = "three"
say = ["Short.", "Shorter.", "Thirdly, {REST}", "Moreover, {REST}"]
[[turn]]
caller = "four"
say = "Fourthly, {REST}"
[[turn]]
caller = "five"
say = "Now {REST}"
[[turn]]
caller = "six"
say = "Finally, {REST}"
"""
"""The caller's words are known, or a short sound would not interrupt. No item is like another: some are never sent."""
CALLS = 10
BARGE_INS = 5
WORD = Murmur().render("Stop it now.")


async def one_call(w: World, seed: int, **options: Any) -> Report:
    """Have one call with interruptions at random moments; return what both ends saw of it."""
    moments = random.Random(seed)
    async with w.phone(**options).dial() as line:
        await line.say(silence(200) + WORD)
        for _ in range(BARGE_INS):
            await line.wait_for_agent(ms=moments.uniform(150, 4000))
            await line.say(WORD)
            await line.wait_for_clear()
        await line.wait_for_agent(ms=300)
    (session,) = (each for each in w.model.sessions if each.session["instructions"] == line.call_sid)
    assert line.violations == []
    return measure(line, session)


async def errors_of(world: Worlds, **options: Any) -> list[int]:
    async with world(TALKATIVE, SCRIPT) as w:
        reports = await asyncio.gather(*(one_call(w, seed, **options) for seed in range(CALLS)))
        assert w.model.violations == []
        barge_ins = [each for report in reports for each in report.barge_ins]
        told = {(each.item_id, each.audio_end_ms) for each in w.of(BargeIn)}
        assert told == {(each.item_id, each.audio_end_ms) for each in barge_ins}
        heard = [each for each in barge_ins if each.truth_heard_ms or each.audio_end_ms]
        assert len(heard) >= CALLS * BARGE_INS
        return sorted(each.audio_end_ms - each.truth_heard_ms for each in heard)


def within(errors: list[int], low: int, high: int) -> bool:
    """Whether the typical one is, and hardly any is above: a machine that stops for a moment moves the simulated truth,
    not the estimate."""
    return errors[len(errors) // 2] >= low and sum(error <= high for error in errors) >= 0.9 * len(errors)


async def test_on_loopback_the_model_is_told_the_truth(world: Worlds) -> None:
    errors = await errors_of(world)
    assert within(errors, -60, 20), errors


async def test_over_a_slow_line_it_is_told_too_little_rather_than_too_much(world: Worlds) -> None:
    errors = await errors_of(world, delay_ms=100)
    assert within(errors, -260, 20), errors
    assert errors[len(errors) // 2] < -100, "the delay made no difference: was there one?"
