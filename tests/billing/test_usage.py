"""Reading what a model reports of its usage, whatever shape it has."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.billing.usage import MAX_TOKENS, of_response, of_transcription
from phoneagent.events import Usage

WHOLE = {
    "total_tokens": 1300,
    "input_tokens": 1000,
    "output_tokens": 300,
    "input_token_details": {
        "text_tokens": 600,
        "audio_tokens": 400,
        "image_tokens": 0,
        "cached_tokens": 512,
        "cached_tokens_details": {"text_tokens": 448, "audio_tokens": 64, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 100, "audio_tokens": 200},
}


def test_cached_tokens_are_a_part_of_the_input() -> None:
    usage = Usage(text_in=152, text_cached=448, audio_in=336, audio_cached=64, text_out=100, audio_out=200)
    assert of_response(WHOLE) == (usage, False)


@pytest.mark.parametrize("reported", [None, {}, [], "n/a", 7, {"input_tokens": "many"}, {"total_tokens": 9}])
def test_a_report_that_tells_nothing(reported: Any) -> None:
    assert of_response(reported) is None
    assert of_transcription(reported) is None


def test_tokens_of_no_known_kind_count_as_audio() -> None:
    assert of_response({"input_tokens": 50, "output_tokens": 20}) == (Usage(audio_in=50, audio_out=20), True)
    details = {"text_tokens": 30, "audio_tokens": None}
    reading = of_response({"input_tokens": 50, "input_token_details": details})
    assert reading == (Usage(text_in=30, audio_in=20), True)


def test_details_alone_are_enough() -> None:
    reading = of_response({"input_token_details": {"text_tokens": 30}, "output_token_details": {"audio_tokens": 5}})
    assert reading == (Usage(text_in=30, audio_out=5), False)


@pytest.mark.parametrize(
    ("cached", "usage"),
    [
        (0, Usage(text_in=40, image_in=20, audio_in=30)),
        (25, Usage(text_in=15, text_cached=25, image_in=20, audio_in=30)),
        (55, Usage(text_cached=40, image_in=5, image_cached=15, audio_in=30)),
        (65, Usage(text_cached=40, image_cached=20, audio_in=25, audio_cached=5)),
        (999, Usage(text_cached=40, image_cached=20, audio_cached=30)),
    ],
)
def test_cached_tokens_of_no_known_kind_save_the_least(cached: int, usage: Usage) -> None:
    details = {"text_tokens": 40, "audio_tokens": 30, "image_tokens": 20, "cached_tokens": cached}
    assert of_response({"input_tokens": 90, "input_token_details": details}) == (usage, cached > 0)


def test_more_cached_than_read_cannot_be() -> None:
    details = {"text_tokens": 10, "cached_tokens": 50, "cached_tokens_details": {"text_tokens": 30, "audio_tokens": 20}}
    reading = of_response({"input_tokens": 10, "input_token_details": details})
    assert reading is not None
    assert reading.usage == Usage(text_cached=10)


def test_figures_that_cannot_be_are_bounded() -> None:
    assert of_response({"input_tokens": -5, "output_tokens": 10**30}) == (Usage(audio_out=MAX_TOKENS), True)
    assert of_transcription({"seconds": -1}) == (Usage(), False)
    assert of_transcription({"seconds": 1e300}) == (Usage(audio_ms=86_400_000), False)


def test_a_transcript_in_tokens_or_in_seconds() -> None:
    tokens = {"type": "tokens", "input_tokens": 50, "output_tokens": 12, "total_tokens": 62}
    details = {"input_token_details": {"audio_tokens": 45, "text_tokens": 5}}
    assert of_transcription(tokens | details) == (Usage(audio_in=45, text_in=5, text_out=12), False)
    assert of_transcription({"type": "duration", "seconds": 3.2}) == (Usage(audio_ms=3200), False)


counts = st.none() | st.integers(-10, 5000)
kinds = st.fixed_dictionaries({}, optional={f"{kind}_tokens": counts for kind in ("text", "audio", "image")})
reports = st.fixed_dictionaries(
    {},
    optional={
        "input_tokens": counts,
        "output_tokens": counts,
        "input_token_details": st.builds(
            lambda known, cached, of_which: known | {"cached_tokens": cached, "cached_tokens_details": of_which},
            kinds,
            counts,
            st.none() | kinds,
        ),
        "output_token_details": kinds,
    },
)


@given(reports)
def test_nothing_is_lost_and_nothing_is_billed_twice(report: dict[str, Any]) -> None:
    reading = of_response(report)
    if reading is None:
        return
    usage = reading.usage
    assert all(getattr(usage, each.name) >= 0 for each in fields(usage))
    given_details = report.get("input_token_details") or {}
    by_kind = sum(max(0, given_details.get(f"{kind}_tokens") or 0) for kind in ("text", "audio", "image"))
    read = usage.text_in + usage.audio_in + usage.image_in + usage.text_cached + usage.audio_cached + usage.image_cached
    assert read == max(by_kind, report.get("input_tokens") or 0)
    if "image_tokens" not in (report.get("output_token_details") or {}):
        assert usage.text_out + usage.audio_out >= max(0, report.get("output_tokens") or 0)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*WHOLE, *WHOLE["input_token_details"]]), inner),  # type: ignore[misc]
)


@given(anything)
def test_whatever_comes_is_read_or_tells_nothing(report: Any) -> None:
    for read in (of_response, of_transcription):
        reading = read(report)
        assert reading is None or isinstance(reading.usage, Usage)
