"""Ending a process: new calls go round, live ones go on, and what is left says goodbye."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from phoneagent import Agent, drain
from phoneagent.demo import serving as subprocess_serving
from phoneagent.sim import CallFailed, Model, Phone, Script
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds, settings
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
AGENT = Agent(instructions="x", greeting="Hello!")


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
            verbs: tuple[str, ...] = ()
            try:
                async with phone.dial() as line:  # its other side is the number that it is passed on to
                    await line.wait_ended(10)
                    verbs = tuple(line.verbs)
            except CallFailed as failed:
                verbs = tuple(failed.verbs)
            assert verbs[-1].startswith(expected)


async def test_more_callers_than_the_process_takes(world: Worlds) -> None:
    async with world(AGENT, max_calls=1) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=10)
        with pytest.raises(CallFailed) as failed:
            async with w.phone().dial():
                pass
        assert failed.value.verbs == ["Reject busy"] or failed.value.verbs[-1].startswith("Reject")
        assert line.ended_by is None


async def test_a_live_call_counts_once(world: Worlds) -> None:
    async with world(AGENT) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=10)
            assert w.app.unfinished == 1
        await w.until(lambda: not w.app.unfinished)


async def test_a_call_that_fails_before_it_runs_is_not_counted_forever(
    world: Worlds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[str] = []

    def make(*arguments: Any) -> None:
        failed.append("make")
        raise RuntimeError("a bug in phoneagent")

    async with world(AGENT) as w:
        monkeypatch.setattr(w.app._parts.calls._streams, "make", make)
        with suppress(CallFailed):
            async with w.phone().dial() as line:
                await line.wait_ended(10)
        assert failed
        await w.until(lambda: not w.app.unfinished)


async def test_a_call_that_cannot_be_handed_over_keeps_no_other_one(
    world: Worlds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(AGENT) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=10)
        session = w.app._parts.calls._sessions[line.call_sid]
        with monkeypatch.context() as broken:
            broken.setattr(session.bridge, "hand_over", None)
            w.app.hand_over_now(line.call_sid, "test")
        del session
    assert "the call could not be handed over" in caplog.messages


async def test_after_sigterm_a_conversation_goes_on_until_it_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process: `phoneagent serve`, a call, SIGTERM in the middle of it."""
    (tmp_path / "main.py").write_text(
        "import os\n"
        f"os.environ['DRAIN_SECONDS'] = '{drain.QUIET_SECONDS + 8}'\n"
        "from phoneagent import *\n"
        "app = PhoneApp(Agent(instructions='x', greeting='Hello!'))\n"
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
            await line.wait_ended()
        # Then it is sent round, or finds the door closed: nobody else is there to go on.
        assert {verb.split()[0] for verb in line.verbs[1:]} <= {"Pause", "Redirect"}
        assert model.sessions[0].said[-1] == "Yes, of course."
        async with asyncio.timeout(HANG_SECONDS):
            assert await processes[0].wait() == 0
    phases = re.findall(r"draining: (.*)", log.read_text())
    assert [phase.split(" ")[0] for phase in phases] == ["no", "handing", "done"]
