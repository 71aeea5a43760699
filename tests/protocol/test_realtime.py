from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.errors import ProtocolError
from phoneagent.protocol import realtime
from phoneagent.protocol.realtime import Dialect, decode, dialect_of, encode, formats_of


def event(type_: str, **fields: Any) -> bytes:
    return json.dumps({"type": type_, "event_id": "event_1", **fields}).encode()


def wire(message: realtime.ToModel, dialect: Dialect = Dialect.GA) -> Any:
    return json.loads(encode(message, dialect))


# --- server events ---


@pytest.mark.parametrize("spelling", ["response.output_audio.delta", "response.audio.delta"])
def test_audio_in_both_spellings(spelling: str) -> None:
    delta = decode(event(spelling, response_id="r1", item_id="i1", output_index=0, content_index=1, delta="AAAA"))
    assert isinstance(delta, realtime.AudioDelta)
    assert (delta.response_id, delta.item_id, delta.content_index, delta.delta) == ("r1", "i1", 1, "AAAA")


@pytest.mark.parametrize("part", ["", "output_"])
def test_the_end_of_audio_and_the_words_in_both_spellings(part: str) -> None:
    ids = {"response_id": "r1", "item_id": "i1"}
    assert isinstance(decode(event(f"response.{part}audio.done", **ids)), realtime.AudioDone)
    words = decode(event(f"response.{part}audio_transcript.delta", **ids, delta="Hel"))
    assert isinstance(words, realtime.TranscriptDelta)
    assert words.delta == "Hel"
    text = decode(event(f"response.{part}audio_transcript.done", **ids, transcript="Hello"))
    assert isinstance(text, realtime.TranscriptDone)
    assert text.transcript == "Hello"


@pytest.mark.parametrize("spelling", ["conversation.item.added", "conversation.item.created"])
def test_an_added_item_in_both_spellings(spelling: str) -> None:
    item = {"id": "i1", "object": "realtime.item", "type": "function_call_output", "call_id": "c1", "output": "42"}
    added = decode(event(spelling, previous_item_id=None, item=item))
    assert isinstance(added, realtime.ItemAdded)
    assert (added.item.type, added.item.call_id) == ("function_call_output", "c1")


def test_speech_and_turns() -> None:
    started = decode(event("input_audio_buffer.speech_started", audio_start_ms=620, item_id="u1"))
    stopped = decode(event("input_audio_buffer.speech_stopped", audio_end_ms=1900.5, item_id="u1"))
    committed = decode(event("input_audio_buffer.committed", previous_item_id=None, item_id="u1"))
    assert started == realtime.SpeechStarted(item_id="u1", audio_start_ms=620)
    assert stopped == realtime.SpeechStopped(item_id="u1", audio_end_ms=1900.5)
    assert committed == realtime.Committed(item_id="u1")


def test_what_the_caller_said_or_that_nobody_knows() -> None:
    kind = "conversation.item.input_audio_transcription"
    assert decode(event(f"{kind}.completed", item_id="u1", content_index=0, transcript="Hi", usage={})) == (
        realtime.InputTranscript(item_id="u1", transcript="Hi", usage={})
    )
    assert decode(event(f"{kind}.failed", item_id="u1", error={"code": "x"})) == (
        realtime.InputTranscriptFailed(item_id="u1")
    )
    assert decode(event(f"{kind}.delta", item_id="u1", delta="H")) == realtime.Unknown(f"{kind}.delta")


def test_a_function_call() -> None:
    item = {"id": "i1", "type": "function_call", "status": "completed", "call_id": "c1", "name": "f", "arguments": "{}"}
    done = decode(event("response.output_item.done", response_id="r1", output_index=0, item=item))
    assert isinstance(done, realtime.OutputItemDone)
    assert (done.item.call_id, done.item.name, done.item.arguments, done.item.status) == ("c1", "f", "{}", "completed")


@pytest.mark.parametrize("metadata", [{"phoneagent": "3"}, None])
def test_the_metadata_of_a_response(metadata: dict[str, str] | None) -> None:
    created = decode(event("response.created", response={"id": "r1", "status": "in_progress", "metadata": metadata}))
    assert isinstance(created, realtime.ResponseCreated)
    assert created.response.metadata == metadata


def test_a_response_of_which_nothing_is_known() -> None:
    created = decode(event("response.created", response={}))
    assert isinstance(created, realtime.ResponseCreated)
    assert (created.response.id, created.response.metadata) == (None, None)


def test_a_failed_response_tells_why() -> None:
    details = {"type": "failed", "error": {"type": "server_error", "code": "rate_limit_exceeded", "message": "slow"}}
    response = {"id": "r1", "status": "failed", "status_details": details, "output": [], "usage": None}
    done = decode(event("response.done", response=response))
    assert isinstance(done, realtime.ResponseDone)
    assert done.response.status_details is not None
    assert done.response.status_details.error is not None
    assert done.response.status_details.error.code == "rate_limit_exceeded"


