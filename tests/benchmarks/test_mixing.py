"""The sounds of a line have the level, the delay and the seed that they are asked for."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest

from benchmarks import mixing
from phoneagent.protocol.audio import decode_ulaw
from phoneagent.sim.speech import Murmur

SPEECH = decode_ulaw(Murmur().render("All of this is spoken at the level of an ordinary voice on a telephone."))

NOISES: dict[str, Callable[[int], bytes]] = {
    "road": lambda seed: mixing.road(3000, seed),
    "keyboard": lambda seed: mixing.keyboard(3000, seed),
    "babble": lambda seed: mixing.babble([SPEECH], 3000, seed),
    "cough": mixing.cough,
    "breath": mixing.breath,
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_noise_is_the_same_for_the_same_seed_only(noise: Callable[[int], bytes]) -> None:
    assert noise(1) == noise(1)
    assert noise(1) != noise(2)


@pytest.mark.parametrize("sound", [*NOISES.values(), lambda _seed: SPEECH], ids=[*NOISES, "speech"])
@pytest.mark.parametrize("level", [-55, -40, -25])
def test_a_sound_has_the_level_that_was_asked_for(sound: Callable[[int], bytes], level: float) -> None:
    assert mixing.level_db(mixing.at_level(sound(1), level)) == pytest.approx(level, abs=0.3)


def test_a_pause_does_not_make_a_voice_quieter() -> None:
    assert mixing.level_db(SPEECH + mixing.silent(5000)) == pytest.approx(mixing.level_db(SPEECH), abs=0.01)


def test_a_louder_sound_is_louder_by_so_many_db() -> None:
    assert mixing.level_db(mixing.gained(SPEECH, -20)) == pytest.approx(mixing.level_db(SPEECH) - 20, abs=0.2)


@pytest.mark.parametrize("ms", [0, 150, 237.5])
def test_a_delayed_sound_comes_later_by_so_many_ms(ms: float) -> None:
    late = mixing.delayed(SPEECH, ms)
    assert late[round(ms * 8) * 2 :] == SPEECH
    assert not any(late[: round(ms * 8) * 2])


def test_a_mix_is_the_sum_of_its_tracks() -> None:
    one, two = array("h", [1, 20_000, -20_000]), array("h", [2, 20_000, -20_000, 5])
    assert array("h", mixing.mixed(one.tobytes(), two.tobytes())).tolist() == [3, 32_767, -32_768, 5]


def test_a_room_adds_reflections_and_keeps_the_first_sound() -> None:
    click = array("h", [10_000] + [0] * 400).tobytes()
    heard = [(n / 8, each) for n, each in enumerate(array("h", mixing.in_a_room(click))) if each]
    assert [ms for ms, _ in heard] == pytest.approx(mixing.ROOM_MS, abs=0.1)
    assert [each for _, each in heard] == sorted((each for _, each in heard), reverse=True)
    assert heard[0] == (0, 10_000)


def test_another_pitch_is_another_length() -> None:
    assert len(mixing.pitched(SPEECH, 1.25)) == pytest.approx(len(SPEECH) / 1.25, rel=0.01)


def test_a_fade_leaves_the_middle() -> None:
    faded = mixing.faded(array("h", [1000] * 800).tobytes(), 20)
    samples = array("h", faded)
    assert (samples[0], samples[400], samples[-1]) == (0, 1000, 0)


@pytest.mark.parametrize("name", ["road", "keyboard", "babble"])
def test_a_noise_is_as_long_as_asked(name: str) -> None:
    assert len(NOISES[name](1)) == len(mixing.silent(3000))
