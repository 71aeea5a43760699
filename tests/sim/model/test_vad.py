from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from phoneagent.protocol.audio import FRAME_BYTES, encode_ulaw, silence, tone
from phoneagent.sim.model.vad import EarshotVad, EnergyGate, Vad, default_vad


def decisions(vad: Vad, ulaw: bytes) -> list[bool]:
    return [vad.feed(ulaw[at : at + FRAME_BYTES]) for at in range(0, len(ulaw) - FRAME_BYTES + 1, FRAME_BYTES)]


def noise(ms: int, *, level: int) -> bytes:
    source = random.Random(7)
    samples = (source.randint(-level, level) for _ in range(ms * 8))
    return encode_ulaw(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))


def test_the_gate_opens_for_sound_and_closes_with_it() -> None:
    heard = decisions(EnergyGate(), silence(100) + tone(300, 200) + silence(200))

    assert heard == [False] * 5 + [True] * 10 + [False] * 10


def test_the_gate_stays_shut_for_line_noise() -> None:
    assert not any(decisions(EnergyGate(), noise(1000, level=400)))


def test_the_level_of_the_gate_decides() -> None:
    quiet = tone(300, 100, level=0.02)  # about 460

    assert not any(decisions(EnergyGate(600), quiet))
    assert all(decisions(EnergyGate(200), quiet))


@pytest.mark.parametrize("make", [EnergyGate, EarshotVad])
def test_human_speech_is_found_and_the_silence_around_it_is_not(
    make: type[EnergyGate] | type[EarshotVad], speech: Callable[[str], bytes]
) -> None:
    if make is EarshotVad:
        pytest.importorskip("earshot")
    before, after = silence(1000), silence(1000)
    said = speech("librivox-0880")
    heard = decisions(make(), before + said + after)

    assert not any(heard[:50])
    assert sum(heard[50 : 50 + len(said) // FRAME_BYTES]) > 0.5 * len(said) // FRAME_BYTES
    assert not any(heard[-35:])


def test_earshot_ignores_what_only_is_loud() -> None:
    pytest.importorskip("earshot")
    loud = noise(1500, level=6000)

    assert any(decisions(EnergyGate(), loud))
    assert sum(decisions(EarshotVad(), loud)) < 8


def test_earshot_rests_in_digital_silence_and_wakes_up(speech: Callable[[str], bytes]) -> None:
    pytest.importorskip("earshot")
    heard = decisions(EarshotVad(), silence(3000) + speech("librivox-0880"))

    assert not any(heard[:150])
    assert any(heard[150:])


def test_without_earshot_the_default_is_a_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert isinstance(default_vad(0.5), EnergyGate)


def test_with_earshot_it_is_the_default() -> None:
    pytest.importorskip("earshot")

    assert isinstance(default_vad(0.5), EarshotVad)
