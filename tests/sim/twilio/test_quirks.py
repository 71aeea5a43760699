"""The assumptions about Twilio that a test may vary."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from phoneagent.sim.twilio.phone import Phone
from phoneagent.sim.twilio.quirks import Quirks
from tests.sim.conftest import Server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("asked", [False, True])
async def test_whether_the_action_is_asked_after_a_hang_up(server: Server, asked: bool):
    server.connect(connect='action="/after"')
    server.pages["/after"] = "<Response><Say>Nobody hears this.</Say></Response>"
    async with Phone(server.url, quirks=Quirks(action_after_hang_up=asked)).dial() as line:
        pass
    assert [seen.form["CallStatus"] for seen in server.seen("/after")] == ["completed"] * asked
    assert (line.verbs, line.ended_by, line.violations) == (["Connect"], "caller", [])


def test_a_healthy_twilio_has_no_quirk_but_waits_between_its_retries():
    quirks = Quirks()
    assert not any([quirks.action_after_hang_up, quirks.action_after_update])
    assert not any([quirks.callbacks_twice, quirks.callbacks_reversed])
    assert list(quirks.retry_waits_seconds) == sorted(quirks.retry_waits_seconds)
    assert 5 <= sum(quirks.retry_waits_seconds) < 6  # five retries, the most that a fragment can ask for


def test_the_quirks_of_a_running_call_cannot_change():
    with pytest.raises(FrozenInstanceError):
        Quirks().callbacks_twice = True  # type: ignore[misc]


async def test_other_quirks_hold_from_the_next_call_on(server: Server):
    server.connect(connect='action="/after"')
    server.pages["/after"] = "<Response/>"
    phone = Phone(server.url)
    async with phone.dial():
        phone.quirks = Quirks(action_after_hang_up=True)
    assert server.seen("/after") == []
    async with phone.dial():
        pass
    assert len(server.seen("/after")) == 1
