from __future__ import annotations

import copy
from typing import Any

import pytest

from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from phoneagent.protocol import realtime
from phoneagent.protocol.negotiation import (
    ACKNOWLEDGED_SECONDS,
    ANNOUNCED_SECONDS,
    MAX_ATTEMPTS,
    REFUSED_SECONDS,
    Negotiation,
)
from phoneagent.protocol.providers import PROVIDERS
from phoneagent.protocol.realtime import Dialect, SessionUpdate

PCMU = {"type": "audio/pcmu"}
PCM = {"type": "audio/pcm", "rate": 24000}
SESSION: dict[str, Any] = {
    "type": "realtime",
    "output_modalities": ["audio"],
    "instructions": "Be brief.",
    "tools": [{"type": "function", "name": "f"}],
    "tool_choice": "auto",
    "audio": {
        "input": {
            "format": PCMU,
            "noise_reduction": {"type": "near_field"},
            "turn_detection": {"type": "server_vad", "idle_timeout_ms": None},
        },
        "output": {"format": PCMU, "voice": "marin"},
    },
}
LEAST = {
    "type": "realtime",
    "output_modalities": ["audio"],
    "instructions": "Be brief.",
    "tools": [{"type": "function", "name": "f"}],
    "audio": {
        "input": {"format": PCMU, "turn_detection": {"type": "server_vad", "idle_timeout_ms": None}},
        "output": {"format": PCMU},
    },
}
CREATED = realtime.SessionCreated(session={"type": "realtime"})
UPDATED = realtime.SessionUpdated(session={"audio": {"output": {"format": PCMU}}})


def refusal(param: str | None = None, *, event_id: str | None = None, code: str | None = "invalid_value") -> Any:
    return realtime.Error(error=realtime.Failure(code=code, message="no", param=param, event_id=event_id))


def begun(*models: str, **options: Any) -> tuple[Negotiation, SessionUpdate]:
    configuring = Negotiation(SESSION, transcription_models=models, **options)
    update = configuring.receive(CREATED, 0.0)
    assert update is not None
    return configuring, update


def refused(configuring: Negotiation, param: str | None) -> dict[str, Any]:
    """Refuse; return the session that is tried next. An error that names nothing counts when no more comes."""
    update = configuring.receive(refusal(param), 0.0)
    if not param:
        assert update is None
        update = configuring.handle_timer(REFUSED_SECONDS)
    assert update is not None
    return update.session


def test_the_first_event_is_answered_with_the_session() -> None:
    configuring, update = begun()
    assert update == SessionUpdate(event_id="session_1", session=SESSION)
    assert not configuring.done
    assert configuring.receive(UPDATED, 0.0) is None
    assert configuring.done
    assert configuring.effective == UPDATED.session
    assert configuring.dropped == []


def test_nothing_is_sent_before_the_session_is_there() -> None:
    configuring = Negotiation(SESSION)
    assert configuring.receive(realtime.Unknown("x"), 0.0) is None
    assert configuring.receive(UPDATED, 0.0) is None
    assert not configuring.done


def test_a_second_created_and_other_events_change_nothing() -> None:
    configuring, _ = begun()
    assert configuring.receive(CREATED, 0.0) is None
    assert configuring.receive(realtime.Unknown("rate_limits.updated"), 0.0) is None
    assert not configuring.done


def test_the_dialect_is_found_out_unless_it_is_given() -> None:
    beta = realtime.SessionCreated(session={"modalities": ["text"]})
    found, given = Negotiation(SESSION), Negotiation(SESSION, dialect=Dialect.GA)
    found.receive(beta, 0.0)
    given.receive(beta, 0.0)
    assert (found.dialect, given.dialect) == (Dialect.BETA, Dialect.GA)


def test_an_error_in_place_of_a_session_ends_it() -> None:
    with pytest.raises(EndpointRefused, match="beta_api_shape_disabled") as error:
        Negotiation(SESSION).receive(refusal(code="beta_api_shape_disabled"), 0.0)
    assert error.value.code == "beta_api_shape_disabled"


