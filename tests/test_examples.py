"""The examples run: each answers a simulated call and uses its tools."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from phoneagent import PhoneApp, Settings
from phoneagent.sim import Model, Phone, Script, serving
from phoneagent.sim.speech import Murmur

pytestmark = pytest.mark.anyio
EXAMPLES = Path(__file__).parent.parent / "examples"
ACCOUNT, TOKEN, PUBLIC = "AC" + "0" * 32, "a-token-for-tests", "https://agent.example"

SCRIPTS = {
    "receptionist": """
[[turn]]
caller = "Please call me back."
call = "take_message"
arguments = { name = "Ann", message = "Please call back." }
then = "{output} Goodbye!"
""",
    "two_numbers": """
[[turn]]
caller = "When do you open?"
call = "opening_hours"
then = "{output}"
""",
    "deploy": """
[[turn]]
caller = "Please read to me."
call = "next_page"
then = "{output}"
""",
    "dice": """
[[turn]]
caller = "Roll!"
call = "roll"
arguments = { dice = 3 }
then = "You rolled {output}."
""",
}


def load(name: str) -> PhoneApp:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: Any = module.app
    return PhoneApp(app.agent, settings=Settings(**_SETTINGS))


_SETTINGS: dict[str, Any] = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, "public_url": PUBLIC}


def test_every_example_has_a_script_here() -> None:
    assert sorted(SCRIPTS) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
async def test_an_example_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Model(Script.parse(SCRIPTS[name])) as model:
        monkeypatch.setitem(_SETTINGS, "realtime_url", model.url)
        async with serving(load(name)) as url:
            phone = Phone(f"{url}/twilio/voice", auth_token=TOKEN, public_url=PUBLIC, account_sid=ACCOUNT)
            async with phone.dial() as line:
                await line.wait_for_silence(ms=200)
                await line.say(Murmur().render("Go!"))
                await line.wait_for_silence(ms=200)
        session = model.sessions[0]
        assert session.tool_calls[0].output
        assert "error" not in session.tool_calls[0].output
        assert line.violations == []
        assert model.violations == []
