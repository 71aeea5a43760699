"""The conversation: truncation, and items that a client adds, deletes, retrieves and refers to."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from phoneagent.protocol.audio import tone
from tests.sim.model.scripts import OF_COURSE, SCRIPT, SLOW, speaking

pytestmark = pytest.mark.anyio


async def test_truncation_forgets_the_rest_and_the_words(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.add("a table")
        item_id = (await client.answer())["output"][0]["id"]
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=480)
        event = await client.until("conversation.item.truncated")
        await client.send("conversation.item.retrieve", item_id=item_id)
        held = (await client.until("conversation.item.retrieved"))["item"]
        error = await client.refused("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=481)
    session = model.sessions[0]

    assert event["audio_end_ms"] == 480
    assert "transcript" not in session.items[-1]["content"][0]
    assert base64.b64decode(held["content"][0]["audio"]) == client.audio()[: 480 * 8]
    assert session.audio_items[0].truncated_ms == 480
    assert session.audio_items[0].sent_ms > 1000
    assert error["message"] == "Audio content of 480ms is already shorter than 481ms"
    assert [(cut.audio_end_ms, cut.ok) for cut in session.truncations] == [(480, True), (481, False)]


async def test_the_three_refusals_of_a_truncation(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        done = (await client.until("response.done"))["response"]
        said, item_id = len(client.audio()) // 8, done["output"][0]["id"]
        turn = model.sessions[0].caller_turns[0].item_id

        def truncate(item: str, ms: int) -> Any:
            return client.refused("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=ms)

        beyond = await truncate(item_id, said + 60)
        not_ours = await truncate(turn, 0)
        unknown = await truncate("item_x", 0)

    assert beyond["code"] == "invalid_value"
    assert beyond["message"] == f"Audio content of {said}ms is already shorter than {said + 60}ms"
    assert (not_ours["code"], not_ours["message"]) == (None, "Only model output audio messages can be truncated")
    assert unknown["code"] == "item_truncate_invalid_item_id"
    assert len(model.violations) == 3


async def test_the_callers_audio_is_retrieved_in_the_sessions_format(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(turn={"create_response": False})
        await client.speak()
        await client.until("conversation.item.done")
        turn = model.sessions[0].caller_turns[0]
        held = []
        for wanted in ({"type": "audio/pcmu"}, {"type": "audio/pcm", "rate": 24000}):
            await client.send("session.update", session={"type": "realtime", "audio": {"input": {"format": wanted}}})
            await client.send("conversation.item.retrieve", item_id=turn.item_id)
            item = (await client.until("conversation.item.retrieved"))["item"]
            held.append(base64.b64decode(item["content"][0]["audio"]))

    assert held[0] == turn.audio
    assert len(held[1]) == pytest.approx(6 * len(turn.audio), abs=12)


async def test_an_item_truncated_while_it_is_said_gets_no_words_back(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        await client.send("response.create")
        delta = await client.until("response.output_audio.delta")
        await client.send("conversation.item.truncate", item_id=delta["item_id"], content_index=0, audio_end_ms=0)
        await client.until("conversation.item.truncated")
        await client.until("response.output_audio.delta")
        await client.send("response.cancel")
        await client.until("response.done")

    assert model.sessions[0].items[-1]["content"] == [{"type": "output_audio"}]


async def test_items_go_where_they_are_put(make_model: Any, dial: Any) -> None:
    def message(item_id: str, text: str = "x") -> dict[str, Any]:
        content = [{"type": "input_text", "text": text}]
        return {"id": item_id, "type": "message", "role": "user", "content": content}

    async with make_model() as model, dial(model) as client:
        create = "conversation.item.create"
        await client.send(create, item=message("b"))
        await client.send(create, item=message("a"), previous_item_id="root")
        await client.send(create, item=message("d"))
        await client.send(create, item=message("c"), previous_item_id="b")
        duplicate = await client.refused(create, item=message("b"))
        orphan = await client.refused(create, item=message("e"), previous_item_id="nobody")
        output = {"type": "function_call_output", "call_id": "call_x", "output": ""}
        unasked = await client.refused(create, item=output)
        await client.send("conversation.item.delete", item_id="d")
        await client.until("conversation.item.deleted")
        gone = await client.refused("conversation.item.delete", item_id="d")
        added = [event for event in client.events if event["type"] == "conversation.item.added"]

    assert [item["id"] for item in model.sessions[0].items] == ["a", "b", "c"]
    assert [event["previous_item_id"] for event in added] == [None, None, "b", "b"]
    assert duplicate["code"] == "item_create_duplicate_item_id"
    assert orphan["code"] == "item_create_invalid_previous_item_id"
    assert unasked["code"] == "invalid_tool_call_id"
    assert gone["code"] == "item_delete_invalid_item_id"


async def test_a_replayed_history_is_not_answered_again(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.add("a table")
        await client.add("Of course.", "assistant")
        await client.add("what was that?")
        done = await client.answer()

    assert done["output"][0]["content"][0]["transcript"] == "Sorry, could you say that again?"


async def test_a_caller_item_can_be_heard_again(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
        await client.send("conversation.item.retrieve", item_id=item_id)
        item = (await client.until("conversation.item.retrieved"))["item"]

    assert base64.b64decode(item["content"][0]["audio"])[: 600 * 8] == tone(300, 600)


async def test_a_response_can_be_given_its_own_context(make_model: Any, dial: Any) -> None:
    content = [{"type": "input_text", "text": "at seven"}]
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(output_modalities=["text"])
        await client.add("a table")
        item_id = model.sessions[0].items[0]["id"]
        given = await client.answer(
            conversation="none", input=[{"type": "message", "role": "user", "content": content}]
        )
        referred = await client.answer(conversation="none", input=[{"type": "item_reference", "id": item_id}])
        unknown = [{"type": "item_reference", "id": "nobody"}]
        error = await client.refused("response.create", response={"input": unknown})
        wrong = await client.refused("response.create", response={"input": [{"type": "song"}]})
        own = await client.answer()

    texts = [done["output"][0]["content"][0]["text"] for done in (given, referred, own)]
    assert texts == ["Let me see.", OF_COURSE, OF_COURSE]  # the question stayed open for the conversation's own answer
    assert error["code"] == "item_reference_invalid_item_id"
    assert wrong["param"] == "response.input[0].type"
