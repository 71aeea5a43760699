"""The faults of the simulated server, each as a client sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from phoneagent.protocol.audio import tone
from phoneagent.sim.model.setup import Faults
from tests.sim.model.conftest import closing, code_of

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "."
caller = "Hello?"
say = "Good morning, this is a sentence of some length, for an interruption to fall into."
"""
TWO = '[[turn]]\nheard = "."\nsay = ["One thing.", "Another."]\n'
TRANSCRIBED = {"type": "realtime", "audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}


async def test_a_busy_server(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(refuse_status=503)) as model:
        with pytest.raises(InvalidStatus) as caught:
            async with dial(model):
                pass

    assert caught.value.response.status_code == 503


async def test_a_field_it_pretends_not_to_know(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(refuse_fields={"audio.input.transcription"})) as model, dial(model) as client:
        error = await client.refused("session.update", session=TRANSCRIBED)
        await client.configure()

        assert error["code"] == "unknown_parameter"
        assert error["param"] == "session.audio.input.transcription"
        assert model.violations == []


async def test_a_transcription_model_it_does_not_have(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(refuse_models={"gpt-transcribe"})) as model, dial(model) as client:
        error = await client.refused("session.update", session=TRANSCRIBED)

        assert error["code"] == "invalid_value"
        assert error["param"] == "session.audio.input.transcription.model"
        assert "'gpt-transcribe'. Supported" in error["message"]
        assert model.violations == []


async def test_a_model_it_does_not_have(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(refuse_models={"gpt-realtime-2.1"})) as model, dial(model) as client:
        closed = await closing(client)

    assert client.events[0]["error"]["code"] == "model_not_found"
    assert code_of(closed) == 1008


async def test_the_connection_is_cut_or_closed(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(drop_after_seconds=0.1)) as model, dial(model) as client:
        assert code_of(await closing(client)) is None
    async with make_model(faults=Faults(drop_after_seconds=0.1, drop_code=1011)) as model, dial(model) as client:
        assert code_of(await closing(client)) == 1011


async def test_a_slow_start_and_none_at_all(make_model: Any, dial: Any) -> None:
    began = asyncio.get_running_loop().time()
    async with make_model(faults=Faults(slow_start_seconds=0.2)) as model, dial(model) as client:
        await client.until("session.created")
        assert asyncio.get_running_loop().time() - began > 0.2
    async with make_model(faults=Faults(no_created=True)) as model, dial(model) as client:
        await client.configure()
        assert client.types == ["session.updated"]


async def test_a_stall_keeps_the_socket(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(stall_after_seconds=0)) as model, dial(model) as client:
        await client.send("input_audio_buffer.clear")
        await model.wait_for(lambda: model.sessions and model.sessions[0].events_in)
        await (await client.socket.ping())  # it still lives

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.socket.recv()


async def test_errors_out_of_the_blue(make_model: Any, dial: Any) -> None:
    error = {"type": "server_error", "code": "server_error", "message": "Oops.", "param": None, "event_id": None}
    async with make_model(faults=Faults(error_events=((0.05, error),))) as model, dial(model) as client:
        event = await client.until("error")
        await client.configure()

    assert event["error"] == error


async def test_responses_fail_or_are_empty_and_can_be_asked_for_again(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT, faults=Faults(fail_responses=1, silent_response=1)) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        failed = (await client.until("response.done"))["response"]
        empty = await client.answer()
        answered = await client.answer()

    assert (failed["status"], failed["status_details"]["error"]["type"]) == ("failed", "server_error")
    assert (empty["status"], empty["output"]) == ("completed", [])
    assert answered["output"][0]["content"][0]["transcript"].startswith("Good morning")


async def test_it_cancels_without_being_asked(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT, speed=2, faults=Faults(cancel_without_asking=True)) as model, dial(model) as client:
        await client.configure(turn={"interrupt_response": False})
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        await client.speak()
        done = (await client.until("response.done"))["response"]

    assert done["status_details"]["reason"] == "turn_detected"


async def test_a_cancelled_response_goes_on_a_little(make_model: Any, dial: Any) -> None:
    faults = Faults(stray_deltas=2, slow_cancel_seconds=0.1)
    async with make_model(SCRIPT, speed=1, faults=faults) as model, dial(model) as client:
        await client.configure(turn={"interrupt_response": True})
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        await client.say(tone(300, 100))
        await client.until("input_audio_buffer.speech_started")
        start = len(client.events)
        refused = await client.refused("response.create")
        await client.until("response.done")
        later = client.types[start:]

    assert later.count("response.output_audio.delta") == 2
    assert refused["code"] == "conversation_already_has_active_response"
    assert len(model.sessions[0].audio_items[0].audio) == len(client.audio())


async def test_the_end_of_an_item_may_come_late(make_model: Any, dial: Any) -> None:
    async with make_model(TWO, faults=Faults(overlap_items=True)) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        first, second = (item["id"] for item in (await client.answer())["output"])

    kinds = [(event["type"], event.get("item_id")) for event in client.events]
    done = kinds.index(("response.output_audio.done", first))
    assert kinds.index(("response.output_audio.delta", second)) < done
    assert done < kinds.index(("response.output_audio.done", second))


async def test_transcription_fails(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT, faults=Faults(no_transcription=True)) as model, dial(model) as client:
        await client.configure()
        await client.send("session.update", session=TRANSCRIBED)
        await client.speak()
        event = await client.until("conversation.item.input_audio_transcription.failed")

    assert event["error"]["type"] == "server_error"