@pytest.mark.parametrize("name", ["authentication_error", "unauthorized", "401", "forbidden"])
@pytest.mark.parametrize("field", ["code", "type"])
def test_a_refused_key_ends_it_at_once_whatever_it_is_called(name: str, field: str) -> None:
    failure = realtime.Failure(**{"message": "no", field: name})
    for configuring in (Negotiation(SESSION), begun()[0]):
        with pytest.raises(EndpointRefused, match=f"refused the session: {name}: no") as error:
            configuring.receive(realtime.Error(error=failure), 0.0)
        assert error.value.code == "401"


@pytest.mark.parametrize(
    "session",
    [
        {"output_audio_format": "g711_alaw"},
        {"input_audio_format": "opus", "output_audio_format": "g711_ulaw"},
        {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}},
    ],
)
def test_a_model_that_would_not_speak_ulaw_is_not_let_to_the_caller(session: dict[str, Any]) -> None:
    configuring, _ = begun()
    with pytest.raises(EndpointRefused, match="g711_ulaw"):
        configuring.receive(realtime.SessionUpdated(session=session), 0.0)


@pytest.mark.parametrize(
    ("session", "hears_pcm", "speaks_pcm"),
    [
        ({"audio": {"output": {"format": PCMU}}}, False, False),
        ({"input_audio_format": "pcm16", "output_audio_format": "pcm16"}, True, True),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}}, True, True),
        ({"audio": {"input": {"format": {"type": "audio/pcm"}}, "output": {"format": PCMU}}}, True, False),
        ({"audio": {"input": {"format": PCMU}}}, False, False),
        ({"audio": {"input": {"format": {"type": "audio/pcm"}}}}, True, True),
        ({}, True, True),
        ({"audio": {"output": {"format": None}}}, True, True),
    ],
)
def test_a_model_of_linear_pcm_is_converted(session: dict[str, Any], hears_pcm: bool, speaks_pcm: bool) -> None:
    configuring, _ = begun()
    configuring.receive(realtime.SessionUpdated(session=session), 0.0)
    assert configuring.done
    assert (configuring.hears_pcm, configuring.speaks_pcm) == (hears_pcm, speaks_pcm)


@pytest.mark.parametrize("way", ["input", "output"])
@pytest.mark.parametrize("param", ["audio.{}.format", "session.audio.{}.format.type", "{}_audio_format"])
def test_a_server_that_refuses_our_format_keeps_its_own(way: str, param: str) -> None:
    configuring, _ = begun()
    session = refused(configuring, param.format(way))
    assert "format" not in session["audio"][way]
    assert session["audio"]["input"]["turn_detection"] == SESSION["audio"]["input"]["turn_detection"]


def test_the_field_that_the_error_names_is_dropped() -> None:
    configuring, _ = begun()
    session = refused(configuring, "session.audio.output.voice")
    assert session["audio"]["output"] == {"format": PCMU}
    assert session["tool_choice"] == "auto"
    assert configuring.dropped == ["audio.output.voice (invalid_value: no)"]


@pytest.mark.parametrize(
    ("param", "path"),
    [
        ("session.voice", ("audio", "output", "voice")),
        ("input_audio_noise_reduction", ("audio", "input", "noise_reduction")),
        ("session.turn_detection.idle_timeout_ms", ("audio", "input", "turn_detection", "idle_timeout_ms")),
        ("audio.input.turn_detection.idle_timeout_ms", ("audio", "input", "turn_detection", "idle_timeout_ms")),
        ("session.tool_choice", ("tool_choice",)),
    ],
)
def test_fields_are_found_in_both_spellings(param: str, path: tuple[str, ...]) -> None:
    expected: Any = copy.deepcopy(SESSION)
    node = expected
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    assert refused(begun()[0], param) == expected


@pytest.mark.parametrize(
    "param",
    [None, "", "session", "session.instructions", "session.tools", "session.tools[7].name", "session.x"],
)
def test_anything_else_reduces_the_session_to_what_a_call_needs(param: str | None) -> None:
    configuring, _ = begun()
    assert refused(configuring, param) == LEAST
    assert configuring.dropped == ["everything optional (invalid_value: no)"]


def in_pcm(session: dict[str, Any]) -> dict[str, Any]:
    converted = copy.deepcopy(session)
    for way in ("input", "output"):
        converted["audio"][way]["format"] = PCM
    return converted


