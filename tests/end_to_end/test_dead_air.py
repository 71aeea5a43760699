"""No dead air: twelve faults, and the longest silence that the caller's phone hears while an answer is due.

A sound comes at most 500 ms after `dead_air_ms`: it has its way to the phone, and the machine is busy.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from phoneagent import Agent, CallEnded, Endpoint, Silence, SilenceFilled, ToolReturned, TurnEnded, tool
from phoneagent.protocol.audio import tone
from phoneagent.sim import Faults, Line, Model, Script
from phoneagent.sim.model.server import SimulatedSession
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio
VOICE = Murmur()
DEAD_AIR_MS = 700
TOLERANCE_MS = 500
SHORT = base64.b64encode(tone(440, 200)).decode()
RULES = Silence(dead_air_ms=DEAD_AIR_MS, retry_seconds=2.2, give_up_seconds=5, apology=SHORT)
ANSWER = "This is the answer to your question, and it is long enough to be cut off in its middle."
SCRIPT = Script.parse(f'default = "{ANSWER}"')
CALLING = Script.parse(f'[[turn]]\ncaller = "?"\ncall = "look_up"\nthen = "{ANSWER}"')

Watch = Callable[[SimulatedSession, str, dict[str, Any]], None]
NOWHERE = "ws://127.0.0.1:9/?model=m"


@tool
async def look_up() -> str:
    """Look something up."""
    await asyncio.sleep(4)
    return "done"


def _lost(event: bytes) -> None:
    """Take an event that a frozen server does not send."""


@dataclass
class Fault:
    """A fault, and whether the call gets over it: then the answer is heard in the end."""

    name: str
    faults: Faults = field(default_factory=Faults)
    freeze_at: str = ""
    """Every session sends neither this event nor any after it; if the call gets over it, only the first one."""
    times: int = 1
    """How many such events it takes."""
    script: Script = SCRIPT
    extra: dict[str, Any] = field(default_factory=dict)
    over: bool = False
    from_the_start: bool = False
    unreachable: bool = False
    killed: bool = False
    filled: bool = True
    """Whether it is sure to last so long that the caller hears a filler."""

    def watch(self) -> Watch:
        seen: list[SimulatedSession] = []
        asked: set[SimulatedSession] = set()
        counts: dict[SimulatedSession, int] = {}

        def look(session: SimulatedSession, way: str, event: dict[str, Any]) -> None:
            if session not in seen:
                seen.append(session)
            if way != "out" or not self.freeze_at or (self.over and session is not seen[0]):
                return
            if event["type"] == "input_audio_buffer.speech_started" or session is not seen[0]:
                asked.add(session)
            if event["type"] == self.freeze_at and session in asked:
                counts[session] = counts.get(session, 0) + 1
                if counts[session] >= self.times:
                    session._wire.put = _lost  # type: ignore[method-assign]  # what is queued before goes out

        return look


SPEECH = "input_audio_buffer.speech_"
FAULTS = [
    Fault("silent: responses of which nothing comes", freeze_at="response.output_item.added"),
    Fault("empty: responses that are done without a word", Faults(silent_response=99), from_the_start=True),
    Fault("written only", extra={"output_modalities": ["text"]}, over=True, from_the_start=True, filled=False),
    Fault("stalls in mid-answer", freeze_at="response.output_audio_transcript.delta", times=4),
    Fault("stalls in mid-answer, once", freeze_at="response.output_audio_transcript.delta", times=4, over=True),
    Fault("frozen before the speech was told", freeze_at=SPEECH + "started", over=True),
    Fault("frozen before the turn was committed", freeze_at=SPEECH + "stopped"),
    Fault("frozen before the turn was committed, told", freeze_at="input_audio_buffer.committed"),
    Fault("frozen after it: no response.created", freeze_at="response.created"),
    Fault("unreachable from the start", from_the_start=True, unreachable=True),
    Fault("unreachable after a loss", killed=True),
    Fault("a rate limit", Faults(fail_responses=1, rate_limit_resets_seconds=3), over=True, from_the_start=True),
    Fault("a tool that takes long", script=CALLING, over=True),
    Fault("a slow session", Faults(slow_start_seconds=3.0), over=True, from_the_start=True),
]


def longest_silence_ms(line: Line, since_ms: float, *, ended: bool) -> float:
    """Return the longest time that the phone heard nothing, to its last sound or, if the call `ended`, to its end."""
    longest, heard_until = 0.0, since_ms
    for span in line.heard:
        if span.end_ms > heard_until:
            longest = max(longest, span.start_ms - heard_until)
            heard_until = span.end_ms
    return max(longest, line.duration_ms - heard_until) if ended else longest


def answered(w: World) -> bool:
    turns = [event.turn for event in w.of(TurnEnded) if event.turn.role == "agent"]
    return any(turn.text.endswith("in its middle.") and not turn.interrupted for turn in turns)


async def one_call(world: Worlds, fault: Fault) -> tuple[float, World]:
    model = Model(fault.script, faults=fault.faults, watch=fault.watch())
    agent = Agent(instructions="x", greeting="Hello!", silence=RULES, tools=[look_up], extra=fault.extra)
    endpoint = {"endpoint": Endpoint(NOWHERE)} if fault.unreachable else {}
    async with world(agent, model=model, **endpoint) as w:
        async with w.phone().dial() as line:
            since_ms = 0.0
            if not fault.unreachable and fault.faults.silent_response == 0:
                await w.until(lambda: w.of(TurnEnded))
                before = longest_silence_ms(line, 0.0, ended=False) if fault.from_the_start else 0.0
                since_ms = (await line.say(VOICE.render("What is the answer to my question?"))).end_ms
            else:
                before = 0.0
            if fault.killed:
                w.model._setup = replace(w.model._setup, faults=Faults(refuse_status=503))
                w.model.sessions[0].kill()
            if fault.over:
                await w.until(lambda: answered(w))
                silence_ms = longest_silence_ms(line, since_ms, ended=False)
                await line.hang_up()
            else:
                await line.wait_ended(30)
                silence_ms = longest_silence_ms(line, since_ms, ended=True)
        await w.until(lambda: w.of(CallEnded))
        return max(before, silence_ms), w


@asynccontextmanager
async def held_up_ms() -> AsyncIterator[list[float]]:
    """Measure for how long at most the event loop was held up: a busy machine is no fault of a call's."""
    worst = [0.0]

    async def measure() -> None:
        while True:
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            worst[0] = max(worst[0], (time.monotonic() - due) * 1000)

    task = asyncio.create_task(measure())
    try:
        yield worst
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_twelve_faults_and_the_longest_silence_of_each(world: Worlds) -> None:
    async with held_up_ms() as worst:
        results = await asyncio.gather(*(one_call(world, fault) for fault in FAULTS), return_exceptions=True)
    late_ms = TOLERANCE_MS + 2 * worst[0]
    assert [fault.name for fault, each in zip(FAULTS, results, strict=True) if isinstance(each, BaseException)] == []
    calls = [result for result in results if not isinstance(result, BaseException)]
    print(f"\nThe event loop was held up for {worst[0]:.0f} ms at most.")
    print(f"{'fault':48} {'longest silence':>15}  {'in the record':>13}  sounds, end")
    for fault, (silence_ms, w) in zip(FAULTS, calls, strict=True):
        (ended,) = w.of(CallEnded)
        sounds = [event.sound for event in w.of(SilenceFilled)]
        print(f"{fault.name:48} {silence_ms:12.0f} ms  {ended.dead_air_ms:10} ms  {len(sounds)}, {ended.reason}")
    for fault, (silence_ms, w) in zip(FAULTS, calls, strict=True):
        (ended,) = w.of(CallEnded)
        assert silence_ms <= DEAD_AIR_MS + late_ms, fault.name
        assert abs(ended.dead_air_ms - silence_ms) < late_ms, fault.name
        assert ended.ended_by == ("caller" if fault.over else "error"), fault.name
        assert w.of(SilenceFilled) or not fault.filled, fault.name
    assert [event.output for _, w in calls for event in w.of(ToolReturned)] == ["done"]
