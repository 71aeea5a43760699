"""Each example runs as it is, its settings in the environment: it answers a call, uses a tool, and leaves a record.

Conversations of several turns are in `tests/examples`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phoneagent.sim import Model, Phone, Script, serving
from phoneagent.store import Store
from tests.examples.conftest import EXAMPLES, HUM, Quick, load

pytestmark = pytest.mark.anyio
ACCOUNT, TOKEN, PUBLIC = "AC" + "0" * 32, "a-token-for-tests", "https://agent.example"
OURS = (
    "TWILIO",
    "OPENAI",
    "AZURE",
    "REALTIME",
    "HELICONE",
    "PHONEAGENT",
    "PUBLIC_URL",
    "DATABASE",
    "MAX_",
    "MEMORY",
    "RECORD",
)

SCRIPTS = {
    "appointments": """
[[turn]]
caller = "When may I come?"
call = "free_times"
arguments = { day = 2000-01-03 }
then = "That day is over."
""",
    "bank": """
[[turn]]
caller = "It is about 100200."
call = "choose_account"
arguments = { number = "100200" }
then = "Please type your PIN."
""",
    "languages": """
[[turn]]
caller = "When do you open?"
call = "opening_hours"
arguments = { language = "en" }
then = "{output}"
""",
    "memory": """
[[turn]]
caller = "Two and two?"
call = "add_numbers"
arguments = { numbers = [2, 2] }
then = "{output}"
""",
    "menu": """
[[turn]]
caller = "Your parcel is at the post office."
call = "report"
arguments = { result = "It is at the post office." }
then = "Mm."
""",
    "receptionist": """
[[turn]]
caller = "Please call me back."
call = "take_message"
arguments = { name = "Ann", message = "Please call back." }
then = "{output} Goodbye!"
""",
    "reminder": """
[[turn]]
caller = "It is about my visit."
call = "note_answer"
arguments = { coming = true }
then = "{output}"
""",
    "two_numbers": """
[[turn]]
caller = "When do you open?"
call = "opening_hours"
then = "{output}"
""",
    "voicemail": """
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
    "switchboard": """
[[turn]]
caller = "Please call Ann back."
call = "take_message"
arguments = { name = "Ann", message = "Please call back." }
then = "{output}"
""",
    "web_call": """
[[turn]]
caller = "Do you have a bell?"
call = "in_stock"
arguments = { article = "bell" }
then = "{output}"
""",
    "campaign": """
[[turn]]
caller = "It is about my visit."
call = "note_answer"
arguments = { coming = true }
then = "{output}"
""",
    "dice": """
[[turn]]
caller = "Roll!"
call = "roll"
arguments = { dice = 3 }
then = "You rolled {output}."
""",
    "weather": """
[[turn]]
caller = "I live in Turku."
call = "remember"
arguments = { name = "hometown", value = "Turku" }
then = "{output}"
""",
    "supervisor": """
[[turn]]
caller = "May I bring it back?"
call = "ask_supervisor"
arguments = { request = "May they bring it back?" }
then = "{output}"
""",
    "solar_system": """
[[turn]]
caller = "Fly to Mars!"
call = "show_planet"
arguments = { planet = "mars" }
then = "There it is."
""",
}


LISTENERS = {"campaign", "menu", "reminder"}
"""Examples that let the far end speak first."""


ELSEWHERE = {"back_office", "front_desk"}
"""Examples that answer no call, or whose tool may end the stream before its output is told: `tests/examples`."""


def test_every_example_has_a_script_here() -> None:
    assert sorted(SCRIPTS) == sorted({path.stem for path in EXAMPLES.glob("*.py")} - ELSEWHERE)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An environment in which an example finds nothing but what a test says, and the address of its records."""
    for variable in [each for each in os.environ if each.upper().startswith(OURS)]:
        monkeypatch.delenv(variable)
    given = {
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_AUTH_TOKEN": TOKEN,
        "PUBLIC_URL": PUBLIC,
        "DATABASE_URL": f"sqlite:///{tmp_path}/calls.db",
        "PHONEAGENT_ENV_FILE": "",
        "MEMORY_FILE": f"{tmp_path}/memory.db",
    }
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    return given["DATABASE_URL"]


@pytest.mark.parametrize("name", SCRIPTS)
async def test_an_example_answers(name: str, records: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Model(Script.parse(SCRIPTS[name]), voice=Quick()) as model:
        monkeypatch.setenv("REALTIME_URL", model.url)
        async with serving(load(name).app) as url:
            reached = {"auth_token": TOKEN, "public_url": PUBLIC, "account_sid": ACCOUNT}
            phone = Phone(f"{url}/twilio/voice", **reached, status_callback="/twilio/status")
            async with phone.dial() as line:
                if name not in LISTENERS:
                    await line.wait_for_silence(ms=200)
                await line.say(HUM)
                await model.wait_for(lambda: model.sessions[0].tool_calls and model.sessions[0].tool_calls[0].output)
                await line.wait_for_silence(ms=200)
        (called,) = model.sessions[0].tool_calls
        assert called.output
        assert "error" not in called.output
        assert line.violations == []
        assert model.violations == []
    async with Store.from_url(records) as store:
        record = await store.call(line.call_sid)
    assert record is not None
    assert record.ended_by == "caller"
    assert [(each.name, each.output) for each in record.tools] == [(called.name, called.output)]
    first = [] if name in LISTENERS else ["agent"]
    roles = [each.role for each in record.turns]  # a greeting of 250 ms and a hum may change places on a busy machine
    assert (sorted(roles), roles[-1]) == (sorted([*first, "caller", "agent"]), "agent")