def test_a_refusal_of_the_least_ends_it_if_pcm_does_not_help() -> None:
    configuring, _ = begun()
    refused(configuring, "session.instructions")
    assert refused(configuring, "session.instructions") == in_pcm(LEAST)
    assert configuring.dropped[-1] == "audio/pcmu (invalid_value: no): audio is converted"
    with pytest.raises(EndpointRefused, match="refused the session: invalid_value: no"):
        configuring.receive(refusal("session.instructions"), 0.0)


def test_a_server_that_wants_another_format_and_names_no_field_is_asked_for_pcm() -> None:
    configuring, first = begun()
    failure = realtime.Failure(code="unsupported_audio_format", message="Only PCM16", event_id=first.event_id)
    again = configuring.receive(realtime.Error(error=failure), 0.1)
    assert again is not None
    assert again.session == in_pcm(SESSION)
    configuring.receive(SILENT_ON_AUDIO, 0.2)
    assert (configuring.hears_pcm, configuring.speaks_pcm) == (True, True)


def test_the_number_of_attempts_is_bounded() -> None:
    session = copy.deepcopy(SESSION) | {f"extra_{n}": n for n in range(40)}
    configuring = Negotiation(session)
    configuring.receive(CREATED, 0.0)
    for n in range(MAX_ATTEMPTS - 1):
        assert f"extra_{n}" not in refused(configuring, f"session.extra_{n}")
    assert refused(configuring, "session.extra_30") == LEAST
    refused(configuring, "session.extra_31")
    with pytest.raises(EndpointRefused):
        configuring.receive(refusal("session.extra_31"), 0.0)


def test_a_late_refusal_of_an_earlier_attempt_is_not_counted_twice() -> None:
    configuring, first = begun()
    configuring.receive(refusal("session.tool_choice", event_id=first.event_id), 0.0)
    assert configuring.receive(refusal("session.tool_choice", event_id=first.event_id), 0.0) is None
    assert len(configuring.dropped) == 1


def test_transcription_models_are_tried_in_turn_and_told_once() -> None:
    configuring, update = begun("new", "old")
    assert update.session["audio"]["input"]["transcription"] == {"model": "new"}
    session = refused(configuring, "session.audio.input.transcription.model")
    assert session["audio"]["input"]["transcription"] == {"model": "old"}
    session = refused(configuring, "input_audio_transcription.model")
    assert "transcription" not in session["audio"]["input"]
    assert [line.split(", ")[-1] for line in configuring.dropped] == ["trying old", "going without"]


def test_options_of_transcription_are_kept_for_each_model() -> None:
    session = copy.deepcopy(SESSION)
    session["audio"]["input"]["transcription"] = {"language": "fr"}
    configuring = Negotiation(session, transcription_models=["new", "old"])
    configuring.receive(CREATED, 0.0)
    again = refused(configuring, "session.audio.input.transcription")
    assert again["audio"]["input"]["transcription"] == {"model": "old", "language": "fr"}
    assert "transcription" not in refused(configuring, "session.audio.input.transcription")["audio"]["input"]


def test_the_least_has_no_transcription() -> None:
    configuring, _ = begun("new")
    assert refused(configuring, None) == LEAST


def test_transcription_refused_although_there_is_none_ends_within_bounds() -> None:
    configuring, _ = begun()
    for _ in range(MAX_ATTEMPTS + 1):
        refused(configuring, "session.audio.input.transcription")
    with pytest.raises(EndpointRefused):
        configuring.receive(refusal("session.audio.input.transcription"), 0.0)


@pytest.mark.parametrize(
    "param",
    ["session.audio.output.voice.id", "session.voice", "session.audio.output.voice"],
)
def test_a_voice_is_dropped_as_a_whole(param: str) -> None:
    assert refused(begun()[0], param)["audio"]["output"] == {"format": PCMU}


OPTIONS: list[tuple[str, Any, str]] = [
    ("reasoning", {"effort": "low"}, "session.reasoning"),
    ("reasoning", {"effort": "low"}, "session.reasoning.effort"),
    ("truncation", {"type": "retention_ratio", "retention_ratio": 0.8}, "session.truncation.retention_ratio"),
    ("truncation", "disabled", "session.truncation"),
    ("parallel_tool_calls", True, "session.parallel_tool_calls"),
    ("max_output_tokens", 100, "session.max_output_tokens"),
    ("max_output_tokens", 100, "session.max_response_output_tokens"),
    ("tool_choice", {"type": "function", "name": "f"}, "session.tool_choice.name"),
]


