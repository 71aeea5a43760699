"""The filler: a word while a tool takes long, and only where it disturbs neither side."""

from __future__ import annotations

import pytest

from phoneagent.bridge.requests import RunTool
from phoneagent.bridge.toolcalls import Filler
from tests.bridge.rig import Rig

AFTER = 1.0


@pytest.fixture
def rig() -> Rig:
    """A call in which a tool of the caller's turn is at work."""
    rig = Rig()
    rig.turn()
    rig.created()
    calls(rig, "c1")
    rig.done()
    return rig


def calls(rig: Rig, call_id: str, text: str = "One moment.", response: str = "r1") -> None:
    rig.calls(call_id, response)
    assert isinstance(rig.asked[-1], RunTool)
    rig.bridge.conversation.tools.fill(call_id, Filler(text, AFTER))


def fillers(rig: Rig) -> list[str]:
    return [prompt for prompt in rig.prompts if "moment" in prompt]


def test_a_tool_that_takes_long_gets_a_word(rig: Rig) -> None:
    rig.wait(AFTER - 0.01)
    assert rig.creates == []
    rig.wait(0.01)
    assert len(fillers(rig)) == 1
    assert '"One moment."' in fillers(rig)[0]
    (create,) = rig.creates
    assert create.response is not None
    assert create.response["tool_choice"] == "none"


def test_one_that_is_fast_does_not(rig: Rig) -> None:
    rig.wait(AFTER - 0.01)
    rig.returns()
    rig.says(100, "i2", "r2", ours=True)
    rig.talk(3)
    assert fillers(rig) == []
    assert len(rig.creates) == 1


def test_it_is_said_once_for_a_call(rig: Rig) -> None:
    rig.wait(AFTER)
    rig.heard("r2")
    rig.talk(10)
    assert len(fillers(rig)) == 1


def test_the_answer_waits_until_it_is_said(rig: Rig) -> None:
    rig.wait(AFTER)
    rig.created("r2", ours=True)
    rig.audio(500, "i2", "r2")
    rig.returns()
    assert len(rig.creates) == 1
    rig.done("r2")
    assert len(rig.creates) == 2


def test_it_does_not_answer_the_caller_nor_the_tool(rig: Rig) -> None:
    rig.returns(added=False)
    rig.says(100, "i2", "r2", ours=True)
    rig.wait(0.2)
    rig.hear()
    rig.created("r3", ours=False)
    calls(rig, "c2", response="r3")
    rig.done("r3")
    rig.wait(AFTER)
    assert len(fillers(rig)) == 1
    rig.returns("c2")
    rig.says(100, "i4", "r4", ours=True)
    assert len(rig.creates) == 3


def test_while_the_agent_speaks_it_waits_for_as_long_a_silence_afterwards() -> None:
    rig = Rig()
    rig.turn()
    rig.created()
    rig.audio(2000)
    rig.audio_done()
    calls(rig, "c1")
    rig.done()
    rig.wait(2.0)
    rig.hear()
    rig.wait(AFTER - 0.01)
    assert fillers(rig) == []
    rig.wait(0.01)
    assert len(fillers(rig)) == 1


def test_a_caller_who_speaks_is_not_talked_over(rig: Rig) -> None:
    rig.wait(0.5)
    rig.speech()
    rig.talk(3)
    assert fillers(rig) == []
    rig.turn("user2")
    rig.heard("r2", ours=False)
    rig.wait(AFTER)
    assert len(fillers(rig)) == 1


def test_one_word_is_enough_for_several_tools() -> None:
    rig = Rig()
    rig.created()
    calls(rig, "c1", "One moment.")
    calls(rig, "c2", "Just a moment.")
    rig.done()
    rig.wait(AFTER)
    rig.heard("r2")
    rig.talk(5)
    assert len(fillers(rig)) == 1


def test_the_output_of_another_tool_that_waits_does_not_stand_in_its_way(rig: Rig) -> None:
    rig.created("r2")
    calls(rig, "c2", response="r2")
    rig.done("r2")
    rig.returns("c1")
    rig.wait(AFTER)
    assert len(fillers(rig)) == 1


def test_a_call_that_closes_has_none(rig: Rig) -> None:
    rig.hang_up(goodbye=True)
    rig.wait(5)
    assert fillers(rig) == []


def test_one_that_was_refused_is_not_made_up_for_after_the_tool(rig: Rig) -> None:
    rig.wait(AFTER)
    rig.error("conversation_already_has_active_response", event_id="create_1")
    rig.created("r2", ours=False)
    rig.returns()
    rig.done("r2")
    rig.heard("r3")
    rig.talk(5)
    assert len(fillers(rig)) == 1
    assert len(rig.creates) == 2  # the filler's, and the one that answers the tool


def test_one_that_was_interrupted_is_not_said_again(rig: Rig) -> None:
    rig.wait(AFTER)
    rig.created("r2", ours=True)
    rig.audio(500, "i2", "r2")
    rig.speech()
    rig.done("r2", "cancelled")
    rig.turn("user2")
    rig.heard("r3", ours=False)
    rig.talk(5)
    assert len(fillers(rig)) == 1


def test_a_tool_without_one_works_in_silence() -> None:
    rig = Rig()
    rig.created()
    rig.calls()
    rig.done()
    rig.talk(5)
    assert rig.creates == []


def test_a_call_that_does_not_run_takes_none(rig: Rig) -> None:
    rig.returns()
    rig.bridge.conversation.tools.fill("c1", Filler("One moment.", AFTER))
    rig.says(100, "i2", "r2", ours=True)
    rig.wait(0.2)
    rig.hear()
    rig.talk(3)
    assert fillers(rig) == []
