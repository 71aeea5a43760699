from __future__ import annotations

import copy
from typing import Any

import pytest

from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from phoneagent.protocol import realtime
from phoneagent.protocol.negotiation import MAX_ATTEMPTS, Negotiation
from phoneagent.protocol.realtime import Dialect, SessionUpdate

PCMU = {"type": "audio/pcmu"}
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
    update = configuring.receive(CREATED)
    assert update is not None
    return configuring, update


def refused(configuring: Negotiation, param: str | None) -> dict[str, Any]:
    """Refuse; return the session that is tried next."""
    update = configuring.receive(refusal(param))
    assert update is not None
    return update.session


def test_the_first_event_is_answered_with_the_session() -> None:
    configuring, update = begun()
    assert update == SessionUpdate(event_id="session_1", session=SESSION)
    assert not configuring.done
    assert configuring.receive(UPDATED) is None
    assert configuring.done
    assert configuring.effective == UPDATED.session
    assert configuring.dropped == []


def test_nothing_is_sent_before_the_session_is_there() -> None:
    configuring = Negotiation(SESSION)
    assert configuring.receive(realtime.Unknown("x")) is None
    assert configuring.receive(UPDATED) is None
    assert not configuring.done


def test_a_second_created_and_other_events_change_nothing() -> None:
    configuring, _ = begun()
    assert configuring.receive(CREATED) is None
    assert configuring.receive(realtime.Unknown("rate_limits.updated")) is None
    assert not configuring.done


def test_the_dialect_is_found_out_unless_it_is_given() -> None:
    beta = realtime.SessionCreated(session={"modalities": ["text"]})
    found, given = Negotiation(SESSION), Negotiation(SESSION, dialect=Dialect.GA)
    found.receive(beta)
    given.receive(beta)
    assert (found.dialect, given.dialect) == (Dialect.BETA, Dialect.GA)


def test_an_error_in_place_of_a_session_ends_it() -> None:
    with pytest.raises(EndpointRefused, match="beta_api_shape_disabled") as error:
        Negotiation(SESSION).receive(refusal(code="beta_api_shape_disabled"))
    assert error.value.code == "beta_api_shape_disabled"


def test_an_error_without_a_code_ends_it_too() -> None:
    with pytest.raises(EndpointRefused, match="refused the session: error"):
        Negotiation(SESSION).receive(refusal(code=None))


@pytest.mark.parametrize(
    "session",
    [
        {},
        {"output_audio_format": "g711_alaw"},
        {"audio": {"output": {"format": None}}},
        {"input_audio_format": "opus", "output_audio_format": "g711_ulaw"},
        {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}},
    ],
)
def test_a_model_that_would_not_speak_ulaw_is_not_let_to_the_caller(session: dict[str, Any]) -> None:
    configuring, _ = begun()
    with pytest.raises(EndpointRefused, match="g711_ulaw"):
        configuring.receive(realtime.SessionUpdated(session=session))


@pytest.mark.parametrize(
    ("session", "hears_pcm", "speaks_pcm"),
    [
        ({"audio": {"output": {"format": PCMU}}}, False, False),
        ({"input_audio_format": "pcm16", "output_audio_format": "pcm16"}, True, True),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}}, True, True),
        ({"audio": {"input": {"format": {"type": "audio/pcm"}}, "output": {"format": PCMU}}}, True, False),
    ],
)
def test_a_model_of_linear_pcm_is_converted(session: dict[str, Any], hears_pcm: bool, speaks_pcm: bool) -> None:
    configuring, _ = begun()
    configuring.receive(realtime.SessionUpdated(session=session))
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
    [None, "", "session", "session.instructions", "session.tools[0].name", "session.x"],
)
def test_anything_else_reduces_the_session_to_what_a_call_needs(param: str | None) -> None:
    configuring, _ = begun()
    assert refused(configuring, param) == LEAST
    assert configuring.dropped == ["everything optional (invalid_value: no)"]


