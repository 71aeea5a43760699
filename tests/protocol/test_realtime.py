"""The Realtime events: both spellings are read, either is written, and bad input is one exception."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.errors import ProtocolError
from phoneagent.protocol import realtime
from phoneagent.protocol.realtime import Dialect, decode, encode


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


def test_transcripts_and_failed_transcriptions() -> None:
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


def test_the_arguments_of_a_function_call() -> None:
    kind = "response.function_call_arguments.done"
    ids = {"response_id": "r1", "item_id": "f1", "call_id": "c1"}
    done = decode(event(kind, **ids, output_index=0, name="f", arguments='{"a":1}'))
    assert done == realtime.ArgumentsDone(**ids, name="f", arguments='{"a":1}')
    assert decode(event(kind, **ids, arguments={"a": 1})) == realtime.ArgumentsDone(**ids, arguments='{"a": 1}')
    assert decode(event(kind, **ids, arguments='{"a":NaN}')) == realtime.ArgumentsDone(**ids, arguments='{"a": null}')


@pytest.mark.parametrize("kind", ["response.output_item.added", "conversation.item.added"])
def test_a_function_call_that_begins(kind: str) -> None:
    item = {"id": "f1", "type": "function_call", "status": "in_progress", "call_id": "c1", "name": "f", "arguments": ""}
    added = decode(event(kind, item=item))
    assert isinstance(added, realtime.OutputItemAdded | realtime.ItemAdded)
    assert (added.item.id, added.item.call_id, added.item.name) == ("f1", "c1", "f")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"call_id": "c1", "name": "f"}, "function_call"),
        ({"call_id": "c1", "output": "42"}, "function_call_output"),
        ({"name": "f"}, None),
        ({"call_id": "c1", "type": "custom"}, "custom"),
    ],
)
def test_an_item_without_a_type_is_what_only_it_can_be(fields: dict[str, str], kind: str | None) -> None:
    done = decode(event("response.output_item.done", item=fields))
    assert isinstance(done, realtime.OutputItemDone)
    assert done.item.type == kind


def test_an_empty_id_is_none() -> None:
    done = decode(event("response.done", response={"id": "", "output": [{"id": "", "call_id": "", "name": ""}]}))
    assert done == realtime.ResponseDone(response=realtime.Response(output=[realtime.Item()]))


@pytest.mark.parametrize(
    ("type_", "code", "name"),
    [
        ("server_error", "rate_limit_exceeded", "rate_limit_exceeded"),
        ("rate_limit_exceeded", None, "rate_limit_exceeded"),
        ("rate_limit_exceeded", "", "rate_limit_exceeded"),
        ("rate_limit_exceeded", 429, "rate_limit_exceeded"),
        ("error", 503, "503"),
        (None, "503", "503"),
        ("error", None, None),
        (None, None, None),
    ],
)
def test_an_error_is_called_by_its_name_wherever_that_stands(type_: Any, code: Any, name: str | None) -> None:
    failure = {"type": type_, "code": code, "event_id": ""}
    error = decode(event("error", error=failure))
    assert isinstance(error, realtime.Error)
    assert (error.error.code, error.error.event_id) == (name, None)
    details = {"type": "failed", "error": failure}
    done = decode(event("response.done", response={"status": "failed", "status_details": details}))
    assert isinstance(done, realtime.ResponseDone)
    assert done.response.status_details is not None
    assert done.response.status_details.error is not None
    assert done.response.status_details.error.code == name


def test_a_servers_words_are_printable_and_cut() -> None:
    long = {"type": "a\nb", "code": "c" * 10**6, "message": "\x1b[0m" + "m" * 10**6, "param": "p\u2028"}
    error = decode(event("error", error=long))
    assert isinstance(error, realtime.Error)
    assert error.error == realtime.Failure("a b", "c" * 500 + "…", "[0m" + "m" * 497 + "…", "p")
    limits = decode(event("rate_limits.updated", rate_limits=[{"name": "t\t" + "x" * 1000, "limit": 1}]))
    assert isinstance(limits, realtime.RateLimits)
    assert [limit.name for limit in limits.rate_limits] == ["t " + "x" * 98 + "…"]


@pytest.mark.parametrize(
    "fields", [{"code": "x", "message": "m", "param": "p"}, {"error": None, "code": "x", "message": "m", "param": "p"}]
)
def test_an_error_that_is_told_beside_its_place(fields: dict[str, Any]) -> None:
    error = decode(event("error", **fields))
    assert isinstance(error, realtime.Error)
    assert error.error == realtime.Failure(code="x", message="m", param="p")


def test_an_error_that_is_only_text() -> None:
    error = decode(event("error", error="boom"))
    assert isinstance(error, realtime.Error)
    assert error.error == realtime.Failure(message="boom")


@pytest.mark.parametrize(
    ("delta", "read"), [("_-A", "/+A="), ("AAA", "AAA="), ("AA==AA==", ""), ("AA*A", ""), ("A", ""), (None, "")]
)
@pytest.mark.parametrize("spelling", ["response.output_audio.delta", "response.audio.delta"])
def test_base64_is_standard_and_padded_whatever_came(spelling: str, delta: Any, read: str) -> None:
    audio = decode(event(spelling, response_id="r1", item_id="i1", delta=delta))
    assert audio == realtime.KNOWN[spelling](response_id="r1", item_id="i1", delta=read)


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


def test_an_item_of_an_unknown_kind() -> None:
    item = {"id": "i1", "type": "mcp_list_tools", "tools": [{"name": "x"}], "phase": "commentary", "status": None}
    assert isinstance(decode(event("response.output_item.done", item=item)), realtime.OutputItemDone)


DEEP = b"[" * 200_000 + b"]" * 200_000
BAD: dict[str, bytes | str] = {
    "empty": b"",
    "not JSON": "hello",
    "no type": b'{"event_id":"e"}',
    "type is null": b'{"type":null}',
    "not an object": b"[1]",
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


@given(st.binary(max_size=60))
def test_any_bytes_are_an_event_or_a_protocol_error(raw: bytes) -> None:
    with suppress(ProtocolError):
        assert decode(raw) is not None


def test_an_event_with_everything_that_is_in_it() -> None:
    assert realtime.as_dict(b'{"type":"x","new":[1,{"a":null}]}') == {"type": "x", "new": [1, {"a": None}]}
    with pytest.raises(ProtocolError, match="ignored: "):
        realtime.as_dict(b'{"type":"x","a":' + DEEP + b"}")
    assert realtime.as_dict(b'{"type":"x","a":NaN,"b":"\xff"}') == {"type": "x", "a": None, "b": "\ufffd"}


# --- client events ---


@pytest.mark.parametrize("dialect", Dialect)
def test_no_number_that_json_does_not_know_is_sent(dialect: Dialect) -> None:
    nan = float("nan")
    session = {"audio": {"output": {"speed": nan}}, "include": [float("inf")]}
    messages = [
        realtime.SessionUpdate(session=session),
        realtime.ResponseCreate(response={"temperature": nan}),
        realtime.ItemCreate(item={"type": "message", "content": [{"type": "input_text", "text": "x", "score": -nan}]}),
    ]
    for message in messages:
        assert b"null" in encode(message, dialect)
        json.loads(encode(message, dialect), parse_constant=lambda name: pytest.fail(name))


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
    assert wire(realtime.OutputAudioClear()) == {"type": "output_audio_buffer.clear"}


def test_a_create_in_both_dialects() -> None:
    options = {"tool_choice": "none", "output_modalities": ["audio"], "metadata": {"a": "1"}}
    message = realtime.ResponseCreate(event_id="e1", response=options)
    assert wire(message) == {"type": "response.create", "event_id": "e1", "response": options}
    beta = {"tool_choice": "none", "modalities": ["audio", "text"]}
    assert wire(message, Dialect.BETA) == {"type": "response.create", "event_id": "e1", "response": beta}
    for dialect in Dialect:
        assert wire(realtime.ResponseCreate(), dialect) == {"type": "response.create"}


def test_an_item_in_both_dialects() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    assert wire(realtime.ItemCreate(item=said))["item"] == said
    assert wire(realtime.ItemCreate(item=said), Dialect.BETA)["item"]["content"] == [{"type": "text", "text": "Hi"}]
    heard = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Hi"}]}
    assert wire(realtime.ItemCreate(item=heard), Dialect.BETA)["item"] == heard
    output = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    assert wire(realtime.ItemCreate(item=output), Dialect.BETA)["item"] == output


def test_a_session_update_in_both_dialects() -> None:
    session = {"type": "realtime", "audio": {"output": {"voice": "alloy"}}}
    message = realtime.SessionUpdate(event_id="s1", session=session)
    assert wire(message) == {"type": "session.update", "event_id": "s1", "session": session}
    assert wire(message, Dialect.BETA) == {"type": "session.update", "event_id": "s1", "session": {"voice": "alloy"}}
    assert message.session == session  # it may be sent again, to a server of the other dialect


def test_messages_without_content_are_the_same_in_both_dialects() -> None:
    for dialect in Dialect:
        assert wire(realtime.AudioCommit(), dialect) == {"type": "input_audio_buffer.commit"}
        assert wire(realtime.AudioClear(event_id="c1"), dialect) == {
            "type": "input_audio_buffer.clear",
            "event_id": "c1",
        }


# --- conversation items ---
