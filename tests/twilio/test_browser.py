"""The CallSids of calls from the browser."""

from __future__ import annotations

import re

import pytest

from phoneagent.twilio.browser import is_browser_call, new_call_sid


def test_a_new_sid_has_the_form_of_twilios_and_is_known_again() -> None:
    one, other = new_call_sid(), new_call_sid()
    assert one != other
    assert re.fullmatch("CA[0-9a-f]{32}", one)
    assert is_browser_call(one)


SID = new_call_sid()
FOREIGN = ("", "CA" + "5" * 32, f"{SID}0", SID[:-1], f"{SID}\n", SID.upper())


@pytest.mark.parametrize("sid", FOREIGN, ids=range(len(FOREIGN)))
def test_no_other_sid_is(sid: str) -> None:
    assert not is_browser_call(sid)