def test_an_error_of_which_everything_may_be_missing() -> None:
    full = {"type": "invalid_request_error", "code": "x", "message": "m", "param": "p", "event_id": "e1"}
    assert decode(event("error", error=full)) == realtime.Error(error=realtime.Failure(**full))
    assert decode(event("error", error=dict.fromkeys(full))) == realtime.Error(error=realtime.Failure())
    assert decode(event("error", error={})) == realtime.Error(error=realtime.Failure())


def test_the_session() -> None:
    assert decode(event("session.created", session={"id": "s"})) == realtime.SessionCreated(session={"id": "s"})
    assert decode(event("session.updated", session={"id": "s"})) == realtime.SessionUpdated(session={"id": "s"})


def test_an_event_that_a_call_does_not_need() -> None:
    assert decode(event("output_audio_buffer.started", response_id="r")) == realtime.Unknown(
        "output_audio_buffer.started"
    )


def test_an_item_of_a_kind_that_nobody_knows_yet() -> None:
    item = {"id": "i1", "type": "mcp_list_tools", "tools": [{"name": "x"}], "phase": "commentary", "status": None}
    assert isinstance(decode(event("response.output_item.done", item=item)), realtime.OutputItemDone)


DEEP = b"[" * 200_000 + b"]" * 200_000
BAD: dict[str, bytes | str] = {
    "empty": b"",
    "not JSON": "hello",
    "not UTF-8": b'{"type":"error","error":{"message":"\xff"}}',
    "not UTF-8 in the type": b'{"type":"\xff\xfe"}',
    "no type": b'{"event_id":"e"}',
    "type is null": b'{"type":null}',
    "not an object": b"[1]",
    "audio without an item": event("response.output_audio.delta", response_id="r1", delta="AAAA"),
    "audio that is not base64": event("response.output_audio.delta", response_id="r1", item_id="i1", delta="AA*A"),
    "beta audio that is not base64": event("response.audio.delta", response_id="r1", item_id="i1", delta="A"),
    "response is a word": event("response.created", response="r1"),
    "half an event": b'{"type":"response.done","response":{"id":"r1"',
    "deep": b'{"type":"x","a":' + DEEP + b"}",
    "deep where anything may be": b'{"type":"session.created","session":{"a":' + DEEP + b"}}",
    "deep and no type": b'{"a":' + DEEP + b"}",
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_bad_input_is_a_protocol_error_of_one_line(raw: bytes | str) -> None:
    with pytest.raises(ProtocolError, match="ignored: ") as error:
        decode(raw)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_known_event_that_lacks_something_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"`input_audio_buffer.committed` ignored"):
        decode(event("input_audio_buffer.committed"))


