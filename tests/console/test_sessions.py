"""Sessions of browsers: signed, with an end, and of one token only."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from phoneagent.console.sessions import MAX_ENDED, SESSION_SECONDS, Sessions

TOKEN = SecretStr("a-long-random-text")


class Watch:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_holds_until_its_end_in_each_process_with_the_token() -> None:
    watch = Watch()
    cookie = Sessions(TOKEN, clock=watch).issue()
    other = Sessions(TOKEN, clock=watch)
    assert other.holds(cookie)
    watch.now += SESSION_SECONDS - 1
    assert other.holds(cookie)
    watch.now += 2
    assert not other.holds(cookie)


def test_the_cookie_does_not_tell_the_token() -> None:
    assert TOKEN.get_secret_value() not in Sessions(TOKEN).issue()


CHANGED = ("9{0}", "{0}0", "{0}x" * 200, "", ".", "..", "é{0}", "9999999999.x.", "9999999999.x.{0}")


@pytest.mark.parametrize("change", CHANGED)
def test_what_was_not_issued_does_not_hold(change: str) -> None:
    sessions = Sessions(TOKEN)
    assert not sessions.holds(change.format(sessions.issue()))
    assert not sessions.holds(None)


def test_another_token_ends_all_sessions() -> None:
    assert not Sessions(SecretStr("another")).holds(Sessions(TOKEN).issue())


def test_a_session_that_was_signed_out_holds_no_longer() -> None:
    sessions = Sessions(TOKEN)
    cookie, other = sessions.issue(), sessions.issue()
    sessions.end(cookie)
    assert (sessions.holds(cookie), sessions.holds(other)) == (False, True)
    sessions.end("no session")
    sessions.end(None)


def test_what_is_remembered_of_them_is_bounded() -> None:
    sessions = Sessions(TOKEN)
    for _ in range(MAX_ENDED + 5):
        sessions.end(sessions.issue())
    assert len(sessions._ended) == MAX_ENDED
