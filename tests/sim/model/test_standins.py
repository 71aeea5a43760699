"""The stand-ins: what each fact of the table does to a session, seen by a client."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from phoneagent.errors import DefinitionError
from phoneagent.protocol.audio import silence, tone
from phoneagent.sim import Model
from phoneagent.sim.model.setup import Faults
from phoneagent.sim.model.standins import STAND_INS, StandIn, stand_in
from tests.sim.model.conftest import Client, closing, code_of

pytestmark = pytest.mark.anyio

QUERIES = {"azure": "model=talk", "inworld": "key=s1&protocol=realtime"}
HEADERS: dict[str, dict[str, str]] = {"helicone": {"Helicone-Auth": "Bearer sk"}}
PCMU = {"type": "audio/pcmu"}
TURNS = {"type": "server_vad", "silence_duration_ms": 300, "create_response": False, "interrupt_response": False}
SESSION = {
    "type": "realtime",
    "instructions": "Be brief.",
    "audio": {"input": {"format": PCMU, "turn_detection": TURNS}, "output": {"format": PCMU}},
}
SCRIPT = """
[[turn]]
heard = "."
caller = "Now."
say = "Of course."
call = "book"
arguments = { n = 4 }
"""
BOOK = {"type": "function", "name": "book", "parameters": {"type": "object"}}


@asynccontextmanager
async def client_of(dialect: str, make_model: Any, **options: Any) -> AsyncIterator[tuple[Model, Client]]:
    async with make_model(SCRIPT, dialect=dialect, **options) as model:
        url = f"{model.url}?{QUERIES.get(dialect, 'model=m')}"
        async with connect(url, additional_headers=HEADERS.get(dialect, {}), compression=None) as socket:
            yield model, Client(socket, dialect=None)


async def ask(client: Client, **response: Any) -> dict[str, Any]:
    """Ask for a response to a text."""
    content = [{"type": "input_text", "text": "Now!"}]
    await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    return await client.answer(**response)


def test_a_stand_in_that_is_none_is_named() -> None:
    with pytest.raises(DefinitionError, match="no stand-in 'opanai'; the dialects are openai, azure"):
        stand_in("opanai")
    with pytest.raises(ValueError, match="exclude each other"):
        Model(dialect="openai", service=STAND_INS["openai"].service)


@pytest.mark.parametrize("dialect", STAND_INS)
async def test_each_opens_and_answers_a_plain_client(dialect: str, make_model: Any) -> None:
    async with client_of(dialect, make_model) as (model, client):
        assert [(await client.next())["type"] for _ in STAND_INS[dialect].opening] == list(STAND_INS[dialect].opening)
        response = await ask(client)
        assert response["status"] == "completed"
        assert model.sessions[0].said == ["Of course."]
        assert model.violations == []


async def test_xai_greets_with_a_conversation_and_repeats_what_was_asked(make_model: Any) -> None:
    async with client_of("xai", make_model) as (model, client):
        flat = {"voice": "Eve", "instructions": "Be brief.", "turn_detection": TURNS}
        for update in (flat, SESSION):
            await client.send("session.update", session=update)
            assert (await client.until("session.updated"))["session"] == update
        assert model.sessions[0].session["audio"]["output"]["voice"] == {"id": "Eve"}
        assert "session.created" not in client.types
        await client.say(tone(300, 600) + silence(400))
        assert "audio_start_ms" not in await client.until("input_audio_buffer.speech_started")
        await client.until("conversation.item.input_audio_transcription.completed")
    assert model.sessions[0].session["audio"]["output"]["format"] == PCMU


async def test_inworld_wants_its_query_takes_a_model_and_sends_objects(make_model: Any) -> None:
    async with client_of("inworld", make_model) as (model, client):
        await client.send("session.update", session={"type": "realtime", "model": "openai/gpt-4.1", "tools": [BOOK]})
        assert (await client.until("session.updated"))["session"]["model"] == "openai/gpt-4.1"
        hearing = {"input": {"transcription": {"model": "inworld/inworld-stt-1"}}, "output": {"voice": "Clive"}}
        await client.send("session.update", session={"type": "realtime", "audio": hearing})
        assert (await client.until("session.updated"))["session"]["audio"]["input"]["transcription"] is not None
        response = await ask(client)
        assert response["output"][1]["arguments"] == {"n": 4}
        done = next(event for event in client.events if event["type"] == "response.function_call_arguments.done")
        assert done["arguments"] == {"n": 4}
        with pytest.raises(InvalidStatus) as caught:
            await connect(model.url)
    assert caught.value.response.status_code == 400
    assert model.sessions[0].tool_calls[0].arguments == '{"n": 4}'


async def test_localai_keeps_to_pcm_answers_regardless_and_leaves_much_out(make_model: Any) -> None:
    async with client_of("localai", make_model) as (model, client):
        hearing = {"input": {"transcription": {"model": "gpt-transcribe"}}}
        await client.send("session.update", event_id="u1", session={"type": "realtime", "audio": hearing})
        error = (await client.until("error"))["error"]
        assert (error["code"], error["param"], error["event_id"]) == ("session_update_error", "", "")
        await client.send("session.update", session=SESSION)
        session = (await client.until("session.updated"))["session"]
        assert "format" not in session["audio"]["output"]
        assert model.sessions[0].session["audio"]["output"]["format"]["type"] == "audio/pcm"
        pcm = b"".join(bytes([byte & 0xFF, byte >> 8]) for byte in [0x3000, 0x0000, 0xC000, 0x0000] * 3600)
        await client.say(pcm + bytes(48 * 400))
        assert "item_id" not in await client.until("input_audio_buffer.speech_started")
        committed = await client.until("input_audio_buffer.committed")
        response = (await client.until("response.done"))["response"]
        assert set(response) == {"id", "object", "status"}
        transcript = next(event for event in client.events if event["type"].endswith("transcription.completed"))
        added = next(event for event in client.events if event["type"] == "conversation.item.added")
        assert len({committed["item_id"], transcript["item_id"], added["item"]["id"]}) == 3
        assert {event["event_id"] for event in client.events} == {"event_TODO"}
        item_id = model.sessions[0].audio_items[0].item_id
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=0)
        await client.send("conversation.item.delete", item_id=item_id)
        error = (await client.until("error"))["error"]
        assert error["code"] == "unknown_or_invalid_event"
    assert model.sessions[0].truncations == []
    assert model.violations == []


async def test_localai_s_failed_response_is_an_error_alone(make_model: Any) -> None:
    async with client_of("localai", make_model, faults=Faults(fail_responses=1)) as (_, client):
        await client.send("response.create")
        assert (await client.until("error"))["error"]["code"] == "server_error"
        await client.answer()
    assert client.types.count("response.done") == 1


async def test_speaches_complains_and_goes_on(make_model: Any) -> None:
    async with client_of("speaches", make_model) as (model, client):
        update: dict[str, Any] = {"input_audio_format": "g711_ulaw", "output_audio_format": "g711_ulaw"}
        update |= {"instructions": "Be brief.", "turn_detection": {"type": "server_vad", "prefix_padding_ms": 300}}
        await client.send("session.update", event_id="u1", session=update)
        session = (await client.until("session.updated"))["session"]
        errors = [event["error"] for event in client.events if event["type"] == "error"]
        assert [set(error) for error in errors] == [{"type", "message"}] * 3
        assert (session["instructions"], session["output_audio_format"]) == ("Be brief.", "pcm16")
        response = await ask(client, metadata={"purpose": "greeting"})
        assert [event["type"] for event in client.events].count("error") == 4
        assert "metadata" not in response
        assert "usage" not in response
    assert model.violations == []


async def test_speech_to_speech_says_little(make_model: Any) -> None:
    async with client_of("speech-to-speech", make_model) as (model, client):
        await client.send("session.update", session={"type": "realtime", "tools": [BOOK]})
        await client.send("conversation.item.truncate", item_id="i", content_index=0, audio_end_ms=0)
        error = (await client.until("error"))["error"]
        assert error == {"type": "unknown_or_invalid_event", "message": error["message"]}
        content = [{"type": "input_text", "text": "Be kind."}]
        await client.send("conversation.item.create", item={"type": "message", "role": "system", "content": content})
        response = await ask(client)
        assert "output" not in response
        assert not [kind for kind in client.types if "output_item" in kind or kind == "session.updated"]
        assert client.types.count("conversation.item.created") == 3  # the question, the answer and the call
        done = next(event for event in client.events if event["type"] == "response.function_call_arguments.done")
        assert done["call_id"] == model.sessions[0].tool_calls[0].call_id
        assert [item["type"] for item in model.sessions[0].brought] == ["message"]


async def test_vllm_refuses_what_it_has_not_and_never_transcribes(make_model: Any) -> None:
    async with client_of("vllm", make_model) as (model, client):
        await client.send("session.update", session=SESSION)
        assert (await client.until("error"))["error"]["code"] == "unsupported_audio_format"
        semantic = {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}
        await client.send("session.update", session={"type": "realtime", **semantic})
        assert (await client.until("error"))["error"]["code"] == "unsupported_turn_detection"
        hearing = {"transcription": {"model": "whisper-1"}, "noise_reduction": {"type": "far_field"}}
        await client.send("session.update", session={"type": "realtime", "audio": {"input": hearing}})
        session = (await client.until("session.updated"))["session"]
        assert (session["audio"]["input"]["transcription"], session["audio"]["input"]["noise_reduction"]) == (
            None,
            None,
        )
        await client.send("response.create")
        await client.until("response.created")
        await client.send("response.create")  # takes the place of the first
        assert (await client.until("response.done"))["response"]["status"] == "cancelled"
        assert (await client.until("response.done"))["response"]["status"] == "completed"
    assert model.violations == []


@pytest.mark.parametrize("dialect", ["xai", "inworld", "localai"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"audio": "x"},
        {"audio": "x", "voice": "Eve", "turn_detection": None},
        {"audio": [], "voice": "Eve"},
        {"audio": {"input": "x", "output": []}, "voice": "Eve", "turn_detection": None},
        {"audio": {"input": {"transcription": "model"}}},
    ],
)
async def test_wrong_types_are_refused_as_everywhere(dialect: str, wrong: dict[str, Any], make_model: Any) -> None:
    async with client_of(dialect, make_model) as (model, client):
        await client.send("session.update", session={"type": "realtime", **wrong})
        await client.until("error")
        assert len(model.violations) == 1


async def test_a_null_is_a_part_that_is_missing(make_model: Any) -> None:
    async with client_of("xai", make_model) as (model, client):
        await client.send("session.update", session={"type": "realtime", "audio": None, "voice": "Eve"})
        await client.until("session.updated")
        assert model.sessions[0].session["audio"]["output"]["voice"] == {"id": "Eve"}


async def test_arguments_that_are_no_json_stay_text(make_model: Any) -> None:
    async with client_of("inworld", make_model) as (_, client):
        item = {"type": "function_call", "name": "book", "call_id": "c", "arguments": "{"}
        await client.send("conversation.item.create", item=item)
        assert (await client.until("conversation.item.added"))["item"]["arguments"] == "{"


async def test_helicone_hides_the_reason_of_a_close(make_model: Any) -> None:
    async with client_of("helicone", make_model, session_seconds=0.2) as (model, client):
        closed = await closing(client)
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{model.url}?model=m")
    assert code_of(closed) == 1000
    assert caught.value.response.status_code == 401
    assert model.sessions[0].dialect == "beta"


def test_every_fact_of_the_table_is_used() -> None:
    """A field that no stand-in sets describes no server."""
    plain = StandIn()
    for fact in dataclasses.fields(StandIn):
        assert any(getattr(each, fact.name) != getattr(plain, fact.name) for each in STAND_INS.values()), fact.name
