"""What the bridge asks of the shell around it."""

from __future__ import annotations

from phoneagent.bridge.requests import EndCall, NoteStep, Renew, RunTool
from phoneagent.bridge.steps import FallBack, HangUp
from tests.bridge.rig import STREAM, Rig, ulaw


def test_arguments_of_a_tool_stay_out_of_the_log() -> None:
    assert "4929" not in repr(RunTool("c1", "pay", '{"card": 4929}'))


def test_a_call_that_is_about_to_end_has_its_next_step_written_down_first() -> None:
    rig = Rig()
    rig.says(500, ours=False)
    rig.hang_up(goodbye=False)
    assert rig.asked == [NoteStep(HangUp(stream_sid=STREAM))]
    rig.hear()
    assert rig.asked[1:] == [EndCall("agent", "the agent hung up", HangUp(stream_sid=STREAM))]


def test_an_apology_is_followed_by_what_the_user_has_set_up_for_failures() -> None:
    rig = Rig(apology=ulaw(500))
    rig.lose_model()
    assert rig.asked == [NoteStep(FallBack(stream_sid=STREAM))]


def test_requests_come_in_order() -> None:
    rig = Rig(renews=True)
    rig.created()
    rig.calls("c1")
    rig.error("session_expired")
    assert rig.asked == [RunTool("c1", "look_up", '{"a": 1}'), Renew(elsewhere=False)]
