"""What the parts of a session share: events on their way out, and work that ends with the session."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest

from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.records import CommittedTurn
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.service import ANY
from phoneagent.sim.model.setup import Faults, Setup
from phoneagent.sim.model.standins import StandIn
from phoneagent.sim.model.state import SessionState
from phoneagent.sim.model.vad import EnergyGate

pytestmark = pytest.mark.anyio


class Wire:
    """Collects what would be sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def put(self, event: bytes) -> None:
        self.sent.append(json.loads(event))


class Rig:
    """A state without a connection."""

    def __init__(self, dialect: Literal["ga", "beta"] = "ga", *, ear: Any = None) -> None:
        self.changes = 0
        self.shown: list[tuple[str, str]] = []
        self.wire = Wire()
        setup = Setup(
            script=Script.parse('[[turn]]\ncaller = "Hello?"\nsay = "Hi."\n'),
            ear=ear,
            make_vad=lambda threshold: EnergyGate(),
            voiced=self._voiced,
            speed=1,
            think_ms=0,
            delta_ms=100,
            session_seconds=60,
            faults=Faults(),
            stand_in=StandIn(service=ANY),
            changed=self._changed,
        )
        wire: Any = self.wire
        self.state = SessionState(setup, wire, model="gpt-realtime-2.1", dialect=dialect, watch=self._watch)

    async def _voiced(self, text: str, audio_format: Any = None) -> bytes:
        return b""

    def _changed(self) -> None:
        self.changes += 1

    def _watch(self, direction: str, event: dict[str, Any]) -> None:
        self.shown.append((direction, event["type"]))


def test_an_event_is_sent_shown_and_announced() -> None:
    rig = Rig()
    rig.state.emit("input_audio_buffer.cleared")

    (event,) = rig.wire.sent
    assert event["type"] == "input_audio_buffer.cleared"
    assert event["event_id"].startswith("event_")
    assert rig.shown == [("out", "input_audio_buffer.cleared")]
    assert rig.changes == 1


def test_audio_is_sent_and_not_shown() -> None:
    rig = Rig()
    rig.state.emit("response.output_audio.delta", delta="////")

    assert rig.wire.sent[0]["delta"] == "////"
    assert rig.shown == []


def test_the_beta_has_its_own_spelling_and_fewer_events() -> None:
    rig = Rig("beta")
    item = {"id": "item_1", "type": "message", "role": "user", "content": []}
    rig.state.conversation.add(item)

    assert [event["type"] for event in rig.wire.sent] == ["conversation.item.created"]
    # A watcher sees the modern names, whatever the client speaks.
    assert rig.shown == [("out", "conversation.item.added"), ("out", "conversation.item.done")]


def test_an_event_is_what_it_was_when_it_was_emitted() -> None:
    rig = Rig()
    item: dict[str, Any] = {"id": "item_1", "status": "in_progress"}
    rig.state.emit("conversation.item.added", item=item)
    item["status"] = "completed"

    assert rig.wire.sent[0]["item"]["status"] == "in_progress"


def test_an_error_names_its_cause_and_the_client_s_event() -> None:
    rig = Rig()
    rig.state.send_error(EventRefused("No.", code="invalid_value", param="session.x"), "mine")

    assert rig.wire.sent[0]["error"] == {
        "type": "invalid_request_error",
        "code": "invalid_value",
        "message": "No.",
        "param": "session.x",
        "event_id": "mine",
    }


def test_ids_are_new_and_fit_the_limit_that_clients_have() -> None:
    state = Rig().state
    ids = {state.new_id("item") for _ in range(100)}

    assert len(ids) == 100
    assert all(one.startswith("item_") and len(one) <= 32 for one in ids)


async def test_work_ends_with_the_session() -> None:
    state = Rig().state
    ended: list[str] = []

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def fails() -> None:
        await asyncio.Event().wait()

    short = state.spawn(asyncio.sleep(0))
    await short
    work = [state.spawn(last()), state.spawn(fails())]
    await asyncio.sleep(0)
    await state.stop_tasks()

    assert ended == ["cancelled"]
    assert all(task.cancelled() for task in work)
    await state.stop_tasks()  # nothing is left to stop


async def test_a_turn_is_waited_for_until_it_is_understood() -> None:
    release = asyncio.Event()

    class Ear:
        async def hear(self, ulaw: bytes) -> str:
            await release.wait()
            return "Hello?"

    state = Rig(ear=Ear()).state
    turn = CommittedTurn("item_1", 0, 500, 0.0)
    state.caller_turns.append(turn)
    state.transcriber.start(turn, {"id": "item_1", "content": [{}]}, None)
    waiting = asyncio.create_task(state.understood(["item_1", "item_2"]))
    await asyncio.sleep(0)
    assert not waiting.done()
    release.set()

    assert await waiting == {"item_1": "Hello?"}
    assert await state.understood([]) == {"item_1": "Hello?"}
