from __future__ import annotations

from collections import deque

import pytest

from phoneagent.bridge.interruption import MAX_OPEN, Truncations
from phoneagent.bridge.playback import Outcome
from phoneagent.protocol.realtime import ItemTruncate, ToModel

SHORTER = "Audio content of {}ms is already shorter than {}ms"


def cut(item: str = "i1", heard: int = 3760) -> Outcome:
    return Outcome(item, 2, heard_ms=heard, received_ms=5000, complete=False)


@pytest.fixture
def sent() -> deque[ToModel]:
    return deque()


@pytest.fixture
def truncations(sent: deque[ToModel]) -> Truncations:
    return Truncations(sent)


def test_the_model_is_told_what_was_heard(truncations: Truncations, sent: deque[ToModel]) -> None:
    truncations.truncate(cut())
    assert list(sent) == [ItemTruncate(event_id="truncate_1", item_id="i1", content_index=2, audio_end_ms=3760)]
    assert truncations.owns("truncate_1")
    assert not truncations.owns("create_1")


def test_a_refusal_that_names_the_length_is_answered_once(truncations: Truncations, sent: deque[ToModel]) -> None:
    truncations.truncate(cut())
    assert truncations.refused("truncate_1", SHORTER.format(3700, 3760))
    assert sent[-1] == ItemTruncate(event_id="truncate_2", item_id="i1", content_index=2, audio_end_ms=3700)
    assert not truncations.refused("truncate_2", SHORTER.format(3600, 3700))
    assert not truncations.refused("truncate_1", SHORTER.format(3600, 3700))
    assert len(sent) == 2


def test_a_refusal_never_makes_it_longer(truncations: Truncations, sent: deque[ToModel]) -> None:
    truncations.truncate(cut(heard=100))
    assert truncations.refused("truncate_1", SHORTER.format(200, 100))
    assert isinstance(sent[-1], ItemTruncate)
    assert sent[-1].audio_end_ms == 100


@pytest.mark.parametrize("message", ["", "Only model output audio messages can be truncated"])
def test_a_refusal_without_a_length_is_the_end_of_it(
    truncations: Truncations, sent: deque[ToModel], message: str
) -> None:
    truncations.truncate(cut())
    assert not truncations.refused("truncate_1", message)
    assert len(sent) == 1


def test_of_many_only_the_latest_can_be_refused(truncations: Truncations) -> None:
    for number in range(MAX_OPEN + 1):
        truncations.truncate(cut(f"i{number}"))
    assert not truncations.refused("truncate_1", SHORTER.format(1, 2))
    assert truncations.refused("truncate_2", SHORTER.format(1, 2))