@pytest.mark.parametrize(("field", "value", "param"), OPTIONS, ids=[param for _, _, param in OPTIONS])
def test_a_limit_that_the_model_does_not_take_costs_nothing_else(field: str, value: Any, param: str) -> None:
    configuring = Negotiation({**SESSION, field: value})
    configuring.receive(CREATED, 0.0)
    expected = {name: each for name, each in SESSION.items() if name != field}
    assert refused(configuring, param) == expected
    assert configuring.dropped == [f"{field} (invalid_value: no)"]


def heard(**transcription: Any) -> Negotiation:
    session = copy.deepcopy(SESSION)
    session["audio"]["input"]["transcription"] = transcription
    configuring = Negotiation(session, transcription_models=["new", "old"])
    configuring.receive(CREATED, 0.0)
    return configuring


def test_a_hint_that_a_recognizer_does_not_take_is_dropped_and_the_recognizer_stays() -> None:
    configuring = heard(language="fr", keywords=["Nous"])
    again = refused(configuring, "session.audio.input.transcription.keywords")
    assert again["audio"]["input"]["transcription"] == {"model": "new", "language": "fr"}
    again = refused(configuring, "session.audio.input.transcription.model")
    assert again["audio"]["input"]["transcription"] == {"model": "old", "language": "fr"}


def test_a_recognizer_that_the_session_names_goes_first() -> None:
    configuring = heard(model="own")
    again = refused(configuring, "session.audio.input.transcription.model")
    assert again["audio"]["input"]["transcription"] == {"model": "new"}
    assert configuring.dropped == ["transcription by own (invalid_value: no), trying new"]


def test_hints_without_a_recognizer_are_not_sent() -> None:
    session = copy.deepcopy(SESSION)
    session["audio"]["input"]["transcription"] = {"language": "fr"}
    update = Negotiation(session).receive(CREATED, 0.0)
    assert update is not None
    assert "transcription" not in update.session["audio"]["input"]


@pytest.mark.parametrize(
    "params",
    [["session.turn_detection"], ["session.audio.input.turn_detection.type"], [None, None]],
    ids=["beta", "ga", "unnamed"],
)
def test_where_turns_cannot_be_found_by_meaning_they_are_found_by_silence(params: list[str | None]) -> None:
    session = copy.deepcopy(SESSION)
    session["audio"]["input"]["turn_detection"] = {
        "type": "semantic_vad",
        "eagerness": "low",
        "create_response": True,
        "interrupt_response": False,
    }
    configuring = Negotiation(session)
    configuring.receive(CREATED, 0.0)
    for param in params:
        again = refused(configuring, param)
    assert again["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "create_response": True,
        "interrupt_response": False,
    }
    assert configuring.dropped[-1] == "semantic_vad (invalid_value: no), finding turns by silence"


def test_turns_by_hand_that_are_refused_end_it() -> None:
    session = copy.deepcopy(SESSION)
    session["audio"]["input"]["turn_detection"] = None
    configuring = Negotiation(session)
    configuring.receive(CREATED, 0.0)
    for _ in range(2):
        again = refused(configuring, "session.audio.input.turn_detection")
        assert again["audio"]["input"]["turn_detection"] is None
    with pytest.raises(EndpointRefused):
        configuring.receive(refusal("session.audio.input.turn_detection"), 0.0)


@pytest.mark.parametrize(
    ("code", "type_", "kind"),
    [
        ("server_error", None, EndpointUnreachable),
        (None, "server_error", EndpointUnreachable),
        ("rate_limit_exceeded", None, EndpointUnreachable),
        ("insufficient_quota", None, EndpointRefused),
    ],
)
def test_an_error_that_is_not_about_the_session_costs_it_nothing(
    code: str | None, type_: str | None, kind: type[EndpointError]
) -> None:
    configuring, _ = begun("new")
    with pytest.raises(kind, match=f"{code or type_}: no") as error:
        configuring.receive(realtime.Error(error=realtime.Failure(code=code, type=type_, message="no")), 0.0)
    assert type(error.value) is kind
    assert configuring.dropped == []


# --- openings that are not OpenAI's ---


def started(**options: Any) -> Negotiation:
    configuring = Negotiation(SESSION, **options)
    configuring.start(10.0)
    return configuring


