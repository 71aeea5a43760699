"""The voicemail: when it answers, and that a message is recorded, transcribed and found again."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from phoneagent import CallEnded, RecordingChanged
from phoneagent.sim import Model, Script
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import Worlds
from tests.examples.conftest import Caller, Quick, Told, load

pytestmark = pytest.mark.anyio
MESSAGE = "This is Ann, my chain is broken, call me at zero one two three."
NOTED = {"name": "Ann", "wish": "Her chain is broken.", "number": "0123", "urgent": False}
SCRIPT = """
outcome = { name = "Ann", wish = "Her chain is broken.", number = "0123" }

[[turn]]
heard = "chain"
say = "That is 0 1 2 3. Thank you!"
call = "hang_up"
"""


@pytest.fixture
def shop() -> Any:
    return load("voicemail")


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-30T08:59:59+01:00", False),
        ("2026-11-30T09:00:00+01:00", True),
        ("2026-11-30T16:59:00+00:00", True),
        ("2026-11-30T17:00:00+00:00", False),
        ("2026-07-03T15:59:00+00:00", True),
        ("2026-07-03T16:00:00+00:00", False),
        ("2026-11-29T12:00:00+01:00", False),
        ("2026-11-28T12:00:00+01:00", False),
    ],
)
def test_the_shop_is_open_by_its_own_clock(shop: Any, moment: str, *, is_open: bool) -> None:
    assert shop.is_open(datetime.fromisoformat(moment)) is is_open


async def test_a_message_is_recorded_and_transcribed(
    shop: Any, world: Worlds, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(shop, "is_open", lambda now: False)
    ear = Told()
    model = Model(Script.parse(SCRIPT), voice=Quick(), ear=ear, vad=EnergyGate)
    spoken = Murmur().render(MESSAGE)
    async with (
        Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
        world(shop.answerer, model=model, record_audio=str(tmp_path / "audio"), store=store) as w,
    ):
        async with w.phone().dial() as line:
            caller = Caller(line, w, ear)
            await caller.hears("This is Lumière Bicycles. We are closed now.")
            await caller.hears("Please say your name")
            ear.lines.append(MESSAGE)
            await line.say(spoken, MESSAGE)
            await caller.hears("0 1 2 3")
            await line.wait_ended(20)
            assert line.ended_by == "agent"
        await w.until(lambda: [each for each in w.of(RecordingChanged) if each.status == "completed"])
        record = await store.call(line.call_sid)
        (ended,) = w.of(CallEnded)
        assert w.app._parts.outcomes is not None
        await w.app._parts.outcomes.fill(line.call_sid)
        filled = await store.call(line.call_sid)
        assert w.app._parts.recordings is not None
        recorded = w.app._parts.recordings.find(line.call_sid, None if record is None else record.started_at)
    assert record is not None
    assert [turn.text for turn in record.turns if turn.role == "caller"] == [MESSAGE]
    assert filled is not None
    assert filled.outcome == NOTED
    assert record.recording is not None
    assert record.recording.complete
    assert recorded is not None
    assert spoken in recorded.sides()[0]
    assert record.turns[0].text.startswith("This is Lumière Bicycles")
    await shop.tell_of_message(ended)
    assert f"a message of 14 words: phoneagent calls {line.call_sid}" in caplog.text
    caplog.clear()
    await shop.tell_of_message(replace(ended, transcript=()))
    assert caplog.text == ""


async def test_in_the_day_nothing_is_recorded(
    shop: Any, world: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop, "is_open", lambda now: True)
    async with world(shop.answerer, SCRIPT, record_audio=str(tmp_path)) as w:
        async with w.phone().dial() as line:
            await Caller(line, w, Told()).hears("good day")
        await w.until(lambda: w.of(CallEnded))
    assert w.of(RecordingChanged) == []
