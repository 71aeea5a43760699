"""A model session whose time is nearly over, and the next one, which takes over unnoticed."""

from __future__ import annotations

import pytest

from phoneagent.bridge.renewal import LOOK_SECONDS, OPEN_AGAIN_SECONDS, QUIET_SECONDS, ROTATE_SECONDS, Rotation
from phoneagent.bridge.requests import OpenNext, Renew
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Audio, Clear
from tests.bridge.rig import Rig

HOUR = 3600.0


@pytest.fixture
def rig() -> Rig:
    rig = Rig(renews=True, connect=False, max_call_seconds=4 * HOUR)
    connect(rig)
    return rig


def connect(rig: Rig, lasts: float | None = HOUR) -> None:
    rig.bridge.model_connected(rig.now, lasts)
    rig.flush()


def ready(rig: Rig, *, ready: bool = True) -> None:
    rig.bridge.renewal.next_opened(rig.now, ready=ready)
    rig.flush()


def asked(rig: Rig) -> list[str]:
    return [type(request).__name__ for request in rig.asked]


def test_the_next_session_is_opened_in_time_and_takes_over_when_nobody_speaks(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS - 1)
    assert asked(rig) == []
    rig.talk(1.5)
    assert asked(rig) == ["OpenNext"]
    ready(rig)
    rig.talk(QUIET_SECONDS + 3 * LOOK_SECONDS)
    assert rig.asked == [OpenNext(), Renew(elsewhere=False)]
    assert rig.bridge.model_away(rig.now, "it was given up")  # as the shell says when its reader ends
    connect(rig)
    assert rig.troubles == []
    assert rig.sent(Clear) == rig.sent(Audio) == rig.creates == []
    rig.talk(ROTATE_SECONDS)
    assert len(rig.asked) == 2


def test_it_waits_until_a_second_after_the_last_word(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig)
    rig.speech()
    rig.talk(5)
    rig.turn("u1")
    rig.model(realtime.InputTranscript(item_id="u1", transcript="A table?"))
    rig.created("r1", ours=False)
    rig.talk(5)
    rig.audio(2000)
    rig.audio_done()
    rig.done()
    rig.talk(2)
    rig.hear()
    assert asked(rig) == ["OpenNext"]
    rig.talk(QUIET_SECONDS - LOOK_SECONDS)
    assert asked(rig) == ["OpenNext"]
    rig.talk(3 * LOOK_SECONDS)
    assert asked(rig) == ["OpenNext", "Renew"]


def test_a_word_that_has_just_begun_is_heard_by_the_next_one(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig)
    while asked(rig) != ["OpenNext", "Renew"]:
        rig.wait(0.02)
        rig.media()
    before = len(rig.sent(realtime.AudioAppend))
    connect(rig)
    again = len(rig.sent(realtime.AudioAppend)) - before
    assert again >= 50 + 1  # a second of it at least, and what came meanwhile


def test_one_that_does_not_come_is_tried_again(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig, ready=False)
    rig.talk(OPEN_AGAIN_SECONDS - 1)
    assert asked(rig) == ["OpenNext"]
    rig.talk(1.5)
    assert asked(rig) == ["OpenNext", "OpenNext"]


def test_a_session_that_is_lost_before_is_renewed_as_ever(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig)
    rig.speech()
    rig.error("session_expired")
    assert rig.asked == [OpenNext(), Renew(elsewhere=False)]
    connect(rig, HOUR)
    rig.talk(ROTATE_SECONDS)
    assert len(rig.asked) == 2


def test_a_call_of_many_hours_rotates_again_and_again() -> None:
    rig = Rig(renews=True, connect=False, max_call_seconds=5 * HOUR)
    connect(rig)
    done = 0
    for _ in range(4 * 60 - 2):
        rig.talk(60)
        for request in rig.asked[done:]:
            if isinstance(request, OpenNext):
                ready(rig)
            else:
                assert isinstance(request, Renew)
                connect(rig)
        done = len(rig.asked)
    assert asked(rig) == ["OpenNext", "Renew"] * 4
    assert not rig.bridge.ended
    assert rig.troubles == []


@pytest.mark.parametrize("lasts", [None, 0.0, -5.0, 30.0])
def test_a_session_of_unknown_length_is_not_rotated(lasts: float | None) -> None:
    rig = Rig(renews=True, connect=False)
    connect(rig, lasts)
    rig.talk(3000)
    assert rig.asked == []


def test_a_short_session_is_rotated_in_its_second_half() -> None:
    rotation = Rotation()
    rotation.begin(100, 80)
    assert rotation.get_timer() == 140
    assert rotation.handle_timer(139.9, quiet=True) is None
    assert rotation.handle_timer(140, quiet=True) == "open"
