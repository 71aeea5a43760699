"""A model's usage, read from its report with each response and each transcript.

Reports differ: fields are missing, null, or do not add up. Such a report is never billed too low: tokens of unknown
kind count as audio, the most expensive kind, and cached tokens of unknown kind as the kind that saves the least.

Source: OpenAI's Realtime API reference, `response.done` and `conversation.item.input_audio_transcription.completed`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from phoneagent.events import Usage

MAX_TOKENS = 10_000_000
"""More tokens than any model reads or writes at once. A higher figure is an error in the report."""

MAX_SECONDS = 24 * 3600.0


class Reading(NamedTuple):
    """The usage of a report. `assumed` means that the report lacked details that the cost depends on."""

    usage: Usage
    assumed: bool


class _ByKind(msgspec.Struct):
    text_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _Input(_ByKind):
    cached_tokens: int | None = None
    cached_tokens_details: _ByKind | None = None


class _Report(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_token_details: _Input | None = None
    output_token_details: _ByKind | None = None
    seconds: float | None = None


def of_response(reported: Any) -> Reading | None:
    """Read the `usage` of a response; None if it contains nothing."""
    report = _parse(reported)
    if report is None:
        return None
    read, assumed = _input(report)
    text, audio, rest = _split(report.output_tokens, report.output_token_details)
    return Reading(read + Usage(text_out=text, audio_out=audio + rest), assumed or rest > 0)


def of_transcription(reported: Any) -> Reading | None:
    """Read the `usage` of a transcript, in tokens or in seconds; None if it contains nothing."""
    report = _parse(reported)
    if report is None:
        return None
    if report.seconds is not None:
        return Reading(Usage(audio_ms=round(min(max(0.0, report.seconds), MAX_SECONDS) * 1000)), assumed=False)
    read, assumed = _input(report)
    return Reading(
        read + Usage(text_out=_count(report.output_tokens)), assumed
    )  # a transcription model outputs only text


def _parse(reported: Any) -> _Report | None:
    try:
        report = msgspec.convert(reported, _Report)
    except msgspec.ValidationError:
        return None
    return None if report == _Report() else report


def _input(report: _Report) -> tuple[Usage, bool]:
    details = report.input_token_details or _Input()
    text, audio, rest = _split(report.input_tokens, details)
    image = _count(details.image_tokens)
    audio += rest
    known = details.cached_tokens_details or _ByKind()
    cached_text = min(text, _count(known.text_tokens))
    cached_image = min(image, _count(known.image_tokens))
    cached_audio = min(audio, _count(known.audio_tokens))
    left = untold = max(0, _count(details.cached_tokens) - cached_text - cached_image - cached_audio)
    cached_text += (more := min(left, text - cached_text))
    cached_image += (more_image := min(left - more, image - cached_image))
    cached_audio += min(left - more - more_image, audio - cached_audio)
    usage = Usage(
        text_in=text - cached_text,
        text_cached=cached_text,
        audio_in=audio - cached_audio,
        audio_cached=cached_audio,
        image_in=image - cached_image,
        image_cached=cached_image,
    )
    return usage, rest > 0 or untold > 0


def _split(total: int | None, details: _ByKind | None) -> tuple[int, int, int]:
    """Return the numbers of text tokens, of audio tokens, and of tokens of unknown kind."""
    details = details or _ByKind()
    text, audio = _count(details.text_tokens), _count(details.audio_tokens)
    return text, audio, max(0, _count(total) - text - audio - _count(details.image_tokens))


def _count(tokens: int | None) -> int:
    return min(max(0, tokens or 0), MAX_TOKENS)
