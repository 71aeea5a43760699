"""The values of a session's configuration: what is wrong is refused where it is written, in one line with a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent import Agent, DefinitionError, Hearing, Limits, Recording, Turns, Voice

WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (Voice, {"name": ""}, "Voice.name is ''"),
    (Voice, {"name": 3}, "Voice.name is 3"),
    (Voice, {"speed": 1.6}, "Voice.speed is 1.6: it must be a number from 0.25 to 1.5"),
    (Voice, {"speed": "fast"}, "Voice.speed is 'fast'"),
    (Voice, {"speed": True}, "Voice.speed is True"),
    (Voice, {"speed": float("nan")}, "Voice.speed is nan"),
    (Turns, {"detection": "vad"}, "choose one of 'server_vad', 'semantic_vad', 'manual'"),
    (Turns, {"detection": None}, "Turns.detection is None"),
    (Turns, {"threshold": 1.01}, "Turns.threshold is 1.01"),
    (Turns, {"prefix_padding_ms": -1}, "Turns.prefix_padding_ms is -1"),
    (Turns, {"silence_duration_ms": 500.5}, "Turns.silence_duration_ms is 500.5: it must be a whole number"),
    (Turns, {"silence_duration_ms": 10**400}, "Turns.silence_duration_ms is 1000"),
    (Turns, {"idle_timeout_ms": 4999}, "from 5000 to 30000"),
    (Turns, {"detection": "semantic_vad", "eagerness": "eager"}, "Turns.eagerness is 'eager'"),
    (Turns, {"eagerness": "low"}, "it applies to detection='semantic_vad', not 'server_vad'"),
    (Turns, {"detection": "semantic_vad", "threshold": 0.5}, "Turns.threshold is 0.5: it applies to"),
    (Turns, {"detection": "semantic_vad", "idle_timeout_ms": 6000}, "Turns.idle_timeout_ms is 6000: it applies to"),
    (Turns, {"detection": "manual", "silence_duration_ms": 1}, "not 'manual'"),
    (Hearing, {"models": 3}, "Hearing.models is 3"),
    (Hearing, {"models": [""]}, "Hearing.models is ('',): each entry must be text"),
    (Hearing, {"language": "French"}, "Hearing.language is 'French': write codes of ISO 639-1"),
    (Hearing, {"language": ["fr", "?"]}, "ISO 639-1"),
    (Hearing, {"prompt": " "}, "Hearing.prompt is ' '"),
    (Hearing, {"keywords": "Chez Nous"}, "Hearing.keywords is 'Chez Nous': write a sequence"),
    (Hearing, {"keywords": [3]}, "Hearing.keywords is (3,)"),
    (Hearing, {"noise_reduction": "both"}, "choose one of None, 'near_field', 'far_field'"),
    (Limits, {"max_output_tokens": 0}, "from 1 to 4096"),
    (Limits, {"max_output_tokens": "inf"}, "Limits.max_output_tokens is 'inf'"),
    (Limits, {"truncation": "never"}, "choose one of None, 'auto', 'disabled'"),
    (Limits, {"truncation": "auto", "retention_ratio": 0.8}, "it conflicts with retention_ratio"),
    (Limits, {"retention_ratio": 80}, "Limits.retention_ratio is 80"),
    (Limits, {"post_instructions_tokens": 100}, "it needs a retention_ratio"),
    (Limits, {"reasoning_effort": "maximal"}, "Limits.reasoning_effort is 'maximal'"),
    (Limits, {"parallel_tool_calls": 1}, "Limits.parallel_tool_calls is 1"),
    (Hearing, {"prompt": 1.0}, "Hearing.prompt is 1.0"),
]


@pytest.mark.parametrize(("kind", "fields", "words"), WRONG, ids=[f"{k.__name__} {f}"[:60] for k, f, _ in WRONG])
def test_what_cannot_be_is_refused_in_one_line(kind: type[Any], fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        kind(**fields)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_values_are_values() -> None:
    assert Voice("marin", 1) == Voice(name="marin", speed=1)
    assert hash(Turns()) == hash(Turns())
    words = ["Chez Nous"]
    hearing = Hearing(keywords=words, models=["a", "b"])
    words.append("later")
    assert hearing.keywords == ("Chez Nous",)
    assert hearing.transcription_models == ("a", "b")
    assert (Hearing().transcription_models, Hearing(models="a").transcription_models) == (None, ("a",))


def test_turn_detection_does_not_depend_on_the_server_s_defaults() -> None:
    assert Turns(threshold=0.7).session(create_response=True) == {
        "type": "server_vad",
        "threshold": 0.7,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "create_response": True,
        "interrupt_response": False,
    }


@pytest.mark.parametrize(
    ("hearing", "transcription"),
    [
        (Hearing(), None),
        (Hearing(language="fr"), {"language": "fr"}),
        (Hearing(language=["fr", "de"]), {"languages": ["fr", "de"]}),
        (Hearing(prompt="Orders.", keywords=["Nous"]), {"prompt": "Orders.", "keywords": ["Nous"]}),
        (Hearing(models=(), language="fr"), None),
    ],
)
def test_hints_for_the_recognizer(hearing: Hearing, transcription: dict[str, Any] | None) -> None:
    assert hearing.session().get("transcription") == transcription


@pytest.mark.parametrize("wrong", [{"consent": ""}, {"consent": " "}, {"consent": 1}, {"start": 1}, {"start": "no"}])
def test_a_recording_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=f"Recording.{next(iter(wrong))} is"):
        Recording(**wrong)


def test_an_agent_takes_a_recording_and_nothing_like_it() -> None:
    assert Agent(instructions="x", recording=Recording()).recording == Recording(consent=None, start=True)
    with pytest.raises(DefinitionError, match="recording=True: make it a Recording"):
        Agent(instructions="x", recording=True)  # type: ignore[arg-type]
