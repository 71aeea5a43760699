"""Violations in Twilio's words, and the exception of a failed call."""

from __future__ import annotations

import pytest

from phoneagent.errors import PhoneAgentError
from phoneagent.sim.twilio.alerts import TITLES, CallFailed, alert


def test_a_violation_names_code_title_and_detail() -> None:
    assert alert(31951, "a mark without a name") == ("31951 Stream - Protocol - Invalid Message: a mark without a name")


def test_a_code_without_a_title_is_a_bug_here() -> None:
    with pytest.raises(KeyError):
        alert(99999, "x")


@pytest.mark.parametrize("code", sorted(TITLES))
def test_every_violation_is_one_line(code: int) -> None:
    assert alert(code, "detail").count("\n") == 0
    assert TITLES[code] == TITLES[code].strip()


def test_a_failed_call_with_a_code_reads_like_its_violation() -> None:
    failed = CallFailed("no answer within 5 s", code=31901, status=503)

    assert isinstance(failed, PhoneAgentError)
    assert str(failed) == alert(31901, "no answer within 5 s")
    assert (failed.reason, failed.code, failed.status) == ("no answer within 5 s", 31901, 503)


def test_a_failed_call_without_a_code_is_its_reason() -> None:
    failed = CallFailed("the call is over")

    assert str(failed) == failed.reason == "the call is over"
    assert (failed.code, failed.status, failed.verbs, failed.violations) == (None, None, (), ())


def test_a_failed_call_keeps_its_own_copy_of_what_happened() -> None:
    verbs = ["Say Hello."]
    failed = CallFailed("x", verbs=verbs, violations=["12200 …"])
    verbs.append("Hangup")

    assert failed.verbs == ("Say Hello.",)
    assert failed.violations == ("12200 …",)
