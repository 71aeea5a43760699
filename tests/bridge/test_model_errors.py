"""Rate limits of the model's provider: told, waited for, and gone round."""

from __future__ import annotations

import pytest

from phoneagent import RateLimit, RateLimitsUpdated
from phoneagent.billing.ratelimits import UNKNOWN_WAIT_SECONDS
from phoneagent.bridge.deadlines import PATIENCE_SECONDS
from phoneagent.bridge.requests import Renew
from phoneagent.protocol import realtime
from tests.bridge.rig import Rig

CODES = ["rate_limit_exceeded", "inference_rate_limit_exceeded"]


def limits(rig: Rig, remaining: float, reset_seconds: float) -> None:
    limit = RateLimit(name="tokens", limit=40_000, remaining=remaining, reset_seconds=reset_seconds)
    rig.model(realtime.RateLimits(rate_limits=[limit]))


def asked_and_refused(rig: Rig, code: str = "rate_limit_exceeded") -> None:
    """A turn is answered by a response that fails at once."""
    rig.speech()
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1", "failed", code)


def test_what_the_provider_tells_is_passed_on() -> None:
    rig = Rig()
    raw = (
        b'{"type":"rate_limits.updated","rate_limits":[{"name":"tokens","limit":9,"remaining":3,"reset_seconds":1.5}]}'
    )
    event = realtime.decode(raw)
    rig.model(event)
    (told,) = rig.events(RateLimitsUpdated)
    assert told.limits == (RateLimit(name="tokens", limit=9, remaining=3, reset_seconds=1.5),)


@pytest.mark.parametrize("code", CODES)
def test_the_second_try_comes_when_there_is_room_again(code: str) -> None:
    rig = Rig(renews=True)
    limits(rig, 0, 3)
    rig.wait(1)
    asked_and_refused(rig, code)
    rig.talk(1.9)
    assert rig.creates == []
    rig.talk(0.2)
    assert len(rig.creates) == 1
    assert rig.asked == []


def test_without_another_endpoint_a_caller_waits_longer_and_is_answered() -> None:
    rig = Rig(renews=True)
    limits(rig, 0, 1.6 * PATIENCE_SECONDS)
    asked_and_refused(rig)
    rig.talk(1.5 * PATIENCE_SECONDS)
    assert rig.creates == []
    rig.talk(0.2 * PATIENCE_SECONDS)
    assert len(rig.creates) == 1


def test_a_limit_that_lasts_is_told_at_once() -> None:
    rig = Rig(renews=True)
    limits(rig, 0, 60)
    asked_and_refused(rig)
    assert "for 60 s" in rig.given_up
    assert rig.creates == []


def test_an_answer_during_a_rate_limit_ends_the_wait() -> None:
    rig = Rig(renews=True)
    limits(rig, 0, 4)
    asked_and_refused(rig)
    rig.speech()
    rig.turn("u2")
    rig.created("r2", ours=False)
    rig.audio(100, "i2", "r2")
    rig.calls("c1", "r2")
    rig.done("r2")
    rig.returns("c1")
    rig.talk(0.5)
    assert len(rig.creates) == 1


def test_a_limit_that_lasts_is_gone_round_by_another_endpoint() -> None:
    rig = Rig(renews=True, elsewhere=True)
    limits(rig, 0, 60)
    asked_and_refused(rig)
    assert rig.asked == [Renew(elsewhere=True)]
    rig.connect()
    rig.talk(0.1)
    assert len(rig.creates) == 1  # the answer is still owed
    assert not rig.bridge.ended


def refused_again(rig: Rig, response: str) -> None:
    rig.created(response, ours=True)
    rig.done(response, "failed", "rate_limit_exceeded")