def test_a_refusal_of_the_least_ends_it() -> None:
    configuring, _ = begun()
    refused(configuring, "session.instructions")
    with pytest.raises(EndpointRefused, match="refused the session: invalid_value: no"):
        configuring.receive(refusal("session.instructions"))


def test_the_number_of_attempts_is_bounded() -> None:
    session = copy.deepcopy(SESSION) | {f"extra_{n}": n for n in range(40)}
    configuring = Negotiation(session)
    configuring.receive(CREATED)
    for n in range(MAX_ATTEMPTS - 1):
        assert f"extra_{n}" not in refused(configuring, f"session.extra_{n}")
    assert refused(configuring, "session.extra_30") == LEAST
    with pytest.raises(EndpointRefused):
        configuring.receive(refusal("session.extra_31"))


def test_a_late_refusal_of_an_earlier_attempt_is_not_counted_twice() -> None:
    configuring, first = begun()
    configuring.receive(refusal("session.tool_choice", event_id=first.event_id))
    assert configuring.receive(refusal("session.tool_choice", event_id=first.event_id)) is None
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
    configuring.receive(CREATED)
    again = refused(configuring, "session.audio.input.transcription")
    assert again["audio"]["input"]["transcription"] == {"model": "old", "language": "fr"}
    assert "transcription" not in refused(configuring, "session.audio.input.transcription")["audio"]["input"]


def test_the_least_has_no_transcription() -> None:
    configuring, _ = begun("new")
    assert refused(configuring, None) == LEAST


def test_transcription_refused_although_there_is_none_ends_within_bounds() -> None:
    configuring, _ = begun()
    for _ in range(MAX_ATTEMPTS):
        refused(configuring, "session.audio.input.transcription")
    with pytest.raises(EndpointRefused):
        configuring.receive(refusal("session.audio.input.transcription"))


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
    configuring.receive(CREATED)
    expected = {name: each for name, each in SESSION.items() if name != field}
    assert refused(configuring, param) == expected
    assert configuring.dropped == [f"{field} (invalid_value: no)"]


def heard(**transcription: Any) -> Negotiation:
    session = copy.deepcopy(SESSION)
    session["audio"]["input"]["transcription"] = transcription
    configuring = Negotiation(session, transcription_models=["new", "old"])
    configuring.receive(CREATED)
    return configuring


def test_a_hint_that_a_recogniser_does_not_take_is_dropped_and_the_recogniser_stays() -> None:
    configuring = heard(language="fr", keywords=["Nous"])
    again = refused(configuring, "session.audio.input.transcription.keywords")
    assert again["audio"]["input"]["transcription"] == {"model": "new", "language": "fr"}
    again = refused(configuring, "session.audio.input.transcription.model")
    assert again["audio"]["input"]["transcription"] == {"model": "old", "language": "fr"}


def test_a_recogniser_that_the_session_names_goes_first() -> None:
    configuring = heard(model="own")
    again = refused(configuring, "session.audio.input.transcription.model")
    assert again["audio"]["input"]["transcription"] == {"model": "new"}
    assert configuring.dropped == ["transcription by own (invalid_value: no), trying new"]


def test_hints_without_a_recogniser_are_not_sent() -> None:
    session = copy.deepcopy(SESSION)
    session["audio"]["input"]["transcription"] = {"language": "fr"}
    update = Negotiation(session).receive(CREATED)
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
    configuring.receive(CREATED)
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
    configuring.receive(CREATED)
    assert refused(configuring, "session.audio.input.turn_detection")["audio"]["input"]["turn_detection"] is None
    with pytest.raises(EndpointRefused):
        configuring.receive(refusal("session.audio.input.turn_detection"))


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
        configuring.receive(realtime.Error(error=realtime.Failure(code=code, type=type_, message="no")))
    assert type(error.value) is kind
    assert configuring.dropped == []
