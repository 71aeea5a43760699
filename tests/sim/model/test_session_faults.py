"""What the simulated server refuses, and how it fails when it is told to."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.model.setup import Faults

pytestmark = pytest.mark.anyio

BETA = ("OpenAI-Beta", "realtime=v1")
SCRIPT = """
[[turn]]
heard = "."
caller = "Hello?"
say = "Good morning, this is a sentence of some length, for an interruption to fall into."
"""
TWO = '[[turn]]\nheard = "."\nsay = ["One thing.", "Another."]\n'
TRANSCRIBED = {"type": "realtime", "audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}


async def closing(client: Any) -> ConnectionClosed:
    """Receive until the connection is closed."""
    while True:
        try:
            await client.next()
        except ConnectionClosed as closed:
            return closed


def code_of(closed: ConnectionClosed) -> int | None:
    return closed.rcvd.code if closed.rcvd else None


# -- the door ----------------------------------------------------------------------------------------------------------


async def test_the_key_is_asked_for(make_model: Any, dial: Any) -> None:
    async with make_model(api_key="sk-right") as model:
        for headers in ([], [("Authorization", "Bearer sk-wrong")], [("api-key", "sk-wrong")]):
            with pytest.raises(InvalidStatus) as caught:
                async with dial(model, headers=headers):
                    pass
            assert caught.value.response.status_code == 401
            assert b"invalid_api_key" in (caught.value.response.body or b"")
        for headers in ([("Authorization", "Bearer sk-right")], [("api-key", "sk-right")]):
            async with dial(model, headers=headers) as client:
                await client.until("session.created")
        assert len(model.refusals) == 3
        assert "sk-" not in repr(model.sessions) + "".join(model.refusals)


async def test_another_path_is_not_found(make_model: Any) -> None:
    async with make_model() as model:
        with pytest.raises(InvalidStatus) as caught:
            await connect(model.url.replace("/v1/realtime", "/v1/live") + "?model=x")

    assert caught.value.response.status_code == 404


async def test_a_busy_server(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(refuse_status=503)) as model:
        with pytest.raises(InvalidStatus) as caught:
            async with dial(model):
                pass

    assert caught.value.response.status_code == 503


async def test_a_connection_must_name_a_model(make_model: Any, dial: Any) -> None:
    async with make_model() as model:
        async with dial(model, query="") as client:
            await client.until("session.created")
        async with dial(model, query="?deployment=mine") as client:
            created = await client.until("session.created")

        assert created["session"]["model"] == "mine"
        assert len(model.violations) == 1


# -- what a client does wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ('"x"', "invalid_event"),
        (b'{"type": "response.create"}', "invalid_event"),
        ('{"type": "response.make"}', "invalid_value"),
        ('{"type": "response.create", "now": true}', "unknown_parameter"),
        ('{"type": "response.create", "response": {"voice": "marin"}}', "unknown_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "invalid_value"),
        ('{"type": "session.update", "session": {"type": "realtime", "speed": 1}}', "unknown_parameter"),
        ('{"type": "session.update", "session": {"instructions": "x"}}', "missing_required_parameter"),
        ('{"type": "conversation.item.retrieve", "item_id": "x"}', "item_retrieve_invalid_item_id"),
    ],
)
async def test_a_broken_rule_is_an_error_and_a_violation(
    make_model: Any, dial: Any, message: str | bytes, code: str
) -> None:
    async with make_model() as model, dial(model) as client:
        await client.socket.send(message)
        error = (await client.until("error"))["error"]
        await client.configure()  # the session goes on

        assert (error["type"], error["code"]) == ("invalid_request_error", code)
        assert len(model.violations) == 1


async def test_a_refused_update_changes_nothing(make_model: Any, dial: Any) -> None:
    async with make_model() as model, dial(model) as client:
        before = await client.configure(instructions="old")
        update = {"type": "realtime", "instructions": "new", "audio": {"output": {"voice": "marin"}}, "foo": 1}
        error = await client.refused("session.update", session=update)

        assert error["message"] == "Unknown parameter: 'session.foo'."
        assert error["param"] == "session.foo"
        assert model.sessions[0].session == before


async def test_the_voice_is_locked_by_the_first_audio(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.answer()
        update = {"type": "realtime", "audio": {"output": {"voice": "marin"}}}
        error = await client.refused("session.update", session=update)

    assert error["code"] == "cannot_update_voice"


async def test_an_append_has_a_limit(make_model: Any, dial: Any) -> None:
    async with make_model() as model, dial(model) as client:
        await client.configure()
        audio = base64.b64encode(bytes((15 << 20) + 1)).decode()
        error = await client.refused("input_audio_buffer.append", audio=audio)

        assert error["param"] == "audio"
        assert model.sessions[0].append_log == []


# -- faults ------------------------------------------------------------------------------------------------------------


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


async def test_the_session_expires(make_model: Any, dial: Any) -> None:
    async with make_model(session_seconds=0.2) as model, dial(model) as client:
        closed = await closing(client)

    assert client.types == ["session.created", "error"]
    assert client.events[1]["error"]["code"] == "session_expired"
    assert code_of(closed) == 1001
    assert closed.rcvd is not None
    assert "maximum duration" in closed.rcvd.reason


async def test_the_connection_is_cut_or_closed(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(drop_after_seconds=0.1)) as model, dial(model) as client:
        assert code_of(await closing(client)) is None
    async with make_model(faults=Faults(drop_after_seconds=0.1, drop_code=1011)) as model, dial(model) as client:
        assert code_of(await closing(client)) == 1011


async def test_a_test_can_cut_close_and_inject(make_model: Any, dial: Any) -> None:
    async with make_model() as model, dial(model, checked=False) as client:
        await client.until("session.created")
        await model.sessions[0].send_event({"type": "who.knows", "x": 1})
        assert await client.next() == {"type": "who.knows", "x": 1}
        await model.sessions[0].drop(1012)
        assert code_of(await closing(client)) == 1012
        async with dial(model) as other:
            await other.until("session.created")
            await model.sessions[1].drop()
            assert code_of(await closing(other)) is None
        await model.wait_for(lambda: all(session.closed for session in model.sessions))


async def test_a_slow_start_and_none_at_all(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(slow_start_seconds=0.2)) as model, dial(model) as client:
        began = asyncio.get_running_loop().time()
        await client.until("session.created")
        assert asyncio.get_running_loop().time() - began > 0.1
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


# -- the beta dialect --------------------------------------------------------------------------------------------------


async def test_a_conversation_in_the_beta_spelling(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model, headers=[BETA]) as client:
        created = await client.until("session.created")
        turn = {"type": "server_vad", "silence_duration_ms": 300}
        flat = {"input_audio_format": "g711_ulaw", "output_audio_format": "g711_ulaw", "turn_detection": turn}
        await client.send("session.update", session=flat)
        updated = await client.until("session.updated")
        await client.say(tone(300, 600) + silence(500))
        done = (await client.until("response.done"))["response"]
        content = [{"type": "text", "text": "earlier"}]
        item = {"type": "message", "role": "assistant", "content": content}
        await client.send("conversation.item.create", item=item)
        added = (await client.until("conversation.item.created"))["item"]
        await client.send("response.create", response={"modalities": ["text"]})
        text = (await client.until("response.done"))["response"]

    assert created["session"]["modalities"] == ["text", "audio"]
    assert created["session"]["input_audio_format"] == "pcm16"
    assert updated["session"]["output_audio_format"] == "g711_ulaw"
    assert {"response.audio.delta", "response.audio_transcript.delta", "response.text.done"} <= set(client.types)
    assert not {"conversation.item.added", "conversation.item.done", "response.output_audio.delta"} & set(client.types)
    assert done["output"][0]["content"][0]["type"] == "audio"
    assert added["content"] == content
    assert text["output"][0]["content"][0]["type"] == "text"
    assert model.sessions[0].dialect == "beta"
    assert model.violations == []


async def test_the_modern_shape_is_refused_in_the_beta(make_model: Any, dial: Any) -> None:
    async with make_model() as model, dial(model, headers=[BETA]) as client:
        error = await client.refused("session.update", session={"type": "realtime"})

    assert error["param"] == "session.type"


async def test_the_beta_can_be_off(make_model: Any, dial: Any) -> None:
    async with make_model(faults=Faults(refuse_beta=True)) as model:
        async with dial(model, headers=[BETA]) as client:
            closed = await closing(client)
        async with dial(model) as modern:
            await modern.until("session.created")

    assert [event["error"]["code"] for event in client.events] == ["beta_api_shape_disabled"]
    assert code_of(closed) == 4000
