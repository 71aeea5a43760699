"""One session: the rules that a client may break, and the end of the connection."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from phoneagent.protocol.audio import tone
from tests.sim.model.conftest import closing, code_of
from tests.sim.model.scripts import OF_COURSE, SCRIPT

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"type": "session.update", "session": {"tools": ' + "[" * 500 + "]" * 500 + "}}", "invalid_json"),
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


async def test_the_session_expires(make_model: Any, dial: Any) -> None:
    async with make_model(session_seconds=0.2) as model, dial(model) as client:
        closed = await closing(client)

    assert client.types == ["session.created", "error"]
    assert client.events[1]["error"]["code"] == "session_expired"
    assert code_of(closed) == 1001
    assert closed.rcvd is not None
    assert "maximum duration" in closed.rcvd.reason


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


async def test_a_session_is_killed_at_a_moment_of_one_s_choice(make_model: Any, dial: Any) -> None:
    def kill(session: Any, direction: str, event: dict[str, Any]) -> None:
        if (direction, event["type"]) == ("out", "response.content_part.added"):
            session.kill()

    async with make_model(SCRIPT, watch=kill) as model, dial(model) as client:
        await client.configure()
        await client.say(tone(300, 600))
        await client.speak()
        with pytest.raises(Exception, match="no close frame"):
            await client.until("response.output_audio.delta")
        await model.wait_for(lambda: model.sessions[0].closed)
        assert model.sessions[0].said == [OF_COURSE]


async def test_a_call_without_an_id_gets_one(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        call = {"type": "function_call", "name": "book", "arguments": '{"guests": 4}'}
        await client.send("conversation.item.create", item=call)
        await client.until("conversation.item.done")
        assert model.sessions[0].items[0]["call_id"].startswith("call_")