def test_a_session_that_is_not_announced_is_configured_after_a_while() -> None:
    configuring = started()
    assert configuring.receive(realtime.Unknown("conversation.created"), 10.2) is None
    assert configuring.get_timer() == 10.0 + ANNOUNCED_SECONDS
    assert configuring.handle_timer(10.5) is None
    assert configuring.handle_timer(11.0) == SessionUpdate(event_id="session_1", session=SESSION)
    assert configuring.receive(UPDATED, 11.1) is None
    assert (configuring.done, configuring.acknowledged, configuring.dropped) == (True, True, [])
    assert configuring.get_timer() is None
    assert configuring.handle_timer(99.0) is None


def test_a_server_that_is_known_to_wait_is_configured_at_once() -> None:
    configuring = started(provider=PROVIDERS["xai"])
    assert configuring.get_timer() == 10.0
    assert configuring.handle_timer(10.0) is not None


def test_an_announcement_that_comes_late_changes_nothing() -> None:
    configuring = started()
    configuring.handle_timer(11.0)
    assert configuring.receive(CREATED, 11.2) is None
    assert configuring.receive(realtime.SessionCreated(session={}), 11.3) is None


@pytest.mark.parametrize(
    "shows",
    [
        realtime.SessionCreated(session={"modalities": ["text"]}),
        realtime.SessionUpdated(session={"modalities": ["text"], "output_audio_format": "pcm16"}),
        refusal("session.type"),
        refusal("session.audio", event_id="session_1"),
    ],
    ids=["announced", "acknowledged", "type", "audio"],
)
def test_a_dialect_that_was_guessed_wrong_is_corrected(shows: Any) -> None:
    configuring = started()
    configuring.handle_timer(11.0)
    again = configuring.receive(shows, 11.2)
    assert again == SessionUpdate(event_id="session_2", session=SESSION)
    assert (configuring.dialect, configuring.done) == (Dialect.BETA, False)


def test_a_late_refusal_of_the_guessed_dialect_costs_nothing() -> None:
    configuring = started()
    configuring.handle_timer(11.0)
    configuring.receive(realtime.SessionCreated(session={"modalities": ["text"]}), 11.2)
    assert configuring.receive(refusal("session.type"), 11.3) is None
    configuring.receive(realtime.SessionUpdated(session={"output_audio_format": "g711_ulaw"}), 11.4)
    assert (configuring.done, configuring.dropped) == (True, [])


def test_an_update_that_is_never_acknowledged_counts() -> None:
    configuring = started()
    created = realtime.SessionCreated(session={"type": "realtime", "model": "m"})
    assert configuring.receive(created, 10.1) is not None
    assert configuring.get_timer() == 10.1 + ACKNOWLEDGED_SECONDS
    assert configuring.handle_timer(configuring.get_timer() or 0.0) is None
    assert (configuring.done, configuring.acknowledged) == (True, False)
    assert configuring.effective == created.session
    assert (configuring.hears_pcm, configuring.speaks_pcm) == (False, False)
    [line] = configuring.dropped
    assert line == "an acknowledgement (no session.updated came within 1.5 s): it counts as configured"


def test_a_late_acknowledgement_is_believed() -> None:
    configuring = unacknowledged()
    assert configuring.receive(realtime.Unknown("x"), 20.0) is None
    assert configuring.receive(CREATED, 20.0) is None
    assert configuring.receive(realtime.SessionUpdated(session={"output_audio_format": "pcm16"}), 20.0) is None
    assert (configuring.acknowledged, configuring.hears_pcm, configuring.speaks_pcm) == (True, True, True)
    assert configuring.receive(UPDATED, 21.0) is None
    assert configuring.receive(refusal("session.voice", event_id="session_1"), 21.0) is None
    assert configuring.speaks_pcm


def unacknowledged() -> Negotiation:
    configuring = started()
    configuring.receive(CREATED, 10.1)
    configuring.handle_timer(11.6)
    assert configuring.done
    return configuring


def test_a_late_refusal_is_answered_if_it_is_one() -> None:
    configuring = unacknowledged()
    assert configuring.receive(refusal("session.voice", event_id="agent_1"), 20.0) is None
    assert configuring.receive(refusal("session.voice"), 20.0) is None
    again = configuring.receive(refusal("session.voice", event_id="session_1"), 20.0)
    assert again is not None
    assert "voice" not in again.session["audio"]["output"]


