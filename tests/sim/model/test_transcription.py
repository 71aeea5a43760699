"""Understanding the caller: by the script or by an ear, with or without transcripts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from phoneagent.protocol.audio import tone
from phoneagent.sim.model import transcription
from phoneagent.sim.model.records import CommittedTurn
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.service import ANY
from phoneagent.sim.model.setup import Faults, Setup
from phoneagent.sim.model.standins import StandIn
from phoneagent.sim.model.transcription import Transcriber
from phoneagent.sim.model.vad import EnergyGate
from tests.sim.model.scripts import SCRIPT

pytestmark = pytest.mark.anyio


async def test_transcripts_come_when_the_session_wants_them(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        turn = {"format": {"type": "audio/pcmu"}, "transcription": {"model": "gpt-transcribe"}}
        await client.send("session.update", session={"type": "realtime", "audio": {"input": turn}})
        await client.speak()
        event = await client.until("conversation.item.input_audio_transcription.completed")
    user = next(item for item in model.sessions[0].items if item["role"] == "user")

    assert event["transcript"] == "A table, please."
    assert event["item_id"] == user["id"] == model.sessions[0].caller_turns[0].item_id
    assert user["content"][0]["transcript"] == "A table, please."


async def test_an_ear_is_matched_with_the_script(make_model: Any, dial: Any) -> None:
    heard: list[int] = []

    class Ear:
        async def hear(self, ulaw: bytes) -> str:
            heard.append(len(ulaw))
            return "Half past seven would be fine"

    async with make_model(SCRIPT, ear=Ear()) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        done = await client.until("response.done")

    assert done["response"]["output"][0]["content"][0]["transcript"] == "Let me see."
    assert model.sessions[0].caller_turns[0].text == "Half past seven would be fine"
    assert heard == [900 * 8]  # speech and closing silence


async def test_a_broken_ear_or_voice_does_not_end_the_session(make_model: Any, dial: Any, caplog: Any) -> None:
    class Broken:
        async def hear(self, ulaw: bytes) -> str:
            raise RuntimeError("deaf")

        def render(self, text: str) -> bytes:
            if "again" in text:
                raise RuntimeError("hoarse")
            return tone(200, 100)

    async with make_model(SCRIPT, ear=Broken(), voice=Broken()) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        unheard = await client.until("response.done")
        await client.add("a table")
        answered = await client.answer()

    assert unheard["response"]["status"] == "failed"
    assert unheard["response"]["status_details"]["error"]["type"] == "server_error"
    assert answered["status"] == "completed"
    assert "could not finish a response" in caplog.text


async def voiced(text: str, audio_format: Any = None) -> bytes:
    return b""


SETUP = Setup(
    script=Script(),
    ear=None,
    make_vad=lambda threshold: EnergyGate(),
    voiced=voiced,
    speed=1,
    think_ms=0,
    delta_ms=100,
    session_seconds=60,
    faults=Faults(),
    stand_in=StandIn(service=ANY),
    changed=lambda: None,
)


async def understand(setup: Setup, model: str | None, text: str = "Hello?") -> tuple[list[Any], CommittedTurn, Any]:
    """Understand a turn of 1.5 s; return the events, the turn and its item's content."""
    events: list[Any] = []

    def emit(kind: str, **fields: Any) -> None:
        events.append((kind.removeprefix("conversation.item.input_audio_transcription."), fields))

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    turn = CommittedTurn("item_1", 0, 1500, 0.0, text, bytes(1500 * 8))
    item = {"content": [{"type": "input_audio", "transcript": None}]}
    transcriber = Transcriber(setup, emit, spawn)
    transcriber.start(turn, item, None if model is None else {"model": model})
    await transcriber.finished(["item_1", "another"])
    return events, turn, item["content"][0]


async def test_without_transcription_nothing_is_sent() -> None:
    events, turn, part = await understand(SETUP, None)

    assert (events, turn.text, part["transcript"]) == ([], "Hello?", None)


@pytest.mark.parametrize(
    ("model", "figures"),
    [
        ("whisper-1", {"type": "duration", "seconds": 1.5}),
        ("gpt-transcribe", {"type": "duration", "seconds": 1.5}),
        (
            "gpt-4o-transcribe",
            {
                "type": "tokens",
                "input_tokens": 15,
                "output_tokens": 2,
                "total_tokens": 17,
                "input_token_details": {"audio_tokens": 15, "text_tokens": 0},
            },
        ),
    ],
)
async def test_recognizers_bill_by_length_or_by_tokens(model: str, figures: dict[str, Any]) -> None:
    events, _, part = await understand(SETUP, model)

    assert [kind for kind, _ in events] == ["delta", "completed"]
    assert events[1][1] == {"item_id": "item_1", "content_index": 0, "transcript": "Hello?", "usage": figures}
    assert part["transcript"] == "Hello?"


async def test_a_turn_without_words_has_an_empty_transcript_and_no_delta() -> None:
    events, _, part = await understand(SETUP, "whisper-1", text="")

    assert [kind for kind, _ in events] == ["completed"]
    assert part["transcript"] == ""


async def test_a_recognizer_that_is_not_deployed_fails_every_turn() -> None:
    setup = replace(SETUP, stand_in=StandIn(service=replace(ANY, transcribes=frozenset({"whisper-1"}))))

    assert [kind for kind, _ in (await understand(setup, "whisper-1"))[0]] == ["delta", "completed"]
    events, turn, part = await understand(setup, "gpt-4o-transcribe")
    ((kind, fields),) = events
    assert (kind, fields["error"]["code"], fields["error"]["param"]) == ("failed", "DeploymentNotFound", None)
    assert "gpt-4o-transcribe" in fields["error"]["message"]
    assert (turn.text, part["transcript"]) == ("Hello?", None)  # the model understood; only the transcript is missing


async def test_an_ear_that_takes_too_long_understands_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow:
        async def hear(self, ulaw: bytes) -> str:
            await asyncio.Event().wait()
            return "never"

    monkeypatch.setattr(transcription, "MAX_EAR_SECONDS", 0.01)
    events, turn, _ = await understand(replace(SETUP, ear=Slow()), "whisper-1", text="")

    assert turn.text == ""
    assert events[-1][1]["transcript"] == ""
    assert "the ear of the simulated model failed" in caplog.text
