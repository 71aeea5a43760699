"""The media streams of a process: what each is made of, and what is told of it."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from phoneagent import Agent, Clip, Silence, Turns
from phoneagent.bridge.policy import Policy, sound_of
from phoneagent.calls import progress
from phoneagent.calls.streams import shipped_clip
from phoneagent.events import Turn, TurnEnded
from tests.calls.office import SID, Rig, new_call, until

pytestmark = pytest.mark.anyio


def policy_of(office: Rig, agent: Agent) -> Policy:
    return office.calls._streams._policy_of(new_call(), agent, None)


@pytest.mark.parametrize(("limit", "seconds"), [(None, 600), (120, 120), (900, 600)])
async def test_a_call_lasts_as_long_as_it_was_made_for_and_as_any_call_may(
    rig: Callable[..., Rig], limit: int | None, seconds: int
) -> None:
    office = rig()
    office.calls._streams._outbound = SimpleNamespace(time_limit_of=lambda call: limit)  # type: ignore[assignment]
    assert policy_of(office, Agent(instructions="x")).max_call_seconds == seconds
    assert office.calls.max_seconds(new_call()) == seconds


async def test_of_a_live_call_is_kept_what_is_open_until_its_stream_ends(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.009)
    kept: list[tuple[Any, ...]] = []
    office = rig(Agent(instructions="x", greeting="Hello!"), keep_unfinished=lambda *what: kept.append(what))
    assert office.calls._streams._progress is not None
    async with office.running():
        await until(lambda: bool(kept))
        assert any(office.calls._streams._progress._parts)
    assert kept[-1] == (SID, "MZ1", [], "answer")
    assert not any(office.calls._streams._progress._parts)


async def test_the_end_of_a_turn_is_told_to_what_keeps_what_is_open(rig: Callable[..., Rig]) -> None:
    office, call = rig(keep_unfinished=lambda *what: None), new_call()
    turn = Turn(role="caller", item_id="i", text="", heard_text="", start_ms=0, end_ms=0, said_ms=0, heard_ms=0)
    async with office.running(call=call):
        assert office.calls._streams._progress is not None
        office.calls._streams.teller(call, "MZ1")(TurnEnded(call_sid=SID, turn=turn))
        assert len(office.calls._streams._progress._due_soon) == 1
    assert not office.calls._streams._progress._due_soon


async def test_an_agent_has_its_own_silences_and_all_calls_share_the_clips(rig: Callable[..., Rig]) -> None:
    office = rig()
    quick = Silence(dead_air_ms=700, idle_seconds=9)
    own = policy_of(office, Agent(instructions="x", silence=quick)).silence
    app_s = policy_of(office, Agent(instructions="x")).silence
    app_s_last = policy_of(office, Agent(instructions="x")).apology
    assert (own.dead_air_ms, app_s.dead_air_ms) == (700, 2500)
    assert own.filler is app_s.filler
    assert len(base64.b64decode(sound_of(own.apology))) > 3 * 8000
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(1600))
    clip = Clip(file.getvalue(), name="sorry")
    said = policy_of(office, Agent(instructions="x", silence=Silence(farewell=clip))).apology
    assert (said, app_s_last) == (clip.payload, shipped_clip("apology"))
    by_hand = policy_of(office, Agent(instructions="x", silence=quick, turns=Turns(detection="manual"))).silence
    assert (own.idle_seconds, by_hand.idle_seconds) == (9, 0)