def test_a_server_that_says_nothing_is_none() -> None:
    configuring = started()
    assert configuring.handle_timer(11.0) is not None
    assert configuring.handle_timer(12.5) is None
    assert (configuring.done, configuring.get_timer()) == (False, None)


def test_a_server_that_was_silent_for_long_has_a_moment_more_to_answer() -> None:
    for event in (realtime.Unknown("conversation.created"), CREATED):
        configuring = started()
        configuring.handle_timer(11.0)
        configuring.handle_timer(12.5)
        assert configuring.receive(event, 13.0) is None
        assert configuring.get_timer() == 13.0 + REFUSED_SECONDS
        assert configuring.handle_timer(13.5) is None
        assert configuring.done
    configuring = started()
    configuring.handle_timer(11.0)
    configuring.handle_timer(12.5)
    assert configuring.receive(refusal(), 13.0) is None
    assert configuring.handle_timer(13.5) == SessionUpdate(event_id="session_2", session=LEAST)


def test_an_error_and_nothing_else_is_the_reason() -> None:
    configuring = started()
    assert configuring.receive(refusal(code="invalid_model"), 10.1) is None
    assert configuring.handle_timer(11.0) is not None
    with pytest.raises(EndpointRefused, match="refused the session: invalid_model: no") as error:
        configuring.handle_timer(12.5)
    assert error.value.code == "invalid_model"


def test_an_error_without_a_name_is_a_reason_too() -> None:
    configuring = started()
    configuring.receive(refusal(code=None), 10.1)
    configuring.handle_timer(11.0)
    with pytest.raises(EndpointRefused, match="refused the session: error: no"):
        configuring.handle_timer(12.5)


def test_an_error_before_the_session_refuses_nothing() -> None:
    configuring = started()
    configuring.receive(refusal(), 10.1)
    assert configuring.receive(CREATED, 10.2) == SessionUpdate(event_id="session_1", session=SESSION)
    configuring.handle_timer(11.7)
    assert configuring.dropped[0] == (
        "an acknowledgement (no session.updated came within 1.5 s, and its last error was invalid_value: no): "
        "it counts as configured"
    )


@pytest.mark.parametrize(
    "error",
    [refusal(), refusal("", event_id=""), refusal("item.content"), refusal(event_id="event_of_the_server")],
    ids=["nothing", "empty", "an item", "its own event"],
)
def test_an_error_that_names_nothing_of_the_session_does_not_refuse_it(error: Any) -> None:
    configuring, _ = begun()
    assert configuring.receive(error, 0.1) is None
    assert configuring.receive(error, 0.2) is None
    assert configuring.get_timer() == 0.1 + REFUSED_SECONDS
    assert configuring.receive(UPDATED, 0.3) is None
    assert (configuring.done, configuring.dropped) == (True, [])


def test_an_error_that_names_nothing_refuses_the_session_if_no_acknowledgement_follows() -> None:
    configuring, _ = begun()
    configuring.receive(refusal(), 0.1)
    again = configuring.handle_timer(0.6)
    assert again == SessionUpdate(event_id="session_2", session=LEAST)
    configuring.receive(refusal(), 0.7)
    assert configuring.handle_timer(1.2) == SessionUpdate(event_id="session_3", session=in_pcm(LEAST))
    configuring.receive(refusal(), 1.3)
    with pytest.raises(EndpointRefused, match="refused the session: invalid_value: no"):
        configuring.handle_timer(1.8)


def test_an_error_with_our_event_id_refuses_the_session_at_once() -> None:
    configuring, first = begun()
    again = configuring.receive(refusal(event_id=first.event_id), 0.1)
    assert again is not None
    assert again.session == LEAST


# --- the audio that is asked for, and what is known of a server ---

SILENT_ON_AUDIO = realtime.SessionUpdated(session={"type": "realtime"})


@pytest.mark.parametrize(("audio", "pcm", "asked"), [("pcm16", True, PCM), ("pcmu", False, PCMU)])
def test_a_setting_counts_where_the_server_does_not_say(audio: Any, pcm: bool, asked: dict[str, Any]) -> None:
    configuring, update = begun(audio=audio)
    assert [update.session["audio"][way]["format"] for way in ("input", "output")] == [asked, asked]
    configuring.receive(SILENT_ON_AUDIO, 0.1)
    assert (configuring.hears_pcm, configuring.speaks_pcm, configuring.dropped) == (pcm, pcm, [])


