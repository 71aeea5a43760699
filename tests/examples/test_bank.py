"""The bank: a PIN opens an account, and the model never learns it."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent import KeyPressed, ToolReturned
from tests.agent.test_keypad import call as typing
from tests.examples.conftest import Caller, Players, load

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "account"
call = "choose_account"
arguments = { number = "100200" }
then = "Please type your PIN."
[[turn]]
heard = "ready|again"
say = "Go ahead."
call = "check_pin"
then = "{output}"
[[turn]]
heard = "how much"
call = "balance"
then = "{output}"
"""


@pytest.fixture
def bank() -> Any:
    return load("bank")


async def types(caller: Caller, digits: str, *, hears: str) -> None:
    (session,) = caller.world.app._parts.calls._sessions.values()
    await caller.world.until(lambda: session.bridge.keys.gathering)
    await caller.line.press(digits)
    await caller.hears(hears)
    await caller.world.until(lambda: not session.bridge.keys.busy)


async def test_the_right_pin_opens_the_account(bank: Any, played: Players) -> None:
    async with played(bank, SCRIPT) as number, number.call() as caller:
        await caller.says("How much do I have?", hears="has not proved who they are")
        await caller.says("My account is 100200.", hears="Please type your PIN.")
        await caller.says("I am ready.", hears="Go ahead.")
        await types(caller, "1974", hears="PIN is wrong")
        await caller.says("Once again.", hears="Go ahead.")
        await types(caller, "1973", hears="The PIN is right.")
        await caller.says("How much is it?", hears="The balance is 842.10 euros.")
        outputs = [each.output for each in number.world.of(ToolReturned)]
        told = [[item.get(part) for part in ("arguments", "output", "content")] for item in caller.session.brought]
    assert told
    assert "197" not in str(told)
    assert not any("197" in output for output in outputs)
    assert {each.digit for each in number.world.of(KeyPressed)} == {""}


async def test_a_pin_is_tried_three_times(bank: Any) -> None:
    call = typing("0000")
    call.state["account"] = "100200"
    for _ in range(3):
        assert "is wrong" in await bank.check_pin.run(call, "{}")
    call._control.typed = "1973"  # type: ignore[union-attr]
    assert "too many tries" in await bank.check_pin.run(call, "{}")
    assert not call.state.get("known")
