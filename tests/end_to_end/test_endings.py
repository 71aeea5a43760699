"""Calls that end in other ways than by the agent's goodbye."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from importlib import resources

import pytest

from phoneagent import Agent, CallEnded, Endpoint, Silence, Trouble
from phoneagent.bridge import renewal
from phoneagent.model import connection
from phoneagent.sim import Faults, Model, Script
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import Worlds

pytestmark = pytest.mark.anyio
VOICE = Murmur()
AGENT = Agent(instructions="Talk.", greeting="Good evening, and welcome.")
APOLOGY = resources.files("phoneagent").joinpath("calls/apology.ulaw").read_bytes()


async def test_the_caller_hangs_up_in_mid_sentence(world: Worlds) -> None:
    async with world(AGENT) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=400)
            await line.hang_up()
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert (ended.ended_by, line.ended_by) == ("caller", "caller")
        (turn,) = ended.transcript
        assert turn.interrupted
        assert turn.heard_ms < turn.said_ms
        assert AGENT.greeting is not None
        assert AGENT.greeting.startswith(turn.heard_text)


async def test_the_line_breaks(world: Worlds) -> None:
    async with world(AGENT) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=100)
            line.drop()
            await line.wait_ended(5)
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].ended_by == "line"


async def test_a_line_without_media_is_lost(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.bridge.caller.LINE_LOST_SECONDS", 0.5)
    async with world(AGENT) as w, w.phone().dial() as line:
        line.pause_media(True)
        await line.wait_ended(10)
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].ended_by == "line"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One other session is tried."""
    monkeypatch.setattr(renewal, "MAX_LOSSES_A_MINUTE", 1)
    monkeypatch.setattr(renewal, "PATIENCE_SECONDS", 1.0)


def apologized(line: object) -> bool:
    return bytes(line.received).endswith(APOLOGY)  # type: ignore[attr-defined]


FAULTS = {
    "401": Faults(refuse_status=401),
    "503": Faults(refuse_status=503),
    "silent": Faults(stall_after_seconds=0.0),
    "no such model": Faults(refuse_models=frozenset({"gpt-realtime-2.1"})),
    "drop": Faults(drop_after_seconds=0.6),
    "expired": Faults(drop_after_seconds=0.6, drop_code=1001),
    "quota": Faults(error_events=((0.6, {"type": "invalid_request_error", "code": "insufficient_quota"}),)),
    "failing": Faults(fail_responses=9),
}


async def test_without_a_model_the_caller_hears_an_apology(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.8)

    async def one(name: str, faults: Faults) -> None:
        async with world(AGENT, model=Model(faults=faults)) as w:
            async with w.phone().dial() as line:
                await line.wait_ended(20)
            assert apologized(line), name
            assert line.violations == [], name
            assert line.ended_by == "agent", name
            await w.until(lambda: w.of(CallEnded))
            (ended,) = w.of(CallEnded)
            assert ended.ended_by == "error", name

    await asyncio.gather(*(one(name, faults) for name, faults in FAULTS.items()))


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_instructions_that_hang_time_out_with_an_apology(
    world: Worlds, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("phoneagent.calls.opening.INSTRUCTIONS_SECONDS", 0.3)
    release, never = threading.Event(), asyncio.Event()

    async def asynchronous(call: object) -> str:
        await never.wait()
        return ""

    def plain(call: object) -> str:
        release.wait(30)
        return ""

    try:
        async with world(Agent(instructions=plain if kind == "plain" else asynchronous)) as w:
            async with w.phone().dial() as line:
                await line.wait_ended(15)
            assert apologized(line)
            await w.until(lambda: w.of(CallEnded))
            assert w.of(CallEnded)[0].reason == "the agent's instructions took longer than 0.3 s"
    finally:
        release.set()


async def test_a_session_that_cannot_be_sent_leads_to_an_apology(world: Worlds) -> None:
    extra: dict[str, object] = {}
    agent = Agent(instructions="x", extra=extra)
    extra["metadata"] = {"odd": object()}  # later than it is checked
    async with world(agent) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(15)
        assert apologized(line)
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].reason == "the model session could not be opened: TypeError"


async def test_nothing_listens_at_the_model_s_address(world: Worlds) -> None:
    async with world(AGENT, endpoint=Endpoint("ws://127.0.0.1:1/v1/realtime?model=m")) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(20)
        assert apologized(line)


async def test_a_model_that_stalls_in_mid_answer(world: Worlds) -> None:
    impatient = replace(AGENT, silence=Silence(retry_seconds=0.5, give_up_seconds=2))
    async with world(impatient, model=Model(faults=Faults(stall_after_seconds=0.4))) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(20)
        assert apologized(line)
        await w.until(lambda: w.of(CallEnded))
        assert any("for an answer" in each.what for each in w.of(Trouble))


async def test_a_model_that_answers_nothing(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.bridge.responses.CREATED_SECONDS", 0.2)
    async with world(AGENT, model=Model(faults=Faults(stall_after_seconds=0))) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(20)
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].ended_by == "error"


async def test_one_failed_and_one_empty_answer_are_asked_for_again(world: Worlds) -> None:
    for faults in (Faults(fail_responses=1), Faults(silent_response=1)):
        async with world(AGENT, model=Model(faults=faults)) as w, w.phone().dial() as line:
            await line.wait_for_silence(ms=200)
            assert [item.text for item in w.model.sessions[0].audio_items] == [AGENT.greeting]


async def test_a_server_that_cancels_by_itself_is_understood(world: Worlds) -> None:
    script = Script.parse('default = "This is a rather long answer, and somebody will surely interrupt it soon."')
    model = Model(script, faults=Faults(cancel_without_asking=True, stray_deltas=3))
    async with world(Agent(instructions="x"), model=model) as w, w.phone().dial() as line:
        await line.say(VOICE.render("Hello?"))
        await line.wait_for_agent(ms=500)
        await line.say(VOICE.render("Stop."))
        clear = await line.wait_for_clear()
        await line.wait_for_agent(ms=300)
        (truncation,) = w.model.sessions[0].truncations
        assert truncation.ok
        assert abs(truncation.audio_end_ms - clear.heard_to / 8) < 100
    assert line.violations == []


async def test_one_bad_call_does_not_touch_another(world: Worlds) -> None:
    agent = Agent(instructions=lambda call: call.sid, greeting="Hello!")
    async with world(agent, 'default = "Yes?"') as w, w.phone().dial() as good, w.phone().dial() as bad:
        await good.wait_for_silence(ms=100)
        (session,) = (each for each in w.model.sessions if each.session["instructions"] == bad.call_sid)
        await session.drop()
        await w.until(lambda: len(w.model.sessions) == 3 and w.model.sessions[2].items)
        await w.model.sessions[2].drop()  # the second one that it loses is the last
        await bad.wait_ended(20)
        assert good.ended_by is None
        await good.say(VOICE.render("Hello?"))
        await good.wait_for_agent(ms=200)
        await w.until(lambda: w.of(CallEnded))
        assert [each.call_sid for each in w.of(CallEnded)] == [bad.call_sid]


def test_the_apology_is_short_and_audible() -> None:
    assert 2_000 < len(APOLOGY) / 8 < 8_000
