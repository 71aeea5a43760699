"""A conversation that goes on in another session: the client brings its history, the script goes on where it was."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.sim.model.service import ANY_BETA

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
caller = "A table, please."
say = "For how many?"

[[turn]]
caller = "For four."
say = "Let me see."
call = "book"
arguments = { guests = 4 }
then = "Done. {output}"

[[turn]]
caller = "Thank you."
say = "You are welcome."
"""
CALL = {"type": "function_call", "call_id": "call_1", "name": "book", "arguments": '{"guests": 4}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "Reference 41."}
BOOK: Any = {"type": "function", "name": "book"}
BETA = [("OpenAI-Beta", "realtime=v1")]


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def system(text: str) -> dict[str, Any]:
    return {**user(text), "role": "system"}


def agent(text: str, part: str = "output_text") -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": part, "text": text}]}


async def replay(client: Any, *items: dict[str, Any]) -> None:
    for item in items:
        await client.send("conversation.item.create", item=item)
        await client.until("conversation.item.done")


async def test_a_spoken_conversation_goes_on_where_it_was(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(tools=[BOOK])
        await replay(client, user("A table, please."), agent("For how many?"))
        await client.speak()
        await client.until("response.done")
        session = model.sessions[0]
        assert (session.heard, session.said) == (["For four."], ["Let me see."])
        assert [call.name for call in session.tool_calls] == ["book"]
        assert session.told == [("user", "A table, please."), ("assistant", "For how many?")]
        assert model.violations == []


async def test_what_was_left_unanswered_is_answered(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(tools=[BOOK])
        await replay(client, user("A table, please."), agent("For how many?"), user("For four."))
        await replay(client, system("The connection was lost for a moment. Go on."))
        await client.answer()
        await replay(client, {**OUTPUT, "call_id": model.sessions[0].tool_calls[0].call_id})
        await client.answer()
        await client.speak()
        await client.until("response.done")
        assert model.sessions[0].said == ["Let me see.", "Done. Reference 41.", "You are welcome."]
        assert len(model.sessions[0].tool_calls) == 1


async def test_a_call_that_was_made_is_not_made_again(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(tools=[BOOK])
        await replay(client, user("A table, please."), agent("For how many?"), user("For four."), CALL, OUTPUT)
        await client.answer()
        assert model.sessions[0].said == ["Done. Reference 41."]
        assert model.sessions[0].tool_calls == []


async def test_nothing_new_is_nothing_to_answer(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(tools=[BOOK])
        await replay(client, user("For four."), CALL, OUTPUT, agent("Done."))
        assert model.sessions[0].conversation.news() == []


async def test_a_turn_that_is_taken_in_mid_answer_stays_open(make_model: Any, dial: Any) -> None:
    script = (
        '[[turn]]\nheard = "one"\nsay = ["A first part.", "A second part."]\n[[turn]]\nheard = "two"\nsay = "Two."\n'
    )
    async with make_model(script, speed=20) as model, dial(model) as client:
        await client.configure()
        await client.add("one")
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        await client.add("two")
        await client.until("response.done")
        await client.answer()
        assert model.sessions[0].said == ["A first part.", "A second part.", "Two."]


async def test_beta_has_its_own_word_for_the_agent_s_text(make_model: Any, dial: Any) -> None:
    create = "conversation.item.create"
    async with make_model(SCRIPT, service=ANY_BETA) as model, dial(model, headers=BETA) as client:
        modern = await client.refused(create, item=agent("Hello."))
        await client.send(create, item=agent("Hello.", "text"))
        await client.until("conversation.item.created")
    async with make_model(SCRIPT) as model, dial(model) as client:
        old = await client.refused(create, item=agent("Hello.", "text"))
    assert modern["param"] == "item.content[0].type"
    assert "'output_text'" in modern["message"]
    assert old["param"] == "item.content[0].type"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({**user("x"), "id": "i" * 33}, "item.id"),
        ({**CALL, "call_id": "c" * 33}, "item.call_id"),
        ({**CALL, "name": "no such name"}, "item.name"),
        ({**CALL, "arguments": {}}, "item.arguments"),
        ({**OUTPUT, "output": {"ok": True}}, "item.output"),
        ({**OUTPUT, "call_id": "call_2"}, "item.call_id"),
        (agent("x", "output_audio"), "item.content[0].type"),
        (agent("x", "input_text"), "item.content[0].type"),
    ],
)
async def test_a_history_is_checked(make_model: Any, dial: Any, item: dict[str, Any], param: str) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        error = await client.refused("conversation.item.create", item=item)
        assert error["param"] == param
        assert model.sessions[0].items == model.sessions[0].brought == []


async def test_a_turn_without_a_transcript_counts_once_it_was_answered(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(tools=[BOOK])
        await replay(client, user("(not understood)"), agent("For how many?"), user("For four."))
        await client.answer()
        await client.speak()
        await client.until("response.done")
        assert model.sessions[0].said == ["Let me see.", "You are welcome."]
