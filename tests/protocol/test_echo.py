"""The agent's own voice is told from a person's, at each delay and loss, in noise and through G.711."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from benchmarks import mixing
from phoneagent.protocol.audio import SILENCE, decode_ulaw, encode_ulaw
from phoneagent.protocol.echo import MAX_DELAY_MS, find_echo
from tests.recordings import read_wav

DATA = Path(__file__).parent.parent / "data"
LEAD_MS = 1000
LENGTH_MS = 500


@cache
def voice(name: str) -> bytes:
    """A recording as PCM, at the level of an agent's voice."""
    return mixing.at_level(decode_ulaw(read_wav((DATA / name).read_bytes())), -18)


AGENT = "librivox-0920.ulaw.wav"
PERSON = "jfk.ulaw.wav"
START_MS = 2000
"""The moment of the agent's line at which the caller's sound begins."""


def played(start_ms: float = START_MS) -> bytes:
    return encode_ulaw(cut(voice(AGENT), start_ms - LEAD_MS, start_ms + LENGTH_MS))


def cut(pcm: bytes, begin_ms: float, end_ms: float) -> bytes:
    return pcm[round(begin_ms * 8) * 2 : round(end_ms * 8) * 2]


def echo(delay_ms: float, loss_db: float, *, start_ms: float = START_MS, room: bool = False) -> bytes:
    """The agent's voice as it comes back."""
    came = mixing.in_a_room(voice(AGENT)) if room else voice(AGENT)
    return mixing.gained(cut(mixing.delayed(came, delay_ms), start_ms, start_ms + LENGTH_MS), -loss_db)


def person(level_db: float, begin_ms: float = 2200) -> bytes:
    return mixing.at_level(cut(voice(PERSON), begin_ms, begin_ms + LENGTH_MS), level_db)


def is_echo(*tracks: bytes) -> bool:
    found = find_echo(played(), encode_ulaw(mixing.mixed(*tracks)), lead_ms=LEAD_MS)
    return found is not None and found.alone


@pytest.mark.parametrize("room", [False, True], ids=["line", "room"])
@pytest.mark.parametrize("loss_db", [15, 25, 35])
@pytest.mark.parametrize("delay_ms", [100, 237.5, 400, 600])
def test_an_echo_is_found_with_its_delay_and_loss(delay_ms: float, loss_db: float, room: bool) -> None:
    heard = encode_ulaw(echo(delay_ms, loss_db, room=room))
    found = find_echo(played(), heard, lead_ms=LEAD_MS)
    assert found is not None
    assert found.alone
    assert found.delay_ms == pytest.approx(delay_ms, abs=1)
    assert found.loss_db == pytest.approx(loss_db, abs=3 if room else 1)
    assert found.explained > 0.8


def test_what_is_known_of_the_moment_of_playing_may_be_wrong() -> None:
    found = find_echo(played(), encode_ulaw(echo(250, 25)), lead_ms=LEAD_MS + 40)
    assert found is not None
    assert found.alone
    assert found.delay_ms == pytest.approx(290, abs=1)


def test_an_echo_that_ends_because_the_voice_was_stopped_is_one() -> None:
    heard = cut(echo(250, 25), 0, 300) + mixing.silent(200)
    stopped = played()[: (LEAD_MS + 50) * 8]  # what was played ends 50 ms after the segment began
    found = find_echo(stopped, encode_ulaw(heard), lead_ms=LEAD_MS)
    assert found is not None
    assert found.alone


@pytest.mark.parametrize(
    "noise", [mixing.road, mixing.keyboard, lambda ms, seed: mixing.breath(seed, ms)], ids=["road", "keys", "breath"]
)
def test_an_echo_is_found_in_noise(noise: Callable[[int, int], bytes]) -> None:
    assert is_echo(echo(300, 25), mixing.at_level(noise(LENGTH_MS, 1), -50))


@pytest.mark.parametrize("level_db", [-15, -20, -25, -30])
@pytest.mark.parametrize("delay_ms", [150, 400])
def test_a_person_who_speaks_over_an_echo_is_not_one(level_db: float, delay_ms: float) -> None:
    assert not is_echo(echo(delay_ms, 25), person(level_db))


def test_a_person_who_begins_at_the_end_of_an_echo_is_not_one() -> None:
    assert not is_echo(echo(250, 20), mixing.delayed(cut(person(-20), 0, 150), 350))


def test_a_person_is_not_an_echo() -> None:
    times = range(0, 10_000, 250)
    segments = [cut(voice(PERSON), at, at + LENGTH_MS) for at in times]
    spoken = [mixing.at_level(each, -22) for each in segments if mixing.level_db(each) > -35]
    assert len(spoken) > 20
    assert not any(map(is_echo, spoken))


@pytest.mark.parametrize("sound", [mixing.cough, mixing.breath, lambda seed: mixing.keyboard(LENGTH_MS, seed)])
@pytest.mark.parametrize("level_db", [-45, -30, -20])
def test_a_noise_alone_is_not_an_echo(sound: Callable[[int], bytes], level_db: float) -> None:
    assert not is_echo(mixing.at_level(sound(3), level_db), mixing.silent(LENGTH_MS))


def test_the_voice_at_its_full_level_is_not_an_echo() -> None:
    assert not is_echo(echo(300, 3))


def test_silence_on_either_side_is_not_an_echo() -> None:
    assert not is_echo(mixing.silent(LENGTH_MS))
    quiet = find_echo(SILENCE * 8000, encode_ulaw(person(-20)), lead_ms=LEAD_MS)
    assert quiet is not None
    assert not quiet.alone


@pytest.mark.parametrize(("played_ms", "segment_ms", "lead_ms"), [(0, 200, 0), (100, 3000, 5000), (5000, 200, -50)])
def test_any_lengths_are_taken(played_ms: int, segment_ms: int, lead_ms: float) -> None:
    dice = random.Random(1)
    found = find_echo(dice.randbytes(played_ms * 8), dice.randbytes(segment_ms * 8), lead_ms=lead_ms)
    assert found is not None
    assert 0 < found.delay_ms <= MAX_DELAY_MS


def test_a_sound_that_is_too_short_fits_nothing() -> None:
    assert find_echo(played(), encode_ulaw(person(-20))[: 99 * 8], lead_ms=LEAD_MS) is None