@pytest.mark.parametrize("audio", ["pcm16", "pcmu"])
def test_the_server_s_word_counts_before_the_setting(audio: Any) -> None:
    configuring, _ = begun(audio=audio)
    formats = {"output": {"format": PCMU if audio == "pcm16" else PCM}}
    configuring.receive(realtime.SessionUpdated(session={"audio": formats}), 0.1)
    assert (configuring.hears_pcm, configuring.speaks_pcm) == (audio == "pcm16", audio == "pcmu")


def test_pcm_is_assumed_and_told_where_nothing_is_known() -> None:
    configuring, _ = begun()
    configuring.receive(SILENT_ON_AUDIO, 0.1)
    [line] = configuring.dropped
    assert "audio/pcm at 24 kHz is assumed" in line
    assert "REALTIME_AUDIO=pcmu" in line


def test_a_server_that_refused_the_telephone_s_format_has_the_default_one() -> None:
    configuring, _ = begun(audio="pcmu")
    refused(configuring, "session.audio.output.format")
    configuring.receive(SILENT_ON_AUDIO, 0.1)
    assert (configuring.hears_pcm, configuring.speaks_pcm) == (False, True)


def test_a_session_without_audio_has_no_format_to_ask_for() -> None:
    update = Negotiation({"type": "realtime"}, audio="pcm16").receive(CREATED, 0.0)
    assert update is not None
    assert update.session == {"type": "realtime"}


def test_the_session_is_sent_as_its_server_takes_it() -> None:
    _, update = begun(provider=PROVIDERS["xai"])
    assert update.session["turn_detection"] == SESSION["audio"]["input"]["turn_detection"]
    assert update.session["audio"] == {"input": {"format": PCMU}, "output": {"format": PCMU}}


# --- tools that are refused ---

MCP = {"type": "mcp", "server_label": "shop", "server_url": "https://shop.example"}
TOOLS = [{"type": "function", "name": "f"}, MCP, {"type": "function", "name": "g"}]
NAMES = {"f", "shop", "g"}


def with_tools(dialect: Dialect = Dialect.GA, **fields: Any) -> Negotiation:
    configuring = Negotiation({**SESSION, "tools": TOOLS, **fields}, dialect=dialect)
    configuring.receive(CREATED, 0.0)
    return configuring


def offered(session: dict[str, Any]) -> set[str]:
    return {each.get("name") or each["server_label"] for each in session["tools"]}


@pytest.mark.parametrize(
    ("param", "message", "gone"),
    [
        ("session.tools[2].parameters", "no", "g"),
        ("session.tools[0]", "no", "f"),
        ("tools[1].server_url", "no", "shop"),
        ("session.tools.2.name", "no", "g"),
        ("/session/tools/0/name", "no", "f"),
        ("session.tools.g", "no", "g"),
        ("session.tools", "Invalid schema for function 'g': no", "g"),
        (None, 'the tool "f" has no type', "f"),
    ],
)
def test_a_tool_that_is_refused_is_left_out_and_told(param: str | None, message: str, gone: str) -> None:
    configuring = with_tools()
    failure = realtime.Failure(code="invalid_value", message=message, param=param, event_id="session_1")
    again = configuring.receive(realtime.Error(error=failure), 0.1)
    assert again is not None
    assert offered(again.session) == NAMES - {gone}
    assert again.session["audio"] == SESSION["audio"]
    assert configuring.dropped == [f"the tool {gone} (invalid_value: {message})"]


def test_the_beta_counts_only_the_tools_that_it_is_sent() -> None:
    configuring = with_tools(Dialect.BETA)
    assert offered(refused(configuring, "session.tools[1].name")) == {"f", "shop"}


@pytest.mark.parametrize("message", ["neither 'x' nor 'y'", "'f' or 'g'", "no"])
def test_a_tool_that_is_not_told_apart_is_not_left_out(message: str) -> None:
    configuring = with_tools()
    failure = realtime.Failure(code="x", message=message, param="session.tools", event_id="session_1")
    again = configuring.receive(realtime.Error(error=failure), 0.1)
    assert again is not None
    assert offered(again.session) == NAMES