@given(st.binary(max_size=60))
def test_any_bytes_are_an_event_or_a_protocol_error(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(raw)


def test_an_event_with_everything_that_is_in_it() -> None:
    assert realtime.as_dict(b'{"type":"x","new":[1,{"a":null}]}') == {"type": "x", "new": [1, {"a": None}]}
    with pytest.raises(ProtocolError, match="ignored: "):
        realtime.as_dict(b'{"type":"x","a":' + DEEP + b"}")


# --- the session's own words ---


@pytest.mark.parametrize(
    ("session", "dialect"),
    [
        ({"type": "realtime", "model": "m"}, Dialect.GA),
        ({"audio": {"output": {}}}, Dialect.GA),
        ({"modalities": ["audio", "text"]}, Dialect.BETA),
        ({"input_audio_format": "pcm16"}, Dialect.BETA),
        ({"id": "s"}, Dialect.GA),
    ],
)
def test_the_dialect_shows_in_the_first_session(session: dict[str, Any], dialect: Dialect) -> None:
    assert dialect_of(session) is dialect


@pytest.mark.parametrize(
    ("session", "format_"),
    [
        ({"audio": {"output": {"format": {"type": "audio/pcmu"}}}}, "audio/pcmu"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}}, "audio/pcm"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "audio/pcm at 16000 Hz"),
        ({"audio": {"output": {"format": {"type": "audio/pcmu", "rate": 8000}}}}, "audio/pcmu"),
        ({"output_audio_format": "g711_ulaw"}, "audio/pcmu"),
        ({"output_audio_format": "g711_alaw"}, "audio/pcma"),
        ({"output_audio_format": "pcm16"}, "audio/pcm"),
        ({"output_audio_format": "opus"}, "opus"),
        ({"audio": {"output": {"format": None}}}, "unknown"),
        ({"audio": {"output": "loud"}}, "unknown"),
        ({"audio": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_what_the_model_will_speak_in(session: dict[str, Any], format_: str) -> None:
    assert formats_of(session)[1] == format_


def test_what_the_model_hears_is_told_apart_from_what_it_speaks() -> None:
    assert formats_of({"input_audio_format": "pcm16", "output_audio_format": "g711_ulaw"}) == (
        "audio/pcm",
        "audio/pcmu",
    )
    modern = {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcm"}}}
    assert formats_of({"audio": modern}) == ("audio/pcmu", "audio/pcm")


# --- client events ---


def test_audio_goes_as_the_text_it_came_as() -> None:
    payload = base64.b64encode(b"\xff" * 160).decode()
    for dialect in Dialect:
        assert wire(realtime.AudioAppend(payload), dialect) == {"type": "input_audio_buffer.append", "audio": payload}


def test_a_truncation_says_zero_where_it_means_zero() -> None:
    message = realtime.ItemTruncate(event_id="t1", item_id="i1", content_index=0, audio_end_ms=0)
    assert wire(message) == {
        "type": "conversation.item.truncate",
        "event_id": "t1",
        "item_id": "i1",
        "content_index": 0,
        "audio_end_ms": 0,
    }


def test_a_cancel_names_its_response_if_it_is_known() -> None:
    assert wire(realtime.ResponseCancel(response_id="r1")) == {"type": "response.cancel", "response_id": "r1"}
    assert wire(realtime.ResponseCancel()) == {"type": "response.cancel"}


def test_a_create_in_both_dialects() -> None:
    options = {"tool_choice": "none", "output_modalities": ["audio"], "metadata": {"a": "1"}}
    message = realtime.ResponseCreate(event_id="e1", response=options)
    assert wire(message) == {"type": "response.create", "event_id": "e1", "response": options}
    beta = {"tool_choice": "none", "modalities": ["audio", "text"]}
    assert wire(message, Dialect.BETA) == {"type": "response.create", "event_id": "e1", "response": beta}
    for dialect in Dialect:
        assert wire(realtime.ResponseCreate(), dialect) == {"type": "response.create"}


def test_a_beta_create_without_modalities() -> None:
    message = realtime.ResponseCreate(response={"tool_choice": "none"})
    assert wire(message, Dialect.BETA)["response"] == {"tool_choice": "none"}


def test_an_item_in_both_dialects() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    assert wire(realtime.ItemCreate(item=said))["item"] == said
    assert wire(realtime.ItemCreate(item=said), Dialect.BETA)["item"]["content"] == [{"type": "text", "text": "Hi"}]
    heard = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Hi"}]}
    assert wire(realtime.ItemCreate(item=heard), Dialect.BETA)["item"] == heard
    output = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    assert wire(realtime.ItemCreate(item=output), Dialect.BETA)["item"] == output


GA_SESSION: dict[str, Any] = {
    "type": "realtime",
    "output_modalities": ["audio"],
    "instructions": "Be brief.",
    "tools": [],
    "tool_choice": "auto",
    "max_output_tokens": 400,
    "parallel_tool_calls": True,
    "truncation": "auto",
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "transcription": {"model": "whisper-1"},
            "noise_reduction": {"type": "near_field"},
            "turn_detection": {"type": "server_vad"},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": "alloy", "speed": 1.1},
    },
}


def test_a_session_is_flat_in_beta() -> None:
    message = realtime.SessionUpdate(event_id="s1", session=GA_SESSION)
    assert wire(message) == {"type": "session.update", "event_id": "s1", "session": GA_SESSION}
    assert wire(message, Dialect.BETA)["session"] == {
        "modalities": ["audio", "text"],
        "instructions": "Be brief.",
        "tools": [],
        "tool_choice": "auto",
        "max_response_output_tokens": 400,
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "whisper-1"},
        "input_audio_noise_reduction": {"type": "near_field"},
        "turn_detection": {"type": "server_vad"},
        "output_audio_format": "g711_ulaw",
        "voice": "alloy",
        "speed": 1.1,
    }


def test_a_small_session_stays_small_in_beta() -> None:
    text_only = realtime.SessionUpdate(session={"type": "realtime", "output_modalities": ["text"]})
    assert wire(text_only, Dialect.BETA)["session"] == {"modalities": ["text"]}
    assert wire(realtime.SessionUpdate(session={"type": "realtime"}), Dialect.BETA)["session"] == {}


def test_what_is_newer_than_the_beta_is_left_out() -> None:
    session = {
        "type": "realtime",
        "audio": {
            "input": {
                "format": {"type": "audio/opus"},
                "transcription": {"model": "gpt-transcribe", "language": "fr", "keywords": ["x"]},
                "turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000},
                "noise_reduction": None,
                "echo_cancellation": {"type": "new"},
            }
        },
    }
    assert wire(realtime.SessionUpdate(session=session), Dialect.BETA)["session"] == {
        "input_audio_format": "audio/opus",
        "input_audio_transcription": {"model": "gpt-transcribe", "language": "fr"},
        "turn_detection": {"type": "server_vad"},
        "input_audio_noise_reduction": None,
    }


def test_a_response_with_its_own_context_in_beta() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    options = {
        "conversation": "none",
        "input": [said],
        "max_output_tokens": 100,
        "audio": {"output": {"voice": "coral", "format": {"type": "audio/pcmu"}}},
    }
    assert wire(realtime.ResponseCreate(response=options), Dialect.BETA)["response"] == {
        "conversation": "none",
        "input": [{**said, "content": [{"type": "text", "text": "Hi"}]}],
        "max_response_output_tokens": 100,
        "voice": "coral",
        "output_audio_format": "g711_ulaw",
    }
