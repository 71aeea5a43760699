"""How a call ends when one of its sides is lost."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.policy import Floor
from phoneagent.events import CallEnded
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Clear
from phoneagent.protocol.realtime import FATAL_CODES
from tests.bridge.rig import Rig, ulaw

APOLOGY = ulaw(730, 0x22)


@pytest.fixture
def rig() -> Rig:
    return Rig(apology=APOLOGY)


# --- the caller's side ends ---


def test_the_caller_hangs_up(rig: Rig) -> None:
    rig.created()
    rig.audio(1000)
    rig.stop()
    rig.assert_over("caller")
    (turn,) = rig.events(CallEnded)[0].transcript
    assert (turn.interrupted, turn.said_ms) == (True, 1000)


def test_the_socket_closes_without_a_stop(rig: Rig) -> None:
    rig.bridge.end(rig.now)
    rig.flush()
    rig.assert_over("line")


def test_a_line_that_delivers_nothing_is_lost(rig: Rig) -> None:
    rig.talk(20)
    assert rig.ended is None
    rig.wait(14.9)
    assert rig.ended is None
    rig.wait(0.2)
    rig.assert_over("line")


def test_a_line_may_be_lost_in_closing_too(rig: Rig) -> None:
    rig.stalled = True
    rig.created()
    for _ in range(40):
        rig.audio(1000)
    rig.hang_up()
    rig.wait(15.1)
    rig.assert_over("line")


# --- the model is lost ---


def floors() -> dict[str, Any]:
    def caller(rig: Rig) -> None:
        rig.speech()

    def thinking(rig: Rig) -> None:
        rig.created()
        rig.calls()

    def agent(rig: Rig) -> None:
        rig.created()
        rig.audio(1000)

    return {"open": lambda rig: None, "caller": caller, "thinking": thinking, "agent": agent}


@pytest.mark.parametrize("reach", floors().values(), ids=floors().keys())
def test_a_model_that_is_lost_is_apologized_for_on_any_floor(rig: Rig, reach: Any) -> None:
    reach(rig)
    spoken = rig.media_ms()
    rig.lose_model("gone away")
    assert rig.media_ms() == spoken + 730
    assert rig.bridge.floor() is Floor.CLOSING
    assert "gone away" in rig.troubles[-1]
    rig.hear()
    assert rig.ended is not None
    assert rig.ended.reason == "gone away"
    rig.assert_over("error")


def test_a_model_that_never_came_is_apologized_for() -> None:
    rig = Rig(connect=False, apology=APOLOGY)
    rig.media()
    rig.lose_model()
    assert rig.media_ms() == 730
    rig.wait(0.69)
    assert rig.ended is None
    rig.wait(1.2)
    rig.assert_over("error")


def test_a_model_that_was_lost_before_the_call_began_is_apologized_for_when_it_does() -> None:
    rig = Rig(start=False, connect=False, apology=APOLOGY)
    rig.lose_model()
    assert rig.ended is None
    rig.start()
    assert rig.media_ms() == 730
    rig.hear()
    rig.assert_over("error")


def test_a_model_that_is_lost_twice_is_apologized_for_once(rig: Rig) -> None:
    rig.lose_model()
    rig.lose_model()
    assert rig.media_ms() == 730


def test_without_an_apology_the_call_just_ends() -> None:
    rig = Rig()
    rig.lose_model()
    rig.wait(1.1)
    rig.assert_over("error")


def test_what_the_agent_had_said_is_heard_before_the_apology(rig: Rig) -> None:
    rig.created()
    rig.audio(1000)
    rig.lose_model()
    assert rig.sent(Clear) == []
    rig.wait(1.6)
    assert rig.ended is None
    rig.hear()
    assert [turn.interrupted for turn in rig.events(CallEnded)[0].transcript] == [False]


@pytest.mark.parametrize("code", sorted(FATAL_CODES))
def test_some_errors_end_the_session(rig: Rig, code: str) -> None:
    rig.error(code)
    assert code in rig.given_up


def test_a_response_of_which_nothing_comes_is_given_up(rig: Rig) -> None:
    rig.created()
    rig.talk(10)
    rig.model(realtime.Unknown("response.output_item.added"))
    rig.talk(9)
    assert rig.bridge.floor() is Floor.THINKING
    rig.talk(1)
    assert rig.given_up == "the caller waited 20 s for an answer"


def test_a_response_that_plays_or_runs_a_tool_is_not_given_up(rig: Rig) -> None:
    rig.created()
    rig.audio(20_000)
    rig.talk(20)
    rig.calls()
    rig.talk(20)
    assert rig.ended is None
    assert rig.bridge.floor() is not Floor.CLOSING