def test_a_quoted_name_counts_only_where_the_error_may_be_about_tools() -> None:
    configuring = with_tools()
    failure = realtime.Failure(code="x", message="'f' is no voice", param="session.voice")
    again = configuring.receive(realtime.Error(error=failure), 0.1)
    assert again is not None
    assert offered(again.session) == NAMES


def test_all_tools_may_go_even_from_the_least() -> None:
    configuring = with_tools()
    refused(configuring, "session.instructions")
    for _ in TOOLS:
        session = refused(configuring, "session.tools[0]")
    assert session["tools"] == []


def test_a_choice_of_a_tool_that_is_gone_is_none() -> None:
    configuring = with_tools(tool_choice={"type": "function", "name": "g"})
    assert refused(configuring, "session.tools[2]")["tool_choice"] == "auto"


def test_what_is_sent_later_is_without_the_tools_that_were_refused() -> None:
    configuring = with_tools()
    refused(configuring, "session.tools[2]")
    refused(configuring, "session.tool_choice")
    later = {"type": "realtime", "tools": TOOLS, "tool_choice": "auto"}
    change = configuring.adapt(SessionUpdate(event_id="agent_1", session=later))
    assert isinstance(change, SessionUpdate)
    assert change.event_id == "agent_1"
    assert (offered(change.session), change.session.keys()) == ({"f", "shop"}, later.keys())
    change = configuring.adapt(SessionUpdate(session={"type": "realtime"}))
    assert change == SessionUpdate(session={"type": "realtime"})
    asked = configuring.adapt(realtime.ResponseCreate(response={"tools": TOOLS[1:], "instructions": "x"}))
    assert isinstance(asked, realtime.ResponseCreate)
    assert asked.response == {"tools": [MCP], "instructions": "x"}
    for other in (realtime.ResponseCreate(), realtime.AudioCommit()):
        assert configuring.adapt(other) is other
    assert later["tools"] == TOOLS


def test_formats_that_are_named_later_hold() -> None:
    configuring, _ = begun()
    assert configuring.receive(realtime.SessionUpdated(session={"type": "realtime"}), 0.1) is None
    assert (configuring.done, configuring.speaks_pcm) == (True, True)
    formats = {"audio": {"input": {"format": PCMU}, "output": {"format": PCMU}}}
    assert configuring.receive(realtime.SessionUpdated(session=formats), 0.2) is None
    assert (configuring.hears_pcm, configuring.speaks_pcm, configuring.acknowledged) == (False, False, True)


TRANSCRIPTION: dict[str, Any] = {
    "type": "transcription",
    "audio": {"input": {"format": PCMU, "turn_detection": {"type": "server_vad"}}},
}


def test_a_session_that_only_transcribes_needs_no_voice() -> None:
    configuring = Negotiation(TRANSCRIPTION, transcription_models=("a", "b"))
    update = configuring.receive(realtime.SessionCreated(session={"type": "transcription", "audio": {}}), 0.0)
    assert update is not None
    assert update.session["type"] == "transcription"
    assert update.session["audio"]["input"]["transcription"] == {"model": "a"}
    configuring.receive(realtime.SessionUpdated(session=update.session), 0.1)
    assert configuring.done
    assert configuring.acknowledged
    assert not configuring.hears_pcm


def test_it_is_refused_when_no_recognizer_is_left() -> None:
    configuring = Negotiation(TRANSCRIPTION, transcription_models=("a", "b"))
    configuring.receive(realtime.SessionCreated(session={"type": "transcription"}), 0.0)
    refused = refusal("session.audio.input.transcription.model", event_id="session_1")
    update = configuring.receive(refused, 0.1)
    assert update is not None
    assert update.session["audio"]["input"]["transcription"] == {"model": "b"}
    with pytest.raises(EndpointRefused, match=r"no recognizer is left .* invalid_value: no"):
        configuring.receive(refusal("session.audio.input.transcription.model", event_id="session_2"), 0.2)


def test_a_session_that_another_client_configured_is_taken_as_it_is() -> None:
    joined = Negotiation.joined()
    assert joined.done
    assert joined.acknowledged
    assert joined.receive(UPDATED, 0.0) is None
    assert joined.dialect is Dialect.GA
