"""What happens to a response when the client speaks, cancels or asks for another one."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.sim.model.responses import MAX_OUT_OF_BAND
from tests.sim.model.scripts import SCRIPT, SLOW, TOOL, speaking

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("interrupt", [True, False])
async def test_speech_during_a_response(make_model: Any, dial: Any, create: bool, interrupt: bool) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure(turn={"create_response": create, "interrupt_response": interrupt})
        await client.add("hello")
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        start = len(client.events)
        await client.speak()
        await client.until("input_audio_buffer.committed")
        await client.until("conversation.item.done")
        if interrupt and create:
            await client.until("response.created")
        if create and not interrupt:
            await client.until("error")
        later = client.events[start:]
        session = model.sessions[0]

        statuses = [event["response"]["status"] for event in later if event["type"] == "response.done"]
        assert statuses == (["cancelled"] if interrupt else [])
        assert [e["type"] for e in later].count("response.created") == (interrupt and create)
        errors = [event["error"] for event in later if event["type"] == "error"]
        assert [error["code"] for error in errors] == ["conversation_already_has_active_response"] * (
            create and not interrupt
        )
        assert all(error["event_id"] is None for error in errors)
        assert session.audio_items[0].interrupted is interrupt
        assert session.violations == session.races == []


@pytest.mark.parametrize("with_id", [True, False])
async def test_a_client_cancels(make_model: Any, dial: Any, with_id: bool) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        await client.send("response.create")
        created = await client.until("response.created")
        await client.until("response.output_audio.delta")
        await client.send("response.cancel", **({"response_id": created["response"]["id"]} if with_id else {}))
        done = (await client.until("response.done"))["response"]
        error = await client.refused("response.cancel")

    assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert done["usage"]["output_token_details"]["audio_tokens"] > 0
    assert error["code"] == "response_cancel_not_active"
    assert model.violations == []
    assert len(model.races) == 1


async def test_a_second_response_is_refused_while_one_is_active(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        await client.send("response.create")
        created = (await client.until("response.created"))["response"]
        error = await client.refused("response.create")
        session = model.sessions[0]

        assert error["code"] == "conversation_already_has_active_response"
        assert created["id"] in error["message"]
        assert len(session.violations) == 1
        assert session.races == []


async def test_losing_the_race_with_the_servers_own_response_is_no_violation(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        await client.until("response.created")
        error = await client.refused("response.create")

        assert error["code"] == "conversation_already_has_active_response"
        assert model.violations == []
        assert len(model.races) == 1


async def test_a_response_out_of_band_runs_beside_and_is_not_stored(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        await client.send("response.create")
        created = (await client.until("response.created"))["response"]
        aside = {"conversation": "none", "instructions": 'Say "aside".', "metadata": {"topic": "x"}, "input": []}
        await client.send("response.create", response={**aside, "output_modalities": ["text"]})
        done = (await client.until("response.done"))["response"]
        items = model.sessions[0].items

        assert done["id"] != created["id"]
        assert (done["conversation_id"], done["metadata"]) == (None, {"topic": "x"})
        assert done["output"][0]["content"] == [{"type": "output_text", "text": "aside"}]
        assert done["output"][0]["id"] not in [item["id"] for item in items]


async def test_a_response_out_of_band_is_cancelled_by_its_id(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT, think_ms=10_000) as model, dial(model) as client:
        await client.configure()
        await client.send("response.create", response={"conversation": "none"})
        created = (await client.until("response.created"))["response"]
        await client.send("response.cancel", response_id=created["id"])
        done = (await client.until("response.done"))["response"]

    assert (done["id"], done["status"]) == (created["id"], "cancelled")


async def test_responses_out_of_band_are_bounded(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), think_ms=10_000) as model, dial(model) as client:
        await client.configure()
        for _ in range(MAX_OUT_OF_BAND):
            await client.send("response.create", response={"conversation": "none"})
        error = await client.refused("response.create", response={"conversation": "none"})
        await client.send("response.create")  # the conversation's own is not counted
        await client.until("response.created")

        assert error["code"] == "rate_limit_exceeded"
        assert [response.out_of_band for response in model.sessions[0].responses] == [True] * MAX_OUT_OF_BAND + [False]
        assert len(model.violations) == 1


async def test_a_function_that_the_response_lacks_cannot_be_chosen(make_model: Any, dial: Any) -> None:
    choice = {"type": "function", "name": "book"}
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        error = await client.refused("response.create", response={"tool_choice": choice})
        own = await client.answer(tool_choice=choice, tools=[TOOL])
        await client.configure(tools=[TOOL])
        cleared = await client.refused("response.create", response={"tool_choice": choice, "tools": []})

    assert (error["code"], error["param"]) == (cleared["code"], cleared["param"])
    assert (error["code"], error["param"]) == ("invalid_value", "response.tool_choice")
    assert own["output"][0]["name"] == "book"
