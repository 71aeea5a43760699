"""The opening of a call: which agent, which endpoint, and what a failure becomes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, Endpoint, EndpointRefused, EndpointUnreachable, Hearing
from phoneagent.calls import opening
from phoneagent.calls.opening import EndpointRouter, Opening

pytestmark = pytest.mark.anyio
FIRST, SECOND = Endpoint("ws://first.example/v1"), Endpoint("ws://second.example/v1")
AGENT = Agent(instructions="You answer.", hearing=Hearing(models=["ear-1"]))


def a_call() -> Call:
    return Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


class Servers:
    """What each endpoint does when it is asked for a session: an exception, or the name of the host that gave one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.within: list[float | None] = []
        self.models: list[tuple[str, ...]] = []
        self.sessions: list[Mapping[str, Any]] = []
        monkeypatch.setattr(opening, "open_session", self.open_session)

    async def open_session(
        self, endpoint: Endpoint, session: Mapping[str, Any], call: Call, *, within: float | None
    ) -> str:
        self.asked.append(endpoint.host)
        self.within.append(within)
        self.models.append(endpoint.transcription_models)
        self.sessions.append(session)
        await asyncio.sleep(0)
        if (error := self.answers.get(endpoint.host)) is not None:
            raise error
        return endpoint.host


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    return Servers(monkeypatch)


async def test_the_first_endpoint_that_gives_a_session_is_taken(servers: Servers) -> None:
    servers.answers["first.example"] = EndpointUnreachable("down")
    begun = Opening(a_call(), AGENT, EndpointRouter([FIRST, SECOND]))
    assert await begun.latest() == "second.example"
    assert servers.within == [opening.FAILOVER_SECONDS, None]  # the last one has all the time there is
    assert servers.models == [("ear-1",), ("ear-1",)]


async def test_the_next_call_asks_the_one_that_failed_last(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.answers["first.example"] = EndpointUnreachable("down")
    router = EndpointRouter([FIRST, SECOND])
    await Opening(a_call(), AGENT, router).latest()
    assert [each.host for each in router.route()] == ["second.example", "first.example"]
    monkeypatch.setattr(opening, "FAILED_SECONDS", 0.0)  # that was long ago
    assert [each.host for each in router.route()] == ["first.example", "second.example"]


async def test_an_endpoint_that_failed_long_ago_is_tried_by_one_call_only(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(opening.time, "monotonic", lambda: now)
    servers.answers["first.example"] = EndpointUnreachable("down")
    router = EndpointRouter([FIRST, SECOND])
    await Opening(a_call(), AGENT, router).latest()
    now += opening.FAILED_SECONDS + 1
    calls = [Opening(a_call(), AGENT, router) for _ in range(3)]
    assert [await each.latest() for each in calls] == ["second.example"] * 3
    assert servers.asked.count("first.example") == 2
    now += opening.FAILED_SECONDS + 1
    del servers.answers["first.example"]
    calls = [Opening(a_call(), AGENT, router) for _ in range(2)]
    assert [await each.latest() for each in calls] == ["first.example", "second.example"]
    assert [each.host for each in router.route()] == ["first.example", "second.example"]


async def test_a_live_call_knows_what_another_one_found_out(servers: Servers) -> None:
    router = EndpointRouter([FIRST, SECOND])
    live = Opening(a_call(), AGENT, router)
    assert await live.latest() == "first.example"
    servers.answers["first.example"] = EndpointUnreachable("down")
    assert await Opening(a_call(), AGENT, router).latest() == "second.example"
    live.begin_again(elsewhere=False)
    assert await live.latest() == "second.example"
    assert servers.asked.count("first.example") == 2


@pytest.mark.parametrize("brief", [True, False])
async def test_a_session_that_is_lost_at_once_counts_as_none(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, brief: bool
) -> None:
    monkeypatch.setattr(opening, "BRIEF_SECONDS", 5.0 if brief else 0.0)
    router = EndpointRouter([FIRST, SECOND])
    live = Opening(a_call(), AGENT, router)
    await live.latest()
    live.begin_again(elsewhere=False)
    expected = ["second.example", "first.example"]
    assert await live.latest() == expected[not brief]
    assert [each.host for each in router.route()] == (expected if brief else expected[::-1])


async def test_one_that_may_answer_later_counts_more_than_one_that_refuses(servers: Servers) -> None:
    servers.answers = {"first.example": EndpointUnreachable("down"), "second.example": EndpointRefused("no key")}
    with pytest.raises(EndpointUnreachable, match="down"):
        await Opening(a_call(), AGENT, EndpointRouter([FIRST, SECOND])).latest()


async def test_another_session_has_the_same_configuration_and_another_endpoint_if_asked(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BRIEF_SECONDS", 0.0)
    written = 0

    def instructions(call: Call) -> str:
        nonlocal written
        written += 1
        return f"Number {written}"

    begun = Opening(a_call(), Agent(instructions=instructions), EndpointRouter([FIRST, SECOND]))
    await begun.latest()
    begun.begin_again(elsewhere=False)
    await begun.latest()
    begun.begin_again(elsewhere=True)
    assert await begun.latest() == "second.example"
    assert servers.asked == ["first.example", "first.example", "second.example"]
    assert [each["instructions"] for each in servers.sessions] == ["Number 1"] * 3


async def test_a_choice_that_fails_is_an_endpoint_error_and_no_agent(servers: Servers) -> None:
    def broken(call: Call) -> Agent:
        raise LookupError("a secret")

    begun = Opening(a_call(), broken, EndpointRouter([FIRST]))
    assert (await begun.chosen()).instructions == ""
    with pytest.raises(EndpointRefused, match="the choice of the agent failed: LookupError") as raised:
        await begun.latest()
    assert "secret" not in str(raised.value)
    assert servers.asked == []


async def test_instructions_that_take_too_long_are_an_endpoint_error(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "INSTRUCTIONS_SECONDS", 0.02)

    async def slow(call: Call) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    begun = Opening(a_call(), Agent(instructions=slow), EndpointRouter([FIRST]))
    with pytest.raises(EndpointRefused, match=r"instructions took longer than 0\.02 s"):
        await begun.latest()


async def test_what_is_unforeseen_is_an_endpoint_error_too(servers: Servers) -> None:
    servers.answers["first.example"] = LookupError("a proxy")
    with pytest.raises(EndpointRefused, match="could not be opened: LookupError"):
        await Opening(a_call(), AGENT, EndpointRouter([FIRST])).latest()


async def test_what_is_discarded_leaves_no_task() -> None:
    async def never(call: Call) -> Agent:
        await asyncio.Event().wait()
        raise AssertionError

    before = asyncio.all_tasks()
    begun = Opening(a_call(), never, EndpointRouter([FIRST]))
    await begun.discard()
    assert asyncio.all_tasks() == before
    assert (await begun.chosen()).instructions == ""


async def test_a_call_may_have_another_endpoint_whose_failure_says_nothing_to_others(servers: Servers) -> None:
    servers.answers["trial.example"] = EndpointRefused("no such model")
    first_call, second_call = a_call(), a_call()

    def endpoint_for(call: Call, endpoint: Endpoint) -> Endpoint:
        return Endpoint("ws://trial.example/v1") if call is first_call and endpoint is FIRST else endpoint

    router = EndpointRouter([FIRST, SECOND], endpoint_for)
    assert await Opening(first_call, AGENT, router).latest() == "second.example"
    assert await Opening(second_call, AGENT, router).latest() == "first.example"
    assert servers.asked == ["trial.example", "second.example", "first.example"]
