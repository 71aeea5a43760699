"""A session whose model has a brain: what the brain is asked, and what the client gets while it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phoneagent.sim.model.brain import Brain
from tests.patience import HANG_SECONDS
from tests.sim.model.chat_server import CUT, ChatServer, called, chat_server, event, said, words
from tests.sim.model.scripts import TOOL

pytestmark = pytest.mark.anyio

WRITTEN: dict[str, Any] = {"instructions": "You book tables.", "output_modalities": ["text"], "tools": [TOOL]}
SPOKEN: dict[str, Any] = {"instructions": "You book tables.", "tools": [TOOL]}


class Ear:
    """A recogniser that hears the same words each time."""

    async def hear(self, ulaw: bytes) -> str:
        return "A table, please."


async def test_a_written_answer_is_passed_on_word_by_word(make_model: Any, dial: Any) -> None:
    more = asyncio.Event()
    server = ChatServer([words("With "), more, words("pleasure."), event({}, finish="stop")])
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        await client.add("A table, please.")
        await client.send("response.create")
        assert (await client.until("response.output_text.delta"))["delta"] == "With "
        more.set()
        done = (await client.until("response.done"))["response"]

    assert done["output"][0]["content"] == [{"type": "output_text", "text": "With pleasure."}]
    (asked,) = server.requests
    assert asked["messages"] == [
        {"role": "system", "content": "You book tables."},
        {"role": "user", "content": "A table, please."},
    ]
    assert asked["tools"][0]["function"]["name"] == "book"
    assert asked["tool_choice"] == "auto"
    assert model.violations == []


async def test_a_tool_is_called_and_its_output_goes_back(make_model: Any, dial: Any) -> None:
    server = ChatServer([words("Let me see."), *called("book", '{"n": 4}')], said("Booked."))
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        await client.add("A table, please.")
        call = (await client.answer())["output"][1]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Table 7"}
        await client.send("conversation.item.create", item=output)
        answer = await client.answer()

    assert (call["name"], call["arguments"], call["status"]) == ("book", '{"n": 4}', "completed")
    pieces = [event["delta"] for event in client.events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(pieces) == '{"n": 4}'
    assert answer["output"][0]["content"][0]["text"] == "Booked. "
    made, returned = server.requests[1]["messages"][-2:]
    assert made["content"] == "Let me see."
    assert made["tool_calls"][0]["id"] == call["call_id"]
    assert returned == {"role": "tool", "tool_call_id": call["call_id"], "content": "Table 7"}
    assert model.sessions[0].tool_calls[0].output == "Table 7"


async def test_the_first_sentence_is_spoken_before_the_second_is_there(make_model: Any, dial: Any) -> None:
    more = asyncio.Event()
    steps = [words("With pleasure. For "), more, words("how many?"), event({}, finish="stop")]
    server = ChatServer(steps)
    async with chat_server(server), make_model(brain=Brain(server.url), ear=Ear()) as model, dial(model) as client:
        await client.configure(**SPOKEN)
        await client.speak()
        await client.until("response.output_audio.delta")
        more.set()
        done = (await client.until("response.done"))["response"]

    assert [item["type"] for item in done["output"]] == ["message"]
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "With pleasure. For how many?"}]
    assert server.requests[0]["messages"][1] == {"role": "user", "content": "A table, please."}
    (item,) = model.sessions[0].audio_items
    assert item.text == "With pleasure. For how many?"
    assert len(item.audio) == sum(size for _, size in item.parts) == len(client.audio())
    assert not item.interrupted


async def test_an_interruption_stops_the_brain_and_cuts_its_memory(make_model: Any, dial: Any) -> None:
    server = ChatServer([words("One two three four. Five "), asyncio.Event()], said("Yes?"))
    async with chat_server(server), make_model(brain=Brain(server.url), ear=Ear()) as model, dial(model) as client:
        await client.configure(**SPOKEN, turn={"interrupt_response": True, "create_response": False})
        await client.speak()
        await client.until("conversation.item.done")
        await client.send("response.create")
        spoken = model.sessions[0].audio_items
        await model.wait_for(lambda: spoken and len(spoken[0].audio) == sum(size for _, size in spoken[0].parts) > 0)
        await client.speak()
        cancelled = (await client.until("response.done"))["response"]
        async with asyncio.timeout(HANG_SECONDS):
            await server.left.wait()
        item = cancelled["output"][0]
        half_ms = spoken[0].sent_ms // 2
        await client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=half_ms)
        await client.answer()
        remembered = [each["content"] for each in server.requests[-1]["messages"] if each["role"] == "assistant"]

    assert (cancelled["status"], item["status"]) == ("cancelled", "incomplete")
    assert model.sessions[0].audio_items[0].interrupted
    assert remembered[0] == "One two…"


async def test_a_cancelled_answer_that_said_nothing_leaves_nothing(make_model: Any, dial: Any) -> None:
    server = ChatServer([words(""), asyncio.Event()], said("Hello."))
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        await client.add("Hi")
        await client.send("response.create")
        async with asyncio.timeout(HANG_SECONDS):
            await server.asked.wait()
        await client.send("response.cancel")
        assert (await client.until("response.done"))["response"]["output"] == []
        answer = await client.answer()

    assert answer["output"][0]["content"][0]["text"] == "Hello. "


@pytest.mark.parametrize(
    ("steps", "told"), [((500, "no memory"), "HTTP 500 (no memory)"), ([words("I am"), CUT], "broke off")]
)
async def test_a_failure_is_a_failed_response_and_one_line(
    make_model: Any, dial: Any, caplog: pytest.LogCaptureFixture, steps: Any, told: str
) -> None:
    server = ChatServer(steps, said("Here I am."))
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        await client.add("Hi")
        failed = await client.answer()
        again = await client.answer()

    error = failed["status_details"]["error"]
    assert (failed["status"], error["code"]) == ("failed", "server_error")
    assert told in error["message"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [error["message"]]
    assert again["status"] == "completed"


async def test_the_token_limit_ends_a_spoken_answer(make_model: Any, dial: Any) -> None:
    server = ChatServer([words("A sentence that takes long. Another "), asyncio.Event()])
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**SPOKEN, max_output_tokens=10)
        await client.add("Hi")
        done = await client.answer()
        async with asyncio.timeout(HANG_SECONDS):
            await server.left.wait()

    assert done["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert done["output"][0]["status"] == "incomplete"


async def test_words_prescribed_exactly_are_said_without_the_brain(make_model: Any, dial: Any) -> None:
    server = ChatServer(said("Never."))
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        await client.add('Greet the caller with exactly these words: "Chez Nous, good evening!"', role="system")
        greeting = await client.answer(tool_choice="none")

    assert greeting["output"][0]["content"][0]["text"] == "Chez Nous, good evening!"
    assert server.requests == []


async def test_calls_that_the_client_forbade_are_not_made(make_model: Any, dial: Any) -> None:
    server = ChatServer([words("No."), *called("book", "")])
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        await client.add("Hi")
        forbidden = await client.answer(tool_choice="none")
        server.answers = [called("book", "")]
        allowed = await client.answer(instructions="Book.")

    assert [item["type"] for item in forbidden["output"]] == ["message"]
    assert allowed["output"][0]["arguments"] == "{}"
    assert server.requests[1]["messages"][-1]["content"].endswith("not from the caller: Book.)")


async def test_a_responses_own_instructions_replace_the_sessions(make_model: Any, dial: Any) -> None:
    server = ChatServer(said("No."), said("Yes."))
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        await client.add("Hi")
        await client.answer(instructions="You fill in forms.")
        await client.answer()

    told = [request["messages"][0]["content"] for request in server.requests]
    assert told == ["You fill in forms.", "You book tables."]


async def test_a_call_in_a_responses_own_input_needs_no_id(make_model: Any, dial: Any) -> None:
    server = ChatServer(said("Yes."))
    async with chat_server(server), make_model(brain=Brain(server.url)) as model, dial(model) as client:
        await client.configure(**WRITTEN)
        call = {"type": "function_call", "name": "book", "arguments": "{}"}
        done = await client.answer(input=[call, call])

    assert done["status"] == "completed"
    told = server.requests[0]["messages"]
    assert len({made["id"] for each in told for made in each.get("tool_calls", ())}) == 2
