"""The running cost of a call, and its end at MAX_CALL_COST."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from phoneagent.bridge.history import Past
from phoneagent.events import CallEnded, CallHandedOver, Cost, UsageReported
from phoneagent.protocol import realtime
from tests.bridge.rig import Rig

CHEAP: dict[str, Any] = {"output_tokens": 100, "output_token_details": {"text_tokens": 0, "audio_tokens": 100}}
"""100 tokens of audio: $0.0064."""
LIMIT = Decimal("0.01")
SESSION = {"model": "gpt-realtime-2.1"}


def make(**options: Any) -> Rig:
    rig = Rig(**options)
    rig.bridge.budget.new_session(SESSION, rig.now)
    return rig


@pytest.fixture
def rig() -> Rig:
    return make(max_call_cost=LIMIT)


def turn(rig: Rig, number: int, *, usage: Any = CHEAP, ours: bool = False) -> None:
    """The caller says something and hears the answer."""
    rig.speech()
    rig.turn(f"u{number}")
    answer(rig, number, usage=usage, ours=ours)


def answer(rig: Rig, number: int, *, usage: Any = CHEAP, ours: bool = False, status: str = "completed") -> None:
    rig.created(f"r{number}", ours=ours)
    rig.audio(100, f"i{number}", f"r{number}")
    rig.audio_done(f"i{number}", f"r{number}")
    rig.done(f"r{number}", status, usage=usage)
    rig.wait(0.2)
    rig.hear()


def over_the_limit(rig: Rig) -> None:
    turn(rig, 1)
    assert not rig.prompts
    turn(rig, 2)
    assert "has to end" in rig.prompts[-1]


def totals(rig: Rig) -> list[Cost]:
    return [event.total for event in rig.events(UsageReported)]


# --- counting ---


def test_what_is_used_is_told_as_it_comes() -> None:
    rig = make()
    turn(rig, 1)
    turn(rig, 2)
    assert totals(rig) == [Cost(Decimal("0.0064")), Cost(Decimal("0.0128"))]
    rig.stop()
    assert rig.events(CallEnded)[0].cost == Cost(Decimal("0.0128"))


def test_a_call_of_which_no_model_told_anything_has_no_cost() -> None:
    rig = make()
    rig.stop()
    assert rig.events(CallEnded)[0].cost is None
    assert rig.events(UsageReported) == []


def test_missing_usage_is_told_once() -> None:
    rig = make()
    for number in range(3):
        turn(rig, number, usage=None)
    turn(rig, 3)
    assert totals(rig) == [Cost(at_least=True), Cost(Decimal("0.0064"), at_least=True)]


def test_a_transcript_without_usage_costs_something() -> None:
    rig = make()
    rig.speech()
    rig.turn("u1")
    rig.model(realtime.InputTranscript(item_id="u1", transcript="Hi"))
    assert [(each.source, each.cost) for each in rig.events(UsageReported)] == [("transcription", Cost(at_least=True))]


def test_a_report_of_nothing_is_not_told() -> None:
    rig = make()
    turn(rig, 1, usage={"input_tokens": 0, "output_tokens": 0})
    assert rig.events(UsageReported) == []


def test_a_report_without_kinds_of_tokens_is_logged_once_and_priced_at_the_highest_rate() -> None:
    rig = make()
    turn(rig, 1, usage={"output_tokens": 100})
    turn(rig, 2, usage={"output_tokens": 100})
    assert totals(rig)[-1] == Cost(Decimal("0.0128"))
    assert rig.troubles == ["a model does not break down its tokens by kind: they are priced at the highest rate"]


def test_what_a_response_used_that_the_end_of_the_call_cut_off_is_unknown() -> None:
    rig = make()
    turn(rig, 1)
    rig.speech()
    rig.turn("u2")
    rig.created("r2")
    rig.stop()
    rig.assert_over("caller")
    assert rig.events(CallEnded)[0].cost == Cost(Decimal("0.0064"), at_least=True)


def test_what_a_response_used_in_a_lost_session_is_unknown() -> None:
    rig = make()
    rig.created("r1", ours=False)
    rig.bridge.budget.new_session({"model": "gpt-realtime-mini"}, rig.now)
    rig.flush()
    answer(rig, 2)
    reports = rig.events(UsageReported)
    assert [(each.model, each.cost) for each in reports] == [
        ("gpt-realtime-2.1", Cost(at_least=True)),
        ("gpt-realtime-mini", Cost(Decimal("0.002"))),
    ]


def test_interrupted_and_out_of_band_responses_are_paid() -> None:
    rig = make()
    rig.speech()
    rig.turn("u1")
    rig.created("r1")
    rig.audio()
    rig.interrupt()
    rig.done("beside", usage=CHEAP)
    rig.done("r1", "cancelled", usage=CHEAP)
    assert totals(rig)[-1] == Cost(Decimal("0.0128"))


def test_the_cost_goes_on_from_the_record() -> None:
    rig = make(past=Past(pending="nothing", cost=Cost(Decimal("1.5"), at_least=True)))
    turn(rig, 1)
    assert totals(rig) == [Cost(Decimal("1.5064"), at_least=True)]
    rig.hand_over()
    assert rig.events(CallHandedOver)


def test_the_price_can_be_changed_and_an_unknown_model_has_none() -> None:
    rig = make(prices={})
    turn(rig, 1)
    assert totals(rig) == [Cost(at_least=True)]


def test_all_that_runs_in_a_session_of_the_simulated_model_is_free() -> None:
    rig = make()
    session = {"model": "simulated", "audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}
    rig.bridge.budget.new_session(session, rig.now)
    turn(rig, 1)
    minute = {"type": "duration", "seconds": 60}
    rig.model(realtime.InputTranscript(item_id="u1", transcript="Hello", usage=minute))
    turn(rig, 2, usage=None)
    rig.stop()
    assert [event.model for event in rig.events(UsageReported)] == ["simulated", "gpt-transcribe", "simulated"]
    assert rig.events(CallEnded)[0].cost == Cost()


def test_usage_of_a_strange_shape_does_not_cost_the_response() -> None:
    raw = b'{"type":"response.done","response":{"id":"r1","status":"completed","usage":["?"]}}'
    done = realtime.decode(raw)
    assert isinstance(done, realtime.ResponseDone)
    assert done.response.status == "completed"


# --- the limit ---


def test_under_the_limit_nothing_happens(rig: Rig) -> None:
    turn(rig, 1)
    assert rig.creates == []


def test_at_the_limit_the_caller_hears_of_it_and_gets_one_more_answer(rig: Rig) -> None:
    over_the_limit(rig)
    answer(rig, 3, ours=True)  # "I have to finish soon."
    rig.talk(5)
    assert rig.ended is None
    turn(rig, 4)
    assert "goodbye" in rig.prompts[-1]
    rig.says(300, "i5", "r5", ours=True)
    rig.wait(0.4)
    rig.hear()
    rig.assert_over("agent")
    assert rig.ended is not None
    assert rig.ended.reason == "the call reached its cost limit"


def test_it_is_told_once(rig: Rig) -> None:
    over_the_limit(rig)
    answer(rig, 3, ours=True)
    assert sum("has to end" in prompt for prompt in rig.prompts) == 1


def test_the_last_answer_may_use_a_tool(rig: Rig) -> None:
    over_the_limit(rig)
    answer(rig, 3, ours=True)
    rig.speech()
    rig.turn("u4")
    rig.created("r4", ours=False)
    rig.calls("c1", "r4")
    rig.done("r4", usage=CHEAP)
    rig.wait(0.1)
    assert "goodbye" not in rig.prompts[-1]
    rig.returns("c1")
    answer(rig, 5, ours=True)
    assert "goodbye" in rig.prompts[-1]


def test_a_caller_who_interrupts_the_last_answer_gets_another(rig: Rig) -> None:
    over_the_limit(rig)
    answer(rig, 3, ours=True)
    rig.speech()
    rig.turn("u4")
    rig.created("r4", ours=False)
    rig.audio(2000, "i4", "r4")
    rig.speech()
    rig.done("r4", "cancelled", usage=CHEAP)
    rig.wait(0.1)
    assert "goodbye" not in rig.prompts[-1]
    rig.turn("u5")
    answer(rig, 5)
    assert "goodbye" in rig.prompts[-1]


def test_a_caller_who_says_nothing_hears_goodbye_after_half_a_minute(rig: Rig) -> None:
    over_the_limit(rig)
    answer(rig, 3, ours=True)
    rig.talk(28)
    assert "goodbye" not in rig.prompts[-1]
    rig.talk(3)
    assert "goodbye" in rig.prompts[-1]


def test_a_turn_that_began_before_is_not_the_last(rig: Rig) -> None:
    turn(rig, 1)
    rig.speech()
    rig.turn("u2")
    rig.created("r2", ours=False)
    rig.speech()  # over the answer, which costs too much
    rig.done("r2", "cancelled", usage=CHEAP)
    rig.turn("u3")
    answer(rig, 3)
    assert "has to end" in rig.prompts[-1]
    answer(rig, 4, ours=True)
    rig.wait(0.1)
    assert "goodbye" not in rig.prompts[-1]


def test_a_call_that_goes_on_beyond_the_limit_is_told_at_once() -> None:
    rig = make(max_call_cost=LIMIT, past=Past(pending="nothing", cost=Cost(LIMIT)))
    assert "has to end" in rig.prompts[-1]


def test_the_longest_duration_keeps_its_own_reason() -> None:
    rig = make(max_call_cost=LIMIT, max_call_seconds=40)
    turn(rig, 1)
    rig.talk(30)
    assert "time limit" in rig.prompts[-1]
    answer(rig, 2, ours=True)
    assert not any("has to end" in prompt for prompt in rig.prompts)
    rig.talk(60)
    assert rig.ended is not None
    assert rig.ended.reason == "the call reached its maximum duration"


def test_unknown_costs_do_not_end_a_call(rig: Rig) -> None:
    for number in range(9):
        turn(rig, number, usage=None)
    assert rig.prompts == []