@pytest.mark.parametrize("remaining", [0, 39_000])
def test_what_other_calls_have_used_since_the_report_is_waited_for(remaining: float) -> None:
    rig = Rig(renews=True)
    limits(rig, remaining, 1.5)
    rig.talk(25)
    asked_and_refused(rig)
    rig.talk(UNKNOWN_WAIT_SECONDS - 0.1)
    assert rig.creates == []
    rig.talk(0.2)
    assert len(rig.creates) == 1
    refused_again(rig, "r2")
    assert rig.given_up == ""
    rig.talk(2 * UNKNOWN_WAIT_SECONDS + 0.1)
    assert len(rig.creates) == 2
    rig.heard("r3")
    rig.talk(10)
    assert len(rig.creates) == 2
    assert rig.ended is None


def test_refused_as_long_as_a_caller_waits_and_nowhere_else_to_go_the_caller_is_told() -> None:
    rig = Rig(renews=True)
    begun = rig.now
    asked_and_refused(rig)
    for number, waits in enumerate((1, 2, 4), 1):
        rig.talk(waits * UNKNOWN_WAIT_SECONDS + 0.1)
        assert len(rig.creates) == number
        assert rig.given_up == ""
        refused_again(rig, f"again{number}")
    assert rig.now - begun < 2 * PATIENCE_SECONDS
    assert rig.given_up == "the model refuses responses: rate_limit_exceeded"


def test_refused_twice_the_answer_comes_from_another_endpoint() -> None:
    rig = Rig(renews=True, elsewhere=True)
    asked_and_refused(rig)
    rig.talk(UNKNOWN_WAIT_SECONDS + 0.1)
    assert rig.asked == []
    refused_again(rig, "r2")
    assert rig.asked == [Renew(elsewhere=True)]


def test_each_turn_may_be_refused_anew() -> None:
    rig = Rig(renews=True)
    asked_and_refused(rig)
    rig.talk(UNKNOWN_WAIT_SECONDS + 0.1)
    rig.heard("r2")
    rig.talk(3 * PATIENCE_SECONDS)
    rig.speech()
    rig.turn("u2")
    rig.created("r3", ours=False)
    rig.done("r3", "failed", "rate_limit_exceeded")
    rig.talk(UNKNOWN_WAIT_SECONDS + 0.1)
    assert len(rig.creates) == 2
    assert rig.given_up == ""


def test_a_goodbye_that_is_refused_twice_is_not_waited_for() -> None:
    rig = Rig(renews=True)
    rig.hang_up()
    refused_again(rig, "r1")
    rig.talk(UNKNOWN_WAIT_SECONDS + 0.1)
    assert len(rig.creates) == 2
    refused_again(rig, "r2")
    rig.talk(2)
    assert len(rig.creates) == 2
    rig.assert_over("agent")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_no_time_heals_is_gone_round_too(elsewhere: bool) -> None:
    rig = Rig(renews=True, elsewhere=elsewhere)
    rig.speech()
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1", "failed", "insufficient_quota")
    assert (rig.asked == [Renew(elsewhere=True)]) is elsewhere
    assert rig.given_up == ("" if elsewhere else "the model refused: insufficient_quota")


def test_a_create_that_is_refused_for_a_limit_waits_as_well() -> None:
    rig = Rig(renews=True)
    limits(rig, 0, 2)
    rig.say("Hello.")
    rig.error("rate_limit_exceeded", rig.creates[0].event_id)
    rig.talk(1.5)
    assert len(rig.creates) == 1
    rig.talk(1)
    assert len(rig.creates) == 2
    assert rig.ended is None


def test_a_new_session_waits_for_nothing() -> None:
    rig = Rig(renews=True)
    limits(rig, 0, 4)
    asked_and_refused(rig)
    assert rig.bridge.model_away(rig.now, "1006")
    rig.connect()
    assert len(rig.creates) == 1


def test_a_response_that_fails_because_the_session_expired_is_not_asked_for_again() -> None:
    rig = Rig(renews=True)
    asked_and_refused(rig, "session_expired")
    assert rig.asked == [Renew(elsewhere=False)]
    assert rig.creates == []
