"""The demonstration itself: the real app in its own process, over real sockets, with a call of a few seconds."""

from __future__ import annotations

import io
import json
import wave
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from rich.console import Console

from phoneagent.cli.demo import _summarise
from phoneagent.demo import run
from phoneagent.demo.run import Senses, demonstrate
from phoneagent.demo.serving import Server
from phoneagent.demo.stories import Story
from phoneagent.events import Cost
from phoneagent.protocol.audio import tone
from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.script import Script
from phoneagent.store import Store
from phoneagent.store.database import Database
from tests.sim.model.chat_server import ChatServer, called, chat_server, said

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
caller = "Table, please."
say = "This is a sentence of some length, so that somebody can interrupt it."

[[turn]]
caller = "Half past."
say = "Let me see."
call = "book_table"
arguments = { guests = 2, time = "19:30" }
then = "{output}"

[[turn]]
caller = "I pay."
call = "pay"
arguments = { amount = 1 }
then = "Hm."

[[turn]]
caller = "Bye."
say = "Goodbye!"
call = "hang_up"
"""

AGENT = """
from phoneagent import Agent, PhoneApp, hang_up, tool

@tool
def book_table(guests: int, time: str) -> str:
    return f"{guests} at {time}"

@tool
def pay(amount: int) -> str:
    return {}["card"]

app = PhoneApp(Agent(name="host", instructions="Be brief.", greeting="Hello!", tools=[book_table, pay, hang_up]))
"""


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100, highlight=False)


@pytest.fixture
def story(tmp_path):
    source = tmp_path / "story.toml"
    source.write_text(SCRIPT)
    return Story(target=None, source=source, interrupts_after_ms=1500)


@pytest.fixture
def agent(tmp_path):
    file = tmp_path / "agent_of_a_test.py"
    file.write_text(AGENT)
    return str(file)


FAILING = """
from phoneagent import CallStarted
from dataclasses import replace

def guard(call, text):
    raise ValueError(text[:3])

app.agent = replace(app.agent, guardrail=guard)

@app.on(CallStarted)
def started(event):
    raise LookupError("no row")
"""


@pytest.fixture
def failing(tmp_path):
    file = tmp_path / "agent_of_a_test.py"
    file.write_text(AGENT + FAILING)
    return str(file)


async def test_a_whole_call(story, failing, tmp_path, console):
    outcome = await demonstrate(failing, story, Senses.scripted(), tmp_path, console)
    report = outcome.report
    assert outcome.trouble is None
    assert (report.ended_by, report.violations) == ("agent", [])
    assert outcome.passed
    line = AGENT.splitlines().index('    return {}["card"]') + 1
    assert f"tool pay failed: KeyError: 'card' (agent_of_a_test.py, line {line})" in outcome.raised
    assert outcome.raised[0].startswith("hook started failed: LookupError: no row (agent_of_a_test.py, line ")
    assert any(each.startswith("the guardrail failed: ValueError: ") for each in outcome.raised)
    assert [(turn.role, turn.text) for turn in report.turns if turn.role == "caller"] == [
        ("caller", "Table, please."),
        ("caller", "Half past."),
        ("caller", "I pay."),
        ("caller", "Bye."),
    ]
    assert [turn.text for turn in report.turns if turn.role == "agent"] == [
        "Hello!",
        "This is a sentence of some length, so that somebody can interrupt it.",
        "Let me see.",
        "2 at 19:30",
        "Hm.",
        "Goodbye!",
    ]
    cut = report.turns[2]
    assert cut.interrupted
    assert 1400 < cut.heard_ms < cut.said_ms
    (barge,) = report.barge_ins
    assert abs(barge.audio_end_ms - barge.truth_heard_ms) <= 500  # the app and the phone are two processes
    assert barge.truth_heard_ms == pytest.approx(cut.heard_ms, abs=1)
    assert next((call.name, call.output) for call in report.tool_calls) == ("book_table", "2 at 19:30")
    assert None not in (report.latency_ms.first_audio, report.latency_ms.response_p95)
    assert None not in (report.latency_ms.bridge_up_p99, report.latency_ms.bridge_down_p99)
    assert not report.turns[-1].interrupted  # the goodbye was heard
    assert report.dead_air_ms is not None
    assert report.dead_air_ms > 0
    assert report.pauses == []
    async with Store(Database(f"sqlite:///{tmp_path}/demo.db")) as store:
        (record,) = await store.calls()
    assert record.cost == Cost()  # no real model was paid

    with wave.open(str(tmp_path / "call.wav")) as sound:
        assert sound.getnchannels() == 2
        assert sound.getnframes() / 8 == pytest.approx(report.duration_ms, abs=20)
    assert "book_table(guests=2" in (tmp_path / "timeline.svg").read_text()
    assert "[cut off, not heard:" in (tmp_path / "transcript.txt").read_text()
    shown = console.file.getvalue()
    for words in ("Table, please.", "Goodbye!", "barge-in", "book_table(guests=2", "+0."):
        assert words in shown


async def test_a_call_that_fails_shows_its_reason(tmp_path, console):
    file = tmp_path / "agent_that_fails.py"
    file.write_text(
        AGENT.replace("app =", "def ask(call):\n    raise RuntimeError('no menu')\napp =").replace('"Be brief."', "ask")
    )
    script = Script.parse('[[turn]]\ncaller = "Hello?"\nsay = "Hi."\n')
    story = Story(target=None, source=script, interrupts_after_ms=None, free=True)
    outcome = await demonstrate(str(file), story, Senses.scripted(), tmp_path, console)
    assert not outcome.passed
    assert outcome.trouble == "the agent's instructions failed: RuntimeError: no menu (agent_that_fails.py, line 13)"


async def test_an_agent_with_a_brain_answers_what_the_caller_said(agent, tmp_path, console):
    lines = ("Hm, hello?", "A table for two.")
    script = Script.parse("".join(f'[[turn]]\ncaller = "{line}"\nsay = "Never said."\n' for line in lines))
    story = Story(target=None, source=script, interrupts_after_ms=9000, free=True)  # the answer is shorter
    answers = [
        said("What can I do?"),
        called("book_table", '{"guests": 2, "time": "20:00"}'),
        [*said("Done. Goodbye!")[:-2], *called("hang_up", "{}")],
    ]
    async with chat_server(ChatServer(*answers)) as server:
        senses = replace(Senses.scripted(), brain=Brain(server.url))
        outcome = await demonstrate(agent, story, senses, tmp_path, console)
    report = outcome.report
    assert (outcome.trouble, report.violations) == (None, [])
    assert [turn.text for turn in report.turns] == [
        *("Hello!", "Hm, hello?", "What can I do?", "A table for two.", "Done. Goodbye!")
    ]
    assert [(call.name, call.output) for call in report.tool_calls][:1] == [("book_table", "2 at 20:00")]
    first = server.requests[1]["messages"]
    assert first[0]["content"].startswith("Be brief.")
    assert first[-1] == {"role": "user", "content": "A table for two."}


async def test_a_call_that_is_refused(story, tmp_path, console, monkeypatch):
    @asynccontextmanager
    async def nobody(target, **_):
        yield Server("http://127.0.0.1:9/twilio/voice", "AC" + "0" * 32, "token")

    monkeypatch.setattr(run, "serve", nobody)
    outcome = await demonstrate("x:app", story, Senses.scripted(), tmp_path, console)
    assert outcome.trouble
    assert not outcome.passed
    assert json.loads(outcome.report.json())["ended_by"] == "error"


class Hanging:
    """A line on which the agent is never heard, or that is over."""

    heard = ()
    speech = ()
    ended_by = "agent"

    def __init__(self, error):
        self._error = error

    async def wait_for_silence(self, **_):
        raise self._error


@pytest.mark.parametrize(
    ("error", "trouble"),
    [(TimeoutError(), "not heard within"), (run.CallFailed("over"), "ended (by agent) before the caller said 'Table")],
)
async def test_trouble_is_told(story, error, trouble):
    told = await run._converse(Hanging(error), story, Beep(), None)
    assert told is not None
    assert trouble in told


class Beep:
    def render(self, text):
        return tone(300, 100)


async def test_the_caller_types_what_the_agent_asks_for(tmp_path, console):
    file = tmp_path / "agent_with_a_keypad.py"
    file.write_text(
        """
