"""The agent that a script is made for: the one that the app chooses, with the tools that a session has."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent import Agent, Call, PhoneApp, hang_up, keypad, tool
from phoneagent.cli.own_agent import derived_script, target_named
from phoneagent.errors import DefinitionError
from phoneagent.sim.model.script import Script

pytestmark = pytest.mark.anyio


@tool
def menu(call: Call) -> str:
    """Read the menu."""
    return "Soup."


def broken(call: Call) -> str:
    raise RuntimeError("the instructions are not asked")


async def test_the_chosen_agents_tools_are_in_the_script() -> None:
    app = PhoneApp(lambda call: Agent(name="cafe", instructions=broken, greeting="Hi!", tools=[menu, hang_up]))
    script = Script.parse(await derived_script(app, "cafe.py"))
    assert script.greeting == "Hi!"
    assert [call.name for turn in script.turns for call in turn.calls] == ["menu", "hang_up"]


async def test_a_choice_that_fails_is_one_line() -> None:
    def choose(call: Call) -> Agent:
        raise KeyError("no such number")

    with pytest.raises(DefinitionError, match=r"test_own_agent\.py, line \d+: KeyError: 'no such number'"):
        await derived_script(PhoneApp(choose), "main.py")


def test_a_target_that_is_none() -> None:
    with pytest.raises(DefinitionError, match=r"there is no file nothing\.py"):
        target_named("nothing.py")


def test_the_target_that_is_found_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agent.py").write_text(
        "from phoneagent import Agent, PhoneApp\napp = PhoneApp(Agent(name='a', instructions='Hi.'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    app, named = target_named(None)
    assert isinstance(app, PhoneApp)
    assert named == "agent.py"


async def test_the_caller_types_where_a_tool_gathers_digits() -> None:
    @keypad(digits=6, describe="Check the code.")
    async def check_code(digits: str) -> str:
        return "right"

    @keypad(describe="Take any number.", finish_on="*")
    async def any_number(digits: str) -> str:
        return "noted"

    agent = Agent(name="bank", instructions="Be brief.", tools=[menu, check_code, any_number])
    script = Script.parse(await derived_script(PhoneApp(agent), "bank.py"))
    typed = {turn.calls[0].name: (turn.keys, bool(turn.say)) for turn in script.turns if turn.calls}
    assert typed == {"menu": ("", False), "check_code": ("123456", True), "any_number": ("1234*", True)}


async def test_the_tools_of_a_whole_team_are_in_the_script() -> None:
    @keypad(digits=4, describe="Check the PIN.")
    async def check_pin(digits: str) -> str:
        return "right"

    billing = Agent(name="billing", instructions="Be brief.", tools=[check_pin, hang_up], handoffs=["host"])
    host = Agent(name="host", instructions="Be brief.", tools=[menu, hang_up], handoffs=[billing])
    script = Script.parse(await derived_script(PhoneApp(host), "bank.py"))
    calls = {turn.calls[0].name: turn.keys for turn in script.turns if turn.calls}
    hand_offs = {"hand_off_to_billing": "", "hand_off_to_host": ""}
    assert calls == {"menu": "", "hang_up": "", **hand_offs, "check_pin": "1234"}
    assert sum(len(turn.calls) for turn in script.turns) == len(calls)
