"""Whole exchanges with the simulated server, over a real loopback socket."""

from __future__ import annotations

import asyncio
import base64
import gc
import math
from typing import Any

import pytest

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.model.audio import bytes_per_ms, from_ulaw
from phoneagent.sim.model.session import SimulatedSession

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "name": "book", "parameters": {"type": "object", "properties": {}}}
SCRIPT = """
[[turn]]
caller = "A table, please."
heard = "table"
say = "Of course, a table by the window would be free."

[[turn]]
caller = "Half past seven."
heard = "seven"
say = "Let me see."
call = "book"
arguments = { n = 4 }
then = "Done. {output}"
"""
LONG = "This is a sentence that takes a while to be said, " * 4
SLOW: dict[str, Any] = {"speed": 2}


def speaking(text: str = LONG) -> str:
    return f'[[turn]]\nheard = "."\ncaller = "Hm."\nsay = "{text}"\n'


async def test_a_turn_is_answered_in_the_documented_order(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        await client.until("response.done")

    assert client.steps() == [
        "session.created",
        "session.updated",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert model.violations == model.races == []


async def test_what_is_sent_is_what_the_record_says(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        done = await client.until("response.done")
    session: SimulatedSession = model.sessions[0]
    item, response, turn = session.audio_items[0], session.responses[0], session.caller_turns[0]
    transcript = "Of course, a table by the window would be free."

    assert client.audio() == client.audio(item.item_id) == bytes(item.audio)
    assert len(item.audio) > 8 * 2000
    assert item.delta_log[-1][1] == len(item.audio)
    assert max(b[1] - a[1] for a, b in zip(item.delta_log, item.delta_log[1:], strict=False)) <= 200 * 8
    assert item.text == transcript
    assert not item.interrupted
    words = "".join(e["delta"] for e in client.events if e["type"] == "response.output_audio_transcript.delta")
    assert words == transcript == done["response"]["output"][0]["content"][0]["transcript"]
    assert (response.status, response.by) == ("completed", "vad")
    assert response.created_at <= (response.first_audio_at or math.inf) <= (response.done_at or 0)
    assert (turn.text, turn.speech_start_ms) == ("A table, please.", 0)
    assert 600 <= turn.speech_end_ms <= 700
    assert session.append_log[-1][1] == 1000 * 8
    assert [kind for _, kind in session.events_in] == ["session.update"]


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


@pytest.mark.parametrize(
    "audio_format", [{"type": "audio/pcma"}, {"type": "audio/pcm", "rate": 24000}], ids=lambda form: form["type"]
)
async def test_other_formats_are_heard_and_spoken(make_model: Any, dial: Any, audio_format: dict[str, Any]) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        turn = {"type": "server_vad", "silence_duration_ms": 300}
        audio = {"input": {"format": audio_format, "turn_detection": turn}, "output": {"format": audio_format}}
        await client.send("session.update", session={"type": "realtime", "audio": audio})
        said = from_ulaw(tone(300, 600) + silence(500), audio_format)
        await client.send("input_audio_buffer.append", audio=base64.b64encode(said).decode())
        await client.until("response.done")

    item = model.sessions[0].audio_items[0]
    assert item.sent_ms == pytest.approx(len(client.audio()) / bytes_per_ms(audio_format), abs=1)
    assert len(model.sessions[0].caller_turns) == 1


async def test_before_the_update_the_defaults_hold(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        created = await client.until("session.created")
        # Telephone audio, taken for 24 kHz PCM: a sixth of the time, and noise.
        await client.say(tone(300, 3000) + silence(3000))
        await client.until("response.done")

    defaults = created["session"]["audio"]
    assert defaults["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert defaults["input"]["turn_detection"]["type"] == "server_vad"
    assert model.sessions[0].caller_turns[0].speech_end_ms < 1000


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
    assert heard == [940 * 8]  # speech, hang of the gate and closing silence


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


async def test_turn_detection_off_means_by_hand(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await client.until("session.updated")
        await client.speak()
        await client.send("input_audio_buffer.commit")
        await client.until("conversation.item.done")
        assert "input_audio_buffer.speech_started" not in client.types
        assert "response.created" not in client.types
        done = await client.answer()
        await client.speak()
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        error = await client.refused("input_audio_buffer.commit")

    assert done["output"][0]["content"][0]["transcript"].startswith("Of course")
    assert error["code"] == "input_audio_buffer_commit_empty"
    assert model.violations == [f"input_audio_buffer.commit: {error['message']}"]


async def test_an_idle_caller_is_asked(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(turn={"idle_timeout_ms": 5000})
        await client.add("a table")
        await client.answer()
        start = len(client.events)
        await client.say(silence(12_000))
        done = (await client.until("response.done"))["response"]
        await client.speak()
        answer = (await client.until("response.done"))["response"]

    assert client.types[start : start + 5] == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert done["output"][0]["content"][0]["transcript"] == "Are you still there?"
    assert answer["output"][0]["content"][0]["transcript"].startswith("Of course")  # no line was used up


async def test_usage_grows_with_the_conversation(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        first = (await client.until("response.done"))["response"]["usage"]
        said_ms = len(client.audio()) / 8
        await client.speak()
        second = (await client.until("response.done"))["response"]["usage"]

    assert first["input_token_details"]["audio_tokens"] == 9
    assert first["output_token_details"]["audio_tokens"] == math.ceil(said_ms / 50)
    assert first["input_token_details"]["cached_tokens"] == 0
    details = second["input_token_details"]
    assert details["audio_tokens"] == pytest.approx(9 + 9 + said_ms / 50, abs=2)
    assert details["cached_tokens"] == first["input_tokens"]
    assert second["total_tokens"] == second["input_tokens"] + second["output_tokens"]


async def test_the_tokens_can_run_out(make_model: Any, dial: Any) -> None:
    async with make_model(speaking()) as model, dial(model) as client:
        await client.configure()
        await client.add("hello")
        done = await client.answer(max_output_tokens=20)

    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert len(client.audio()) == 20 * 50 * 8
    assert done["output"][0]["status"] == "incomplete"


async def test_a_human_voice_is_one_turn(make_model: Any, dial: Any, speech: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(turn={"silence_duration_ms": 500})
        await client.say(silence(300) + speech("librivox-0880") + silence(1000))
        await client.until("response.done")

    turn = model.sessions[0].caller_turns[0]
    assert len(model.sessions[0].caller_turns) == 1
    assert turn.speech_end_ms - turn.speech_start_ms > 2000


async def test_fifty_sessions_at_once(make_model: Any, dial: Any) -> None:
    async def call() -> str:
        async with dial(model) as client:
            await client.configure()
            await client.speak()
            done = await client.until("response.done")
            await client.say(silence(1000))
            return str(done["response"]["status"])

    async with make_model(SCRIPT) as model:
        results = await asyncio.gather(*(call() for _ in range(50)))
        await model.wait_for(lambda: all(session.closed for session in model.sessions))

        assert results == ["completed"] * 50
        assert len(model.sessions) == 50
        assert model.violations == []


async def test_nothing_is_left_of_a_session(make_model: Any, dial: Any) -> None:
    before = asyncio.all_tasks()
    async with make_model(speaking(), **SLOW) as model:
        async with dial(model) as client:
            await client.configure()
            await client.add("hello")
            await client.send("response.create")
            await client.until("response.output_audio.delta")
        await model.wait_for(lambda: model.sessions[0].closed)
    gc.collect()

    assert asyncio.all_tasks() == before
    assert model.sessions[0].responses[0].status == "in_progress"
    with pytest.raises(RuntimeError, match="async with Model"):
        _ = model.url
