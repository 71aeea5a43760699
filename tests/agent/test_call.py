"""The handle of a live call: what it passes on to its session, and what it does without one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Call, DefinitionError, Tool, hang_up, tool
from phoneagent.agent.call import sendable

pytestmark = pytest.mark.anyio


class Control:
    """Stands for the live call."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def say(self, text: str) -> None:
        self.done.append(("say", text))

    def interrupt(self) -> None:
        self.done.append("interrupt")

    def hang_up(self, *, goodbye: bool) -> None:
        self.done.append(("hang_up", goodbye))

    def add(self, text: str, role: str) -> None:
        self.done.append(("add", text, role))

    def respond(self, instructions: str | None, tools: Sequence[Tool] | None) -> None:
        self.done.append(("respond", instructions, tools))

    def commit(self) -> None:
        self.done.append("commit")

    def clear(self) -> None:
        self.done.append("clear")


@pytest.fixture
def call() -> Call:
    return Call(sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


@tool
async def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


def test_a_call_reaches_its_session_only_while_it_lives(call: Call) -> None:
    call.say("before")
    control = Control()
    call.attach(control)
    call.say("hello")
    call.interrupt()
    call.hang_up(goodbye=False)
    call.attach(None)
    call.say("after")
    call.interrupt()
    call.hang_up()
    assert control.done == [("say", "hello"), "interrupt", ("hang_up", False)]


def test_no_phone_number_in_a_repr(call: Call) -> None:
    assert "+1555" not in repr(call)


def test_what_a_call_passes_on(call: Call) -> None:
    control = Control()
    call.attach(control)
    call.add("caf\udce9")
    call.add("Hello.", role="user")
    call.respond()
    call.respond("S\udce9", [add])
    call.clear()
    call.commit()
    with pytest.raises(DefinitionError, match="role='assistant'"):
        call.add("x", role="assistant")  # type: ignore[arg-type]
    call.attach(None)
    call.add("after")
    call.respond()
    call.commit()
    call.clear()
    assert control.done == [
        ("add", "caf?", "system"),
        ("add", "Hello.", "user"),
        ("respond", None, None),
        ("respond", "S?", [add]),
        "clear",
        "commit",
    ]


@pytest.mark.parametrize(
    ("direction", "party"),
    [("inbound", "+15550100001"), ("outbound-api", "+15550100002"), ("outbound-dial", "+15550100002")],
)
def test_the_party_is_the_other_side(direction: str, party: str) -> None:
    call = Call(
        sid="CA1", caller="+15550100001", called="+15550100002", direction=direction, started_at=datetime.now(UTC)
    )
    assert call.party == party


def test_the_state_of_a_call_is_its_own(call: Call) -> None:
    other = Call(sid="CA2", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
    call.state["name"] = "Anna"
    assert other.state == {}
    assert "Anna" not in repr(call)


def test_two_handles_of_one_call_are_different_calls(call: Call) -> None:
    """Calls are compared by identity, so that they can be keys although their state changes."""
    same = Call(sid=call.sid, caller=call.caller, called=None, direction=call.direction, started_at=call.started_at)
    assert same != call
    assert len({same, call}) == 2


@pytest.mark.parametrize(
    ("text", "sent"), [("plain", "plain"), ("naïve µ 🙂", "naïve µ 🙂"), ("a\udce9b", "a?b"), ("\ud83d", "?"), ("", "")]
)
def test_text_is_made_sendable(text: str, sent: str) -> None:
    assert sendable(text) == sent
    sent.encode("utf-8")


def test_a_wrong_role_is_refused_though_the_call_is_over(call: Call) -> None:
    with pytest.raises(DefinitionError, match='choose "system" or "user"'):
        call.add("x", role="assistant")  # type: ignore[arg-type]


async def test_hang_up_hangs_up(call: Call) -> None:
    control = Control()
    call.attach(control)
    await hang_up.run(call, "{}")
    assert control.done == [("hang_up", True)]
