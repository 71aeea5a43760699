from __future__ import annotations

import pytest

from phoneagent.sim.twilio.amd import BEEP, FAX, Detection
from phoneagent.sim.twilio.microphone import Utterance

HELLO = Utterance("Hello?", 500, 1000)
GREETING = Utterance("You have reached Anna.", 500, 4500)
TONE = Utterance(BEEP, 5300, 5700)


def decision(*speech: Utterance, until_end: bool = True) -> tuple[str, float]:
    """What is decided, and when."""
    detection = Detection(until_end=until_end)
    for now in range(0, 40_000, 100):
        begun = [each for each in speech if each.start_ms <= now]
        if (verdict := detection.decide(begun, now)) is not None:
            return verdict, now
    raise AssertionError("nothing was decided")


@pytest.mark.parametrize(
    ("speech", "at_end", "at_once"),
    [
        ([HELLO], ("human", 2200), ("human", 2200)),
        ([GREETING, TONE], ("machine_end_beep", 5700), ("machine_start", 2900)),
        ([GREETING], ("machine_end_silence", 9500), ("machine_start", 2900)),
        ([Utterance("And on", 500, 90_000)], ("machine_end_other", 30_000), ("machine_start", 2900)),
        ([Utterance(FAX, 500, 3800)], ("fax", 1000), ("fax", 1000)),
        ([], ("unknown", 5000), ("unknown", 5000)),
    ],
)
def test_what_is_told_of_a_far_end(
    speech: list[Utterance], at_end: tuple[str, float], at_once: tuple[str, float]
) -> None:
    assert decision(*speech) == at_end
    assert decision(*speech, until_end=False) == at_once


def test_a_talkative_person_counts_as_a_machine_and_a_slow_speaker_does_not() -> None:
    assert decision(Utterance("Good morning, this is …", 300, 3000), until_end=False)[0] == "machine_start"
    assert decision(Utterance("Good", 300, 900), Utterance("morning", 1500, 2100))[0] == "human"


def test_the_settings_are_those_of_the_form() -> None:
    assert Detection.of_form({}) is None
    form = {"MachineDetection": "DetectMessageEnd", "MachineDetectionTimeout": "12"}
    assert Detection.of_form(form) == Detection(until_end=True, timeout_ms=12_000)
    form = {"MachineDetection": "Enable", "MachineDetectionSpeechThreshold": "1800"}
    assert Detection.of_form(form) == Detection(until_end=False, speech_ms=1800)


def test_digits_turn_the_detection_off() -> None:
    form = {"MachineDetection": "Enable"}
    assert Detection.of_form(form) == Detection(until_end=False)
    assert Detection.of_form({**form, "SendDigits": "1"}) is None
