"""Ending a process: new calls go round, live ones go on, and what is left says goodbye."""

from __future__ import annotations

import asyncio
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from phoneagent import Agent, Call, PhoneApp, drain
from phoneagent.demo import serving as subprocess_serving
from phoneagent.sim import CallFailed, Model, Phone, Script
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds, settings

pytestmark = pytest.mark.anyio
AGENT = Agent(instructions="x", greeting="Hello!")


class App:
    """An app as `drain` sees it; time passes only in its limits, which are small."""

    def __init__(self, *live: str, hands_over: bool = True, quiet: bool = True, ends: bool = True) -> None:
        self.calls = dict.fromkeys(live, self)
        self.coming = 0
        self.unfinished = 0
        self.draining = False
        self.hands_over = hands_over
        self.quiet, self.ends = quiet, ends
        self.did: list[str] = []

    def hang_up(self) -> None:
        self.did.append("hang up")
        if self.ends:
            self.calls.popitem()

    def hand_over(self, reason: str) -> None:
        self.did.append("hand over")
        if self.quiet:
            self.calls.clear()

    def hand_over_now(self, call_sid: str, reason: str) -> None:
        self.did.append(f"hand over {call_sid}")
        if self.ends:
            self.calls.pop(call_sid, None)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "SPREAD_SECONDS", 0.2)
    monkeypatch.setattr(drain, "EXIT_SECONDS", 0.2)


async def drained(app: App, seconds: float) -> list[str]:
    async with asyncio.timeout(5):
        await drain.drain(app, seconds)  # type: ignore[arg-type]
    assert app.draining
    return app.did


async def test_without_calls_there_is_nothing_to_wait_for() -> None:
    assert await drained(App(), 3600) == []


async def test_a_call_that_ends_in_time_is_let_alone() -> None:
    app = App("CA1")
    draining = asyncio.create_task(drained(app, 3600))
    await asyncio.sleep(0)
    app.calls.clear()
    assert await draining == []


async def test_a_call_on_its_way_is_waited_for() -> None:
    app = App()
    app.coming = 1
    draining = asyncio.create_task(drained(app, 3600))
    await asyncio.sleep(0.1)
    assert not draining.done()
    app.coming = 0
    assert await draining == []


async def test_hooks_and_tools_of_calls_that_ended_are_waited_for() -> None:
    app = App()
    app.unfinished = 1
    draining = asyncio.create_task(drained(app, 3600))
    await asyncio.sleep(0.1)
    assert not draining.done()
    app.unfinished = 0
    assert await draining == []


async def test_in_the_end_calls_are_handed_over_when_they_are_quiet() -> None:
    assert await drained(App("CA1", "CA2"), drain.QUIET_SECONDS) == ["hand over"]


async def test_those_that_never_are_quiet_are_handed_over_at_the_end() -> None:
    app = App("CA1", "CA2", quiet=False)
    assert await drained(app, 0.1) == ["hand over", "hand over CA1", "hand over CA2"]


async def test_calls_that_cannot_be_handed_over_are_asked_to_say_goodbye() -> None:
    assert await drained(App("CA1", hands_over=False), drain.PARTING_SECONDS) == ["hang up"]


