"""How long a sound goes on, and since when it is over."""

from __future__ import annotations

import pytest

from phoneagent.bridge.caller_sound import MAX_GAP_MS, MIN_RMS, Sound, latest_sound, levels, threshold, voice_level
from phoneagent.protocol.audio import silence, tone

GAP = [0] * (MAX_GAP_MS // 20)


def test_each_frame_has_its_level_and_half_a_frame_none() -> None:
    assert levels(silence(10) + tone(400, 20) + silence(20))[1] < 10
    loud, soft = levels(silence(10) + tone(400, 20) + silence(20))
    assert loud > 5000 > soft
    assert levels(b"") == []


@pytest.mark.parametrize(
    ("frames", "sound"),
    [
        ([], Sound(0, 0, 0)),
        ([0, 0], Sound(0, 0, 40)),
        ([9, 9, 0], Sound(40, 40, 20)),
        ([9, *GAP, 9], Sound(20 * 12, 40, 0)),
        ([9, 0, *GAP, 9], Sound(20, 20, 0)),
        ([9, 0, *GAP], Sound(20, 20, MAX_GAP_MS + 20)),
        ([9, 9, 0, *GAP, 9, 0, 9], Sound(60, 40, 0)),
    ],
)
def test_the_latest_stretch_of_sound(frames: list[int], sound: Sound) -> None:
    assert latest_sound(frames, 5) == sound


def test_clicks_are_not_dense() -> None:
    assert not latest_sound([9, 0, 0, 0] * 10, 5).dense
    assert latest_sound([9, 9, 9, 0] * 10, 5).dense


@pytest.mark.parametrize(
    ("noise", "loud"),
    [
        ([], MIN_RMS),
        ([10] * 100, MIN_RMS),
        ([400] * 100, 1000),
        ([400] * 60 + [9000] * 40, 1000),
        ([0, 0, 9000], MIN_RMS),
    ],
)
def test_speech_is_louder_than_the_line(noise: list[int], loud: float) -> None:
    assert threshold(noise) == loud


def test_a_caller_who_has_been_louder_is_not_the_voice_in_the_background() -> None:
    assert threshold([10] * 100, 5000) == 750
    assert threshold([400] * 100, 5000) == 1000
    assert voice_level([10, 20, *range(1000, 6000, 1000)]) == 5000
    assert voice_level([10, 20]) == 0
