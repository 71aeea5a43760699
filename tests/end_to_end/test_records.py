"""A call leaves a record, written as it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent import Agent, Endpoint, PhoneApp, hang_up
from phoneagent.demo.report import measure
from phoneagent.protocol.audio import silence, tone
from phoneagent.sim import Model, Phone, Script, serving
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL, settings

pytestmark = pytest.mark.anyio
SCRIPT = """
[[turn]]
caller = "Good bye."
say = "Goodbye!"
call = "hang_up"
"""


async def test_a_call_leaves_its_record(tmp_path: Path) -> None:
    async with Model(Script.parse(SCRIPT)) as model:
        store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
        app = PhoneApp(
            Agent(instructions="x", greeting="Hello!", tools=[hang_up]),
            settings=settings(),
            endpoint=Endpoint(f"{model.url}?model=m", transcription_models=("gpt-transcribe",)),
            store=store,
        )
        async with serving(app) as url:
            phone = Phone(f"{url}/twilio/voice", auth_token=AUTH_TOKEN, public_url=PUBLIC_URL, account_sid=ACCOUNT_SID)
            async with phone.dial() as line:
                await line.wait_for_silence(ms=100)
                await store.flush()
                running = await store.call(line.call_sid)
                assert running is not None
                assert running.ended_by is None
                await line.say(Murmur().render("Good bye."))
                await line.wait_ended(20)
        async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as later:
            record = await later.call(line.call_sid)
        assert record is not None
        assert record.ended_by == "agent"
        assert record.caller == "+15550100001"
        assert [turn.text for turn in record.turns] == ["Hello!", "Good bye.", "Goodbye!"]
        assert [tool.name for tool in record.tools] == ["hang_up"]
        assert "+1555" not in repr(record)


STORY = 'default = "Once upon a time there was an old telephone that rang every evening at nine, and never at ten."'


async def test_a_cough_is_a_pause_in_the_record_as_the_phone_heard_it(tmp_path: Path) -> None:
    async with Model(Script.parse(STORY)) as model:
        store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
        endpoint = Endpoint(f"{model.url}?model=m", transcription_models=("gpt-transcribe",))
        app = PhoneApp(Agent(instructions="x"), settings=settings(), endpoint=endpoint, store=store)
        async with serving(app) as url:
            phone = Phone(f"{url}/twilio/voice", auth_token=AUTH_TOKEN, public_url=PUBLIC_URL, account_sid=ACCOUNT_SID)
            async with phone.dial() as line:
                await line.say(Murmur().render("Tell me a story, please."))
                await line.wait_for_agent(ms=800, timeout=10)
                await line.say(tone(300, 80) + silence(400))
                await line.wait_for_clear()
                await line.wait_for_silence(ms=1500, timeout=20)
        async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as later:
            record = await later.call(line.call_sid)
        assert record is not None
        (turn,) = [each for each in record.turns if each.role == "agent"]
        (pause,) = turn.pauses
        assert (turn.interrupted, pause.cause) == (False, "noise")
        report = measure(line, model.sessions[0], pauses=turn.pauses)
        (heard,) = [each for each in report.turns if each.role == "agent"]
        assert not heard.interrupted
        assert abs(heard.heard_ms - heard.said_ms) < 20
        stopped_ms = max(span.end_ms for span in line.heard if span.start_ms < pause.start_ms)
        resumed_ms = min(span.start_ms for span in line.heard if span.start_ms > stopped_ms)
        assert abs(stopped_ms - pause.start_ms) < 300
        assert abs(resumed_ms - pause.end_ms) < 300
