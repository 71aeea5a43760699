"""The cases say what they are, four of them are played, and the figures are what came of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from benchmarks import cases, interrupted_call, interruptions, mixing
from benchmarks.cases import Case, EchoPath, Sound
from benchmarks.interrupted_call import NoisyMicrophone, Outcome, Setting
from phoneagent.protocol.audio import SILENCE, decode_ulaw, encode_ulaw
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.twilio.playout import Playout
from tests.recordings import read_wav

SAMPLE = ("okay (man)", "road -45 dB", "man-wait", "echo 250 ms, -20 dB")
TODAY = next(iter(interruptions.rules().values()))


@cache
def all_cases() -> list[Case]:
    return cases.cases()


def outcome(*, must_stop: bool, **changes: object) -> Outcome:
    made = Outcome(
        group="a group",
        name="a case",
        must_stop=must_stop,
        cut=must_stop,
        too_early=False,
        lost_ms=0,
        stop_ms=None,
        pauses=0,
        answered=must_stop,
        truncation_error_ms=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


# --- the cases ---


def test_there_are_enough_cases_of_both_kinds_and_each_has_its_own_name() -> None:
    assert Counter(case.stop for case in all_cases())[False] >= 40
    assert Counter(case.stop for case in all_cases())[True] >= 25
    assert max(Counter((case.group, case.name) for case in all_cases()).values()) == 1


def test_a_case_is_the_same_each_time() -> None:
    before = [case.track() for case in all_cases()]
    cases.noise.cache_clear()
    cases.babble.cache_clear()
    assert [case.track() for case in cases.cases()] == before


def test_an_interruption_is_spoken_words_whose_beginning_is_known() -> None:
    for case in all_cases():
        if not case.stop:
            continue
        first = min(case.sounds, key=lambda sound: sound.at_ms)
        onset_ms = case.onset_ms()
        assert onset_ms is not None, case.name
        assert first.at_ms <= onset_ms < first.at_ms + 500, case.name
        assert case.words(0, 60_000) == " ".join(sound.words for sound in case.sounds), case.name


def test_a_recognizer_writes_the_words_that_lie_in_the_turn_and_else_what_it_mishears() -> None:
    voice = cases.recording("man-okay")
    two = Case(
        group="", name="", stop=False, sounds=(Sound(0, voice, "one"), Sound(2000, voice, "two")), misheard="you"
    )
    assert [two.words(*turn) for turn in ((-300, 1100), (1700, 3100), (0, 4000), (800, 1500))] == [
        "one",
        "two",
        "one two",
        "you",
    ]


def test_a_noise_has_the_level_in_its_name() -> None:
    named = {case.name: case for case in all_cases() if case.group in ("babble", "keyboard", "road")}
    for name, case in named.items():
        level = float(name.split()[1])
        middle = case.noise[len(case.noise) // 4 : -len(case.noise) // 4]
        assert mixing.level_db(middle) == pytest.approx(level, abs=1.5), name


# --- the microphone ---


def test_an_echo_comes_back_as_late_and_as_soft_as_the_case_says() -> None:
    playout = Playout(time.monotonic() - 10)
    heard = encode_ulaw(cases.recording("caller-0"))
    playout.media(heard, playout.started_at + 1.0)
    microphone = NoisyMicrophone(playout, EchoPath(300, 20))
    for number in range(200):
        microphone.frame(number)
    came = decode_ulaw(microphone.audio(200 * 160))
    before, back = came[: 1300 * 16], came[1300 * 16 : 4000 * 16]
    assert mixing.level_db(before) == pytest.approx(-62, abs=1), "only the line's hiss"
    said = cases.recording("caller-0")[: len(back)]
    assert mixing.level_db(back) == pytest.approx(mixing.level_db(said) - 20, abs=0.5)
    left = mixing.mixed(back, mixing.audioop.mul(said, 2, -0.1))
    assert mixing.level_db(left) < -55, "it is the same voice, at that moment"


def test_nothing_comes_back_of_what_was_not_heard() -> None:
    assert interrupted_call.heard_between(Playout(0.0), 100, 160) == SILENCE * 160


# --- the calls ---


SHORT = """
default = "Sorry, could you say that again?"
[[turn]]
heard = "opening hours"
say = "Of course. I am free of charge, and I need neither an account nor a key. Is there anything else?"
"""


def test_four_calls_of_today_are_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupted_call, "SCRIPT", SHORT)
    monkeypatch.setattr(interrupted_call, "OPENING", interrupted_call.OPENING[-8 * 1500 :])
    monkeypatch.setattr(interrupted_call, "SILENT_MS", 1200)
    monkeypatch.setattr(interrupted_call, "MAX_SECONDS", 3)
    chosen = [case for name in SAMPLE for case in all_cases() if case.name == name]
    outcomes = asyncio.run(interruptions.run(chosen, Setting(rule=TODAY, vad=EnergyGate, folder=tmp_path)))
    okay, road, wait, echo = outcomes
    assert [each.trouble for each in (okay, road, wait, echo)] == [""] * 4
    assert (okay.cut, okay.answered, okay.false_cancel) == (True, True, True)
    assert okay.stop_ms is not None
    assert okay.stop_ms > 40, "a server needs 60 ms of speech; the onset is known to 20"
    assert okay.lost_ms > 1000
    assert (road.cut, road.answered, road.pauses) == (False, False, 0)
    assert (wait.cut, wait.answered, wait.missed, wait.false_cancel) == (True, True, False, False)
    assert wait.truncation_error_ms is not None
    assert wait.truncation_error_ms < 500, "a machine that stops for a moment moves the truth"
    assert (echo.cut, echo.false_cancel, echo.stop_ms) == (True, True, None)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 4
    assert all(len(read_wav(each.read_bytes())) > 8 * 5000 for each in kept)


# --- the figures ---


def test_the_figures_of_cases() -> None:
    found = interruptions.summary(
        [
            outcome(must_stop=False, stop_ms=100),
            outcome(must_stop=False, cut=True, answered=True, stop_ms=300, truncation_error_ms=-900),
            outcome(must_stop=False, answered=True),
            outcome(must_stop=True, stop_ms=200, truncation_error_ms=-40),
            outcome(must_stop=True, truncation_error_ms=20),
            outcome(must_stop=True, cut=False),
            outcome(must_stop=True, answered=False),
            outcome(must_stop=True, too_early=True),
        ]
    )
    assert found == interruptions.Summary(
        cases=8,
        false_cancels=2,
        false_answers=2,
        missed=2,
        stop_p50_ms=200,
        stop_max_ms=300,
        truncation_error_ms=-40,
    )


def test_the_table_has_a_line_for_each_group_and_the_cases_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [
        outcome(must_stop=False, group="echo", cut=True, stop_ms=120),
        outcome(must_stop=True, group="interruption", cut=False, trouble="a rule was broken"),
    ]
    interruptions.show({"a rule": outcomes}, every_case=False)
    shown = capsys.readouterr().out
    assert "a rule: 2 calls" in shown
    assert [word in shown for word in ("echo", "interruption", "to be ignored", "to be obeyed", "120")] == [True] * 5
    assert "MISSED interruption: a case, answered, a rule was broken" in shown
    assert "CUT" not in shown
    interruptions.show({"a rule": outcomes}, every_case=True)
    assert "CUT    echo: a case, voice stopped after 120 ms" in capsys.readouterr().out


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert interruptions.main(["--only", "no case has this in its name", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {rule: [] for rule in interruptions.rules()}
    assert logging.getLogger("phoneagent").isEnabledFor(logging.WARNING), "other tests read the log"