@pytest.mark.parametrize("hands_over", [True, False])
async def test_a_call_that_does_not_go_is_cut_off_and_that_is_said(
    hands_over: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await drained(App("CA1", hands_over=hands_over, quiet=False, ends=False), 0.1)
    assert "1 calls are cut off" in caplog.text


def live(sid: str) -> Call:
    return Call(sid=sid, caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


async def test_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    app = PhoneApp(AGENT, settings=settings())
    app.calls["CA1"] = live("CA1")
    server = drain.Server(uvicorn.Config(app), app, drain_seconds=3600)
    for _ in range(3):
        server.handle_signal(signal.SIGTERM, now=0.0)
    server.handle_signal(signal.SIGINT, now=1.0)
    server.handle_signal(signal.SIGINT, now=1.5)
    await asyncio.sleep(0)
    assert app.draining
    assert not server.should_exit
    server.handle_signal(signal.SIGINT, now=2.5)
    assert server.should_exit
    assert server.force_exit
    app.calls.clear()
    assert server._draining is not None
    async with asyncio.timeout(5):
        await server._draining


async def ready(w: World) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{w.url}/readyz") as answer:
        return answer.status


async def test_while_draining_new_calls_go_round_until_the_next_process_takes_them(world: Worlds) -> None:
    async with world(AGENT) as w:
        assert await ready(w) == 200
        w.app.draining = True
        assert await ready(w) == 503
        asyncio.get_running_loop().call_later(1.5, setattr, w.app, "draining", False)
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=100)
        assert line.verbs[0].startswith("Pause")
        assert line.violations == []


async def test_after_eight_rounds_a_caller_hears_busy_or_is_passed_on(world: Worlds) -> None:
    for number, expected in ((None, "Reject"), ("+15550100009", "Dial")):
        async with world(AGENT, fallback_number=number) as w:
            w.app.draining = True
            phone = Phone(
                f"{w.url}/twilio/voice?again=8",
                auth_token="an-auth-token-of-a-test",
                public_url="https://agent.example",
                account_sid=settings().twilio_account_sid,
            )
            with pytest.raises(CallFailed) as failed:
                async with phone.dial():
                    pass
            assert failed.value.verbs[-1].startswith(expected)


async def test_more_callers_than_the_process_takes(world: Worlds) -> None:
    async with world(AGENT, max_calls=1) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=10)
        with pytest.raises(CallFailed) as failed:
            async with w.phone().dial():
                pass
        assert failed.value.verbs == ["Reject busy"] or failed.value.verbs[-1].startswith("Reject")
        assert line.ended_by is None


async def test_a_call_that_cannot_be_handed_over_keeps_no_other_one(
    world: Worlds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(AGENT) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=10)
        session = w.app._calls._sessions[line.call_sid]
        with monkeypatch.context() as broken:
            broken.setattr(session.bridge, "hand_over", None)
            w.app.hand_over_now(line.call_sid, "test")
        del session
    assert "the call could not be handed over" in caplog.messages


async def test_after_sigterm_a_conversation_goes_on_until_it_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process: `phoneagent serve`, a call, SIGTERM in the middle of it."""
    monkeypatch.setenv("DRAIN_SECONDS", str(drain.QUIET_SECONDS + 4))
    (tmp_path / "main.py").write_text(
        "from phoneagent import *\napp = PhoneApp(Agent(instructions='x', greeting='Hello!'))\n"
    )
    log = tmp_path / "server.log"
    processes: list[Any] = []
    spawn = asyncio.create_subprocess_exec

    async def remember(*arguments: Any, **options: Any) -> Any:
        processes.append(await spawn(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remember)
    script = Script.parse('default = "Yes, of course."')
    async with (
        Model(script, api_key="k") as model,
        subprocess_serving.serve(str(tmp_path / "main.py"), model_url=model.url, model_key="k", log=log) as server,
    ):
        phone = Phone(
            server.webhook_url,
            auth_token=server.auth_token,
            public_url=server.public_url,
            account_sid=server.account_sid,
        )
        async with phone.dial() as line:
            await line.wait_for_silence(ms=100)
            processes[0].send_signal(signal.SIGTERM)
            processes[0].send_signal(signal.SIGTERM)
            await line.say(Murmur().render("Are you there?"))
            await line.wait_for_agent(ms=100)  # the conversation goes on
            await line.wait_ended(20)
        # Then it is sent round, or finds the door closed: nobody else is there to go on.
        assert {verb.split()[0] for verb in line.verbs[1:]} <= {"Pause", "Redirect"}
        assert model.sessions[0].said[-1] == "Yes, of course."
        async with asyncio.timeout(10):
            assert await processes[0].wait() == 0
    phases = re.findall(r"draining: (.*)", log.read_text())
    assert [phase.split(" ")[0] for phase in phases] == ["no", "handing", "done"]
