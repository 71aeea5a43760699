"""One response: its events in order, its audio and words, and how it ends early."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.sim.model.setup import Faults
from tests.sim.model.scripts import LONG, SCRIPT, SLOW, TOOL, speaking

pytestmark = pytest.mark.anyio


async def test_an_interrupted_response_ends_in_order(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure(turn={"interrupt_response": True})
        await client.add("hello")
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        await client.speak()
        done = (await client.until("response.done"))["response"]
        start = client.types.index("input_audio_buffer.speech_started")

    assert client.steps(start) == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["status"] == "incomplete"
    assert len(done["output"][0]["content"][0]["transcript"]) < len(LONG)


async def test_a_response_cancelled_before_it_spoke_leaves_the_question_open(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT, think_ms=300) as model, dial(model) as client:
        await client.configure()
        await client.add("a table")
        await client.send("response.create")
        await client.until("response.created")
        await client.send("response.cancel")
        cancelled = (await client.until("response.done"))["response"]
        answered = await client.answer()

    assert cancelled["output"] == []
    assert answered["output"][0]["content"][0]["transcript"].startswith("Of course")


async def test_the_transcript_runs_ahead_of_the_audio(make_model: Any, dial: Any) -> None:
    async with make_model(speaking()) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        await client.until("response.done")

    deltas = [kind for kind in client.types if kind.endswith(".delta")]
    last_word = max(at for at, kind in enumerate(deltas) if "transcript" in kind)
    assert last_word < 0.9 * len(deltas)


async def test_audio_comes_faster_than_real_time_but_not_at_once(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), speed=20) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        await client.until("response.done")

    item = model.sessions[0].audio_items[0]
    took_ms = (item.delta_log[-1][0] - item.delta_log[0][0]) * 1000
    assert took_ms >= 0.9 * (item.sent_ms - 150) / 20
    assert took_ms < item.sent_ms / 2


async def test_a_tool_is_called_and_its_output_told(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(tools=[TOOL])
        await client.add("at seven")
        done = await client.answer()
        call = done["output"][1]
        before = len(client.types)
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": '"Reference 41."'}
        await client.send("conversation.item.create", item=output)
        told = await client.answer()
    record = model.sessions[0].tool_calls[0]

    assert [item["type"] for item in done["output"]] == ["message", "function_call"]
    assert (call["name"], call["arguments"], call["status"]) == ("book", '{"n": 4}', "completed")
    start = client.types.index("response.function_call_arguments.done")
    assert client.types[start - 3 : start + 4] == [
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert client.types[before : before + 2] == ["conversation.item.added", "conversation.item.done"]
    assert told["output"][0]["content"][0]["transcript"] == "Done. Reference 41."
    assert (record.name, record.call_id, record.output) == ("book", call["call_id"], '"Reference 41."')
    assert record.returned_at is not None
    assert record.returned_at >= record.called_at


async def test_several_items_in_one_response(make_model: Any, dial: Any) -> None:
    script = '[[turn]]\nheard = "."\nsay = ["One thing.", "Another."]\n'
    async with make_model(script) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        done = await client.answer()

    first, second = done["output"]
    assert [part["content"][0]["transcript"] for part in (first, second)] == ["One thing.", "Another."]
    assert client.audio(first["id"]) + client.audio(second["id"]) == client.audio()
    indexes = {e["item_id"]: e["output_index"] for e in client.events if e["type"] == "response.output_audio.delta"}
    assert indexes == {first["id"]: 0, second["id"]: 1}


async def test_text_can_be_asked_for(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(output_modalities=["text"])
        await client.add("a table")
        done = await client.answer()

    assert done["output"][0]["content"] == [
        {"type": "output_text", "text": "Of course, a table by the window would be free."}
    ]
    assert "response.output_text.delta" in client.types
    assert client.audio() == b""
    assert model.sessions[0].audio_items == []


async def test_the_tokens_can_run_out(make_model: Any, dial: Any) -> None:
    async with make_model(speaking()) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        done = await client.answer(max_output_tokens=20)

    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert len(client.audio()) == 20 * 50 * 8
    assert done["output"][0]["status"] == "incomplete"
    spoken = done["output"][0]["content"][0]["transcript"]
    (item,) = model.sessions[0].audio_items
    assert LONG.startswith(f"{spoken} ")
    assert len(spoken) < len(LONG) / 2
    assert item.parts == [(spoken, len(item.audio))]


async def test_the_tokens_of_a_text_can_run_out(make_model: Any, dial: Any) -> None:
    script = '[[turn]]\nheard = "."\nsay = ["One thing.", "Another thing.", "A third."]\n'
    async with make_model(script) as model, dial(model) as client:
        await client.configure(output_modalities=["text"], max_output_tokens=5)
        await client.add("hello")
        done = await client.answer()

    assert done["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert [item["content"][0]["text"] for item in done["output"]] == ["One thing.", "Another"]
    assert [item["status"] for item in done["output"]] == ["completed", "incomplete"]


async def test_a_cut_ends_its_item_although_items_overlap(make_model: Any, dial: Any) -> None:
    script = f'[[turn]]\nheard = "."\nsay = ["One.", "{LONG}", "Never."]\n'
    async with make_model(script, faults=Faults(overlap_items=True)) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        done = await client.answer(max_output_tokens=40)

    assert [item["status"] for item in done["output"]] == ["completed", "incomplete"]
    assert client.types.count("response.output_item.done") == 2


async def test_the_next_response_is_not_due_at_the_end_of_the_last_item(make_model: Any, dial: Any) -> None:
    """The response is active until response.done, so the real service refuses a client that does not wait for it."""
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.send("response.create")
        await client.until("response.output_item.done")
        await client.send("response.create", event_id="early")
        error = (await client.until("error"))["error"]
        await client.until("response.done")
        await client.answer()

    assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "early")
    assert len(model.violations) == 1


async def test_a_kick_off_is_greeted_and_a_caller_is_not(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.add("Please greet the caller now.")
        first = await client.answer()
        await client.add("What is the weather like?")
        second = await client.answer()

    said = [response["output"][0]["content"][0]["transcript"] for response in (first, second)]
    assert said == [model._setup.script.greeting, model._setup.script.default]