from phoneagent import Agent, PhoneApp, keypad

@keypad(digits=4, describe="Check the PIN.")
async def check_pin(digits: str) -> str:
    return "It is right." if digits == "1973" else "It is wrong."

app = PhoneApp(Agent(name="bank", instructions="Be brief.", greeting="Hello!", tools=[check_pin]))
"""
    )
    script = Script.parse(
        """
[[turn]]
caller = "My balance."
keys = "1973"
say = "Type it."
call = "check_pin"
then = "{output}"

[[turn]]
caller = "Thank you."
say = "Goodbye!"
"""
    )
    story = Story(target=None, source=script, interrupts_after_ms=None)
    outcome = await demonstrate(str(file), story, Senses.scripted(), tmp_path, console)
    assert [call.output for call in outcome.report.tool_calls] == ["It is right."]
    assert outcome.report.barge_ins == [], "the caller hears what comes of it"
    assert "••••" in console.file.getvalue()
    assert not any(
        "1973" in each.read_text() for each in tmp_path.iterdir() if each.suffix in (".txt", ".json", ".svg")
    )


async def test_the_outcome_is_filled_in_before_the_app_ends(tmp_path, console):
    file = tmp_path / "agent_with_an_outcome.py"
    file.write_text(
        """
from pydantic import BaseModel
from phoneagent import Agent, PhoneApp

class Wish(BaseModel):
    dish: str

app = PhoneApp(Agent(name="host", instructions="Be brief.", greeting="Hello!", outcome=Wish))
"""
    )
    script = Script.parse(
        """
[[turn]]
caller = "Soup, please."
say = "Goodbye!"

[outcome]
dish = "soup"
"""
    )
    story = Story(target=None, source=script, interrupts_after_ms=None)
    outcome = await demonstrate(str(file), story, Senses.scripted(), tmp_path, console)
    assert outcome.record is not None
    assert outcome.record.outcome == {"dish": "soup"}
    assert outcome.passed, (outcome.trouble, outcome.report.violations)
    _summarise(console, outcome, tmp_path, tmp_path / "report.json")
    shown = console.file.getvalue()
    assert 'outcome\n    dish: "soup"' in shown
    assert f"DATABASE_URL=sqlite:///{tmp_path}/demo.db phoneagent calls --last" in shown
